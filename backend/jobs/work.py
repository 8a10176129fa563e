"""What a process has open to make the blocks of a plan: a network on its device, and the rasters that it reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

import torch

from backend.cascade.engine import Engine
from backend.cascade.windows import CascadeWindows, StageSettings
from backend.jobs.plan import JobPlan
from backend.jobs.scene_plan import ScenePlan
from backend.models.bundle import Bundle, as_cascade, as_scene
from backend.raster.pixels import Read
from backend.raster.source import RasterSource
from backend.scene.engine import SceneEngine
from backend.scene.modality import Modality
from backend.scene.windows import SceneSettings, SceneWindows
from backend.tiling.blocks import BlockRenderer

Fingerprint = dict[str, list[int]]


class Work(Protocol):
    """See `CascadeWork` and `SceneWork`."""

    @property
    def engine(self) -> Engine | SceneEngine:
        """What counts the evaluations."""

    def fingerprint(self) -> Fingerprint:
        """Of the files that are read, as they are now."""

    def renderer(self, sample: int, stage: int, read: Read | None, after_window: Callable[[], None]) -> BlockRenderer:
        """The renderer of a stage, whose input is ``read`` if the stage is not the first."""


def open_work(plan: JobPlan, bundle: Bundle, after_evaluation: Callable[[int], None], stack: ExitStack) -> Work:
    """What a plan needs; ``stack`` closes it."""
    kind = SceneWork if isinstance(plan, ScenePlan) else CascadeWork
    return kind(plan, bundle, after_evaluation, stack)  # type: ignore[arg-type]


class CascadeWork:
    """The cascade's network and the source raster."""

    def __init__(
        self, plan: JobPlan, bundle: Bundle, after_evaluation: Callable[[int], None], stack: ExitStack
    ) -> None:
        self.plan, job = plan, plan.job
        self.engine = Engine(
            as_cascade(bundle),
            plan.model_sha256,
            plan.sampling,
            plan.device,
            getattr(torch, plan.precision),
            plan.batch,
            job.compile == "on",
            on_evaluation=after_evaluation,
        )
        self.source = stack.enter_context(
            RasterSource(job.input, job.bands, job.source_resolution, plan.resample_to_m)
        )

    def fingerprint(self) -> Fingerprint:
        """See `Work`."""
        return self.source.fingerprint()

    def renderer(self, sample: int, stage: int, read: Read | None, after_window: Callable[[], None]) -> BlockRenderer:
        """See `Work`."""
        plan, anchor, geometry = self.plan, self.plan.anchor, self.plan.geometry
        size_m = plan.stages[stage - 1].grid.pixel_size_m
        first = [n * geometry.scale**stage // geometry.lattice.stride for n in anchor or (0, 0)]
        settings = StageSettings(
            stage,
            geometry,
            plan.stretch,
            size_m if anchor is None else rounded_resolution_m(size_m),
            plan.job.seed + sample - 1,
            plan.job.noise,
            plan.job.consistency,
            (first[0], first[1]),
        )
        windows = CascadeWindows(self.engine, read or self.source.read, settings, plan.bands)
        return BlockRenderer(windows, geometry, after_window)


class SceneWork:
    """MetaEarth-MM's network, and the rasters of what is known."""

    def __init__(
        self, plan: ScenePlan, bundle: Bundle, after_evaluation: Callable[[int], None], stack: ExitStack
    ) -> None:
        self.plan = plan
        dtype = getattr(torch, plan.precision)
        scene = as_scene(bundle)
        steps = plan.sampling.steps
        self.engine = SceneEngine(
            scene, plan.model_sha256, steps, plan.device, dtype, plan.batch, on_evaluation=after_evaluation
        )
        self.rasters = {given.modality: stack.enter_context(plan.opened(given)) for given in plan.inputs}

    def fingerprint(self) -> Fingerprint:
        """See `Work`."""
        return {name: facts for raster in self.rasters.values() for name, facts in raster.source.fingerprint().items()}

    def renderer(self, sample: int, stage: int, read: Read | None, after_window: Callable[[], None]) -> BlockRenderer:
        """See `Work`."""
        plan = self.plan
        settings = SceneSettings(
            plan.geometry, plan.target_modalities, plan.source_grid.pixel_size_m, plan.job.seed + sample - 1
        )
        readers: dict[str, tuple[Modality, Read]] = {
            name: (raster.modality, raster.read) for name, raster in self.rasters.items()
        }
        return BlockRenderer(SceneWindows(self.engine, readers, settings), plan.geometry, after_window)


def rounded_resolution_m(size_m: float) -> float:
    """The nearest power of the fourth root of two: copies of one layer have almost, not quite, the same resolution."""
    return 2.0 ** (round(4 * math.log2(size_m)) / 4)
