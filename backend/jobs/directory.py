"""The job directory: an immutable plan, one file a block, and a lock. What is valid in it is never computed again.

::

    plan.json               the plan, with its hash; in the folder of a world, world.json
    lock, owner.json        held by the process that works on the job, and who that is
    model/                  the model bundle, where a cluster needs it
    blocks/1/s2/0003_0007.tif   a block of stage 2 of sample 1, and .npz: what it gives to its neighbours
    s1.vrt, live-0012.vrt   mosaics over the blocks
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
from rasterio.enums import Resampling

from backend.errors import Cancelled, InputError, JobBusyError, MetaEarthError, OutputError, PlanError
from backend.files import PARTIAL, complete_file, write_text, writing
from backend.jobs.plan import JobPlan, Product
from backend.models.bundle import Bundle, copy_bundle, open_bundle
from backend.protocol import OWNER_FILE, PLAN_FILE, UnfinishedJob, data_home, statistics_paths, unfinished_folder
from backend.raster import provenance
from backend.raster.grid import Region
from backend.raster.output import colour_interpretation, remove_unfinished, valid_block, write_block, write_mosaic
from backend.tiling.blocks import Edges, RenderedBlock
from backend.tiling.geometry import Block

PLAN, OWNER, LOCK, MODEL = PLAN_FILE, OWNER_FILE, "lock", "model"
STOP = "stop"
"""A file of this name tells the workers of a cluster that the job is over."""
PROBE = "probe-"
"""How the names begin by which the workers of a cluster find out that they see the same folder."""
FOLDERS = ("blocks", MODEL, f"{MODEL}.part")
DELETION_WAITS = (0.2, 0.5, 0.0)
"""Seconds to wait after each try to delete a folder."""
MOSAICS = re.compile(r"(sample\d+_s\d+|live-\d{4,}|finished\d+|statistic\d+)\.vrt")
"""The names of the mosaics over blocks; what has another name is somebody else's."""
PLAN_TAG = "METAEARTH_PLAN_SHA256"
EVALUATIONS_TAG, SECONDS_TAG, BATCH_TAG = "METAEARTH_EVALUATIONS", "METAEARTH_SECONDS", "METAEARTH_BATCH"


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The names of the facts in which two plans differ, with both values where they are short."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before != after:
            short = len(f"{before}{after}") < 60
            found.append(f"{name} ({before}, now {after})" if short else name)
    return found


class BegunJob(NamedTuple):
    """What a folder tells of its job: paths of the source, of the result, and of all rasters that are written."""

    input: str
    output: str
    results: list[str]


@dataclass(frozen=True)
class JobDirectory:
    """A folder that holds one job. The plan's name tells what kind of job: nobody takes it for one of another kind."""

    folder: Path
    plan_name: str = PLAN

    @property
    def has_plan(self) -> bool:
        """Whether a job was started here."""
        return (self.folder / self.plan_name).is_file()

    def plan(self) -> JobPlan:
        """The plan of the job in this folder."""
        if not self.has_plan:
            raise InputError(f"{self.folder} holds no unfinished job: it has no {self.plan_name}.")
        return JobPlan.from_json((self.folder / self.plan_name).read_text(encoding="utf-8"))

    def begun(self) -> BegunJob:
        """The job in this folder, be its plan of another version; `PlanError` if it cannot be read at all."""
        try:
            values = json.loads((self.folder / self.plan_name).read_text(encoding="utf-8"))
            job, stages = values["job"], [str(stage["path"]) for stage in values["stages"]]
            scene = [str(Path(stages[-1]).with_name(f"{name}.tif")) for name in values.get("targets", ())]
            averaged = scene or stages[-1:] if job["samples"] > 1 else []
            statistics = [path for result in averaged for path in statistics_paths(result)]
            return BegunJob(str(job["input"]), str(job["output"]), [*(scene or stages), *statistics])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PlanError(f"The job's plan in {self.folder} cannot be read: {error}") from error

    def adopt(self, plan: JobPlan) -> JobPlan:
        """The plan to work on: the one already here if both make the same pixels, else ``plan``, now written.

        `PlanError` names what differs if another job is here.
        """
        if self.has_plan:
            try:
                found = self.plan()
            except PlanError as error:
                raise PlanError(f"{error} Its folder is {self.folder}: delete it, or choose another name.") from error
            plan = plan.measured_as(found)
            if found.sha256 == plan.sha256 and [s.path for s in found.stages] == [s.path for s in plan.stages]:
                moved = found.moved_to(plan)
                if moved != found:
                    self.write_plan(moved)
                return moved
            changed = differences(
                {**found.comparable_facts, "result": found.job.output},
                {**plan.comparable_facts, "result": plan.job.output},
            )
            raise PlanError(
                f"{self.folder} holds an unfinished job that differs in {', '.join(changed)}. "
                "Resume that one, delete the folder, or choose another name for the result."
            )
        for name in (MODEL, f"{MODEL}.part"):  # what is left of a job whose deletion was not finished
            _delete_folder(self.folder / name)
            if (self.folder / name).exists():
                raise OutputError(f"{self.folder / name} is left of an earlier job and cannot be deleted. Delete it.")
        self.write_plan(plan)
        return plan

    def write_plan(self, plan: JobPlan) -> None:
        """Begin a job here."""
        write_text(self.folder / self.plan_name, plan.to_json())

    @contextmanager
    def locked(self, outputs: list[str]) -> Iterator[None]:
        """Nobody else works in this folder or on these results meanwhile; `JobBusyError` names who does.

        A job without ``outputs`` is never finished, and not noted as unfinished.
        """
        if self.folder.is_dir() and not self.has_plan and self._foreign():
            raise OutputError(
                f"{self.folder} is no job folder: it holds {self._foreign()[0]}. Choose an empty folder, or a new name."
            )
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        held, wanted = False, str(self.folder)
        try:
            with ExitStack() as locks:
                locks.enter_context(filelock.FileLock(self.folder / LOCK).acquire(timeout=0))
                for wanted in sorted(outputs):
                    locks.enter_context(_result_lock(wanted).acquire(timeout=0))
                held = True
                owner = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
                write_text(self.folder / OWNER, json.dumps(owner))
                if outputs:
                    self._note()
                try:
                    yield
                finally:
                    self._remove_if_empty()
        except filelock.Timeout as error:
            raise JobBusyError(
                f"Another job works on {wanted}{self._owner()}. "
                "Wait for it, cancel it, or choose another name."
            ) from error
        finally:
            if held:
                self._remove_if_empty()  # on some systems a held lock cannot be deleted, nor its folder

    def _note(self) -> None:
        with suppress(OSError):  # only for those who look for unfinished jobs
            note_of(self.folder).parent.mkdir(parents=True, exist_ok=True)
            note_of(self.folder).write_text(str(self.folder), encoding="utf-8")

    def is_held(self) -> bool:
        """Whether somebody works in this folder now."""
        try:
            with filelock.FileLock(self.folder / LOCK).acquire(timeout=0):
                return False
        except filelock.Timeout:
            return True

    def discard(self) -> None:
        """Delete the unfinished job here; `JobBusyError` if somebody works on it."""
        try:
            results = self.plan().result_paths
        except PlanError:  # of another version
            results = self.begun().results
        with self.locked(results):
            self.remove()
            for path in map(Path, results):
                remove_unfinished(part_of(path))  # a process that was killed left it

    def clear(self) -> None:
        """Delete what a process that was killed while it deleted its job has left, if it is that."""
        was_a_job = (self.folder / LOCK).is_file() and not self.has_plan  # a deletion takes the lock last
        if was_a_job and not self._foreign():
            with self.locked([]):
                if not self.has_plan:
                    self.remove()

    def _remove_if_empty(self) -> None:
        """Delete the lock and the folder of a job that is no more, unless something of it could not be deleted."""
        if not self.has_plan and not any((self.folder / name).exists() for name in FOLDERS):
            with suppress(OSError):
                (self.folder / OWNER).unlink(missing_ok=True)
                (self.folder / LOCK).unlink(missing_ok=True)
                note_of(self.folder).unlink(missing_ok=True)
                self.folder.rmdir()

    def owner(self) -> dict[str, Any]:
        """``host``, ``pid`` and ``since`` (local time) of the process that works here, or did last."""
        return dict(json.loads((self.folder / OWNER).read_text(encoding="utf-8")))

    def _owner(self) -> str:
        try:
            owner = self.owner()
            return f" (process {owner['pid']} on {owner['host']}, since {owner['since']})"
        except (OSError, ValueError, KeyError):
            return ""

    def bundle(self, plan: JobPlan) -> Bundle:
        """The plan's model: the copy in this folder if there is one."""
        own = self.folder / MODEL
        return open_bundle(own) if own.is_dir() else plan.bundle

    def keep_model(self, plan: JobPlan) -> None:
        """Copy the plan's model here, where every machine finds it that finds the job."""
        partial, own = self.folder / f"{MODEL}.part", self.folder / MODEL
        if not own.is_dir():
            with writing(own, plan.bundle.weights.stat().st_size):
                shutil.rmtree(partial, ignore_errors=True)
                copy_bundle(Path(plan.model_folder), partial)
                partial.rename(own)

    def block_path(self, sample: int, stage: int, block: Block) -> Path:
        """Where a block's file is, or will be; samples and stages count from 1."""
        return self.folder / "blocks" / str(sample) / f"s{stage}" / f"{block.name}.tif"

    def is_valid(self, plan: JobPlan, sample: int, stage: int, block: Block) -> bool:
        """Whether a block is finished: there, of this plan and this place, and what was written."""
        grid = plan.stages[stage - 1].grid.crop(block.region)
        return valid_block(self.block_path(sample, stage, block), {PLAN_TAG: plan.sha256}, grid)

    def write(self, plan: JobPlan, sample: int, stage: int, block: Block, made: RenderedBlock, tags: dict) -> None:
        """Write a block, and first what it gives to its neighbours."""
        path = self.block_path(sample, stage, block)
        if not self.has_plan:  # a worker must not bring a deleted job back
            raise Cancelled
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_edges(path, made, plan.blocks_digest)
        grid = plan.stages[stage - 1].grid.crop(block.region)
        tags = {PLAN_TAG: plan.sha256, **tags}
        overviews = Resampling.nearest if plan.has_classes else Resampling.average
        write_block(path, made.pixels, grid, np.dtype(plan.dtype), plan.nodata, plan.alpha, tags, overviews)

    def edges(self, plan: JobPlan, sample: int, stage: int, block: Block) -> Edges:
        """What finished neighbours give to a block; missing and damaged files give nothing."""
        found: Edges = {}
        for (row, col), side in block.givers.items():
            giver = replace(block, row=row, col=col)
            found.update(_read_edges(self.block_path(sample, stage, giver), side, plan.blocks_digest))
        return found

    def write_mosaic(
        self, name: str, plan: JobPlan, sample: int, stage: int, blocks: list[Block], region: Region,
        masked: bool = False, product: Product | None = None,
    ) -> Path:
        """A VRT of ``region`` over blocks of a stage; ``masked``: without data where there is no block.

        ``product``: which of their bands; all of them without one.
        """
        path, of_stage = self.folder / name, plan.stages[stage - 1]
        source = Path(plan.job.input).name
        shown = product or Product("", stage, 1, plan.bands, scaling=plan.scaling)
        bands = [*range(shown.first_band, shown.first_band + shown.bands), *([plan.bands + 1] if plan.alpha else [])]
        write_mosaic(
            path,
            [(self.block_path(sample, stage, block), block.region) for block in blocks],
            region,
            of_stage.grid,
            np.dtype(plan.dtype),
            plan.nodata,
            list(zip(bands, colour_interpretation(shown.bands, plan.alpha))),
            provenance.tags(stage, of_stage.grid.pixel_size_m, source, plan.sha256, plan.facts) | shown.tags,
            masked,
            shown.colours,
            shown.scaling,
        )
        return path

    def remove(self) -> None:
        """Delete everything of the job, and nothing else; the folder itself goes when its lock is released."""
        with suppress(OSError):
            (self.folder / self.plan_name).unlink(missing_ok=True)  # first: what is left is no job then
        for path in list(self.folder.iterdir()):
            if path.is_dir() and path.name in FOLDERS:
                _delete_folder(path)
            elif path.is_file() and path.name != LOCK and self._is_own(path):
                with suppress(OSError):
                    path.unlink()

    def _is_own(self, path: Path) -> bool:
        if path.name in (self.plan_name, OWNER, LOCK, STOP, *FOLDERS) or MOSAICS.fullmatch(path.name):
            return True
        return path.name.endswith(f"{PARTIAL}.json") or path.name.startswith(PROBE)

    def _foreign(self) -> list[str]:
        """Names in the folder that no job has made; a folder without a lock has seen none."""
        found, no_job = list(self.folder.iterdir()), not (self.folder / LOCK).is_file()
        return sorted(path.name for path in found if no_job or not self._is_own(path))


def _delete_folder(path: Path) -> None:
    """Delete a folder, as far as that is possible: a virus scanner or a viewer may hold a file for a moment."""
    for wait in DELETION_WAITS:
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(wait)


def note_of(folder: Path) -> Path:
    """The file that tells of a job's folder, wherever that is; see `protocol.unfinished_folder`."""
    return unfinished_folder() / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:32]}.txt"


def unfinished_jobs() -> list[UnfinishedJob]:
    """The jobs begun on this account that have a plan and that nobody works on, the latest first."""
    found = []
    for note in unfinished_folder().glob("*.txt"):
        with suppress(OSError, ValueError, KeyError, MetaEarthError):
            directory = JobDirectory(Path(note.read_text(encoding="utf-8")))
            if not directory.has_plan:
                if directory.folder.parent.is_dir():  # else its disk may be away
                    directory.clear()
                    if not (directory.folder / LOCK).is_file():  # else something of it could not be deleted
                        note.unlink(missing_ok=True)
            elif not directory.is_held():
                job = directory.begun()
                found.append(UnfinishedJob(str(directory.folder), job.input, job.output, directory.owner()["since"]))
    return sorted(found, key=lambda job: job.since, reverse=True)


def part_of(path: Path) -> Path:
    """The preliminary name of a finished file, beside it."""
    return path.with_name(f"{path.stem}.part{path.suffix}")


def _result_lock(output: str) -> filelock.FileLock:
    """A lock on a result's name, whatever job folder is used; on this machine."""
    folder = data_home() / "locks"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder / hashlib.sha256(os.path.realpath(output).encode()).hexdigest()[:32])


def _write_edges(path: Path, made: RenderedBlock, blocks_digest: str) -> None:
    arrays: dict[str, Any] = {
        f"{side}_{row}_{col}": values
        for side, edges in (("below", made.below), ("right", made.right))
        for (row, col), values in edges.items()
    }
    digest = np.array(_edges_digest(arrays, blocks_digest))
    with complete_file(path.with_suffix(".npz")) as partial:
        np.savez(partial, digest=digest, **arrays)


def _edges_digest(arrays: dict[str, Any], blocks_digest: str) -> str:
    digest = hashlib.sha256(blocks_digest.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _read_edges(path: Path, side: str, blocks_digest: str) -> Edges:
    """One side's edges of a finished block of this plan; whatever is wrong with the file, there are none."""
    if not path.is_file():
        return {}
    try:
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if str(arrays.pop("digest")) != _edges_digest(arrays, blocks_digest):
            return {}
    except Exception:  # a damaged archive fails in many ways
        return {}
    places = ((name.split("_"), values) for name, values in arrays.items())
    return {(int(row), int(col)): values for (kind, row, col), values in places if kind == side}
