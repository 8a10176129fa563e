"""Finished blocks of a stage, of which not all need be there: which are missing, and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from rasterio.errors import RasterioError

from backend.errors import OutputError
from backend.jobs.directory import JobDirectory
from backend.jobs.plan import JobPlan
from backend.raster.grid import Region
from backend.raster.mosaic import Mosaic
from backend.raster.pixels import Pixels, read_reflected
from backend.tiling.geometry import Block


def missing_blocks(
    plan: JobPlan, parts: Iterable[tuple[int, Region]], finished: Callable[[int, Block], bool]
) -> dict[int, list[Block]]:
    """The blocks to make so that ``parts`` (stage, region of its pixels) are finished, by stage, in lattice order.

    Those that a part touches, and of earlier stages those that windows of missing blocks read.
    """
    wanted: dict[int, set[Block]] = {stage: set() for stage in range(1, len(plan.stages) + 1)}
    for stage, part in set(parts):
        wanted[stage].update(plan.blocks(stage, part))
    missing: dict[int, list[Block]] = {}
    for stage in sorted(wanted, reverse=True):
        lacking = [block for block in wanted[stage] if not finished(stage, block)]
        missing[stage] = sorted(lacking, key=lambda block: (block.row, block.col))
        if stage > 1:
            before = plan.stages[stage - 2].grid
            for block in lacking:
                wanted[stage - 1].update(plan.blocks(stage - 1, plan.geometry.input_region(block.region, before)))
    return dict(sorted(missing.items()))


def read_blocks(directory: JobDirectory, plan: JobPlan, sample: int, stage: int, region: Region) -> Pixels:
    """The pixels of a region of a stage, beyond the stage's edges reflected, from the blocks that hold them.

    `OutputError` if one of them is not there.
    """
    grid = plan.stages[stage - 1].grid

    def inside(part: Region) -> Pixels:
        values = np.zeros((plan.bands, part.height, part.width), np.float32)
        valid = np.zeros((part.height, part.width), bool)
        for block in plan.blocks(stage, part):
            shared = block.region.intersection(part)
            rows, cols = shared.relative_to(part).slices()
            pixels = _read_block(directory, plan, sample, stage, block, shared)
            values[:, rows, cols], valid[rows, cols] = pixels.values, pixels.valid
        return Pixels(values, valid)

    return read_reflected(region, grid.region, inside)


def _read_block(
    directory: JobDirectory, plan: JobPlan, sample: int, stage: int, block: Block, region: Region
) -> Pixels:
    path = directory.block_path(sample, stage, block)
    try:
        with Mosaic(path, plan.stages[stage - 1].grid, block.region, plan.bands) as one:
            return one.read(region)
    except RasterioError as error:
        raise OutputError(f"The finished block {path} is gone or damaged ({error}). Start again to make it.") from error
