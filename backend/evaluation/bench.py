"""``python -m backend bench``: what the engine costs, and what its windows leave in the picture."""

from __future__ import annotations

import dataclasses
import itertools
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
import torch
from torch.utils.flop_counter import FlopCounterMode

from backend.cascade.engine import Engine, Sampling, load_network
from backend.devices import choose_device, device_name
from backend.errors import DeviceError, InputError
from backend.evaluation.borders import DISTANCES, border_profile, overlaps
from backend.evaluation.chips import held_out_chips
from backend.evaluation.makers import generator
from backend.evaluation.protocols.spectrum import compare
from backend.evaluation.scene_seams import LITE, SCENES, modes, real_photograph, run_plan, seams, translations
from backend.evaluation.spectrum import powers
from backend.evaluation.stand_ins import random_600m, sleep_instead, stand_in, synthetic_source
from backend.evaluation.table import Row, markdown_rows
from backend.jobs.calibration import fastest, measure
from backend.jobs.engines import open_engine
from backend.jobs.plan import make_plan
from backend.jobs.runner import JobRun, resume
from backend.models.bundle import Bundle, find_bundle
from backend.protocol import Job


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


def throughput(progress: Callable[[str], None]) -> list[Row]:
    """Windows a second (12 evaluations) by batch and format; on a GPU also compiled, and of the large network."""
    device = choose_device("auto")
    rows = speeds(find_bundle(LITE), device, progress)
    if device == "cuda":
        with tempfile.TemporaryDirectory() as folder:
            rows += speeds(random_600m(Path(folder)), device, progress)
    return rows


def speeds(bundle: Bundle, device: str, progress: Callable[[str], None]) -> list[Row]:
    """One line a number format and batch; a line says so where memory is too small."""
    flops, on_gpu, rows = evaluation_flops(bundle), device == "cuda", list[Row]()
    best = {name: product_flops(device, getattr(torch, name)) for name in ("float32", "bfloat16")}
    ways = [("float32", False), ("bfloat16", False), *([("bfloat16", True)] if on_gpu else [])]
    for (precision, compiled), batch in itertools.product(ways, (1, 4, 8, 16) if on_gpu else (1, 4)):
        name = f"{precision}{', compiled' if compiled else ''}"
        progress(f"{bundle.config.id}, {name}, batch {batch}")
        row: Row = {"model": bundle.config.id, "device": device_name(device), "format": name, "batch": batch}
        if on_gpu:
            load_network.cache_clear()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            speed = measure(bundle, bundle.sha256(), device, precision, batch, compiled)
        except DeviceError:
            rows.append({**row, "windows a second": "memory too small"})
            continue
        rows.append(
            {
                **row,
                "ms an evaluation": round(1000 * speed.evaluation_s, 2),
                "ms a condition": round(1000 * speed.encode_s, 2),
                "windows a second": round(1 / speed.window_seconds(12), 2),
                "share of a matrix product's speed": round(flops / speed.evaluation_s / best[precision], 4),
                **({"peak memory, GB": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if on_gpu else {}),
            }
        )
    return rows


def evaluation_flops(bundle: Bundle) -> float:
    """Floating-point operations of one evaluation of the network for one window, as its layers' shapes tell."""
    config = bundle.config
    with torch.device("meta"):
        network, side = config.build(), config.network.tile // config.network.scale + 2 * config.network.context
        condition = network.encode(torch.zeros(1, 3, side, side), torch.zeros(1))
        noisy = torch.zeros(1, 3, config.network.tile, config.network.tile)
        with FlopCounterMode(display=False) as counter:
            network(noisy, torch.zeros(1), condition)
    return float(counter.get_total_flops())


def product_flops(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product here: what a network can at best come near to."""
    side = 8192 if device == "cuda" else 1024
    a = torch.ones(side, side, device=device, dtype=dtype)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the GPU
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds)


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
                began = time.perf_counter()
                run_plan(plan)
                seconds[count] = time.perf_counter() - began
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
        "translations": lambda: translations(data, output / "scenes", progress),
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
