"""A scene from nothing that is larger than one window: coarse to fine.

Without a condition every window would invent a scene of its own. So all modalities are made coarse, in one window; the
first image of them is made finer by a cascade; the rest is translated from that. The result is rounded up to whole
coarse pixels.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioIOError

from backend.cascade.planning import stage_regions
from backend.errors import PlanError
from backend.jobs.calibration import SCENE_STREAMS, where_it_runs
from backend.jobs.checks import check_free, check_outputs, check_size, existing_folder, warnings_of
from backend.jobs.directory import PLAN_TAG
from backend.jobs.plan import OVERHEAD, JobPlan, checked, draft_plan
from backend.jobs.scene_plan import (
    NEARLY,
    SceneInput,
    ScenePlan,
    SceneRequest,
    check_modalities,
    check_resolution,
    draft_scene_plan,
)
from backend.models.bundle import Bundle, ModelConfig, SceneModelConfig, find_bundle, find_scene_bundle
from backend.protocol import Job, JobResult, JobSummary
from backend.raster.grid import Grid, Region
from backend.scene.modality import find_modality
from backend.tiling.geometry import WindowGeometry
from backend.tiling.lattice import Lattice

Run = Callable[[JobPlan], JobResult]
SPACE = 2.5
"""Disk space over the size of the results: they and their blocks lie there at once, each with a quarter to spare."""


@dataclass(frozen=True)
class Work:
    """Windows, and what they take."""

    windows: int
    evaluations: int
    seconds: float


@dataclass(frozen=True)
class LargeScene:
    """The jobs of such a scene; ``lead``: the image that is made finer; ``stages``: of the cascade that does."""

    wanted: SceneRequest
    model: Bundle[SceneModelConfig]
    first: ScenePlan
    lead: str
    stages: int
    cascade: Bundle[ModelConfig]

    @property
    def grid(self) -> Grid:
        """That of all results."""
        return self.first.source_grid.zoom_in(self.cascade.config.network.scale**self.stages)

    @property
    def others(self) -> tuple[str, ...]:
        """What is translated from the lead."""
        return tuple(m for m in self.wanted.targets if m != self.lead)

    @property
    def paths(self) -> list[str]:
        """The rasters that are wanted."""
        return [str(Path(self.wanted.output) / f"{name}.tif") for name in self.wanted.targets]

    @property
    def output_bytes(self) -> int:
        """Size of these without compression, all in the coarse ones' type."""
        return self.first.bands * np.dtype(self.first.dtype).itemsize * self.grid.height * self.grid.width

    @property
    def warnings(self) -> list[str]:
        """What users should know of all jobs first."""
        coarse, config = self.first.source_grid, self.model.config
        found = [*self.first.warnings, *warnings_of(coarse, self.stages, self.cascade, None, coarse.pixel_size_m)]
        if self.others:
            found += check_modalities(config, [self.lead], list(self.others))
            found += check_resolution(config, [self.lead, *self.others], self.grid.pixel_size_m)
        return list(dict.fromkeys(found))

    def run(self, run: Run) -> list[JobResult]:
        """Carry the jobs out, one after the other, but for those whose results an earlier run has left."""
        results: list[JobResult] = []

        def carry_out(plan: JobPlan) -> None:
            if not is_made(plan):
                results.append(run(checked(plan)))

        wanted = self.wanted
        carry_out(self.first)
        finer = Job(str(Path(self.first.job.output).with_name(f"{self.lead}.tif")),
                    str(Path(wanted.output) / f"{self.lead}.tif"), stages=self.stages, model=str(self.cascade.folder),
                    seed=wanted.seed, device=wanted.device, precision=wanted.precision, executor=wanted.executor,
                    job_dir=wanted.job_dir)
        carry_out(draft_plan(finer))
        if self.others:
            inputs = (SceneInput(self.lead, finer.output),)
            carry_out(draft_scene_plan(dataclasses.replace(wanted, inputs=inputs, targets=self.others, grid=None)))
        return results

    def summary(self) -> JobSummary:
        """What the jobs would do together, as `JobPlan.summary`; the later ones' sources are not there yet."""
        first, area = self.first.summary(), self.grid.region
        work = [Work(first.windows, first.evaluations, first.seconds), self._finer(), *self._translation(area)]
        evaluations = sum(w.evaluations for w in work)
        return dataclasses.replace(
            first,
            stages=[self.grid.info()],
            windows=sum(w.windows for w in work),
            evaluations=evaluations,
            evaluations_per_pixel=evaluations * self.first.geometry.lattice.window**2 / (area.height * area.width),
            output_bytes=self.output_bytes,
            disk_bytes=int(SPACE * self.output_bytes),
            seconds=sum(w.seconds for w in work),
            warnings=self.warnings,
        )

    def _finer(self) -> Work:
        network, profile, coarse = self.cascade.config.network, self.cascade.config.profile, self.first.source_grid
        lattice = Lattice(network.tile, profile.margin, profile.ramp)
        geometry = WindowGeometry(lattice, network.scale, network.context)
        regions = stage_regions(coarse.region, coarse, self.stages, geometry)
        return self._work(self.cascade, sum(map(geometry.count, regions)), profile.steps)

    def _translation(self, area: Region) -> list[Work]:
        """Nothing, if the lead is all that is wanted."""
        if not self.others:
            return []
        config, profile = self.model.config, self.model.config.profile
        geometry = WindowGeometry(Lattice(config.network.tile, profile.margin, profile.ramp), 1, 0)
        share = (1 + len(self.others)) / SCENE_STREAMS
        return [self._work(self.model, geometry.count(area), self.wanted.steps or profile.steps, share)]

    def _work(self, bundle: Bundle, windows: int, steps: int, share: float = 1.0) -> Work:
        """``share``: of the time that a window took when the network was calibrated."""
        _, speed = where_it_runs(bundle, self.wanted.device, self.wanted.precision)
        seconds = speed.window_seconds(steps) * share
        return Work(windows, windows * steps, windows * seconds * OVERHEAD)


def large_scene(wanted: SceneRequest, grid: Grid, cascade: str) -> LargeScene:
    """The plan of a scene on ``grid``, which is larger than a window; one of `backend.errors` if it cannot be made."""
    model, finer = find_scene_bundle(wanted.model), find_bundle(cascade)
    finer.need_weights()
    lead = next((m for m in wanted.targets if not find_modality(m).is_map), None)
    if lead is None:
        raise PlanError("A scene larger than one window needs an image among its modalities.")
    scale = finer.config.network.scale
    stages = stages_from(model.config, grid, scale)
    first = dataclasses.replace(wanted, output=str(Path(wanted.output) / "coarse"), grid=grid.zoom_out(scale**stages))
    found = LargeScene(wanted, model, draft_scene_plan(first), lead, stages, finer)
    check_outputs(found.paths, [])
    check_size([found.grid.region])
    if not all(map(os.path.exists, found.paths)):
        check_free(existing_folder(Path(wanted.output)), SPACE * found.output_bytes)
    return found


def stages_from(config: SceneModelConfig, grid: Grid, scale: int) -> int:
    """How many times the scene must be made ``scale`` times coarser to fit into one window."""
    stages, side = 0, max(grid.height, grid.width)
    while side > config.network.tile:
        stages, side = stages + 1, -(-side // scale)
    coarsest, needed = config.ground_resolution_m[1], grid.pixel_size_m * scale**stages
    if needed > NEARLY * coarsest:
        raise PlanError(
            f"The whole scene would first be made at {needed:.3g} m per pixel, and {config.id} was trained on up to"
            f" {coarsest:g} m. Make a smaller scene."
        )
    return stages


def is_made(plan: JobPlan) -> bool:
    """Whether all rasters of a plan are there, with the pixels that it would give them."""

    def hash_in(path: str) -> str | None:
        try:
            with rasterio.open(path) as dataset:
                return dataset.tags().get(PLAN_TAG)
        except RasterioIOError:
            return None

    return all(hash_in(product.path) == plan.sha256 for product in plan.products)
