"""What a window's border does to its pixels: two windows that overlap by half, compared by distance from a border."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from backend.cascade.engine import Engine
from backend.cascade.windows import render_windows
from backend.raster.stretch import identity_stretch
from backend.tiling.noise import noise_field

Values = NDArray[np.float32]
Strip = tuple[Values, Values]
DISTANCES = (0, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40)
"""Pixels from the border of the nearer window."""
EDGE = 32
"""Rows at a strip's ends that are left out: there, both windows are near a border."""


@dataclass(frozen=True)
class BorderProfile:
    """By `DISTANCES`: rms difference of both windows in standard deviations of the detail; mean gradient of the window
    that is near its border over that of the one that is not, with its standard error."""

    difference: NDArray[np.float64]
    gradient: NDArray[np.float64]
    gradient_error: NDArray[np.float64]


def overlaps(engine: Engine, images: list[Values], pairs: int, ground_resolution_m: float) -> Iterator[Strip]:
    """The overlap as the left window and as the right one makes it, (3, tile, tile / 2) each, at random places.

    ``images``: (rows, cols, 3) low-resolution pictures, taken in turn; both windows see the same noise.
    """
    network = engine.config.network
    tile, context, scale = network.tile, network.context, network.scale
    side, rng = tile // scale, np.random.default_rng(0)
    for pair in range(pairs):
        image = images[pair % len(images)]
        top, left = (int(rng.integers(context, n - 2 * side - context)) for n in image.shape[:2])
        made = []
        for column in (left, left + side // 2):
            low = image[top - context:top + side + context, column - context:column + side + context]
            noise = noise_field(1, 1, np.arange(tile) + top * scale, np.arange(tile) + column * scale, 3)
            crop = np.ascontiguousarray(low.transpose(2, 0, 1))[None]
            made.append(render_windows(engine, crop, noise[None], identity_stretch(3), ground_resolution_m, 1.0)[0])
        yield made[0][:, :, tile // 2:], made[1][:, :, : tile // 2]


def border_profile(strips: Iterator[Strip]) -> BorderProfile:
    """What pairs of windows tell: the right window's border is at column 0, where the left window is deep inside."""
    squares, gradients, details = [], [], []
    for inside, near in strips:
        difference = np.square(inside - near)[:, EDGE:-EDGE].mean(axis=(0, 1))
        slopes = [np.abs(np.diff(s, axis=2))[:, EDGE:-EDGE].mean(axis=(0, 1)) for s in (near, inside)]
        squares.append(difference[list(DISTANCES)])
        gradients.append((slopes[0] / slopes[1])[list(DISTANCES)])
        smooth = F.avg_pool2d(torch.from_numpy(inside), 9, 1, 4).numpy()
        details.append(float((inside - smooth)[:, EDGE:-EDGE].std()))
    ratios = np.array(gradients)
    error = ratios.std(axis=0, ddof=1) / np.sqrt(len(ratios))
    return BorderProfile(np.sqrt(np.mean(squares, axis=0)) / np.mean(details), ratios.mean(axis=0), error)
