"""Who computes a job, and in what portions; neither decides a pixel."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

from backend.cascade.engine import Sampling
from backend.errors import PlanError
from backend.jobs.calibration import Speed
from backend.protocol import Job

LOCAL = "local"
SHARED_BLOCKS = 16
"""So many blocks at least, where there are as many windows, for several workers."""
BLOCK_SECONDS = 8.0
"""What a block should take: short enough that little is lost with it, long enough that its file costs little."""


def block_windows(job: Job, speed: Speed, sampling: Sampling, windows: int) -> int:
    """Windows along a block's side, so that a block takes about `BLOCK_SECONDS` here, four times that on a cluster.

    Memory grows with a block's pixels, hence the upper limits. A cluster gets `SHARED_BLOCKS` at least of the last
    stage's ``windows``: with one block all workers but one would have nothing to do.
    """
    local = executor_of(job.executor, job.device) == LOCAL
    seconds, most = (BLOCK_SECONDS, 5) if local else (4 * BLOCK_SECONDS, min(16, int((windows / SHARED_BLOCKS) ** 0.5)))
    lasting = seconds / speed.window_seconds(sampling.steps)
    return max(1, min(most, round(lasting**0.5)))


def executor_of(asked: str, device: str) -> str:
    """ "local", "local:N" for N processes, or where the Dask cluster is, by a job's fields.

    auto is what DASK_SCHEDULER_ADDRESS says, else local; on a machine with several GPUs local means one process each.
    """
    if asked == "auto":
        asked = os.environ.get("DASK_SCHEDULER_ADDRESS") or LOCAL
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if asked == LOCAL and gpus > 1 and find_spec("distributed"):
        return f"{LOCAL}:{gpus}"
    count = asked.partition(":")[2]
    if asked.startswith(f"{LOCAL}:") and not (count.isdigit() and int(count) > 0):
        raise PlanError(f"The executor {asked!r} is not understood; write local:2 for two processes.")
    return asked


def is_here(executor: str) -> bool:
    """Whether an executor is this machine, in one process or several."""
    return executor.partition(":")[0] == LOCAL
