"""A U-Net from what is observed of a place to what it looks like in all modalities, without detail that is not certain.

Alone, trained on the mean error, it is the baseline of MetaEarth-MM. Within a `SceneNetwork` it tells what to expect,
and what is generated is the rest: regression first, as in CorrDiff (Mardani et al. 2025, arXiv 2309.15214) [ours].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models.embeddings import ScalarEmbedding
from backend.models.scene_config import RegressionConfig
from backend.models.unet import UNet

PICTURE_CHANNELS = 3


class SceneRegression(nn.Module):
    """(pictures of what is observed) -> pictures of all ``modalities``; at first all zeros.

    ``guided``: it is shown a guess of all of them too.
    """

    def __init__(self, modalities: int, sizes: RegressionConfig, tile: int, guided: bool = False) -> None:
        super().__init__()
        unet, self.modalities = sizes.unet(tile), modalities
        self.fold = unet.unshuffle
        self.resolution = ScalarEmbedding(unet.base_channels, unet.embedding_channels)
        inputs = modalities * (PICTURE_CHANNELS + 1 + guided * PICTURE_CHANNELS)
        folded = self.fold**2
        self.unet = UNet(unet, inputs * folded, modalities * PICTURE_CHANNELS * folded)

    def forward(
        self,
        pictures: Tensor,
        modalities: Tensor,
        observed: Tensor,
        ground_resolution_m: Tensor,
        guess: Tensor | None = None,
    ) -> Tensor:
        """All modalities' pictures (batch, modalities, 3, h, w), float32, not clipped.

        ``pictures``: (batch, streams, 3, h, w) in [-1, 1]; ``modalities`` and ``observed``: (batch, streams), numbers
        and whether a stream may be looked at. ``ground_resolution_m``: (batch,). ``guess``: of the result's shape.
        """
        shown = self.shown(pictures, modalities, observed)
        if guess is not None:
            shown = torch.cat([shown, guess.to(shown)], dim=2)
        x = F.pixel_unshuffle(shown.flatten(1, 2), self.fold)
        made = self.unet(x, self.resolution(ground_resolution_m))
        return F.pixel_shuffle(made.float(), self.fold).unflatten(1, (self.modalities, PICTURE_CHANNELS))

    def shown(self, pictures: Tensor, modalities: Tensor, observed: Tensor) -> Tensor:
        """(batch, modalities, 4, h, w): each modality's picture and that it is observed; zeros where it is not."""
        flagged = torch.cat([pictures, torch.ones_like(pictures[:, :, :1])], dim=2)
        return by_modality(flagged, modalities, observed, self.modalities)

    def count_parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.parameters())


def by_modality(streams: Tensor, modalities: Tensor, observed: Tensor, count: int) -> Tensor:
    """Images (batch, streams, channels, h, w), each at its modality's place of ``count``; else zeros."""
    placed = streams.new_zeros(len(streams), count, *streams.shape[2:])
    item, stream = observed.nonzero(as_tuple=True)
    placed[item, modalities[item, stream]] = streams[item, stream]
    return placed


def of_streams(images: Tensor, modalities: Tensor) -> Tensor:
    """The inverse: (batch, count, ...) -> (batch, streams, ...)."""
    return images[torch.arange(len(images), device=images.device)[:, None], modalities]


def observed_and_wanted(modalities: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Which streams of each example are looked at and which are regressed, (batch, streams) each.

    Those at time 1 are observed, or, where there is none, all of other modalities than that of the least time. No
    stream of an observed modality is wanted.
    """
    clean = times == 1
    others = modalities != modalities.gather(1, times.argmin(dim=1, keepdim=True))
    observed = torch.where(clean.any(dim=1, keepdim=True), clean, others)
    same = modalities[:, :, None] == modalities[:, None, :]
    return observed, ~(same & observed[:, None, :]).any(dim=2)
