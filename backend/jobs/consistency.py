"""How true a result is to its source."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from backend.progress import Check, go_on
from backend.raster.grid import Region
from backend.raster.source import GDAL_OPTIONS, RasterSource

CHUNK = 512


def consistency_psnr(
    source: RasterSource, area: Region, result: Path, peak: float, bands: int, check: Check = go_on
) -> tuple[float | None, int]:
    """(PSNR in dB of the area-averaged result against the source, valid result pixels); None if they are equal.

    ``result`` covers ``area`` of the source at a whole factor; ``check`` may raise.
    """
    squares, count, valid_pixels = 0.0, 0, 0
    with rasterio.Env(**GDAL_OPTIONS), rasterio.open(result) as opened:
        factor = opened.width // area.width
        for part in area.tiles(max(1, CHUNK // factor)):
            check()
            place = part.relative_to(area).scaled(factor)
            window = Window(place.left, place.top, place.width, place.height)
            fine = opened.read(list(range(1, bands + 1)), window=window).astype(np.float64)
            down = fine.reshape(bands, part.height, factor, part.width, factor).mean(axis=(2, 4))
            truth = source.read(part)
            squares += float(((down - truth.values) ** 2)[:, truth.valid].sum())
            count += bands * int(truth.valid.sum())
            valid_pixels += int(truth.valid.sum()) * factor**2
    if squares == 0 or count == 0:
        return None, valid_pixels
    return 10 * math.log10(peak**2 * count / squares), valid_pixels
