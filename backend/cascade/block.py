"""One block of a stage: its windows blended by the partition of unity, in lattice order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.fill import fillnodata

from backend.cascade.engine import Engine, render_window
from backend.cascade.planning import WindowGeometry
from backend.raster.grid import Region
from backend.raster.source import Pixels
from backend.raster.stretch import Stretch
from backend.tiling.noise import window_noise


@dataclass(frozen=True)
class StageSettings:
    """What the windows of one stage have in common; ``stage`` counts from 1."""

    stage: int
    geometry: WindowGeometry
    stretch: Stretch
    ground_resolution_m: float
    seed: int
    noise: str
    consistency: float


def fill_holes(pixels: Pixels) -> NDArray[np.float32]:
    """The values with every hole filled from valid pixels of the same crop, nearer ones counting more."""
    if pixels.valid.all():
        return pixels.values
    search = float(max(pixels.valid.shape))
    mask = pixels.valid.astype(np.uint8)
    bands = [
        fillnodata(np.where(pixels.valid, band, 0).astype(np.float32), mask=mask, max_search_distance=search)
        for band in pixels.values
    ]
    return np.stack(bands).astype(np.float32)


def render_block(
    engine: Engine,
    read: Callable[[Region], Pixels],
    region: Region,
    settings: StageSettings,
    bands: int,
    after_window: Callable[[], None],
) -> Pixels:
    """The pixels of ``region`` (of the stage's grid); ``read`` gives the stage's input by region.

    Windows without a valid pixel are skipped, others see their holes filled.
    """
    geometry, scale = settings.geometry, settings.geometry.scale
    weights = geometry.lattice.weights()
    total = np.zeros((bands, region.height, region.width), np.float32)
    for row, col in geometry.windows(region):
        crop = read(geometry.input_crop(row, col))
        if crop.valid.any():
            noise = window_noise(settings.noise, settings.seed, settings.stage, geometry.lattice, row, col, 3)
            values = render_window(
                engine, fill_holes(crop), noise, settings.stretch, settings.ground_resolution_m, settings.consistency
            )
            _add(total, region, values, geometry, weights, row, col)
        after_window()
    cover = Region(region.top // scale, region.left // scale, -(-region.bottom // scale), -(-region.right // scale))
    valid = read(cover).valid.repeat(scale, axis=0).repeat(scale, axis=1)
    inner = region.relative_to(cover.scaled(scale)).slices()
    return Pixels(total, valid[inner])


def _add(
    total: NDArray[np.float32],
    region: Region,
    values: NDArray[np.float32],
    geometry: WindowGeometry,
    weights: NDArray[np.float32],
    row: int,
    col: int,
) -> None:
    """Add one window's kept pixels, weighted, to those of ``total`` (which covers ``region``)."""
    kept, margin = geometry.kept(row, col), geometry.lattice.margin
    shared = kept.intersection(region)
    rows, cols = shared.relative_to(kept).slices()
    weighted = values[:, margin:margin + kept.height, margin:margin + kept.width][:, rows, cols]
    weighted = weighted * weights[rows, None] * weights[None, cols]
    there = shared.relative_to(region).slices()
    total[(slice(None), *there)] += weighted
