"""Values with their mask, and reading them beyond a raster's edges; nothing here opens a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.raster.grid import Region


@dataclass(frozen=True)
class Pixels:
    """Values in source units, (bands, rows, cols) float32, and which of them are valid, (rows, cols)."""

    values: NDArray[np.float32]
    valid: NDArray[np.bool_]


Read = Callable[[Region], Pixels]
"""Reads a region of some grid."""


def symmetric_indices(start: int, stop: int, length: int) -> NDArray[np.int64]:
    """Indices [start, stop) reflected into [0, length) at both ends, edge pixels repeated once."""
    folded = np.arange(start, stop, dtype=np.int64) % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)


def reflected_region(region: Region, grid_region: Region) -> Region:
    """The part of the grid that a read of ``region`` touches, reflections at the grid's edges included."""
    rows = symmetric_indices(region.top, region.bottom, grid_region.height)
    cols = symmetric_indices(region.left, region.right, grid_region.width)
    return Region(int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1)


def read_reflected(region: Region, grid: Region, read_inside: Read) -> Pixels:
    """``read_inside`` for a region that may lie partly outside the grid: pixels beyond its edges are reflected."""
    inside = reflected_region(region, grid)
    pixels = read_inside(inside)
    rows = symmetric_indices(region.top, region.bottom, grid.height) - inside.top
    cols = symmetric_indices(region.left, region.right, grid.width) - inside.left
    return Pixels(pixels.values[:, rows][:, :, cols], pixels.valid[rows][:, cols])
