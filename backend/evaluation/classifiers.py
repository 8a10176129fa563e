"""Four classifiers from scratch: VGG, ResNet and ViT with two patch sizes, shrunk to fit small machines.

The paper trains VGG19, ResNet34, ViT-B/32 and ViT-B/16 at 224 pixels (21 to 143 M weights). Here:

- vgg: 8 convolutions in place of 16, in the same five stages of 3x3 kernels with max pooling; 24 to 192 channels in
  place of 64 to 512; batch normalisation (as VGG-BN); one hidden layer of 256 in place of two of 4096.
- resnet: basic blocks (1, 2, 2, 1) in place of (3, 4, 6, 3); 24 to 192 channels in place of 64 to 512; a 3x3 stem
  without pooling, as for small images.
- vit-coarse, vit-fine: patches of 1/7 and 1/14 of the side, as 32 and 16 pixels of 224 are; 4 layers of width 96 with 3
  heads in place of 12 of 768 with 12; the mean of the tokens in place of a class token; no dropout, which on a CPU
  takes two thirds of the time of a step.

Sources: arXiv 1409.1556 (VGG), 1512.03385 (ResNet), 2010.11929 (ViT).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (24, 48, 96, 192)
HIDDEN = 256


class Vgg(nn.Sequential):
    """Convolutions and max pooling, then two linear layers: (batch, 3, s, s) -> (batch, classes)."""

    def __init__(self, classes: int) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for width, count in zip((*WIDTHS, WIDTHS[-1]), (1, 1, 2, 2, 2)):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, HIDDEN), nn.ReLU(), nn.Dropout(0.5)]
        super().__init__(*layers, *head, nn.Linear(HIDDEN, classes))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        equal = inputs == outputs and stride == 1
        self.skip = nn.Identity() if equal else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.skip(x) + self.norm2(self.conv2(h)))


class ResNet(nn.Sequential):
    """Basic blocks and a linear layer on their mean: (batch, 3, s, s) -> (batch, classes)."""

    def __init__(self, classes: int) -> None:
        stem = [nn.Conv2d(3, WIDTHS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()]
        blocks: list[nn.Module] = []
        channels = WIDTHS[0]
        for level, (width, count) in enumerate(zip(WIDTHS, (1, 2, 2, 1))):
            for k in range(count):
                blocks.append(BasicBlock(channels, width, 2 if level and k == 0 else 1))
                channels = width
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Vit(nn.Module):
    """Patches as tokens, transformer layers, a linear layer on their mean: (batch, 3, s, s) -> (batch, classes)."""

    def __init__(self, classes: int, size: int, patches: int, width: int = 96, layers: int = 4, heads: int = 3) -> None:
        super().__init__()
        self.patch = -(-size // patches)
        self.embed = nn.Conv2d(3, width, self.patch, self.patch)
        tokens = (size // self.patch) ** 2
        self.place = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, size, size) -> (batch, classes)."""
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.layers(tokens).mean(dim=1))


ARCHITECTURES: dict[str, Callable[[int, int], nn.Module]] = {
    "vgg": lambda classes, size: Vgg(classes),
    "resnet": lambda classes, size: ResNet(classes),
    "vit-coarse": lambda classes, size: Vit(classes, size, 7),
    "vit-fine": lambda classes, size: Vit(classes, size, 14),
}
"""Name -> network for (classes, pixels a side)."""
