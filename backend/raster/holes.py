"""Holes in a crop, filled so that a network sees none."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from rasterio.fill import fillnodata

from backend.raster.pixels import Pixels


def fill_holes(pixels: Pixels) -> NDArray[np.float32]:
    """The values with every hole filled from valid pixels of the same crop, nearer ones counting more."""
    if pixels.valid.all():
        return pixels.values
    search = math.ceil(math.hypot(*pixels.valid.shape))  # from corner to corner
    mask = pixels.valid.astype(np.uint8)
    bands = [
        fillnodata(np.where(pixels.valid, band, 0).astype(np.float32), mask=mask, max_search_distance=search)
        for band in pixels.values
    ]
    return np.stack(bands).astype(np.float32)
