"""Training pairs: random crops at random ground sample distances, with their low-resolution input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from backend.errors import InputError
from backend.training.split import ImageEntry, entries, require_training_split

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """An image in memory: (rows, cols, 3) uint8 and metres per pixel."""

    pixels: Image
    gsd_m: float
    source: str
    path: Path


def average_down(pixels: NDArray, factor: int) -> NDArray[np.float32]:
    """Area average over ``factor`` x ``factor`` blocks: (rows, cols, bands) -> (rows / factor, ...), float32."""
    if factor == 1:
        return pixels.astype(np.float32)
    rows, cols = (n // factor * factor for n in pixels.shape[:2])
    blocks = pixels[:rows, :cols].reshape(rows // factor, factor, cols // factor, factor, -1)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def read_picture(entry: ImageEntry) -> Picture:
    """The entry's pixels as RGB."""
    from PIL import Image as PilImage

    with PilImage.open(entry.path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    if entry.columns:
        pixels = pixels[:, slice(*entry.columns)]
    if entry.average > 1:
        pixels = np.rint(average_down(pixels, entry.average)).astype(np.uint8)
    return Picture(pixels, entry.gsd_m * entry.average, entry.source, entry.path)


def is_rgb(path: Path) -> bool:
    """Whether a file holds an 8-bit picture with red, green and blue first: no elevations, no 16-bit bands."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return True
    with rasterio.open(path) as dataset:
        return dataset.count in (3, 4) and dataset.dtypes[0] == "uint8"


def load_pictures(root: Path, split: str) -> list[Picture]:
    """Every picture of a split."""
    return [read_picture(entry) for entry in entries(root, split) if is_rgb(entry.path)]


class TrainingPictures:
    """Draws batches of crops; pictures are drawn so that neither chips nor large scenes dominate.

    A picture's weight is the square root of its source's area shared among the source's pictures by area,
    spread over the reductions (1, 2, 3, 4, 6, 8 times coarser) at which a crop still fits.
    """

    REDUCTIONS = (1, 2, 3, 4, 6, 8)

    def __init__(self, found: list[ImageEntry], crop: int, scale: int, context: int, seed: int) -> None:
        self.pictures = [read_picture(e) for e in require_training_split(found)]
        if not self.pictures:
            raise InputError("There is no training picture in the folder: split.toml says which paths are looked for.")
        self.crop, self.scale, self.context, self.seed = crop, scale, context, seed
        area: dict[str, float] = {}
        for p in self.pictures:
            area[p.source] = area.get(p.source, 0.0) + p.pixels.size
        self.choices: list[tuple[Picture, int]] = []
        weights = []
        for p in self.pictures:
            for reduction in self.REDUCTIONS:
                if min(p.pixels.shape[:2]) // reduction >= crop:
                    self.choices.append((p, reduction))
                    weights.append(p.pixels.size / math.sqrt(area[p.source]) / reduction**0.5)
        self.weights = np.asarray(weights) / np.sum(weights)

    def crop_with_context(self, picture: Picture, reduction: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """A crop and ``context`` low-resolution pixels around it: (size, size, 3) in 0..255, reflected at edges."""
        margin = self.context * self.scale
        rows, cols = (n // reduction for n in picture.pixels.shape[:2])
        size = self.crop + 2 * margin
        out_rows, out_cols = min(rows, size), min(cols, size)
        top = rng.integers(0, rows - out_rows + 1) * reduction
        left = rng.integers(0, cols - out_cols + 1) * reduction
        pixels = picture.pixels[top:top + out_rows * reduction, left:left + out_cols * reduction]
        part = average_down(pixels, reduction)
        pad = [(max(0, size - n) // 2, max(0, size - n) - max(0, size - n) // 2) for n in part.shape[:2]]
        # the low-resolution grid must not fall between reflected pixels
        pad = [(lo // self.scale * self.scale, lo + hi - lo // self.scale * self.scale) for lo, hi in pad]
        return np.pad(part, [*pad, (0, 0)], mode="symmetric")

    def batch(self, size: int, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Batch ``index`` of the run: always the same, so that a resumed run sees the pictures it would have seen.

        (high resolution (size, 3, crop, crop), low resolution with context, m/px); images in [-1, 1].
        """
        rng = np.random.default_rng((self.seed, index))
        crops, resolutions = [], []
        for choice in rng.choice(len(self.choices), size=size, p=self.weights):
            picture, reduction = self.choices[choice]
            part = self.crop_with_context(picture, reduction, rng)
            part = np.rot90(part, int(rng.integers(4)))
            crops.append(part[:, ::-1] if rng.random() < 0.5 else part)
            resolutions.append(picture.gsd_m * reduction)
        wide = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 127.5 - 1
        lr = low_resolution(wide, self.scale, rng)
        margin = self.context * self.scale
        high = wide[..., margin:margin + self.crop, margin:margin + self.crop]
        return high.contiguous(), lr, torch.tensor(resolutions, dtype=torch.float32)


def low_resolution(wide: Tensor, scale: int, rng: np.random.Generator) -> Tensor:
    """The input that stands for a coarser sensor: mostly area averages, sometimes bicubic, with a little noise."""
    size = wide.shape[-1] // scale
    lr = F.avg_pool2d(wide, scale)
    bicubic = torch.from_numpy(rng.random(len(wide)) < 0.2)
    if bicubic.any():
        lr[bicubic] = F.interpolate(
            wide[bicubic], size=(size, size), mode="bicubic", antialias=True, align_corners=False
        )
    sd = torch.from_numpy(rng.uniform(0, 0.012, len(wide)).astype(np.float32))[:, None, None, None]
    noise = torch.from_numpy(rng.standard_normal(lr.shape, dtype=np.float32))
    return (lr + sd * noise).clamp(-1, 1)


def training_pictures(root: Path, crop: int, scale: int, context: int, seed: int) -> TrainingPictures:
    """The training split under ``root``."""
    return TrainingPictures(list(entries(root, "train")), crop, scale, context, seed)
