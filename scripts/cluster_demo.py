"""A job on a Dask cluster of this machine: a worker is killed in the middle, the result compared with a local one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rasterio

CHECKOUT = Path(__file__).resolve().parents[1]
SCENE = CHECKOUT / "resources" / "sample" / "sentinel2_redclover_rgb_10m.tif"
OUTPUT = CHECKOUT / "build" / "cluster-demo"
WORKERS = 2


def start(*command: str) -> subprocess.Popen:
    """A process of the cluster, its log in the output folder; one thread each, as Dask starts them."""
    log = (OUTPUT / "cluster.log").open("a")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *command], cwd=OUTPUT, env=environment, stdout=log, stderr=log, start_new_session=True
    )


def kill(process: subprocess.Popen) -> None:
    """SIGKILL a process and its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def generate(result: Path, executor: str) -> subprocess.Popen:
    """A job on the sample scene."""
    command = [sys.executable, "-m", "backend", "generate", str(SCENE), str(result), "--extent", *extent(),
               "--executor", executor]
    return subprocess.Popen(command, cwd=CHECKOUT)


def extent() -> list[str]:
    """The middle 200 x 200 pixels of the scene."""
    with rasterio.open(SCENE) as dataset:
        col, row = dataset.width // 2, dataset.height // 2
        (x0, y0), (x1, y1) = (dataset.transform @ (col + s * 100, row + s * 100) for s in (-1, 1))
    return [str(v) for v in (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))]


def pixels(path: Path) -> np.ndarray:
    """All values of a raster."""
    with rasterio.open(path) as dataset:
        return dataset.read()


def main() -> int:
    """0 when both results have the same pixels."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for left in (*OUTPUT.glob("*.tif"), *OUTPUT.glob("scheduler.json")):
        left.unlink()
    print("Here, without a cluster:", flush=True)
    if generate(OUTPUT / "local.tif", "local").wait():
        return 1
    address_file = OUTPUT / "scheduler.json"
    processes = [start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                       "--scheduler-file", str(address_file))]
    try:
        while not address_file.exists():
            time.sleep(0.1)
        processes += [start("distributed.cli.dask_worker", "--scheduler-file", str(address_file), "--nthreads", "1",
                            "--no-dashboard") for _ in range(WORKERS)]
        print(f"On a cluster of {WORKERS} workers, one of which is killed after the first block:", flush=True)
        job = generate(OUTPUT / "cluster.tif", str(address_file))
        blocks = OUTPUT / "cluster.tif.metaearth-job" / "blocks"
        while job.poll() is None and not any(blocks.rglob("*_*.tif")):
            time.sleep(0.05)
        if job.poll() is not None:
            print("The job ended before a worker could be killed.")
            return 1
        kill(processes[-1])
        print("Killed a worker.", flush=True)
        if job.wait():
            return 1
    finally:
        for process in processes:
            kill(process)
    same = np.array_equal(pixels(OUTPUT / "local.tif"), pixels(OUTPUT / "cluster.tif"))
    print("Both results have the same pixels." if same else "The results differ.")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
