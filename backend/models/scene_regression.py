"""The baseline of MetaEarth-MM: one U-Net that regresses any modality from any others, trained on the mean error.

It gives the median of what is possible, without detail that is not certain; all in this module is ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models.embeddings import ScalarEmbedding
from backend.models.scene_config import SceneNetworkConfig
from backend.models.unet import UNet

PICTURE_CHANNELS = 3


class SceneRegression(nn.Module):
    """(pictures of what is observed, the modality that is wanted) -> its picture."""

    def __init__(self, config: SceneNetworkConfig) -> None:
        super().__init__()
        self.config = config
        unet, count = config.regression.unet(config.tile), len(config.modalities)
        self.fold = unet.unshuffle
        self.target = nn.Embedding(count, unet.embedding_channels)
        self.resolution = ScalarEmbedding(unet.base_channels, unet.embedding_channels)
        folded = self.fold**2
        self.unet = UNet(unet, count * (PICTURE_CHANNELS + 1) * folded, PICTURE_CHANNELS * folded)

    def forward(
        self, pictures: Tensor, modalities: Tensor, observed: Tensor, target: Tensor, ground_resolution_m: Tensor
    ) -> Tensor:
        """The target's picture (batch, 3, h, w), float32, not clipped.

        ``pictures``: (batch, streams, 3, h, w) in [-1, 1]; ``modalities`` and ``observed``: (batch, streams), numbers
        and whether a stream may be looked at. ``target``: (batch,) numbers. ``ground_resolution_m``: (batch,).
        """
        embedding = self.target(target) + self.resolution(ground_resolution_m)
        x = F.pixel_unshuffle(self.stacked(pictures, modalities, observed), self.fold)
        return F.pixel_shuffle(self.unet(x, embedding).float(), self.fold)

    def stacked(self, pictures: Tensor, modalities: Tensor, observed: Tensor) -> Tensor:
        """(batch, modalities * 4, h, w): each modality's picture, zeros where not observed, and whether it is."""
        batch, _, channels, rows, cols = pictures.shape
        stack = pictures.new_zeros(batch, len(self.config.modalities), channels + 1, rows, cols)
        item, stream = observed.nonzero(as_tuple=True)
        place = modalities[item, stream]
        stack[item, place, :channels] = pictures[item, stream]
        stack[item, place, channels] = 1
        return stack.flatten(1, 2)

    def count_parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.parameters())


def target_and_observed(modalities: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Which stream of each example is regressed, (batch,), and which are observed, (batch, streams).

    The target is the stream of the least time; observed are those at time 1, or, where there is none, all others. No
    stream of the target's own modality is.
    """
    target = times.argmin(dim=1)
    others = modalities != modalities.gather(1, target[:, None])
    clean = others & (times == 1)
    return target, torch.where(clean.any(dim=1, keepdim=True), clean, others)
