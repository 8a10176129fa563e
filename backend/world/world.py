"""A world: a job over a whole source that is never finished, since only what is looked at is ever made."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from backend.devices import in_use
from backend.errors import PlanError
from backend.jobs.blocks import missing_blocks, read_blocks
from backend.jobs.directory import JobDirectory, differences
from backend.jobs.executors import LocalExecutor
from backend.jobs.plan import JobPlan, draft_plan
from backend.jobs.portions import LOCAL
from backend.jobs.renderer import BlockReport, Renderer
from backend.jobs.runner import OTHER_DEVICE, SMALLER_BATCH
from backend.models.bundle import find_bundle
from backend.progress import Check, Report
from backend.protocol import Job, data_home
from backend.raster.grid import Grid, Region
from backend.raster.pixels import Pixels, Read
from backend.raster.source import RasterSource
from backend.tiling.geometry import Block

WORLD_FILE = "world.json"
MAX_STAGES = 6


def plan_world(values: dict[str, Any], folder: str | None = None) -> JobPlan:
    """The plan of a world in ``folder``; without one, in a folder of the account that only this world has.

    ``values`` are those of a job but for output, extent and resolution; without ``stages``, as many as the model's
    ground resolution allows. No limit of size holds: what is made is what is looked at.
    """
    stages = values.get("stages") or stages_within(values)
    job = Job.from_dict({**values, "stages": stages, "output": "world", "executor": LOCAL})
    plan = draft_plan(job)
    asked = replace(plan, batch=1, precision=job.precision)  # what was measured may be another the next time
    place = folder or str(data_home() / "worlds" / asked.sha256[:16])
    # a batch of the plan's size is filled, and no more is made than is seen
    side = max(1, round(math.sqrt(plan.batch)))
    return replace(plan, job=replace(plan.job, job_dir=place), block_windows=side)


def stages_within(values: dict[str, Any]) -> int:
    """How many stages stay within the ground resolution that the model was trained on; at least one."""
    job = Job.from_dict({**values, "output": "world"})
    config = find_bundle(job.model).config
    with RasterSource(job.input, job.bands, job.source_resolution) as source:
        ratio = source.grid.pixel_size_m / config.ground_resolution_m[0]
    return min(MAX_STAGES, max(1, math.floor(math.log(max(ratio, 1), config.network.scale) + 1e-9)))


class World:
    """A world that is open; use as a context manager. Stages count from 1, stage 0 is the source.

    Stage k has 1 / scale^k of the source's metres per pixel, and the pixels that a whole job with the plan's values
    would make. Finished blocks are kept in the world's folder, which nobody else works in meanwhile. ``evaluations``
    counts those of the network since it was opened.
    """

    def __init__(self, plan: JobPlan) -> None:
        self.plan = plan
        self.directory = JobDirectory(plan.folder, WORLD_FILE)
        self.warnings = list(plan.warnings)
        self.evaluations = 0
        self._verified: set[tuple[int, Block]] = set()

    def __enter__(self) -> World:
        with ExitStack() as stack:
            stack.enter_context(self.directory.locked([]))
            self._adopt()
            job = self.plan.job
            self.source = stack.enter_context(RasterSource(job.input, job.bands, job.source_resolution))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _adopt(self) -> None:
        """Begin the world, or go on with the one in the folder; `PlanError` if that is another one."""
        if not self.directory.has_plan:
            self.directory.write_plan(self.plan)
            return
        found = self.directory.plan()
        self.plan = self.plan.measured_as(found)
        if found.sha256 != self.plan.sha256:
            raise PlanError(
                f"{self.directory.folder} holds a world that differs in "
                f"{', '.join(differences(found.comparable_facts, self.plan.comparable_facts))}. "
                "Choose another folder, or delete that one."
            )
        if found.device_name != self.plan.device_name:
            self._warn(OTHER_DEVICE.format(found.device_name, self.plan.device_name))
        self.plan = replace(self.plan, block_windows=found.block_windows)

    def _warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    @property
    def folder(self) -> Path:
        """Where the finished blocks are."""
        return self.directory.folder

    def grid(self, stage: int) -> Grid:
        """The whole grid of a stage."""
        return self.plan.source_grid if stage == 0 else self.plan.stages[stage - 1].grid

    def read(self, stage: int, region: Region) -> Pixels:
        """The pixels of a region of a stage, in source units; `make` it first."""
        return self.source.read(region) if stage == 0 else read_blocks(self.directory, self.plan, 1, stage, region)

    def make(self, parts: Iterable[tuple[int, Region]], report: Report, check: Check) -> None:
        """Finish all blocks that ``parts``, regions of stages, depend on.

        Blocks that are finished, by whatever process, are not made again. Cancelled, it leaves what is finished.
        """

        def finished(stage: int, block: Block) -> bool:
            check()
            return self._is_finished(stage, block)

        missing = missing_blocks(self.plan, ((stage, part) for stage, part in parts if stage), finished)
        if any(missing.values()):
            self._make(missing, report, check)

    def _is_finished(self, stage: int, block: Block) -> bool:
        if (stage, block) not in self._verified and self.directory.is_valid(self.plan, 1, stage, block):
            self._verified.add((stage, block))
        return (stage, block) in self._verified

    def _make(self, missing: dict[int, list[Block]], report: Report, check: Check) -> None:
        made, total = 0, sum(map(len, missing.values()))

        def done(block: Block, cost: BlockReport) -> None:
            nonlocal made
            made += 1
            self.evaluations += cost.evaluations
            self._verified.add((stage, block))
            if cost.batch < self.plan.batch:
                self._warn(SMALLER_BATCH)
            report(made, total, f"generating stage {stage}")

        def after_evaluation(windows: int) -> None:
            check()
            in_use.give_way(self.plan.device)

        def renderer() -> Renderer:
            return Renderer(self.plan, self.directory, after_evaluation, check, self._read_stage)

        with in_use, LocalExecutor(renderer()) as executor:
            for stage, blocks in missing.items():
                report(made, total, f"generating stage {stage}")
                executor.run(1, stage, blocks, done)

    def _read_stage(self, sample: int, stage: int) -> Read:
        return lambda region: read_blocks(self.directory, self.plan, sample, stage, region)
