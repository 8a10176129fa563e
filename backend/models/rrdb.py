"""RRDBNet's trunk (ESRGAN, arXiv 1809.00219) as the encoder E_lr of the low-resolution image, and F_up."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models.config import EncoderConfig
from backend.models.unet import Upsample


def small_conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution with a tenth of the usual initial weights (ESRGAN, section 3.1)."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    with torch.no_grad():
        nn.init.kaiming_normal_(conv.weight, a=0.2).mul_(0.1)
        if conv.bias is not None:
            conv.bias.zero_()
    return conv


class ResidualDenseBlock(nn.Module):
    """Five densely connected 3x3 convolutions with a scaled residual connection."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.residual_scale = config.residual_scale
        inputs = [config.features + i * config.growth for i in range(5)]
        outputs = [config.growth] * 4 + [config.features]
        self.convs = nn.ModuleList(small_conv(i, o) for i, o in zip(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features, h, w) -> the same."""
        dense = x
        for conv in list(self.convs)[:-1]:
            dense = torch.cat([dense, F.leaky_relu(conv(dense), 0.2)], dim=1)
        return x + self.residual_scale * self.convs[-1](dense)


class RRDB(nn.Module):
    """Residual in residual: three dense blocks inside one scaled residual connection."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.residual_scale = config.residual_scale
        self.blocks = nn.Sequential(*(ResidualDenseBlock(config) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features, h, w) -> the same."""
        return x + self.residual_scale * self.blocks(x)


class ConditionEncoder(nn.Module):
    """E_lr and F_up: low-resolution image -> feature map at the U-Net's working size.

    The encoder does not depend on the diffusion time, so it runs once a window.
    """

    def __init__(self, config: EncoderConfig, channels: int, upscale: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, config.features, 3, padding=1)
        self.trunk = nn.Sequential(*(RRDB(config) for _ in range(config.blocks)))
        self.last = nn.Conv2d(config.features, config.features, 3, padding=1)
        self.up = nn.Sequential(*(Upsample(config.features) for _ in range(int(math.log2(upscale)))))

    def forward(self, lr: Tensor, context: int) -> Tensor:
        """(batch, bands, h + 2 context, w + 2 context) -> (batch, features, h * upscale, w * upscale)."""
        first = self.first(lr)
        features = first + self.last(self.trunk(first))
        height, width = features.shape[-2:]
        features = features[..., context:height - context, context:width - context]
        return self.up(features)
