"""Training examples: random crops with their low-resolution input, diffusion time and noise.

Example ``i`` is a function of the seed and ``i`` alone: whichever process makes it, and after whatever interruption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from backend.diffusion.losses import draw_times
from backend.diffusion.schedules import NoiseSchedule
from backend.errors import PlanError
from backend.raster.averaging import average_down
from backend.training.data import Picture, Pool, turned
from backend.training.degradation import degrade, draw, reduce_bicubic

DEGRADATIONS = ("area", "bicubic", "high-order")


class Batch(NamedTuple):
    """Examples: ``high`` and ``noise`` (n, 3, crop, crop), ``low`` (n, 3, crop / scale + 2 context, ...) in [-1, 1].

    ``ground_resolution_m`` and ``times``: (n,). ``second_stage``: (n,) bool, whether the network makes the source of
    the example itself, from ``first_noise`` of the shape of ``low``; without rows and columns where none does.
    """

    high: Tensor
    low: Tensor
    ground_resolution_m: Tensor
    times: Tensor
    noise: Tensor
    second_stage: Tensor
    first_noise: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        high, *others = (t.to(device, non_blocking=True) for t in self)
        return Batch(high.contiguous(memory_format=torch.channels_last), *others)


@dataclass(frozen=True)
class Cropping:
    """How examples are cut: their side, the network's scale and context, and what makes the low resolution.

    ``second_stage``: the share of examples whose source the network makes itself.
    """

    crop: int
    scale: int
    context: int
    degradation: str
    second_stage: float = 0.0

    @property
    def low_side(self) -> int:
        """Pixels of the source's side, context and all."""
        return self.crop // self.scale + 2 * self.context

    def __post_init__(self) -> None:
        if self.degradation not in DEGRADATIONS:
            raise PlanError(f"There is no degradation {self.degradation!r}; known: {', '.join(DEGRADATIONS)}.")


class Examples(Dataset):
    """The examples of a run, by number."""

    def __init__(self, pool: Pool, cropping: Cropping, schedule: NoiseSchedule, times: str, seed: int) -> None:
        self.pool, self.cropping, self.schedule, self.times, self.seed = pool, cropping, schedule, times, seed

    def __getitem__(self, index: int) -> Batch:
        """Example ``index``, without the batch's dimension."""
        rng = np.random.default_rng((self.seed, index))
        picture, reduction = self.pool.draw(index, rng)
        cut = turned(crop_with_context(picture, reduction, self.cropping, rng), rng)
        wide = torch.from_numpy(np.ascontiguousarray(cut)).permute(2, 0, 1)
        low = low_resolution(wide / 255, self.cropping, rng) * 2 - 1
        crop, margin = self.cropping.crop, self.cropping.context * self.cropping.scale
        high = wide[:, margin:margin + crop, margin:margin + crop] / 127.5 - 1
        time = draw_times(self.schedule, self.times, 1, rng)[0]
        noise = torch.from_numpy(rng.standard_normal(high.shape, dtype=np.float32))
        resolution = torch.tensor(picture.gsd_m * reduction, dtype=torch.float32)
        time = torch.tensor(time, dtype=torch.float64)
        return Batch(high.contiguous(), low, resolution, time, noise, *self._first_stage(rng))

    def _first_stage(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Whether the network makes the example's source itself, and the noise for that."""
        share, side = self.cropping.second_stage, self.cropping.low_side if self.cropping.second_stage else 0
        chosen = bool(share) and rng.random() < share
        return torch.tensor(chosen), torch.from_numpy(rng.standard_normal((3, side, side), dtype=np.float32))


def crop_with_context(
    picture: Picture, reduction: int, cropping: Cropping, rng: np.random.Generator
) -> NDArray[np.float32]:
    """A crop and the context around it: (side, side, 3) in 0..255, reflected where the picture ends."""
    size = cropping.crop + 2 * cropping.context * cropping.scale
    rows, cols = (n // reduction for n in picture.pixels.shape[:2])
    out_rows, out_cols = min(rows, size), min(cols, size)
    top = rng.integers(0, rows - out_rows + 1) * reduction
    left = rng.integers(0, cols - out_cols + 1) * reduction
    pixels = picture.pixels[top:top + out_rows * reduction, left:left + out_cols * reduction]
    part = average_down(pixels, reduction)
    pad = [(max(0, size - n) // 2, max(0, size - n) - max(0, size - n) // 2) for n in part.shape[:2]]
    # the low-resolution grid must not fall between reflected pixels
    scale = cropping.scale
    pad = [(lo // scale * scale, lo + hi - lo // scale * scale) for lo, hi in pad]
    return np.pad(part, [*pad, (0, 0)], mode="symmetric")


def low_resolution(wide: Tensor, cropping: Cropping, rng: np.random.Generator) -> Tensor:
    """What stands for a coarser sensor's image: (3, h, w) -> (3, h / scale, w / scale), in [0, 1]."""
    if cropping.degradation == "high-order":
        return degrade(wide, cropping.scale, draw(rng), rng)
    if cropping.degradation == "bicubic":
        return reduce_bicubic(wide, cropping.scale).clamp(0, 1)
    return _area(wide, cropping.scale, rng)


def _area(wide: Tensor, scale: int, rng: np.random.Generator) -> Tensor:
    """Mostly area averages, a fifth bicubic, with a little noise."""
    low = reduce_bicubic(wide, scale).clamp(0, 1) if rng.random() < 0.2 else F.avg_pool2d(wide[None], scale)[0]
    noise = torch.from_numpy(rng.standard_normal(low.shape, dtype=np.float32))
    return (low + rng.uniform(0, 0.006) * noise).clamp(0, 1)


class BatchNumbers:
    """The numbers of the examples of each batch that one of ``ranks`` processes takes, from ``step`` on.

    A step has ``accumulation`` batches a rank; all its examples lie side by side, whatever the ranks.
    """

    def __init__(self, batch: int, accumulation: int, rank: int, ranks: int, step: int) -> None:
        self.batch, self.accumulation, self.rank, self.ranks, self.step = batch, accumulation, rank, ranks, step

    def __iter__(self) -> Iterator[list[int]]:
        part = self.step * self.accumulation
        while True:
            first = (part * self.ranks + self.rank) * self.batch
            yield list(range(first, first + self.batch))
            part += 1


Made = TypeVar("Made", bound=tuple)


def collate(examples: list[Made]) -> Made:
    """Examples as one batch."""
    return type(examples[0])(*(torch.stack(parts) for parts in zip(*examples)))
