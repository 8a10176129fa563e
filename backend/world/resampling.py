"""Area averages on a coarser grid with the same origin: a pixel is a function of its place, not of the request."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from backend.raster.grid import Region
from backend.raster.pixels import Pixels, Read

Values = NDArray[np.float32]

STRIP_PIXELS = 1 << 22
"""About how many pixels are read at a time."""


def covered(region: Region, factor: float) -> Region:
    """The pixels under a region of a grid whose pixels are ``factor`` times as large; partly covered ones too."""
    return Region(
        math.floor(region.top * factor),
        math.floor(region.left * factor),
        math.ceil(region.bottom * factor),
        math.ceil(region.right * factor),
    )


def averaged(read: Read, fine: Region, bands: int, region: Region, factor: float) -> Pixels:
    """The pixels of ``region`` of a grid whose pixels are ``factor`` (>= 1) times those of a finer one.

    ``read`` gives the ``bands`` of fine pixels by region; there are none outside of ``fine``. Each pixel is the mean of
    the valid fine pixels under it, weighted by shared area, and valid if they cover at least half of it. It depends on
    nothing else: not on ``region``, since sums run over the same pixels in the same order wherever the request begins.
    """
    rows = max(1, int(STRIP_PIXELS / (factor**2 * region.width)))
    strips = [
        _strip(read, fine, bands, Region(top, region.left, min(top + rows, region.bottom), region.right), factor)
        for top in range(region.top, region.bottom, rows)
    ]
    return Pixels(
        np.concatenate([strip.values for strip in strips], axis=1), np.concatenate([strip.valid for strip in strips])
    )


def _strip(read: Read, fine: Region, bands: int, region: Region, factor: float) -> Pixels:
    sums = np.zeros((bands + 1, region.height, region.width), np.float32)
    there = covered(region, factor).intersection(fine)
    if there.height > 0 and there.width > 0:
        pixels = read(there)
        known = np.concatenate([np.where(pixels.valid, pixels.values, 0), pixels.valid[None].astype(np.float32)])
        near = covered(there, 1 / factor).intersection(region)  # from far away a raster is a few pixels of a view
        along_cols = _sums(known, 2, near.left, near.right, there.left, factor)
        rows, cols = (slice(a - b, c - b) for a, b, c in (
            (near.top, region.top, near.bottom), (near.left, region.left, near.right)))
        sums[:, rows, cols] = _sums(along_cols, 1, near.top, near.bottom, there.top, factor)
    values, cover = sums[:-1], sums[-1]
    valid = cover >= 0.5 - 1e-6
    return Pixels(np.where(valid, values / np.where(valid, cover, 1), 0).astype(np.float32), valid)


def _sums(values: Values, axis: int, start: int, stop: int, first: int, factor: float) -> Values:
    """Weighted sums along an axis whose pixels count from ``first``, for the coarse pixels [start, stop).

    The weights of a coarse pixel add up to one where all of its fine pixels are there.
    """
    length = values.shape[axis]
    edges = np.arange(start, stop + 1, dtype=np.int64) * factor
    low, high = edges[:-1], edges[1:]
    begin = np.floor(low).astype(np.int64)
    shape = [-1 if k == axis else 1 for k in range(values.ndim)]
    total = np.zeros([stop - start if k == axis else n for k, n in enumerate(values.shape)], np.float32)
    for step in range(math.ceil(factor) + 1):
        index = begin + step
        weight = np.clip(np.minimum(high, index + 1) - np.maximum(low, index), 0, None) / factor
        weight[(index < first) | (index >= first + length)] = 0
        taken = values.take(np.clip(index - first, 0, length - 1), axis=axis)
        total += taken * weight.astype(np.float32).reshape(shape)
    return total
