"""``python -m backend bench``: what the engine costs, and what its windows leave in the picture."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess  # nosec B404 - runs this very program
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch

from backend.cascade.engine import Engine, Sampling
from backend.cascade.planning import stage_regions
from backend.devices import choose_device, device_name
from backend.errors import InputError
from backend.evaluation.borders import DISTANCES, border_profile, overlaps
from backend.evaluation.chips import held_out_chips
from backend.evaluation.makers import generator
from backend.evaluation.protocols.spectrum import compare, powers
from backend.evaluation.seams import Pairs, repetition, seam_pairs, seam_ratio, unpaired_seam_ratio
from backend.evaluation.stand_ins import random_600m, sleep_instead, stand_in, synthetic_source
from backend.evaluation.table import Row, markdown_rows
from backend.jobs.calibration import fastest, measure
from backend.jobs.engines import open_engine
from backend.jobs.plan import JobPlan, make_plan
from backend.jobs.runner import JobRun, resume
from backend.models.bundle import find_bundle
from backend.protocol import Job, JobResult
from backend.tiling.geometry import WindowGeometry
from backend.tiling.lattice import Lattice

LITE = "metaearth-lite"


@dataclasses.dataclass(frozen=True)
class Scene:
    """A held-out place: a square of ``side`` source pixels around the middle of a file, ``stages`` stages of it."""

    name: str
    file: str
    side: int
    stages: int
    shift: int = 0
    """Columns from the middle of the file."""

    def job(self, data: Path, output: Path, side: int | None = None, **fields: object) -> Job:
        """A job on the scene; ``side`` takes fewer pixels of its middle."""
        path = data / self.file
        if not path.is_file():
            raise InputError(f"The scene {self.name} is not there: {path}.")
        half = (side or self.side) // 2
        with rasterio.open(path) as dataset:
            col, row = dataset.width // 2 + self.shift, dataset.height // 2
            corners = [dataset.transform @ (col + s * half, row + s * half) for s in (-1, 1)]
        (x0, y0), (x1, y1) = corners
        extent = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
        values = {"input": str(path), "output": str(output), "extent": extent, "stages": self.stages, "seed": 3}
        return Job.from_dict({**values, **fields})


SCENES = (
    Scene("Cape Lookout", "train/scenes_rgb8/s2_capelookout_nc_10m.tif", 1024, 1, 400),
    Scene("Cape Lookout, west", "train/scenes_rgb8/s2_capelookout_nc_10m.tif", 256, 2, -400),
    Scene("Red Clover Valley 2020", "train/scenes_rgb8/s2_redclover_ca_20200802_10m.tif", 256, 2),
    Scene("Red Clover Valley 2021", "train/scenes_rgb8/s2_redclover_ca_20210708_10m.tif", 256, 2),
    Scene("Olinda", "train/scenes_rgb8/l7_olinda_br_28.5m.tif", 256, 2),
    Scene("Beaufort", "samples/sentinel2_beaufort_rgb_10m_epsg4326.tif", 256, 2),
)
"""Places that no embedded model was trained on; 4096 output pixels a side each."""

MODES: dict[str, dict[str, object]] = {
    "default": {},
    "independent noise": {"noise": "independent"},
    "paper (half overlap, repeated block, DDIM-50)": {
        "noise": "repeated-block",
        "overlap": "paper",
        "sampler": "ddim",
        "steps": 50,
    },
}


def run_plan(plan: JobPlan) -> JobResult:
    """A whole job without anybody watching."""
    return JobRun(plan, lambda progress: None, lambda: None).run()


def with_offset(plan: JobPlan, offset: int) -> JobPlan:
    """The same job with all windows moved by ``offset`` pixels."""
    lattice = dataclasses.replace(plan.geometry.lattice, offset=offset)
    geometry = WindowGeometry(lattice, plan.geometry.scale, plan.geometry.context)
    regions = stage_regions(plan.area, plan.source_grid, len(plan.stages), geometry)
    stages = tuple(dataclasses.replace(s, region=r) for s, r in zip(plan.stages, regions))
    return dataclasses.replace(plan, geometry=geometry, stages=stages)


def read_image(path: str) -> np.ndarray:
    """(rows, cols, bands) of a raster."""
    with rasterio.open(path) as dataset:
        return np.moveaxis(dataset.read(), 0, -1)


def seams(data: Path, kept: Path, progress: Callable[[str], None], side: int = 4096) -> list[Row]:
    """The default mode on every scene."""
    return [seam_row("default", data, SCENES, 4096 // side, kept, progress)]


def modes(data: Path, kept: Path, progress: Callable[[str], None]) -> list[Row]:
    """All modes on the same scenes, at a quarter of the size: the paper's takes 200 evaluations a pixel."""
    return [seam_row(mode, data, SCENES[:3:2], 4, kept, progress) for mode in MODES]


@dataclasses.dataclass(frozen=True)
class Traces:
    """What the windows left in one scene, and what it cost; ``pairs`` are those of `seam_pairs`."""

    pairs: list[list[float]]
    repetition_at_stride: float
    repetition_at_128: float
    photograph: float
    evaluations_per_pixel: float
    seconds_total: float
    seconds_network: float
    consistency_psnr: float


def seam_row(
    mode: str, data: Path, scenes: tuple[Scene, ...], shrink: int, kept: Path, progress: Callable[[str], None]
) -> Row:
    """Paired seam ratio, repetition and cost of one mode; scenes that an earlier run has measured are in ``kept``."""
    found = []
    for scene in scenes:
        progress(f"{mode}, {scene.name}, {4096 // shrink} px")
        found.append(_kept_traces(mode, data, scene, shrink, kept))
    pairs: list[Pairs] = [np.array(t.pairs) for t in found]
    ratio, low, high = seam_ratio(pairs)
    whole, network = (sum(getattr(t, name) for t in found) for name in ("seconds_total", "seconds_network"))
    return {
        "mode": mode,
        "pixels a side": 4096 // shrink,
        "scenes": len(scenes),
        "seam ratio": round(ratio, 4),
        "interval": [round(low, 4), round(high, 4)],
        "photographs": round(float(np.mean([t.photograph for t in found])), 3),
        "repetition at the stride": round(max(t.repetition_at_stride for t in found), 4),
        "repetition at 128": round(max(t.repetition_at_128 for t in found), 4),
        "evaluations a pixel": round(float(np.mean([t.evaluations_per_pixel for t in found])), 1),
        "whole time / network": round(whole / network, 3),
        "consistency dB": round(float(np.mean([t.consistency_psnr for t in found])), 1),
    }


def _kept_traces(mode: str, data: Path, scene: Scene, shrink: int, kept: Path) -> Traces:
    """The traces of a scene, from an earlier run if that made the same pixels."""
    with tempfile.TemporaryDirectory() as folder:
        job = scene.job(data, Path(folder) / "a.tif", scene.side // shrink, model=LITE, **MODES[mode])
        plan = make_plan(job)
        path = kept / f"{plan.sha256}.json"
        if path.is_file():
            return Traces(**json.loads(path.read_text(encoding="utf-8")))
        traces = _traces(plan, real_photograph(data, scene))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(traces)), encoding="utf-8")
    return traces


def _traces(plan: JobPlan, photograph: np.ndarray) -> Traces:
    """A scene made twice, with two lattices, and compared."""
    shifted = with_offset(plan, plan.geometry.lattice.stride // 2)
    first = run_plan(plan)
    a = read_image(first.outputs[-1])
    b = read_image(run_plan(shifted).outputs[-1])
    of_a, of_b = plan.geometry.lattice, shifted.geometry.lattice
    asked = plan.stages[-1].asked
    here = [_seen_from(lattice, asked.top, asked.left) for lattice in (of_a, of_b)]
    return Traces(
        _pairs_at(a, b, here).tolist(),
        repetition(a, of_a.stride),
        repetition(a, 128),
        unpaired_seam_ratio(photograph, of_a, of_b),
        first.evaluations_per_pixel,
        first.seconds_total,
        first.seconds_network,
        first.consistency_psnr or 99.0,
    )


def _seen_from(lattice: Lattice, top: int, left: int) -> tuple[Lattice, Lattice]:
    """(for rows, for columns): the lattice as it lies in a crop whose corner is at (top, left)."""
    return (
        dataclasses.replace(lattice, offset=(lattice.offset - top) % lattice.stride),
        dataclasses.replace(lattice, offset=(lattice.offset - left) % lattice.stride),
    )


def _pairs_at(a: np.ndarray, b: np.ndarray, here: list[tuple[Lattice, Lattice]]) -> Pairs:
    (rows_a, cols_a), (rows_b, cols_b) = here
    along_cols = seam_pairs(a, b, cols_a, cols_b)
    along_rows = seam_pairs(a.swapaxes(0, 1), b.swapaxes(0, 1), rows_a, rows_b)
    return np.concatenate([along_cols, along_rows])


def real_photograph(data: Path, scene: Scene) -> np.ndarray:
    """The scene's own source pixels, up to 1024 a side."""
    with rasterio.open(data / scene.file) as dataset:
        side = min(dataset.height, dataset.width, 1024)
        col, row = dataset.width // 2 + (scene.shift if side == 1024 else 0), dataset.height // 2
        rows, cols = ((n - side // 2, n - side // 2 + side) for n in (row, col))
        return np.moveaxis(dataset.read([1, 2, 3], window=(rows, cols)), 0, -1)


def sampler_spectrum(data: Path, chips: int, progress: Callable[[str], None]) -> list[Row]:
    """Power of the top two octaves, generated over real: the default sampler and DDIM-50, on held-out chips."""
    rows = []
    found = held_out_chips(data, "test", 256, chips)
    for sampler, steps in (("dpm-solver++", 12), ("ddim", 50)):
        make = generator(open_engine(find_bundle(LITE), sampler=sampler, steps=steps))
        row: Row = {"sampler": f"{sampler}, {steps}"}
        for gsd_m, some in found.items():
            progress(f"{sampler}, {gsd_m:g} m")
            made = [compare(chip, n, make, 4) for n, chip in enumerate(some)]
            real, fake = (powers([getattr(c, k) for c in made]).sum(axis=0) for k in ("real", "generated"))
            row[f"{gsd_m:g} m ({len(some)} chips)"] = [round(float(v), 2) for v in (fake / real)[1:]]
        rows.append(row)
    return rows


def borders(data: Path, progress: Callable[[str], None]) -> list[Row]:
    """What a window's border does to its pixels, by the distance from it: margin and ramp follow from this."""
    images = [real_photograph(data, SCENES[k]).astype(np.float32) for k in (0, 2, 4, 5)]
    device, rows = choose_device("auto"), []
    lite = find_bundle(LITE)
    precision, _ = fastest(lite, lite.sha256(), device, "auto")  # the large network would take minutes to find its own
    with tempfile.TemporaryDirectory() as folder:
        networks = [("trained lite", lite, 80, 12), ("random 600m", random_600m(Path(folder)), 2, 4)]
        for name, bundle, pairs, steps in networks:
            progress(f"{name}, {pairs} pairs of windows")
            sampling = Sampling("dpm-solver++", steps)
            engine = Engine(bundle, bundle.sha256(), sampling, device, getattr(torch, precision))
            profile = border_profile(overlaps(engine, images, pairs, 2.5))
            for what, values in (
                ("difference, in sd of the detail", profile.difference),
                ("gradient near the border / deep inside", profile.gradient),
                ("its standard error", profile.gradient_error),
            ):
                cells = {f"{d} px": round(float(v), 3) for d, v in zip(DISTANCES, values)}
                rows.append({"network": name, "pairs": pairs, "what": what, **cells})
    return rows


def memory(progress: Callable[[str], None]) -> list[Row]:
    """Peak memory of a whole process by the size of the result, with a stand-in network."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = stand_in(folder / "model")
        for side in (2048, 4096, 8192):
            progress(f"{side} px")
            source = synthetic_source(folder / f"{side}.tif", side // 4)
            command = [sys.executable, "-m", "backend", "generate", source, str(folder / "out.tif"), "--json"]
            options = ["--model", str(bundle.folder), "--device", "cpu", "--precision", "float32"]
            done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)  # nosec B603
            result = json.loads(done.stdout)
            rows.append(
                {
                    "pixels a side": side,
                    "peak MB": round(result["peak_memory_bytes"] / 1e6),
                    "against 2k": round(result["peak_memory_bytes"] / 1e6 / (rows[0]["peak MB"] if rows else
                                        result["peak_memory_bytes"] / 1e6), 3),
                    "seconds": round(result["seconds_total"], 1),
                }
            )
    return rows


def throughput(progress: Callable[[str], None], model: str = LITE) -> list[Row]:
    """Windows a second (12 evaluations) by batch and number format."""
    bundle, device = find_bundle(model), choose_device("auto")
    rows = []
    for precision in ("float32", "bfloat16"):
        for batch in (1, 4, 8, 16) if device == "cuda" else (1, 4):
            progress(f"{precision}, batch {batch}")
            speed = measure(bundle, bundle.sha256(), device, precision, batch)
            seconds = speed.encode_s + 12 * speed.evaluation_s
            rows.append(
                {
                    "model": model,
                    "device": device_name(device),
                    "format": precision,
                    "batch": batch,
                    "ms an evaluation": round(1000 * speed.evaluation_s, 2),
                    "ms a condition": round(1000 * speed.encode_s, 2),
                    "windows a second": round(1 / seconds, 2),
                }
            )
    return rows


def _killed_at_half(job: dict[str, Any]) -> None:
    """Run a job and kill this process when half of its windows are done."""

    def report(progress: Any) -> None:
        if progress.windows_done >= progress.windows / 2:
            os.kill(os.getpid(), signal.SIGKILL)

    JobRun(make_plan(Job.from_dict(job)), report, lambda: None).run()


def resumption(data: Path, progress: Callable[[str], None]) -> list[Row]:
    """Evaluations after a kill -9 at half, over those of a whole run."""
    progress("the first half")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = SCENES[0].job(data, folder / "out.tif", job_dir=str(folder / "job"), model=LITE)
        child = multiprocessing.get_context("spawn").Process(target=_killed_at_half, args=(job.to_dict(),))
        child.start()
        child.join()
        progress("the rest")
        plan = make_plan(job)
        result = resume(folder / "job", lambda p: None, lambda: None)
    whole = sum(plan.windows) * plan.sampling.steps
    return [
        {
            "scene": SCENES[0].name,
            "killed with signal": -(child.exitcode or 0),
            "blocks kept": result.blocks_resumed,
            "evaluations of the rest": result.evaluations,
            "of a whole run": whole,
            "share": round(result.evaluations / whole, 3),
            "whole time / network of the rest": round(result.seconds_total / result.seconds_network, 3),
        }
    ]


WINDOW_SECONDS = 0.4
"""What metaearth-lite takes for a window on two cores."""


def workers(progress: Callable[[str], None]) -> list[Row]:
    """One worker process against two, with a network that sleeps."""
    from distributed import Client

    from backend.jobs.cluster import local_cluster

    seconds: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = stand_in(folder / "model")
        source = synthetic_source(folder / "in.tif", 1024)
        for count in (1, 2):
            progress(f"{count} at work")
            with local_cluster(count, "cpu") as cluster, Client(cluster) as client:
                client.wait_for_workers(count)
                client.run(sleep_instead, WINDOW_SECONDS)
                job = Job.from_dict(
                    {"input": source, "output": str(folder / f"{count}.tif"), "model": str(bundle.folder),
                     "device": "cpu", "precision": "float32", "executor": cluster.scheduler_address}
                )
                plan = dataclasses.replace(make_plan(job), block_windows=3)
                began = time.monotonic()
                run_plan(plan)
                seconds[count] = time.monotonic() - began
    return [
        {
            "windows": sum(plan.windows),
            "seconds with one": round(seconds[1], 1),
            "with two": round(seconds[2], 1),
            "times faster": round(seconds[1] / seconds[2], 2),
        }
    ]


def bench(parts: list[str], data: Path, output: Path, side: int = 4096) -> None:
    """Run some parts; ``bench.json`` and ``bench.md`` in ``output`` keep those of earlier runs.

    ``side``: output pixels along a scene's side in the part seams.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / "bench.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def progress(text: str) -> None:
        print(f"{part}: {text}", file=sys.stderr, flush=True)

    makers: dict[str, Callable[[], list[Row]]] = {
        "throughput": lambda: throughput(progress),
        "memory": lambda: memory(progress),
        "workers": lambda: workers(progress),
        "resume": lambda: resumption(data, progress),
        "borders": lambda: borders(data, progress),
        "sampler": lambda: sampler_spectrum(data, 12, progress),
        "modes": lambda: modes(data, output / "scenes", progress),
        "seams": lambda: seams(data, output / "scenes", progress, side),
    }
    if unknown := set(parts) - set(makers):
        raise InputError(f"The bench has no part {', '.join(unknown)}; known: {', '.join(makers)}.")
    for part in parts:
        found[part] = makers[part]()
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (output / "bench.md").write_text(as_markdown(found), encoding="utf-8")
        print(markdown_rows(found[part]))


def as_markdown(found: dict[str, list[Row]]) -> str:
    """All parts as tables."""
    return "\n".join(f"## {part}\n\n{markdown_rows(rows)}\n" for part, rows in found.items())
