"""What runs on a cluster's workers: the probe before a job, and one block of it."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from distributed import secede

from backend.devices import device_name, use_threads
from backend.errors import Cancelled, InputError, MetaEarthError
from backend.jobs.code import code_sha256
from backend.jobs.directory import PLAN, STOP, JobDirectory
from backend.jobs.plan import JobPlan
from backend.jobs.renderer import Renderer, fitting_bundle

STOP_SECONDS = 0.5
VISIBLE_SECONDS = 60
"""How much later a disk of several machines may show a file on one than on another."""

_one_at_a_time = threading.Lock()  # a worker may have several threads, but the device is one
_renderers: dict[tuple[str, str], Renderer] = {}


@dataclass(frozen=True)
class Probe:
    """What a worker is, and the sentence that says why it cannot work on the job, if it cannot."""

    host: str
    device_name: str
    has_gpu: bool
    problem: str | None


def probe(folder: str, nonce: str, code: str, threads: int) -> Probe:
    """Whether this process can do blocks of the job in ``folder``, which holds a file named ``nonce``.

    ``code`` is the hash of the code that it should have.
    """
    use_threads(threads)
    directory = JobDirectory(Path(folder))
    name, problem = "", None
    try:
        if code != code_sha256():
            problem = "it still runs the code of another version; restart that worker"
        elif not (directory.folder / nonce).is_file():
            problem = f"it does not see the job's folder {folder}; use one on a disk that all workers share"
        else:
            plan = directory.plan()
            fitting_bundle(plan, directory)
            name = device_name(plan.device)
            _require_source(plan)
            (directory.folder / f"{nonce}-{platform.node()}-{os.getpid()}").touch()  # it can write there
    except MetaEarthError as error:
        problem = str(error)
    except OSError as error:
        problem = f"it cannot use the job's folder {folder}: {error}"
    return Probe(platform.node(), name, torch.cuda.is_available(), problem)


def _require_source(plan: JobPlan) -> None:
    if plan.source_now() != plan.source:
        raise InputError(f"It sees another version of {', '.join(Path(name).name for name in plan.source)}.")


def render(folder: str, sample: int, stage: int, row: int, col: int) -> None:
    """Compute and write one block, unless it is valid already: a task may be run again after another worker's death.

    Nothing comes back: what a worker keeps in memory dies with it, and the block's tags tell what it cost.
    """
    use_threads()  # a task may get a thread of its own
    with _one_at_a_time:
        directory = JobDirectory(Path(folder))
        renderer = _renderer(directory)
        block = renderer.plan.block(stage, row, col)
        if directory.is_valid(renderer.plan, sample, stage, block):
            return
        written = renderer.render(sample, stage, block)
    secede()  # the next block is computed while this one is written, even on a worker with one thread
    written.result()


def _renderer(directory: JobDirectory) -> Renderer:
    """The renderer of a job, kept with its network between blocks; that of an earlier job is closed."""
    plan = directory.plan()
    key = (str(directory.folder), plan.blocks_digest)
    if key not in _renderers:
        _close(None)
        check = stop_check(directory.folder)
        _renderers[key] = Renderer(plan, directory, lambda windows: check(), check, patience_s=VISIBLE_SECONDS)
    return _renderers[key]


def stop_check(folder: Path) -> Callable[[], None]:
    """Raises `Cancelled` once the job in the folder is over or gone; looks twice a second."""
    last = 0.0

    def check() -> None:
        nonlocal last
        if time.monotonic() - last > STOP_SECONDS:
            last = time.monotonic()
            if (folder / STOP).exists() or not (folder / PLAN).exists():
                raise Cancelled

    return check


def forget(folder: str | None = None) -> None:
    """Close the files of a job, or of whichever was the last; waits for a block that is being computed."""
    with _one_at_a_time:
        _close(folder)


def _close(folder: str | None) -> None:
    for key in [key for key in _renderers if folder in (None, key[0])]:
        _renderers.pop(key).close()
