"""MetaEarth's network: condition encoder and denoising U-Net, one class for every size."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.diffusion.schedules import NoiseSchedule
from backend.models.config import NetworkConfig
from backend.models.embeddings import ScalarEmbedding
from backend.models.rrdb import ConditionEncoder
from backend.models.spectral_prior import SpectralPrior
from backend.models.unet import UNet


class Condition(NamedTuple):
    """What the denoiser needs to know of a window; it does not depend on the diffusion time."""

    features: Tensor
    """(batch, features, tile / unshuffle, tile / unshuffle)"""
    base: Tensor
    """(batch, bands, tile, tile) float32: the up-sampled window, subtracted in residual models."""
    scale: Tensor
    """(batch, 1, tile, tile) float32: what residuals are divided by; 1 in models that are not residual."""
    ground_resolution_m: Tensor
    """(batch,) metres per output pixel."""


def upsample(lr: Tensor, context: int, scale: int) -> Tensor:
    """The bicubic up-sampled window, without its context: (.., h + 2 context, ..) -> (.., h * scale, ..)."""
    up = F.interpolate(lr.float(), scale_factor=scale, mode="bicubic", align_corners=False)
    margin = context * scale
    return up[..., margin:up.shape[-2] - margin, margin:up.shape[-1] - margin]


def local_contrast(lr: Tensor) -> Tensor:
    """Root mean square of the 3 x 3 high-pass over 5 x 5 pixels and all bands: (batch, 1, h, w)."""

    def mean(values: Tensor, size: int) -> Tensor:
        return F.avg_pool2d(F.pad(values, (size // 2,) * 4, mode="replicate"), size, stride=1)

    lr = lr.float()
    return mean((lr - mean(lr, 3)).square().mean(dim=1, keepdim=True), 5).sqrt()


class LinearGuess(nn.Module):
    """eps or v of a noisy image that is a stationary Gaussian field of folded pixels [ours]."""

    def __init__(self, config: NetworkConfig, schedule: NoiseSchedule, prediction: str) -> None:
        super().__init__()
        self.fold, self.prediction, self.log_snr = config.unshuffle, prediction, schedule.log_snr
        self.prior = SpectralPrior(1, config.channels * config.unshuffle**2)

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        """(batch, bands, h, w), (batch,) in [0, 999] -> the prediction, float32, of the same shape."""
        alpha, sigma = (v[:, None] for v in self._alpha_sigma(time))
        numbers = torch.zeros(len(noisy), 1, dtype=torch.int64, device=noisy.device)
        z, noise = self.prior.parts(F.pixel_unshuffle(noisy, self.fold)[:, None], numbers, alpha, sigma)
        if self.prediction == "v":
            a, s = (v[..., None, None, None] for v in (alpha, sigma))
            noise = a * noise - s * z
        return F.pixel_shuffle(noise[:, 0].float(), self.fold)

    def _alpha_sigma(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """At fractional times, log-SNR interpolated linearly; (batch,) each, float64."""
        table, at = torch.from_numpy(self.log_snr).to(time.device), time.double()
        before = at.floor().long().clamp(0, len(table) - 2)
        log_snr = torch.lerp(table[before], table[before + 1], at - before)
        return (2 * log_snr).sigmoid().sqrt(), (-2 * log_snr).sigmoid().sqrt()


class CascadeNetwork(nn.Module):
    """G: (noisy image, time, condition) -> the prediction (eps or v) for every pixel.

    ``schedule`` and ``prediction`` are the model's; they matter to the linear guess alone.
    """

    def __init__(
        self, config: NetworkConfig, schedule: NoiseSchedule | None = None, prediction: str = "v"
    ) -> None:
        super().__init__()
        self.config = config
        folded = config.channels * config.unshuffle**2
        self.encoder = ConditionEncoder(config.encoder, config.channels, config.scale // config.unshuffle)
        self.time_embedding = ScalarEmbedding(config.base_channels, config.embedding_channels)
        if config.resolution_guidance:
            self.resolution_embedding = ScalarEmbedding(config.base_channels, config.embedding_channels)
        self.unet = UNet(config, folded + config.encoder.features, folded)
        self.guess = LinearGuess(config, schedule or NoiseSchedule(), prediction) if config.linear_guess else None

    def encode(self, lr: Tensor, ground_resolution_m: Tensor) -> Condition:
        """The condition of a window; run once, not once per step.

        ``lr``: (batch, bands, h + 2 context, w + 2 context) in [-1, 1]; ``ground_resolution_m``: (batch,),
        metres per pixel of the output.
        """
        context, scale = self.config.context, self.config.scale
        features = self.encoder(lr.to(self.encoder.first.weight.dtype), context)
        base = upsample(lr, context, scale)
        return Condition(features, base, self._residual_scale(lr), ground_resolution_m)

    def _residual_scale(self, lr: Tensor) -> Tensor:
        config = self.config
        if not config.residual:
            return torch.ones(len(lr), 1, 1, 1, device=lr.device)
        contrast = upsample(local_contrast(lr), config.context, config.scale).clamp(min=0)
        return config.residual_scale + config.residual_contrast * contrast

    def forward(self, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """(batch, bands, tile, tile), (batch,) in [0, 999] -> prediction, float32, of the noisy image's shape."""
        embedding = self.time_embedding(time)
        if self.config.resolution_guidance:
            embedding = embedding + self.resolution_embedding(condition.ground_resolution_m)
        x = F.pixel_unshuffle(noisy, self.config.unshuffle)
        x = torch.cat([x.to(condition.features.dtype), condition.features], dim=1)
        made = F.pixel_shuffle(self.unet(x, embedding).float(), self.config.unshuffle)
        return made if self.guess is None else made + self.guess(noisy, time)

    def to_model_space(self, image: Tensor, condition: Condition) -> Tensor:
        """Image in [-1, 1] -> the variable x_0 that is diffused."""
        return (image - condition.base) / condition.scale if self.config.residual else image

    def to_image(self, x0: Tensor, condition: Condition) -> Tensor:
        """Inverse of `to_model_space`."""
        return condition.base + condition.scale * x0 if self.config.residual else x0

    def channels_last(self) -> CascadeNetwork:
        """The network itself, its convolutions laid out as the hardware wants them."""
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def count_parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.parameters())
