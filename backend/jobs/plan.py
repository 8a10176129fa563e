"""The plan of a job: everything that decides its pixels, fixed before the first of them is computed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from backend.cascade.engine import Sampling
from backend.cascade.planning import stage_regions, stages_for
from backend.errors import PlanError
from backend.jobs.calibration import calibrated, where_it_runs
from backend.jobs.checks import (
    check_outputs,
    check_size,
    check_space,
    existing_folder,
    warnings_at_180_degrees,
    warnings_of,
)
from backend.jobs.conversion import CONVERTER
from backend.jobs.portions import block_windows
from backend.models.bundle import Bundle, find_bundle, open_bundle
from backend.protocol import (
    ENGINE_VERSION,
    Job,
    JobSummary,
    default_job_folder,
    stage_paths,
    statistics_paths,
)
from backend.raster.grid import Grid, Region, crs_name
from backend.raster.output import hole_marks
from backend.raster.source import RasterSource
from backend.raster.stretch import Stretch
from backend.tiling.geometry import Block, WindowGeometry
from backend.tiling.lattice import Lattice, paper_lattice

OVERHEAD = 1.08
"""A job's time over the time in its network: reading, blending, writing."""


@dataclass(frozen=True)
class StagePlan:
    """One stage: its whole grid, what of it is computed, what of it the user asked for, and its file."""

    grid: Grid
    region: Region
    asked: Region
    path: str


@dataclass(frozen=True)
class Product:
    """A finished raster: ``bands`` bands of a stage's blocks, the first of which is ``first_band``, counted from 1.

    ``colours``: of class numbers, red, green and blue. ``scaling``: (scale, offset) of its bands, see `RasterSource`.
    """

    path: str
    stage: int
    first_band: int
    bands: int
    tags: dict[str, str] = field(default_factory=dict)
    colours: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    scaling: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class JobPlan:
    """A job with all its defaults decided."""

    job: Job
    model: str
    model_folder: str
    model_sha256: str
    source: dict[str, list[int]]
    resample_to_m: float | None
    anchor: tuple[int, int] | None
    """Where the source lies on the grid of the layer that it was copied from; see `RasterSource.anchor`."""
    stretch: Stretch
    scaling: tuple[tuple[float, float], ...]
    """(scale, offset) of the source's bands, and of the results'; see `RasterSource`."""
    bands: int
    dtype: str
    nodata: float | None
    alpha: bool
    area: Region
    source_grid: Grid
    stages: tuple[StagePlan, ...]
    geometry: WindowGeometry
    sampling: Sampling
    device: str
    device_name: str
    precision: str
    batch: int
    torch_version: str
    block_windows: int
    """Windows along a block's side; decides no pixel."""
    warnings: tuple[str, ...]

    @property
    def bundle(self) -> Bundle:
        """The model."""
        return open_bundle(Path(self.model_folder))

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything that decides the pixels."""
        return {
            "engine": ENGINE_VERSION,
            "torch": self.torch_version,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "source": sorted([Path(name).name, facts] for name, facts in self.source.items()),
            "transform": list(self.source_grid.transform)[:6],
            "crs": crs_name(self.source_grid.crs),
            "nodata": str(self.nodata),
            "pixel_size_m": self.source_grid.pixel_size_m,
            "resample_to_m": self.resample_to_m,
            "anchor": self.anchor,
            "bands": self.job.bands,
            "stretch": dataclasses.asdict(self.stretch),
            "area": dataclasses.asdict(self.area),
            "stages": len(self.stages),
            "seed": self.job.seed,
            "noise": self.job.noise,
            "lattice": dataclasses.asdict(self.geometry.lattice),
            "sampling": dataclasses.asdict(self.sampling),
            "consistency": self.job.consistency,
            "device": self.device,
            "precision": self.precision,
            "batch": self.batch,
            "compile": self.job.compile,
        }

    @cached_property
    def sha256(self) -> str:
        """Hash of the facts: equal hashes, equal pixels on one device model."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()

    @property
    def blocks_digest(self) -> str:
        """What tells blocks of this plan, and of this size, from all others."""
        return f"{self.sha256} {self.block_windows}"

    @cached_property
    def comparable_facts(self) -> dict[str, Any]:
        """The facts as they come back from JSON."""
        return dict(json.loads(json.dumps(self.facts)))

    def measured_as(self, other: JobPlan) -> JobPlan:
        """The plan with what was measured on the same device, and not asked for, as in another: batch and format."""
        if self.device != other.device:
            return self
        precision = other.precision if self.job.precision == "auto" else self.precision
        return dataclasses.replace(self, batch=other.batch, precision=precision)

    def moved_to(self, other: JobPlan) -> Self:
        """The plan with source and model where an equal plan has them now."""
        job = dataclasses.replace(self.job, input=other.job.input)
        return dataclasses.replace(self, job=job, source=other.source, model_folder=other.model_folder)

    @property
    def windows(self) -> list[int]:
        """Windows of each stage for one sample; a cluster computes some at the borders of blocks again."""
        return [self.geometry.count(stage.region) for stage in self.stages]

    def blocks(self, stage: int, part: Region | None = None) -> list[Block]:
        """The blocks of a stage, which counts from 1; of those, what touches ``part`` if given."""
        return self.geometry.blocks(self.stages[stage - 1].region, self.block_windows, part)

    def block(self, stage: int, row: int, col: int) -> Block:
        """One of the `blocks` of a stage."""
        return self.geometry.block(self.stages[stage - 1].region, self.block_windows, row, col)

    @property
    def evaluations_per_pixel(self) -> float:
        """Evaluations a pixel of the last stage, from the plan."""
        last = self.stages[-1].asked
        return self.windows[-1] * self.sampling.steps * self.geometry.lattice.window**2 / (last.height * last.width)

    @property
    def output_bytes(self) -> int:
        """Size of all results without compression."""
        item = np.dtype(self.dtype).itemsize * (self.bands + self.alpha)
        return sum(s.asked.height * s.asked.width for s in self.stages) * item

    @property
    def result_bytes(self) -> int:
        """Space for the finished rasters while they are written."""
        return int(1.25 * (self.output_bytes + 2 * self._statistics_bytes))

    @property
    def block_bytes(self) -> int:
        """Space for the job's folder."""
        return int(1.25 * (self.output_bytes * self.job.samples + 2 * self._statistics_bytes) + self._edge_bytes)

    @property
    def _edge_bytes(self) -> int:
        """Size of what blocks give to their neighbours: float32 along two of their sides."""
        lattice = self.geometry.lattice
        a_window = 2 * lattice.ramp * (lattice.stride + lattice.ramp) * 4 * self.bands_made
        return sum(self.windows) * self.job.samples * a_window // self.block_windows

    @property
    def bands_made(self) -> int:
        """Bands of a window as it leaves the network."""
        return self.bands

    @property
    def _statistics_bytes(self) -> int:
        """Size of one raster of float32 over the last stage, if there are statistics."""
        last = self.stages[-1].asked
        return 4 * self.bands * last.height * last.width if self.job.samples > 1 else 0

    @property
    def preview_extent(self) -> list[float]:
        """xmin, ymin, xmax, ymax of the source pixels that one window of the last stage makes finer, at the middle."""
        last, lattice = self.stages[-1], self.geometry.lattice
        scale = round(last.grid.width / self.source_grid.width)

        def pixels(start: int, stop: int, end: int) -> tuple[int, int]:
            middle = (start + stop) // 2
            first, after = lattice.alone(lattice.indices(middle, middle + 1)[0])
            first, after = max(0, -(-first // scale)), min(end, after // scale)
            return (first, after) if first < after else (middle // scale, middle // scale + 1)

        top, bottom = pixels(last.asked.top, last.asked.bottom, self.source_grid.height)
        left, right = pixels(last.asked.left, last.asked.right, self.source_grid.width)
        return list(self.source_grid.crop(Region(top, left, bottom, right)).bounds())

    @property
    def result_paths(self) -> list[str]:
        """The rasters that the job makes: one a stage, then the statistics over its samples if there are several."""
        return _result_paths(self.job, len(self.stages))

    def source_now(self) -> dict[str, list[int]]:
        """What ``source`` would be if the job was planned now."""
        with RasterSource(self.job.input, self.job.bands, self.job.source_resolution) as source:
            return source.fingerprint()

    @property
    def products(self) -> list[Product]:
        """The rasters that are made of blocks as they are: one a stage."""
        paths = self.result_paths[: len(self.stages)]
        return [Product(path, k, 1, self.bands, scaling=self.scaling) for k, path in enumerate(paths, 1)]

    @property
    def has_classes(self) -> bool:
        """Whether some of its rasters hold numbers of classes, which have no averages."""
        return any(product.colours for product in self.products)

    @property
    def folder(self) -> Path:
        """Where unfinished work lies: where the user says, else beside the result, on the same disk."""
        return Path(self.job.job_dir or default_job_folder(self.stages[-1].path)).absolute()

    @property
    def window_seconds(self) -> float:
        """What a window takes in the network, as measured on this machine."""
        speed = calibrated(self.bundle, self.model_sha256, self.device, self.precision, self.batch)
        return speed.window_seconds(self.sampling.steps)

    def summary(self) -> JobSummary:
        """What the job would do, for people."""
        windows = sum(self.windows) * self.job.samples
        return JobSummary(
            [s.grid.crop(s.asked).info() for s in self.stages],
            windows,
            windows * self.sampling.steps,
            self.evaluations_per_pixel,
            self.output_bytes,
            self.result_bytes + self.block_bytes,
            shutil.disk_usage(existing_folder(Path(self.job.output))).free,
            windows * self.window_seconds * OVERHEAD,
            self.device_name,
            self.preview_extent,
            list(self.warnings),
        )

    def to_json(self) -> str:
        """The whole plan as JSON."""
        return json.dumps({**CONVERTER.unstructure(self), "sha256": self.sha256}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> JobPlan:
        """The plan in ``text``; `PlanError` if it is damaged or was changed by hand."""
        try:
            values = json.loads(text)
            plan = CONVERTER.structure(values, _kind(values, cls))
        except Exception as error:  # cattrs raises groups of whatever went wrong inside
            raise PlanError(f"The job's plan cannot be read: {error}") from error
        if values.get("sha256") != plan.sha256:
            raise PlanError("The job's plan was changed, or is of another version; start the job anew.")
        return plan


Plan = TypeVar("Plan", bound=JobPlan)


def _kind(values: dict[str, Any], usual: type[JobPlan]) -> type[JobPlan]:
    """The class of the plan in ``values``."""
    if "targets" not in values:
        return usual
    from backend.jobs.scene_plan import ScenePlan  # it builds on this module

    return ScenePlan


def make_plan(job: Job) -> JobPlan:
    """The plan of a job; raises one of `backend.errors` with a sentence if it cannot be done."""
    return checked(draft_plan(job))


def checked(plan: Plan) -> Plan:
    """The plan, if its results can be written and are not too large; else one of `backend.errors` with a sentence."""
    check_outputs(plan.result_paths, list(plan.source))
    check_size([stage.region for stage in plan.stages])
    check_space(plan)
    return plan


def draft_plan(job: Job) -> JobPlan:
    """The plan of a job, however much it would make and wherever that would go; see `checked`."""
    bundle = find_bundle(job.model)
    bundle.need_weights()
    network, profile = bundle.config.network, bundle.config.profile
    with RasterSource(job.input, job.bands, job.source_resolution) as source:
        native_m = source.grid.pixel_size_m
        stages, resample_to_m = _stages(job, native_m, network.scale)
    with RasterSource(job.input, job.bands, job.source_resolution, resample_to_m) as source:
        area = source.grid.region if job.extent is None else source.grid.region_of(job.extent)
        grid, bands = source.grid, source.out_bands
        stretch = source.stretch() if job.stretch is None else source.stretch_between(*job.stretch)
        scaling, anchor = source.scaling, source.anchor() if resample_to_m is None else None
        dtype, fingerprint = source.dtype.name, source.fingerprint()
        nodata, alpha = hole_marks(source.dtype, source.nodata, source.needs_alpha)
    lattice = (
        paper_lattice(network.tile) if job.overlap == "paper" else Lattice(network.tile, profile.margin, profile.ramp)
    )
    geometry = WindowGeometry(lattice, network.scale, network.context)
    if anchor and any(n * network.scale % lattice.stride for n in anchor):
        anchor = None
    job = job.with_absolute_paths()
    paths = _result_paths(job, stages)
    grids = [grid.zoom_in(network.scale**k) for k in range(1, stages + 1)]
    regions = stage_regions(area, grid, stages, geometry)
    sampling, (runs, speed) = _sampling(job, bundle), where_it_runs(bundle, job.device, job.precision)
    return JobPlan(
        job=job,
        **runs,
        source=fingerprint,
        resample_to_m=resample_to_m,
        anchor=anchor,
        stretch=stretch,
        scaling=scaling,
        bands=bands,
        dtype=dtype,
        nodata=nodata,
        alpha=alpha,
        area=area,
        source_grid=grid,
        stages=tuple(
            StagePlan(g, r, area.scaled(network.scale ** (k + 1)), p)
            for k, (g, r, p) in enumerate(zip(grids, regions, paths))
        ),
        geometry=geometry,
        sampling=sampling,
        block_windows=block_windows(job, speed, sampling, geometry.count(regions[-1])),
        warnings=(
            *warnings_of(grid, stages, bundle, resample_to_m, native_m), *warnings_at_180_degrees(grid, job.extent)
        ),
    )


def _result_paths(job: Job, stages: int) -> list[str]:
    paths = stage_paths(job.output, stages)
    return [*paths, *statistics_paths(paths[-1])] if job.samples > 1 else paths


def _stages(job: Job, pixel_size_m: float, scale: int) -> tuple[int, float | None]:
    if job.resolution is None:
        return job.stages or 1, None
    return stages_for(pixel_size_m, job.resolution, scale)


def _sampling(job: Job, bundle: Bundle) -> Sampling:
    profile = bundle.config.profile
    sampler = profile.sampler if job.sampler == "auto" else job.sampler
    usual = profile.steps if sampler == profile.sampler else 50 if sampler == "ddim" else 12
    return Sampling(sampler, job.steps or usual)
