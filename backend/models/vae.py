"""The picture autoencoders of MetaEarth-MM: every modality, shown as three channels, becomes latents and back.

Nothing looks at a whole window: a latent depends on the pixels around it alone, so windows agree where they overlap.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models.scene_config import VaeConfig
from backend.models.unet import PixelNorm, zeroed

LOG_VARIANCE = (-12.0, 4.0)
FIRST_LOG_VARIANCE = -6.0
"""At the beginning of training: next to no noise."""


class PrincipalBlocks(nn.Module):
    """Blocks of fold x fold pixels in three channels as their first principal components: the best linear autoencoder.

    What is linear between modalities stays so between their latents [ours]; see docs/modalities.md for the figures.
    Pictures (batch, 3, h, w) in [-1, 1] become latents (batch, channels, h / fold, w / fold), whose variance is one in
    the mean over the channels. ``basis``: orthonormal rows; ``mean``: of the blocks; ``deviation``: one number.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        size = 3 * config.fold**2
        self.basis = nn.Parameter(torch.eye(config.channels, size), requires_grad=False)
        self.mean = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.deviation = nn.Parameter(torch.ones(1), requires_grad=False)

    def encode(self, pictures: Tensor) -> Tensor:
        """The latents, float32."""
        blocks = self._blocks(pictures).double() - self.mean.double()
        return (blocks @ self.basis.double().T / self.deviation.double()).movedim(-1, 1).float()

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures of latents, float32."""
        blocks = latents.movedim(1, -1).double() * self.deviation.double() @ self.basis.double() + self.mean.double()
        return F.pixel_shuffle(blocks.movedim(-1, 1).float(), self.config.fold)

    @property
    def is_fitted(self) -> bool:
        """Whether it knows anything."""
        return bool(self.mean.any())

    @torch.no_grad()
    def fit(self, pictures: Iterable[Tensor]) -> None:
        """Learn the components of pictures (n, 3, h, w)."""
        blocks = torch.cat([self._blocks(some).flatten(0, 2) for some in pictures]).double()
        self.mean.copy_(blocks.mean(dim=0))
        centred = blocks - blocks.mean(dim=0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(blocks))
        self.basis.copy_(vectors.T.flip(0)[: self.config.channels])
        self.deviation.fill_(float(values.flip(0)[: self.config.channels].mean().sqrt()))

    def _blocks(self, pictures: Tensor) -> Tensor:
        """(batch, 3, h, w) -> (batch, h / fold, w / fold, 3 * fold^2)"""
        return F.pixel_unshuffle(pictures, self.config.fold).movedim(1, -1)


class LocalBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = PixelNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c, h, w) -> the same."""
        return x + self.conv2(F.silu(self.conv1(self.norm(x))))


def _blocks(channels: int, count: int) -> list[nn.Module]:
    return [LocalBlock(channels) for _ in range(count)]


class PictureVae(nn.Module):
    """Pictures (batch, 3, h, w) in [-1, 1] to latents (batch, channels, h / fold, w / fold) and back.

    Latents have unit variance in the mean. Linear maps of the folded pixels, and what convolutions add: amplitudes need
    not pass a normalisation [ours].
    ``mean`` (a channel) and ``deviation`` (one number, so that an error of a latent weighs what it does to the picture)
    standardise the latents; they follow training's latents and are saved with the weights.
    """

    is_fitted = True
    """It is trained instead."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.folded = config.fold // config.steps
        inputs, widths = 3 * self.folded**2, config.widths
        down: list[nn.Module] = [nn.Conv2d(inputs, widths[0], 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(config.channels, widths[-1], 3, padding=1)]
        for level, width in enumerate(widths):
            down += _blocks(width, config.blocks)
            if level + 1 < len(widths):
                down.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
        for level in reversed(range(len(widths))):
            up += _blocks(widths[level], config.blocks)
            if level:
                up += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[level], widths[level - 1], 3, padding=1)]
        to_latents = zeroed(nn.Conv2d(widths[-1], 2 * config.channels, 1))
        nn.init.constant_(to_latents.bias[config.channels:], FIRST_LOG_VARIANCE)  # type: ignore[index]
        self.down = nn.Sequential(*down, PixelNorm(widths[-1]), to_latents)
        self.up = nn.Sequential(*up, PixelNorm(widths[0]), zeroed(nn.Conv2d(widths[0], inputs, 3, padding=1)))
        self.project = nn.Conv2d(3 * config.fold**2, config.channels, 1)
        self.expand = nn.Conv2d(config.channels, 3 * config.fold**2, 1)
        self.mean = nn.Parameter(torch.zeros(config.channels), requires_grad=False)
        self.deviation = nn.Parameter(torch.ones(1), requires_grad=False)

    def posterior(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the latents, not yet standardised."""
        mean, log_variance = self.down(F.pixel_unshuffle(pictures, self.folded)).float().chunk(2, dim=1)
        linear = self.project(F.pixel_unshuffle(pictures, self.config.fold)).float()
        return linear + mean, log_variance.clamp(*LOG_VARIANCE)

    def encode(self, pictures: Tensor) -> Tensor:
        """The latents' means, standardised."""
        mean, _ = self.posterior(pictures)
        return (mean - _per_channel(self.mean)) / self.deviation.float()

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures of standardised latents."""
        return self.reconstruct(latents * self.deviation.float() + _per_channel(self.mean))

    def reconstruct(self, latents: Tensor) -> Tensor:
        """The pictures of latents as `posterior` gives them."""
        latents = latents.to(self.mean.dtype)
        linear = F.pixel_shuffle(self.expand(latents).float(), self.config.fold)
        return linear + F.pixel_shuffle(self.up(latents).float(), self.folded)

    @torch.no_grad()
    def follow(self, latents: Tensor, share: float = 0.01) -> None:
        """Move ``mean`` and ``deviation`` a little towards those of some latents."""
        self.mean.lerp_(latents.mean(dim=(0, 2, 3)), share)
        self.deviation.lerp_(latents.var(dim=(0, 2, 3)).mean().sqrt(), share)


def picture_autoencoder(config: VaeConfig) -> PrincipalBlocks | PictureVae:
    """The autoencoder of a configuration."""
    return PictureVae(config) if config.widths else PrincipalBlocks(config)


def _per_channel(values: Tensor) -> Tensor:
    return values.float()[:, None, None]
