"""Several samples of one job: where do they agree, and where not?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling

from backend.files import make_parent
from backend.jobs.directory import JobDirectory
from backend.jobs.plan import JobPlan, Product
from backend.jobs.renderer import halo_name
from backend.raster import provenance
from backend.raster.grid import Region
from backend.raster.mosaic import Mosaic
from backend.raster.output import colour_interpretation, write_block, write_cog, write_mosaic
from backend.raster.pixels import Pixels
from backend.tiling.geometry import Block

Values = NDArray[np.float32]
FLOAT = np.dtype("float32")


class Statistic(Protocol):
    """What is told of a raster's samples, which are added one after the other, in their order."""

    def add(self, values: Values) -> None:
        """Count a sample, (bands, rows, cols)."""

    def told(self) -> tuple[Values, Values]:
        """What most of them say, and by how much they differ; of the samples' shape."""


class Moments:
    """Mean and standard deviation, of differences from the first sample, so that large values lose no precision."""

    def __init__(self) -> None:
        self.first = self.total = self.squares = np.zeros(0)
        self.count = 0

    def add(self, values: Values) -> None:
        """See `Statistic`."""
        self.count += 1
        if self.count == 1:
            self.first = values.astype(np.float64)
            self.total, self.squares = np.zeros_like(self.first), np.zeros_like(self.first)
            return
        difference = values.astype(np.float64) - self.first
        self.total += difference
        self.squares += difference**2

    def told(self) -> tuple[Values, Values]:
        """See `Statistic`."""
        variance = np.maximum(self.squares - self.total**2 / self.count, 0) / (self.count - 1)
        return (self.first + self.total / self.count).astype(FLOAT), np.sqrt(variance).astype(FLOAT)


class Votes:
    """The most frequent class, of equally frequent ones the first, and the share of samples with another."""

    def __init__(self, classes: list[int]) -> None:
        self.classes, self.count = np.array(classes, FLOAT), 0
        self.votes: NDArray[np.int16] | int = 0

    def add(self, values: Values) -> None:
        """See `Statistic`."""
        self.count += 1
        self.votes = self.votes + (values[None] == self.classes[:, None, None, None]).astype(np.int16)

    def told(self) -> tuple[Values, Values]:
        """See `Statistic`."""
        votes = np.asarray(self.votes)
        return self.classes[votes.argmax(axis=0)], (1 - votes.max(axis=0) / self.count).astype(FLOAT)


@dataclass(frozen=True)
class Told:
    """A raster of statistics of one of a job's products: what it tells, and how it is written.

    ``key`` names its blocks' folder and its mosaic.
    """

    name: str
    key: str
    path: Path
    product: Product
    dtype: np.dtype = FLOAT
    nodata: float | None = float("nan")
    alpha: bool = False
    colours: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    scaling: tuple[tuple[float, float], ...] = ()
    written: list[tuple[Path, Region]] = field(default_factory=list)


def write_statistics(plan: JobPlan, directory: JobDirectory, paths: list[Path], check: Callable[[], None]) -> None:
    """Two rasters over the samples of each product of the last stage, at ``paths``.

    Mean and standard deviation, float32, holes are NaN; of a map the most frequent class, of the results' type, and
    the share of samples with another.
    """
    stage = len(plan.stages)
    products = [product for product in plan.products if product.stage == stage]
    pairs = [_pair(plan, product, 2 * n, paths) for n, product in enumerate(products)]
    with ExitStack() as opened:
        halos = [directory.folder / halo_name(sample, stage) for sample in range(1, plan.job.samples + 1)]
        of_stage = plan.stages[-1]
        samples = [opened.enter_context(Mosaic(h, of_stage.grid, of_stage.region, plan.bands)) for h in halos]
        for block in plan.blocks(stage):
            check()
            for pair, found in zip(pairs, _statistics(samples, block, products)):
                for told, pixels in zip(pair, found):
                    _write_block(plan, directory, block, told, pixels)
    for told in (told for pair in pairs for told in pair):
        _write_raster(plan, directory, told)


def _pair(plan: JobPlan, product: Product, number: int, paths: list[Path]) -> tuple[Told, Told]:
    """What is told of a product, at the paths from ``number`` on."""
    names = ("most frequent class", "share with another class") if product.colours else ("mean", "standard deviation")
    usual, spread = (
        Told(name, f"statistic{n}", paths[n], product) for n, name in enumerate(names, start=number)
    )
    if product.colours:
        usual = replace(usual, dtype=np.dtype(plan.dtype), nodata=plan.nodata, alpha=plan.alpha)
        return replace(usual, colours=product.colours), spread
    scales = tuple((scale, 0.0) for scale, _ in product.scaling)
    return replace(usual, scaling=product.scaling), replace(spread, scaling=scales)


def _statistics(samples: list[Mosaic], block: Block, products: list[Product]) -> list[tuple[Pixels, Pixels]]:
    """What is told of one block of each product; a pixel that is a hole in one sample is one."""
    found: list[Statistic] = [Votes(sorted(p.colours)) if p.colours else Moments() for p in products]
    valid: NDArray[np.bool_] = np.array(True)
    for mosaic in samples:
        pixels = mosaic.read(block.region)
        valid = valid & pixels.valid
        for statistic, p in zip(found, products):
            statistic.add(pixels.values[p.first_band - 1:p.first_band - 1 + p.bands])
    told = [statistic.told() for statistic in found]
    return [(Pixels(usual, valid), Pixels(spread, valid)) for usual, spread in told]


def _write_block(plan: JobPlan, directory: JobDirectory, block: Block, told: Told, pixels: Pixels) -> None:
    path = directory.folder / "blocks" / told.key / f"{block.name}.tif"
    make_parent(path)
    overviews = Resampling.nearest if told.colours else Resampling.average
    grid = plan.stages[-1].grid.crop(block.region)
    write_block(path, pixels, grid, told.dtype, told.nodata, told.alpha, overviews=overviews)
    told.written.append((path, block.region))


def _write_raster(plan: JobPlan, directory: JobDirectory, told: Told) -> None:
    stage, of_stage, bands = len(plan.stages), plan.stages[-1], told.product.bands
    tags = provenance.tags(stage, of_stage.grid.pixel_size_m, Path(plan.job.input).name, plan.sha256, plan.facts)
    tags |= told.product.tags | {"METAEARTH_STATISTIC": f"{told.name} of {plan.job.samples} samples"}
    shown = list(enumerate(colour_interpretation(bands, told.alpha), start=1))
    mosaic = directory.folder / f"{told.key}.vrt"
    write_mosaic(mosaic, told.written, of_stage.asked, of_stage.grid, told.dtype, told.nodata, shown, tags,
                 palette=told.colours, scaling=told.scaling)
    write_cog(mosaic, told.path, told.dtype)
