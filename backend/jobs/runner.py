"""Carries a plan out: stage by stage, block by block, into a folder beside the result."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from backend.cascade.block import StageSettings, render_block
from backend.cascade.engine import Engine
from backend.errors import Cancelled, InputError
from backend.evaluation.consistency import consistency_psnr
from backend.jobs.plan import JobPlan, StagePlan
from backend.processes import peak_memory_bytes, process_runs
from backend.protocol import JobResult, Progress
from backend.raster import provenance
from backend.raster.grid import Region
from backend.raster.mosaic import Mosaic
from backend.raster.output import colour_interpretation, write_block, write_cog, write_mosaic, writing
from backend.raster.source import Pixels, RasterSource

Report = Callable[[Progress], None]
WORK_PREFIX = ".metaearth-"
GENERATING_SHARE = 0.98
"""The part of the progress bar that the network gets; the rest is for writing the finished files."""


def remove_leftovers(folder: Path) -> None:
    """Delete the work of jobs on this machine that were killed before they could clean up."""
    for left in folder.glob(f"{WORK_PREFIX}{platform.node()}-*"):
        pid = left.name.removeprefix(f"{WORK_PREFIX}{platform.node()}-").split("-")[0]
        if pid.isdigit() and not process_runs(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


class JobRun:
    """One run of a plan. ``report`` gets progress, ``cancelled`` is asked after every network evaluation."""

    def __init__(self, plan: JobPlan, report: Report, cancelled: Callable[[], bool]) -> None:
        self.plan, self.report, self.cancelled = plan, report, cancelled
        self.windows = sum(plan.windows)
        self.windows_done = 0
        self.evaluations_in_window = 0
        self.stage = 1
        self.began = self.last_report = time.monotonic()
        self.engine = Engine(
            plan.bundle,
            plan.model_sha256,
            plan.sampling,
            plan.device,
            getattr(torch, plan.precision),
            on_evaluation=self._after_evaluation,
        )

    def run(self) -> JobResult:
        """All stages; the results appear together at the end, and nothing is left behind otherwise."""
        folder = Path(self.plan.stages[-1].path).absolute().parent
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            work = Path(tempfile.mkdtemp(prefix=f"{WORK_PREFIX}{platform.node()}-{os.getpid()}-", dir=folder))
        try:
            return self._run_in(work)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _run_in(self, work: Path) -> JobResult:
        plan, job = self.plan, self.plan.job
        last_evaluations = 0
        mosaics: list[Path] = []
        with ExitStack() as opened:
            raster = opened.enter_context(RasterSource(job.input, job.bands, job.source_resolution, plan.resample_to_m))
            read: Callable[[Region], Pixels] = raster.read
            for self.stage, stage in enumerate(plan.stages, start=1):
                before = self.engine.evaluations
                blocks = self._render_stage(stage, read, work)
                last_evaluations = self.engine.evaluations - before
                mosaics.append(self._write_mosaic(work / f"stage{self.stage}.vrt", stage, blocks, stage.asked))
                if self.stage < len(plan.stages):
                    whole = self._write_mosaic(work / f"halo{self.stage}.vrt", stage, blocks, stage.region)
                    read = opened.enter_context(Mosaic(whole, stage.grid, stage.region, plan.bands)).read
            self._check_source(raster)
            finished = self._finish(mosaics)
            psnr, valid_pixels = consistency_psnr(raster, plan.area, finished[-1], plan.stretch.range, plan.bands)
        for path, stage in zip(finished, plan.stages):
            with writing(Path(stage.path)):
                path.replace(stage.path)
        return self._result(last_evaluations, psnr, valid_pixels)

    def _finish(self, mosaics: list[Path]) -> list[Path]:
        """The mosaics as finished files, still in the work folder."""
        self._tell("writing", force=True)
        finished = [mosaic.with_name(f"finished{k}.tif") for k, mosaic in enumerate(mosaics)]
        for mosaic, path in zip(mosaics, finished):
            write_cog(mosaic, path, np.dtype(self.plan.dtype))
            self._raise_if_cancelled()
        return finished

    def _render_stage(
        self, stage: StagePlan, read: Callable[[Region], Pixels], work: Path
    ) -> list[tuple[Path, Region]]:
        plan = self.plan
        folder = work / f"s{self.stage}"
        folder.mkdir()
        settings = StageSettings(
            self.stage,
            plan.geometry,
            plan.stretch,
            stage.grid.pixel_size_m,
            plan.job.seed,
            plan.job.noise,
            plan.job.consistency,
        )
        written = []
        for number, region in enumerate(plan.geometry.blocks(stage.region)):
            pixels = render_block(self.engine, read, region, settings, plan.bands, self._after_window)
            path = folder / f"{number:06d}.tif"
            write_block(path, pixels, stage.grid.crop(region), np.dtype(plan.dtype), plan.nodata, plan.alpha)
            written.append((path, region))
        return written

    def _write_mosaic(self, path: Path, stage: StagePlan, blocks: list[tuple[Path, Region]], region: Region) -> Path:
        plan = self.plan
        name = Path(plan.job.input).name
        tags = provenance.tags(self.stage, stage.grid.pixel_size_m, name, plan.sha256, plan.facts)
        write_mosaic(
            path,
            blocks,
            region,
            stage.grid,
            np.dtype(plan.dtype),
            plan.nodata,
            colour_interpretation(plan.bands, plan.alpha),
            tags,
        )
        return path

    def _check_source(self, raster: RasterSource) -> None:
        if raster.fingerprint() != self.plan.source:
            raise InputError("The source raster changed while the job ran; nothing was written. Start the job again.")

    def _raise_if_cancelled(self) -> None:
        if self.cancelled():
            raise Cancelled

    def _after_evaluation(self) -> None:
        self._raise_if_cancelled()
        self.evaluations_in_window += 1
        self._tell("generating", force=self.engine.evaluations == 1)

    def _after_window(self) -> None:
        self.windows_done += 1
        self.evaluations_in_window = 0

    def _tell(self, message: str, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self.last_report < 0.1:
            return
        self.last_report = now
        windows = self.windows
        done = self.windows_done + self.evaluations_in_window / self.plan.sampling.steps
        remaining = (now - self.began) / done * (windows - done) if done else None
        fraction = GENERATING_SHARE * done / windows
        self.report(
            Progress(None, self.stage, len(self.plan.stages), self.windows_done, windows, fraction, remaining, message)
        )

    def _result(self, last_evaluations: int, psnr: float | None, valid_pixels: int) -> JobResult:
        plan, engine = self.plan, self.engine
        last = plan.stages[-1]
        per_pixel = last_evaluations * plan.geometry.lattice.window**2 / max(1, valid_pixels)
        return JobResult(
            outputs=[s.path for s in plan.stages],
            grid=last.grid.crop(last.asked).info(),
            seed=plan.job.seed,
            model=plan.bundle.config.id,
            model_sha256=plan.model_sha256,
            sampler=plan.sampling.sampler,
            steps=plan.sampling.steps,
            device=plan.device,
            precision=plan.precision,
            evaluations=engine.evaluations,
            evaluations_per_pixel=round(per_pixel, 3),
            seconds_network=round(engine.seconds_network, 3),
            seconds_total=round(time.monotonic() - self.began, 3),
            peak_memory_bytes=peak_memory_bytes(),
            consistency_psnr=None if psnr is None else round(psnr, 2),
            warnings=list(plan.warnings),
        )
