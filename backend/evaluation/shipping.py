"""What a user gets of a model: its file, its speed, its number format, and the range of resolutions it serves."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from backend.cascade.engine import Engine
from backend.cascade.picture import Manner, render_picture
from backend.devices import device_name
from backend.evaluation.bars import Bar, Verdict
from backend.evaluation.makers import eight_bit, whole
from backend.evaluation.statistics import Estimate, mean_estimate
from backend.evaluation.table import Row
from backend.jobs.plan import make_plan
from backend.jobs.runner import JobRun
from backend.models.bundle import CONFIG, WEIGHTS, Bundle, open_bundle
from backend.progress import Check
from backend.protocol import Job, JobResult

PARAMETERS = Bar("parameters", high=8_000_000)
BYTES = Bar("bytes of the weights", high=16_000_000)
FP16 = Bar("all weights are stored in fp16", kind="yes")
STORED = Bar("weights in fp16 against float32, largest difference in grey levels", high=1.0)
COMPUTED = Bar("computed in this machine's format against float32, largest difference in grey levels", high=1.0)
SECONDS = Bar("seconds for 1024 x 1024 pixels, two threads", high=12.0)
RANGE = Bar("works from 0.1 to 500 m/px, and says when it leaves what it was trained on", kind="yes")
INSIDE, OUTSIDE = (0.1, 500.0), (0.05, 2000.0)
"""Metres per output pixel."""
JUDGED_THREADS, JUDGED_SIDE = 2, 1024
TRUE_DB = 42.0
Values = NDArray[np.float32]
Found = tuple[list[Row], list[Verdict]]


def file_rows(bundle: Bundle) -> Found:
    """Number of weights, size of their file, and their format."""
    with safe_open(bundle.weights, framework="pt") as opened:
        parts = [opened.get_slice(name) for name in opened.keys()]  # noqa: SIM118
        formats = sorted({part.get_dtype() for part in parts})
        count = sum(math.prod(part.get_shape()) for part in parts)
    size = bundle.weights.stat().st_size
    rows = [
        {"figure": PARAMETERS.figure, "value": count, "bar": PARAMETERS.text},
        {"figure": BYTES.figure, "value": size, "bar": BYTES.text},
        {"figure": FP16.figure, "value": ", ".join(formats), "bar": FP16.text},
    ]
    found = PARAMETERS.judge("", count), BYTES.judge("", size), FP16.judge("", formats == ["F16"])
    return rows, list(found)


@dataclass(frozen=True)
class Difference:
    """Root mean square difference in grey levels of images made in two formats, and the largest of any pixel."""

    rms: Estimate
    largest: float


def difference(a: Engine, b: Engine, lows: Sequence[tuple[Values, float]], check: Check) -> Difference:
    """Of one stage of the inputs, each (3, h, w) in 0..255 with the result's metres per pixel."""

    def made(engine: Engine) -> list[Values]:
        return [
            eight_bit(render_picture(engine, whole(low), gsd_m, Manner(seed), 1, check))
            for seed, (low, gsd_m) in enumerate(lows)
        ]

    apart = [one - other for one, other in zip(made(a), made(b))]
    rms = [float(np.sqrt(np.square(values).mean())) for values in apart]
    return Difference(mean_estimate(rms), max(float(np.abs(values).max()) for values in apart))


def precision_rows(
    engine: Engine, exact: Path | None, lows: Sequence[tuple[Values, float]], check: Check
) -> Found:
    """What storing in fp16 and computing in the engine's format change, each against float32.

    ``exact``: a safetensors file of the weights before they were rounded to fp16; without one `unrounded_weights` draws
    what they may have been.
    """
    plain = Engine(engine.bundle, engine.sha256, engine.sampling, engine.device, torch.float32, engine.batch)
    with tempfile.TemporaryDirectory() as folder:
        weights = exact or unrounded_weights(engine.bundle.weights, Path(folder) / "drawn.safetensors")
        bundle = _with_weights(engine.bundle, weights, Path(folder))
        unrounded = Engine(bundle, bundle.sha256(), engine.sampling, engine.device, torch.float32, engine.batch)
        stored = difference(plain, unrounded, lows, check)
    computed = None
    if engine.dtype != torch.float32:
        computed = difference(engine, plain, lows, check)
    rows, verdicts = [], []
    said = "" if exact else "; float32 weights drawn from those that round to the stored ones"
    for bar, found, drawn in ((STORED, stored, said), (COMPUTED, computed, "")):
        rows.append(
            {
                "figure": bar.figure,
                "value": found.largest if found else "not measured",
                "bar": bar.text,
                "n": len(lows),
                "root mean square": found.rms if found else None,
                "of": f"{_format(engine)}{drawn}" if found else None,
            }
        )
        verdicts.append(bar.judge("", found.largest if found else None))
    return rows, verdicts


def unrounded_weights(weights: Path, path: Path) -> Path:
    """A file of float32 weights that round to those of a file in fp16, each drawn uniformly between its neighbours.

    What rounding has taken away is not known afterwards, but how much that can be is.
    """
    random = torch.Generator().manual_seed(0)
    drawn = {}
    for name, stored in load_file(weights).items():
        value = stored.float()
        spacing = ((stored.view(torch.int16) + 1).view(torch.float16).float() - value).abs()
        drawn[name] = value + (torch.rand(value.shape, generator=random) - 0.5) * torch.nan_to_num(spacing, posinf=0.0)
    save_file(drawn, path)
    return path


def _format(engine: Engine) -> str:
    return str(engine.dtype).removeprefix("torch.")


def _with_weights(bundle: Bundle, weights: Path, folder: Path) -> Bundle:
    """The bundle with other weights, in ``folder``."""
    shutil.copy(bundle.folder / CONFIG, folder / CONFIG)
    shutil.copy(weights, folder / WEIGHTS)
    return open_bundle(folder)


def run_job(
    bundle: Bundle, low: Values, gsd_m: float, folder: Path, check: Check, **fields: Any
) -> tuple[JobResult, tuple[str, ...], Values]:
    """One stage of (3, rows, cols) with pixels of ``gsd_m`` afterwards, as a user's job: result, warnings, pixels."""
    size = gsd_m * bundle.config.network.scale
    source, output = folder / "source.tif", folder / "result.tif"
    profile = {"driver": "GTiff", "count": 3, "height": low.shape[1], "width": low.shape[2], "dtype": "uint8",
               "crs": "EPSG:32633", "transform": Affine(size, 0, 500_000, 0, -size, 5_000_000)}
    with rasterio.open(source, "w", **profile) as dataset:
        dataset.write(np.rint(low).astype(np.uint8))
    values = {"input": str(source), "output": str(output), "model": str(bundle.folder), "stages": 1, **fields}
    plan = make_plan(Job.from_dict(values))
    result = JobRun(plan, lambda progress: None, check).run()
    with rasterio.open(output) as dataset:
        made = dataset.read().astype(np.float32)
    return result, plan.warnings, made


def speed_rows(bundle: Bundle, device: str, check: Check) -> Found:
    """Seconds of a whole job at default settings, from as many pixels as a window has (256 x 256).

    Judged for `JUDGED_SIDE` on `JUDGED_THREADS` threads of a CPU alone.
    """
    side = bundle.config.network.tile
    low = np.random.default_rng(0).uniform(0, 255, (3, side, side)).astype(np.float32)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        result, _, made = run_job(bundle, low, 10.0, Path(folder), check, device=device)
    row: Row = {
        "figure": f"seconds for {made.shape[2]} x {made.shape[1]} pixels",
        "value": round(result.seconds_total, 1),
        "bar": f"{SECONDS.text}, on two threads",
        "of": f"{cpu_name() if result.device == 'cpu' else device_name(result.device)}, {result.precision},"
        f" {threads} threads, {result.seconds_network:.1f} s of them in the network",
    }
    comparable = result.device == "cpu" and threads == JUDGED_THREADS and made.shape[1] == JUDGED_SIDE
    return [row], [SECONDS.judge("", result.seconds_total if comparable else None)]


def cpu_name() -> str:
    """The processor as it names itself, where it does, and what PyTorch uses of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return device_name("cpu")
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def range_rows(bundle: Bundle, low: Values, device: str, check: Check) -> Found:
    """Jobs at both ends of the range and beyond them: finished, true to the source, and warned of where they should be.

    ``low``: (3, rows, cols) of some real input.
    """
    told, good = [], []
    for gsd_m in (*INSIDE, *OUTSIDE):
        with tempfile.TemporaryDirectory() as folder:
            result, warnings, made = run_job(bundle, low, gsd_m, Path(folder), check, device=device)
        warned = bool(warnings)
        true = result.consistency_psnr is None or result.consistency_psnr >= TRUE_DB
        works = true and float(made.std()) > 0
        good.append(works and warned is (gsd_m in OUTSIDE))
        psnr = "exact" if result.consistency_psnr is None else f"{result.consistency_psnr:.1f} dB"
        told.append(f"{gsd_m:g} m/px: {'works' if works else 'fails'} ({psnr}), {'warns' if warned else 'no warning'}")
    row: Row = {"figure": RANGE.figure, "value": "yes" if all(good) else "no", "bar": RANGE.text, "of": "; ".join(told)}
    return [row], [RANGE.judge("", all(good))]
