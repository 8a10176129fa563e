"""Carries a plan out: stage by stage, the missing blocks first, then the finished rasters."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from backend.devices import choose_device, device_name, in_use, use_threads
from backend.errors import Cancelled, InputError, OutputError
from backend.files import take_the_place_of, writing
from backend.jobs.consistency import consistency_psnr
from backend.jobs.directory import JobDirectory, part_of
from backend.jobs.executors import Executor, LocalExecutor
from backend.jobs.plan import JobPlan
from backend.jobs.portions import LOCAL, executor_of, is_here
from backend.jobs.renderer import BlockReport, Renderer, halo_name, report_of
from backend.jobs.samples import write_statistics
from backend.jobs.scene_plan import ScenePlan
from backend.memory import peak_memory_bytes
from backend.protocol import WRITING, JobResult, Progress
from backend.raster.output import remove_unfinished, write_cog
from backend.raster.source import RasterSource
from backend.tiling.geometry import Block

Report = Callable[[Progress], None]
GENERATING_SHARE = 0.98
"""The part of the progress bar that the network gets; the rest is for writing the finished files."""
LIVE_SECONDS = 5.0
LIVE_SHARE = 20.0
"""A mosaic is written again after so many times as long as the last one took."""
SMALLER_BATCH = (
    "Memory became too small, so some blocks were made with fewer windows at a time: they equal what the plan would "
    "give within rounding, not bit for bit."
)
OTHER_DEVICE = (
    "The job was begun on {} and is finished on {}: the parts equal each other within rounding, not bit for bit."
)
OTHER_SOURCE = (
    "The source changed after the last block was made: how well the result agrees with it was not measured."
)


class JobRun:
    """One run of a plan in its directory.

    ``report`` gets progress; ``check`` is called after every network evaluation and raises `Cancelled` or
    `Interrupted` to end the run.
    """

    def __init__(self, plan: JobPlan, report: Report, check: Callable[[], None]) -> None:
        self.plan, self.report, self._asked_to_end = plan, report, check
        self.directory = JobDirectory(plan.folder)
        self.windows_done = 0.0
        self.sample = self.stage = 1
        self.evaluations = self.blocks_resumed = 0
        self.seconds_network = 0.0
        self.live_number = 0
        self.mosaic: str | None = None
        self.warnings: list[str] = []
        self.windows_resumed = 0.0
        self.began = self.last_report = time.monotonic()
        self.next_live = self.began + LIVE_SECONDS

    def run(self) -> JobResult:
        """All stages; the results appear together at the end.

        After an error or an interruption, finished blocks stay in the job's directory and the next run goes on with
        them; after a cancel they stay if the cancel says so, or else if the user has named the directory, or an earlier
        run has left them.
        """
        existed, job = self.directory.folder.exists(), self.plan.job
        was_begun = self.directory.has_plan
        with self.directory.locked(self.plan.result_paths), in_use:
            use_threads()
            try:
                found = self.directory.adopt(self.plan)
                asked = replace(found.job, executor=job.executor, job_dir=job.job_dir, samples=job.samples)
                self.plan = replace(found, job=asked)
                if found.job.samples != job.samples:
                    self.directory.write_plan(self.plan)  # else a resumption would not know of them
                self._look_at_device()
                result = self._run()
            except BaseException as error:
                unwanted = isinstance(error, Cancelled) and not (
                    job.job_dir is not None or was_begun if error.keep is None else error.keep
                )
                if unwanted or not (existed or self._any_block()):
                    self.directory.remove()
                elif isinstance(error, OutputError):
                    raise type(error)(f"{error} What is finished is kept in {self.directory.folder}.") from error
                raise
            self.directory.remove()
        return result

    def check(self) -> None:
        """Raise if the job is to end; whoever waits to measure the device goes first."""
        in_use.give_way(self.plan.device)
        self._asked_to_end()

    @property
    def _executor_name(self) -> str:
        return executor_of(self.plan.job.executor, self.plan.job.device)

    def _look_at_device(self) -> None:
        """Warn if it is another one than the plan's, `DeviceError` if it is gone; a cluster tells of its own."""
        if not is_here(self._executor_name):
            return
        here = device_name(choose_device(self.plan.device))
        if here != self.plan.device_name:
            self._warn(OTHER_DEVICE.format(self.plan.device_name, here))

    def _any_block(self) -> bool:
        return any((self.directory.folder / "blocks").rglob("*.tif"))

    def _run(self) -> JobResult:
        plan, job = self.plan, self.plan.job
        with ExitStack() as opened:
            executor = opened.enter_context(self._executor())
            for self.sample in range(1, job.samples + 1):
                for self.stage in range(1, len(plan.stages) + 1):
                    self._run_stage(executor)
            for warning in executor.warnings:
                self._warn(warning)
            results = [Path(path).absolute() for path in plan.result_paths]
            try:
                self._finish(results)
                psnr, valid_pixels = self._consistency(part_of(results[len(plan.stages) - 1]))
                evaluations = self._evaluations_of_last_stage()
                for path in results:
                    with writing(path):
                        take_the_place_of(path, part_of(path))
            finally:
                for path in results:
                    remove_unfinished(part_of(path))
        return self._result(evaluations, psnr, valid_pixels)

    def _executor(self) -> Executor:
        address = self._executor_name
        if address == LOCAL:
            return LocalExecutor(Renderer(self.plan, self.directory, self._after_evaluation, self.check))
        from backend.jobs.cluster import ClusterExecutor  # only those who use a cluster need dask

        # workers of this machine go on while the job gives way
        check = self._asked_to_end if is_here(address) else self.check
        return ClusterExecutor(address, self.plan, self.directory, check)

    def _run_stage(self, executor: Executor) -> None:
        plan, sample, stage = self.plan, self.sample, self.stage
        blocks = plan.blocks(stage)
        finished = []
        for block in blocks:
            self.check()
            if self.directory.is_valid(plan, sample, stage, block):
                finished.append(block)
        self.blocks_resumed += len(finished)
        resumed = sum(map(self._own_windows, finished))
        self.windows_resumed += resumed
        self.windows_done = self._windows_before() + resumed
        names = {block.name for block in finished}
        missing = [block for block in blocks if block.name not in names]
        computed = resumed

        def done(block: Block, report: BlockReport) -> None:
            nonlocal computed
            finished.append(block)
            computed += self._own_windows(block)
            self.evaluations += report.evaluations
            self.seconds_network += report.seconds_network
            if report.batch < plan.batch:
                self._warn(SMALLER_BATCH)
            # here, evaluations have been counted already, and those of the next block too
            self.windows_done = max(self.windows_done, self._windows_before() + computed)
            self._live_mosaic(finished)
            self._tell("generating", force=True)

        self._tell("generating", force=True)
        executor.run(sample, stage, missing, done)
        region = plan.stages[stage - 1].region
        self.directory.write_mosaic(halo_name(sample, stage), plan, sample, stage, blocks, region)
        self.check()

    def _warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def _windows_before(self) -> int:
        """Windows of the samples and stages before this one."""
        windows = self.plan.windows
        return (self.sample - 1) * sum(windows) + sum(windows[: self.stage - 1])

    def _own_windows(self, block: Block) -> float:
        """A block's share of its stage's windows."""
        stage = self.plan.stages[self.stage - 1].region
        share = block.region.height * block.region.width / (stage.height * stage.width)
        return share * self.plan.windows[self.stage - 1]

    def _live_mosaic(self, finished: list[Block]) -> None:
        """Every few seconds, a new mosaic of what is finished of the stage; the last but one goes.

        Of many blocks it takes a while, and then comes more seldom.
        """
        began = time.monotonic()
        if began < self.next_live:
            return
        self.live_number += 1
        stage = self.plan.stages[self.stage - 1]
        name = f"live-{self.live_number:04d}.vrt"
        path = self.directory.write_mosaic(name, self.plan, self.sample, self.stage, finished, stage.asked, masked=True)
        self.mosaic = str(path)
        with suppress(OSError):  # a program may have it open
            (self.directory.folder / f"live-{self.live_number - 2:04d}.vrt").unlink(missing_ok=True)
        now = time.monotonic()
        self.next_live = now + max(LIVE_SECONDS, LIVE_SHARE * (now - began))

    def _consistency(self, last: Path) -> tuple[float | None, int]:
        """(PSNR in dB of the last stage's average against the source, its valid pixels)."""
        plan, job = self.plan, self.plan.job
        if isinstance(plan, ScenePlan):
            asked = plan.stages[0].asked
            return None, asked.height * asked.width
        if not self._source_is_as_planned():
            self._warn(OTHER_SOURCE)
            asked = plan.stages[-1].asked
            return None, asked.height * asked.width
        with RasterSource(job.input, job.bands, job.source_resolution, plan.resample_to_m) as raster:
            return consistency_psnr(raster, plan.area, last, plan.stretch.range, plan.bands, self.check)

    def _source_is_as_planned(self) -> bool:
        try:
            return self.plan.source_now() == self.plan.source
        except (InputError, OSError):
            return False

    def _finish(self, results: list[Path]) -> None:
        """Write every result under its preliminary name."""
        plan = self.plan
        self._tell(WRITING, force=True)
        for number, (product, path) in enumerate(zip(plan.products, results), start=1):
            blocks, asked = plan.blocks(product.stage), plan.stages[product.stage - 1].asked
            name = f"finished{number}.vrt"
            mosaic = self.directory.write_mosaic(name, plan, 1, product.stage, blocks, asked, product=product)
            write_cog(mosaic, part_of(path), np.dtype(plan.dtype), self.check)
            self.check()
        if plan.job.samples > 1:
            write_statistics(plan, self.directory, list(map(part_of, results[len(plan.products):])), self.check)

    def _evaluations_of_last_stage(self) -> int:
        """Evaluations of the first sample's last stage, in this run and earlier ones, as the blocks' tags tell."""
        stage = len(self.plan.stages)
        paths = (self.directory.block_path(1, stage, block) for block in self.plan.blocks(stage))
        reports = [report_of(path, self.plan) for path in paths]
        if any(report.batch < self.plan.batch for report in reports):
            self._warn(SMALLER_BATCH)
        return sum(report.evaluations for report in reports)

    def _after_evaluation(self, windows: int) -> None:
        self.check()
        self.windows_done += windows / self.plan.sampling.steps
        self._tell("generating")

    def _tell(self, message: str, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self.last_report < 0.1:
            return
        self.last_report = now
        windows = sum(self.plan.windows) * self.plan.job.samples
        done = min(self.windows_done, windows)
        computed = done - self.windows_resumed
        self.report(
            Progress(
                None,
                self.stage,
                len(self.plan.stages),
                int(done),
                windows,
                GENERATING_SHARE * done / windows,
                (windows - done) * (now - self.began) / computed if computed > 0 else None,
                message,
                self.mosaic,
            )
        )

    def _result(self, evaluations: int, psnr: float | None, valid_pixels: int) -> JobResult:
        plan, last = self.plan, self.plan.stages[-1]
        per_pixel = evaluations * plan.geometry.lattice.window**2 / max(1, valid_pixels)
        return JobResult(
            outputs=plan.result_paths[: len(plan.products)],
            statistics=plan.result_paths[len(plan.products):],
            grid=last.grid.crop(last.asked).info(),
            seed=plan.job.seed,
            model=plan.model,
            model_sha256=plan.model_sha256,
            sampler=plan.sampling.sampler,
            steps=plan.sampling.steps,
            device=plan.device,
            precision=plan.precision,
            evaluations=self.evaluations,
            evaluations_per_pixel=round(per_pixel, 3),
            blocks_resumed=self.blocks_resumed,
            seconds_network=round(self.seconds_network, 3),
            seconds_total=round(time.monotonic() - self.began, 3),
            peak_memory_bytes=peak_memory_bytes(),
            consistency_psnr=None if psnr is None else round(psnr, 2),
            warnings=[*plan.warnings, *self.warnings],
        )


def resume(folder: Path, report: Report, check: Callable[[], None], executor: str | None = None) -> JobResult:
    """Finish the job in a directory, with its own executor or another; a cancel keeps what is finished."""
    plan = JobDirectory(folder.absolute()).plan()
    job = replace(plan.job, job_dir=str(folder.absolute()), executor=executor or plan.job.executor)
    plan = replace(plan, job=job)
    return JobRun(plan, report, check).run()
