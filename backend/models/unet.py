"""The denoising U-Net: scale-and-shift ResBlocks, attention at the levels of the 8x multiplier only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backend.models.config import NetworkConfig


class RepeatableGroupNorm(nn.GroupNorm):
    """GroupNorm whose result on the CPU does not depend on the number of threads.

    torch adds up a large feature map in as many parts as there are threads; another number of threads then gives
    other pixels. The sums of one window are too small for threads to help anyway. In training, channels come first
    for it: torch's gradient with channels last is up to ten times slower on the CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) -> the same."""
        if x.is_cuda:  # first: what follows cannot be compiled
            return super().forward(x)
        if x.requires_grad:
            return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)
        threads = torch.get_num_threads()
        if torch.is_grad_enabled() or threads == 1:
            return super().forward(x)
        torch.set_num_threads(1)
        try:
            return super().forward(x)
        finally:
            torch.set_num_threads(threads)


class PixelNorm(nn.LayerNorm):
    """Normalises the channels of each pixel: what is elsewhere in the window does not matter."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) -> the same."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with as many groups, up to 32, as divide ``channels``."""
    return RepeatableGroupNorm(math.gcd(32, channels), channels)


Norm = Callable[[int], nn.Module]
"""From a number of channels to their normalisation."""


def zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution with all weights zero, so that its branch begins as nothing."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class ResBlock(nn.Module):
    """Two 3x3 convolutions; the embedding scales and shifts the second normalisation.

    [a, b] = chunk(Linear(SiLU(c)), 2); h <- GroupNorm(h) * (1 + a) + b   (MetaEarth, "chunk and scale").
    """

    def __init__(
        self, in_channels: int, out_channels: int, embedding_channels: int, norm: Norm = group_norm
    ) -> None:
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding_channels, 2 * out_channels)
        self.norm2 = norm(out_channels)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(batch, in, h, w) and (batch, embedding) -> (batch, out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        a, b = self.modulation(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + a) + b
        return self.skip(x) + self.conv2(F.silu(h))


class SelfAttention(nn.Module):
    """Multi-head self-attention over the positions of a feature map, with a residual connection."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels)
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(batch, c, h, w) -> the same; the embedding is not used."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        h = F.scaled_dot_product_attention(q, k, v)
        h = h.transpose(-1, -2).reshape(batch, channels, height, width)
        return x + self.out(h)


class Downsample(nn.Module):
    """Strided convolution to half the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c, h, w) -> (batch, c, h/2, w/2)."""
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest neighbour to twice the size, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c, h, w) -> (batch, c, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Level(nn.ModuleList):
    """The steps of one level, each of them a `Step`."""


class Step(nn.ModuleList):
    """ResBlocks and attentions run one after the other.

    With ``recompute`` their activations are not kept for the gradient but computed again: memory for time.
    """

    recompute = False

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(batch, c, h, w) -> (batch, c', h, w)."""
        for module in self:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(module, x, embedding, use_reentrant=False)
            else:
                x = module(x, embedding)
        return x


class UNet(nn.Module):
    """Levels of ``config.multipliers``, joined by 2x steps, with skip connections between equal levels."""

    def __init__(self, config: NetworkConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in config.multipliers]
        attends = [m in config.attention_multipliers for m in config.multipliers]

        norm: Norm = PixelNorm if config.pixel_norm else group_norm

        def step(inputs: int, outputs: int, attend: bool) -> Step:
            modules: list[nn.Module] = [ResBlock(inputs, outputs, config.embedding_channels, norm)]
            if attend:
                modules.append(SelfAttention(outputs, config.head_channels))
            return Step(modules)

        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        skips = [widths[0]]
        channels = widths[0]
        self.down, self.downsamplers = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            steps = Level()
            for _ in range(config.blocks_per_level):
                steps.append(step(channels, width, attends[level]))
                channels = width
                skips.append(channels)
            self.down.append(steps)
            if level + 1 < len(widths):
                self.downsamplers.append(Downsample(channels))
                skips.append(channels)

        self.middle = step(channels, channels, attends[-1])
        self.middle.append(ResBlock(channels, channels, config.embedding_channels, norm))

        self.up, self.upsamplers = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            steps = Level()
            for _ in range(config.blocks_per_level + 1):
                steps.append(step(channels + skips.pop(), widths[level], attends[level]))
                channels = widths[level]
            self.up.append(steps)
            if level:
                self.upsamplers.append(Upsample(channels))

        self.norm = norm(channels)
        self.out = zeroed(nn.Conv2d(channels, out_channels, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(batch, in, h, w) and (batch, embedding) -> (batch, out, h, w)."""
        x = self.stem(x)
        skips = [x]
        for level, steps in enumerate(self.down):
            for step in cast(Level, steps):
                x = step(x, embedding)
                skips.append(x)
            if level < len(self.downsamplers):
                x = self.downsamplers[level](x)
                skips.append(x)
        x = self.middle(x, embedding)
        for level, steps in enumerate(self.up):
            for step in cast(Level, steps):
                x = step(torch.cat([x, skips.pop()], dim=1), embedding)
            if level < len(self.upsamplers):
                x = self.upsamplers[level](x)
        return self.out(F.silu(self.norm(x)))
