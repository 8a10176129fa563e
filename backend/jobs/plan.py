"""The plan of a job: everything that decides its pixels, fixed before the first of them is computed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.cascade.engine import Sampling
from backend.cascade.planning import WindowGeometry, stage_regions, stages_for
from backend.devices import choose_device, choose_dtype
from backend.errors import DiskFullError, ModelError, OutputError, PlanError
from backend.models.bundle import Bundle, find_bundle
from backend.protocol import ENGINE_VERSION, Job, JobSummary, stage_paths
from backend.raster.grid import Grid, Region
from backend.raster.source import RasterSource
from backend.raster.stretch import Stretch
from backend.tiling.lattice import Lattice, paper_lattice

MAX_PIXELS = 400_000_000_000


@dataclass(frozen=True)
class StagePlan:
    """One stage: its whole grid, what of it is computed, what of it the user asked for, and its file."""

    grid: Grid
    region: Region
    asked: Region
    path: str


@dataclass(frozen=True)
class JobPlan:
    """A job with all its defaults decided."""

    job: Job
    bundle: Bundle
    model_sha256: str
    source: dict[str, Any]
    resample_to_m: float | None
    stretch: Stretch
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
    precision: str
    warnings: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that decides the pixels."""
        return {
            "engine": ENGINE_VERSION,
            "torch": torch.__version__,
            "model": self.bundle.config.id,
            "model_sha256": self.model_sha256,
            "source": {Path(name).name: facts for name, facts in self.source.items()},
            "pixel_size_m": self.source_grid.pixel_size_m,
            "resample_to_m": self.resample_to_m,
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
        }

    @property
    def sha256(self) -> str:
        """Hash of the facts: equal hashes, equal pixels on one device model."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()

    @property
    def windows(self) -> list[int]:
        """Windows of each stage, those at block borders counted as often as they are computed."""
        return [sum(map(self.geometry.count, self.geometry.blocks(s.region))) for s in self.stages]

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

    def summary(self) -> JobSummary:
        """What the job would do, for people."""
        return JobSummary(
            [s.grid.crop(s.asked).info() for s in self.stages],
            sum(self.windows),
            sum(self.windows) * self.sampling.steps,
            self.evaluations_per_pixel,
            self.output_bytes,
            shutil.disk_usage(existing_folder(Path(self.job.output))).free,
            list(self.warnings),
        )


def existing_folder(path: Path) -> Path:
    """The nearest folder above ``path`` that exists."""
    found = next((folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir()), None)
    if found is None:
        raise OutputError(f"There is no drive or share for {path}; choose another place for the result.")
    return found


def make_plan(job: Job) -> JobPlan:
    """The plan of a job; raises one of `backend.errors` with a sentence if it cannot be done."""
    bundle = find_bundle(job.model)
    if not bundle.has_weights:
        raise ModelError(f"The model {bundle.config.id} has no weights yet: it can be trained, but not run.")
    network, profile = bundle.config.network, bundle.config.profile
    with RasterSource(job.input, job.bands, job.source_resolution) as source:
        native_m = source.grid.pixel_size_m
        stages, resample_to_m = _stages(job, native_m, network.scale)
    with RasterSource(job.input, job.bands, job.source_resolution, resample_to_m) as source:
        area = source.grid.region if job.extent is None else source.grid.region_of(_four(job.extent))
        stretch, grid, bands = source.stretch(), source.grid, source.out_bands
        dtype, nodata, alpha, fingerprint = source.dtype.name, source.nodata, source.needs_alpha, source.fingerprint()
        files = source.files()
    lattice = (
        paper_lattice(network.tile) if job.overlap == "paper" else Lattice(network.tile, profile.margin, profile.ramp)
    )
    geometry = WindowGeometry(lattice, network.scale, network.context)
    paths = stage_paths(job.output, stages)
    _check_outputs(paths, files)
    grids = [grid.zoom_in(network.scale**k) for k in range(1, stages + 1)]
    regions = stage_regions(area, grid, stages, geometry)
    if max(r.height * r.width for r in regions) > MAX_PIXELS:
        raise PlanError(
            f"The result would have {regions[-1].width} x {regions[-1].height} pixels. "
            "Choose a smaller extent or a coarser target resolution."
        )
    device = choose_device(job.device)
    plan = JobPlan(
        job,
        bundle,
        bundle.sha256(),
        fingerprint,
        resample_to_m,
        stretch,
        bands,
        dtype,
        nodata,
        alpha,
        area,
        grid,
        tuple(
            StagePlan(g, r, area.scaled(network.scale ** (k + 1)), p)
            for k, (g, r, p) in enumerate(zip(grids, regions, paths))
        ),
        geometry,
        _sampling(job, bundle),
        device,
        choose_dtype(job.precision, device),
        tuple(_warnings(grid, stages, bundle, resample_to_m, native_m)),
    )
    _check_space(plan)
    return plan


def _four(extent: list[float]) -> tuple[float, float, float, float]:
    xmin, ymin, xmax, ymax = extent
    return xmin, ymin, xmax, ymax


def _stages(job: Job, pixel_size_m: float, scale: int) -> tuple[int, float | None]:
    if job.resolution is None:
        return job.stages or 1, None
    return stages_for(pixel_size_m, job.resolution, scale)


def _sampling(job: Job, bundle: Bundle) -> Sampling:
    profile = bundle.config.profile
    sampler = profile.sampler if job.sampler == "auto" else job.sampler
    usual = profile.steps if sampler == profile.sampler else 50 if sampler == "ddim" else 12
    return Sampling(sampler, job.steps or usual)


def _warnings(grid: Grid, stages: int, bundle: Bundle, resample_to_m: float | None, native_m: float) -> list[str]:
    found = []
    if resample_to_m is not None and resample_to_m > native_m:
        found.append(
            f"The target is less than one stage away, so the source is first averaged from {native_m:.4g} to "
            f"{resample_to_m:.4g} m: detail that it has in between is replaced by synthetic detail."
        )
    finest, coarsest = bundle.config.ground_resolution_m
    for stage in range(1, stages + 1):
        size = grid.pixel_size_m / bundle.config.network.scale**stage
        if not finest <= size <= coarsest:
            factor = finest / size if size < finest else size / coarsest
            found.append(
                f"Stage {stage} makes {size:.3g} m pixels; {bundle.config.id} was trained on {finest:g} to "
                f"{coarsest:g} m (off by a factor of {factor:.1f})."
            )
    a, b, _, d, e, _ = list(grid.transform)[:6]
    sides = [(a * a + d * d) ** 0.5, (b * b + e * e) ** 0.5]
    if grid.crs is not None and not grid.crs.is_geographic and max(sides) > 1.2 * min(sides):
        found.append(f"The pixels are {sides[0]:.4g} wide and {sides[1]:.4g} high; the model expects square ones.")
    return found


def _check_outputs(paths: list[str], sources: list[str]) -> None:
    for path in paths:
        if os.path.isdir(path):
            raise OutputError(f"{path} is a folder; choose another name for the result.")
        if os.path.exists(path) and any(os.path.samefile(path, source) for source in sources):
            raise OutputError(f"{path} is the source itself; choose another name for the result.")
        folder = existing_folder(Path(path).parent)
        if not os.access(folder, os.W_OK):
            raise OutputError(f"Nothing can be written in {folder}; choose another place for the result.")


def _check_space(plan: JobPlan) -> None:
    needed = int(2.5 * plan.output_bytes)
    free = shutil.disk_usage(existing_folder(Path(plan.job.output))).free
    if needed > free:
        raise DiskFullError(
            f"The job needs up to {needed / 1e9:.2f} GB of disk space beside the result, and "
            f"{free / 1e9:.2f} GB are free. Free some space, or choose another place for the result."
        )
