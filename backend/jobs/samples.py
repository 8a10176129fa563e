"""Several samples of one job: where do they agree, and where not?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from backend.files import writing
from backend.jobs.directory import JobDirectory
from backend.jobs.plan import JobPlan
from backend.jobs.renderer import halo_name
from backend.raster import provenance
from backend.raster.mosaic import Mosaic
from backend.raster.output import colour_interpretation, write_block, write_cog, write_mosaic
from backend.raster.pixels import Pixels
from backend.tiling.geometry import Block

FLOAT = np.dtype("float32")
STATISTICS = ("mean", "standard deviation")


def write_statistics(plan: JobPlan, directory: JobDirectory, paths: list[Path], check: Callable[[], None]) -> None:
    """Mean and standard deviation over the samples of the last stage, float32, at ``paths``; holes are NaN."""
    stage, of_stage = len(plan.stages), plan.stages[-1]
    written: dict[str, list] = {name: [] for name in STATISTICS}
    with ExitStack() as opened:
        halos = [directory.folder / halo_name(sample, stage) for sample in range(1, plan.job.samples + 1)]
        samples = [opened.enter_context(Mosaic(h, of_stage.grid, of_stage.region, plan.bands)) for h in halos]
        for block in plan.blocks(stage):
            check()
            for name, pixels in zip(STATISTICS, _statistics(samples, block)):
                path = directory.folder / "blocks" / name.split()[0] / f"{block.name}.tif"
                with writing(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                write_block(path, pixels, of_stage.grid.crop(block.region), FLOAT, float("nan"), False)
                written[name].append((path, block.region))
    for name, path in zip(STATISTICS, paths):
        mosaic = directory.folder / f"{name.split()[0]}.vrt"
        tags = provenance.tags(
            stage, of_stage.grid.pixel_size_m, Path(plan.job.input).name, plan.sha256, plan.facts
        ) | {"METAEARTH_STATISTIC": f"{name} of {plan.job.samples} samples"}
        bands = list(enumerate(colour_interpretation(plan.bands, False), start=1))
        scaling = plan.scaling if name == STATISTICS[0] else tuple((scale, 0.0) for scale, _ in plan.scaling)
        write_mosaic(
            mosaic, written[name], of_stage.asked, of_stage.grid, FLOAT, float("nan"), bands, tags, scaling=scaling
        )
        write_cog(mosaic, path, FLOAT)


def _statistics(samples: list[Mosaic], block: Block) -> tuple[Pixels, Pixels]:
    """Mean and standard deviation of one block; summed in the samples' order."""
    read = (mosaic.read(block.region) for mosaic in samples)
    pixels = next(read)
    # differences from the first sample, so that large values lose no precision
    first, valid = pixels.values.astype(np.float64), pixels.valid
    total, squares = np.zeros_like(first), np.zeros_like(first)
    for pixels in read:
        difference = pixels.values.astype(np.float64) - first
        valid = valid & pixels.valid
        total += difference
        squares += difference**2
    count = len(samples)
    variance = np.maximum(squares - total**2 / count, 0) / (count - 1)
    mean = first + total / count
    return Pixels(mean.astype(FLOAT), valid), Pixels(np.sqrt(variance).astype(FLOAT), valid)
