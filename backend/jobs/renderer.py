"""What one process does for a job: it renders blocks and writes them into the job directory."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from backend.devices import choose_device
from backend.errors import InputError, ModelError, NetworkOutputError, OutputError, PlanError
from backend.jobs.directory import BATCH_TAG, EVALUATIONS_TAG, SECONDS_TAG, JobDirectory
from backend.jobs.plan import JobPlan
from backend.jobs.work import open_work
from backend.models.bundle import Bundle
from backend.raster.mosaic import Mosaic
from backend.raster.output import tags_of
from backend.raster.pixels import Read
from backend.tiling.blocks import BlockRenderer, Edges, RenderedBlock
from backend.tiling.geometry import Block


@dataclass(frozen=True)
class BlockReport:
    """What a finished block cost, and with how many windows at a time it was made."""

    evaluations: int
    seconds_network: float
    batch: int


def report_of(path: Path, plan: JobPlan) -> BlockReport:
    """What the tags of a finished block tell."""
    tags = tags_of(path)
    seconds, batch = float(tags.get(SECONDS_TAG, 0)), int(tags.get(BATCH_TAG, plan.batch))
    return BlockReport(int(tags.get(EVALUATIONS_TAG, 0)), seconds, batch)


def fitting_bundle(plan: JobPlan, directory: JobDirectory) -> Bundle:
    """The plan's model; `PlanError`, `DeviceError` or `ModelError` if this process cannot make the plan's pixels."""
    if plan.torch_version != torch.__version__:
        raise PlanError(
            f"The job was planned with torch {plan.torch_version}, and here is {torch.__version__}: the parts "
            "would not fit each other. Use that release, or start the job anew under another name."
        )
    choose_device(plan.device)
    bundle = directory.bundle(plan)
    if bundle.sha256() != plan.model_sha256:
        raise ModelError(f"The model {plan.model} changed since the job was planned; start the job anew.")
    return bundle


class Renderer:
    """Renders blocks of one plan in this process. Writing goes on behind the network.

    ``after_evaluation`` and ``after_window`` are called in the caller's thread and may raise. ``read_stage`` (sample,
    stage) gives the reading of a stage that the next one is made from; without it, there is a mosaic of all of it, that
    a disk of several machines may show here ``patience_s`` seconds later than where it was written.
    """

    def __init__(
        self,
        plan: JobPlan,
        directory: JobDirectory,
        after_evaluation: Callable[[int], None] = lambda windows: None,
        after_window: Callable[[], None] = lambda: None,
        read_stage: Callable[[int, int], Read] | None = None,
        patience_s: float = 0.0,
    ) -> None:
        self.plan, self.directory, self.after_window, self.patience_s = plan, directory, after_window, patience_s
        self.read_stage = read_stage or self._mosaic
        self._stack = ExitStack()
        self.work = open_work(plan, fitting_bundle(plan, directory), after_evaluation, self._stack)
        self.engine = self.work.engine
        self._unwritten: list[tuple[Future, tuple[int, int], Block, RenderedBlock]] = []
        self._stage: tuple[int, int] | None = None
        self._stage_stack = ExitStack()
        self.writer = self._stack.enter_context(ThreadPoolExecutor(1))

    def close(self) -> None:
        """Wait until everything is written; close the files."""
        self._stage_stack.close()
        self._stack.close()

    def render(self, sample: int, stage: int, block: Block) -> Future[BlockReport]:
        """Render a block; the future ends when its file is written and verified."""
        self.check_source()
        renderer = self._renderer(sample, stage)
        evaluations, seconds = self.engine.evaluations, self.engine.seconds_network
        try:
            made = renderer.render(block, self._edges(sample, stage, block))
        except NetworkOutputError as error:
            raise NetworkOutputError(f"Block {block.name} of stage {stage} could not be made: {error}") from error
        self.check_source()  # what was read meanwhile must not be kept
        report = BlockReport(
            self.engine.evaluations - evaluations, self.engine.seconds_network - seconds, self.engine.batch
        )
        written = self.writer.submit(self._write, sample, stage, block, made, report)
        self._unwritten = [u for u in self._unwritten if not u[0].done()]
        self._unwritten.append((written, (sample, stage), block, made))
        return written

    def _edges(self, sample: int, stage: int, block: Block) -> Edges:
        """What the neighbours give to a block: those on the disk, and those that are being written."""
        found = self.directory.edges(self.plan, sample, stage, block)
        for _, of, other, made in self._unwritten:
            side = block.givers.get((other.row, other.col))
            if side and of == (sample, stage):
                found.update(getattr(made, side))
        return found

    def _write(self, sample: int, stage: int, block: Block, made: RenderedBlock, report: BlockReport) -> BlockReport:
        tags = {EVALUATIONS_TAG: str(report.evaluations), SECONDS_TAG: f"{report.seconds_network:.3f}"}
        if report.batch != self.plan.batch:
            tags[BATCH_TAG] = str(report.batch)
        self.directory.write(self.plan, sample, stage, block, made, tags)
        return report

    def check_source(self) -> None:
        """`InputError` if the source is no longer what the plan was made for."""
        if self.work.fingerprint() != self.plan.source:
            raise InputError(
                "The source raster changed while the job ran; nothing was written. Start the job again, under "
                "another name or after deleting the job's folder."
            )

    def _renderer(self, sample: int, stage: int) -> BlockRenderer:
        """The renderer of a stage; its input is the source, or the mosaic of the stage before."""
        if self._stage != (sample, stage):
            self._stage_stack.close()
            self._stage, self._renderer_now = (sample, stage), self._open(sample, stage)
            self._stage_stack.callback(self._renderer_now.close)
        return self._renderer_now

    def _open(self, sample: int, stage: int) -> BlockRenderer:
        read = None if stage == 1 else self.read_stage(sample, stage - 1)
        return self.work.renderer(sample, stage, read, self.after_window)

    def _mosaic(self, sample: int, stage: int) -> Read:
        of_stage, path = self.plan.stages[stage - 1], self.directory.folder / halo_name(sample, stage)
        blocks = [self.directory.block_path(sample, stage, block) for block in self.plan.blocks(stage)]
        await_files([path, *blocks], self.patience_s, self.after_window)
        return self._stage_stack.enter_context(Mosaic(path, of_stage.grid, of_stage.region, self.plan.bands)).read


def await_files(paths: list[Path], patience_s: float, check: Callable[[], None]) -> None:
    """Wait until all files are there; `OutputError` names one that is not after ``patience_s`` seconds."""
    end = time.monotonic() + patience_s
    while paths := [path for path in paths if not path.is_file()]:
        if time.monotonic() >= end:
            raise OutputError(f"{paths[0]}, which the job has written, is not there. Resume the job.")
        check()
        time.sleep(0.2)


def halo_name(sample: int, stage: int) -> str:
    """The mosaic of all that a stage computed, which the next stage reads."""
    return f"sample{sample}_s{stage}.vrt"
