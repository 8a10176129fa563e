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

from backend.devices import choose_device, device_memory_bytes, device_name
from backend.errors import Cancelled, MetaEarthError
from backend.jobs.code import code_sha256
from backend.jobs.directory import PLAN, STOP, JobDirectory
from backend.jobs.renderer import Renderer
from backend.protocol import ENGINE_VERSION
from backend.raster.source import RasterSource

STOP_SECONDS = 0.5

_one_at_a_time = threading.Lock()  # a worker may have several threads, but the device is one
_renderers: dict[tuple[str, str], Renderer] = {}


@dataclass(frozen=True)
class Probe:
    """What a worker is, and the sentence that says why it cannot work on the job, if it cannot."""

    host: str
    engine: str
    torch: str
    device_name: str
    memory_bytes: int
    problem: str | None


def probe(folder: str, nonce: str, code: str, threads: int) -> Probe:
    """Whether this process can do blocks of the job in ``folder``, which holds a file named ``nonce``.

    ``code`` is the hash of the code that it should have.
    """
    torch.set_num_threads(threads)
    directory = JobDirectory(Path(folder))
    problem = device = None
    try:
        problem = _problem(directory, nonce)
        if code != code_sha256():
            problem = "it still runs the code of another version; restart that worker"
        if not problem:
            device = choose_device(directory.plan().device)
    except MetaEarthError as error:
        problem = str(error)
    except OSError as error:
        problem = f"it cannot use the job's folder {folder}: {error}"
    return Probe(
        platform.node(),
        ENGINE_VERSION,
        torch.__version__,
        device_name(device) if device else "",
        device_memory_bytes(device) if device else 0,
        problem,
    )


def _problem(directory: JobDirectory, nonce: str) -> str | None:
    if not (directory.folder / nonce).is_file():
        return f"it does not see the job's folder {directory.folder}; use one on a disk that all workers share"
    plan = directory.plan()
    if plan.torch_version != torch.__version__:
        return f"it has torch {torch.__version__}, and the job was planned with {plan.torch_version}"
    if directory.bundle(plan).sha256() != plan.model_sha256:
        return f"its copy of the model {plan.model} differs"
    with RasterSource(plan.job.input, plan.job.bands, plan.job.source_resolution) as source:
        if source.fingerprint() != plan.source:
            return f"it sees another version of {plan.job.input}"
    mine = directory.folder / f"{nonce}-{platform.node()}-{os.getpid()}"
    mine.write_text(nonce, encoding="utf-8")
    return None


def render(folder: str, sample: int, stage: int, row: int, col: int) -> None:
    """Compute and write one block, unless it is valid already: a task may be run again after another worker's death.

    Nothing comes back: what a worker keeps in memory dies with it, and the block's tags tell what it cost.
    """
    with _one_at_a_time:
        directory = JobDirectory(Path(folder))
        renderer = _renderer(directory)
        block = next(b for b in renderer.plan.blocks(stage) if (b.row, b.col) == (row, col))
        if not directory.is_valid(renderer.plan, sample, stage, block):
            renderer.render(sample, stage, block).result()


def _renderer(directory: JobDirectory) -> Renderer:
    """The renderer of a job, kept with its network between blocks; that of an earlier job is closed."""
    plan = directory.plan()
    key = (str(directory.folder), plan.sha256)
    if key not in _renderers:
        _close(None)
        check = stop_check(directory.folder)
        _renderers[key] = Renderer(plan, directory, lambda windows: check(), check)
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
