"""From what the user asks to stages and regions: pure arithmetic on grids."""

from __future__ import annotations

import math

from backend.errors import PlanError
from backend.raster.grid import Grid, Region
from backend.tiling.geometry import WindowGeometry


def stages_for(pixel_size_m: float, resolution_m: float, scale: int) -> tuple[int, float | None]:
    """(stages, metres per pixel to resample the source to first, or None).

    The source is made finer by less than ``scale`` first; only a target less than one stage away makes it coarser.
    """
    ratio = pixel_size_m / resolution_m
    if ratio <= 1 + 1e-9:
        raise PlanError(
            f"The raster has {pixel_size_m:.4g} m per pixel already; the target resolution of "
            f"{resolution_m:.4g} m is not finer."
        )
    stages = max(1, math.floor(math.log(ratio, scale) + 1e-9))
    start = resolution_m * scale**stages
    return stages, None if abs(start / pixel_size_m - 1) < 1e-6 else start


def stage_regions(area: Region, source: Grid, stages: int, geometry: WindowGeometry) -> list[Region]:
    """What each stage computes so that the next can: its own part of ``area`` and the halo that later windows read.

    ``area`` is in source pixels; region k is in pixels of stage k, first stage first.
    """
    regions: list[Region] = []
    region = area.scaled(geometry.scale**stages)
    for stage in range(stages, 0, -1):
        regions.insert(0, region)
        needed = geometry.input_region(region, source.zoom_in(geometry.scale ** (stage - 1)))
        own = area.scaled(geometry.scale ** (stage - 1))
        region = Region(
            min(needed.top, own.top),
            min(needed.left, own.left),
            max(needed.bottom, own.bottom),
            max(needed.right, own.right),
        )
    return regions
