"""How fast a network runs here: measured once for a device, model and number format, then remembered."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.cascade.engine import Engine, Sampling
from backend.devices import choose_device, device_name, fast_bfloat16_on_cpu, in_use, use_threads
from backend.errors import DeviceError, OutputError
from backend.files import complete_file
from backend.models.bundle import AnyConfig, Bundle, SceneModelConfig, as_scene
from backend.protocol import data_home
from backend.scene.engine import Observed, SceneEngine, Window

CUDA_BATCHES = (1, 2, 4, 8, 16)
SCENE_STREAMS = 2
"""Of scene networks the speed is that of so many streams: one observed and one wanted modality."""


@dataclass(frozen=True)
class Speed:
    """Seconds a window: for its condition, and for one evaluation of the network."""

    encode_s: float
    evaluation_s: float

    def window_seconds(self, steps: int) -> float:
        """Those of a whole window."""
        return self.encode_s + steps * self.evaluation_s


def calibrated(bundle: Bundle, sha256: str, device: str, precision: str, batch: int) -> Speed:
    """The speed of a network here, from the cache or measured now; `DeviceError` if memory is too small."""
    use_threads()
    key = "|".join(
        map(str, (torch.__version__, device_name(device), sha256[:16], precision, batch, torch.get_num_threads()))
    )
    if speed := _known(key):
        return speed
    with in_use:
        if speed := _known(key):  # others may have waited for the same measurement
            return speed
        try:
            speed = measure(bundle, sha256, device, precision, batch)
        except DeviceError as error:
            _too_large[key] = time.monotonic(), str(error)
            raise
        _remember(key, speed)
        return speed


FAILURE_SECONDS = 60.0
_too_large: dict[str, tuple[float, str]] = {}
"""When something did not fit into memory, and the sentence."""


def _known(key: str) -> Speed | None:
    """What was measured before; `DeviceError` if that did not fit a moment ago, else every plan would try it again.

    Only a moment: somebody else may have held the memory.
    """
    when, sentence = _too_large.get(key, (-math.inf, ""))
    if time.monotonic() - when < FAILURE_SECONDS:
        raise DeviceError(sentence)
    found = _cached().get(key)
    return Speed(**found) if found else None


def where_it_runs(bundle: Bundle[AnyConfig], device: str, precision: str) -> tuple[dict[str, Any], Speed]:
    """The fields of a plan that say what network runs where, in which format and batch; and how fast it is there."""
    sha256, device = bundle.sha256(), choose_device(device)
    precision, batch = fastest(bundle, sha256, device, precision)
    fields = {
        "model": bundle.config.id,
        "model_folder": str(bundle.folder.absolute()),
        "model_sha256": sha256,
        "device": device,
        "device_name": device_name(device),
        "precision": precision,
        "batch": batch,
        "torch_version": torch.__version__,
    }
    return fields, calibrated(bundle, sha256, device, precision, batch)


def measure(
    bundle: Bundle, sha256: str, device: str, precision: str, batch: int, compiled: bool = False
) -> Speed:
    """The least time of three runs, the first of which warms up; DeviceError if memory is too small."""
    if isinstance(bundle.config, SceneModelConfig):
        return _measure_scene(as_scene(bundle), sha256, device, precision, batch)
    steps = 2
    engine = Engine(bundle, sha256, Sampling("ddim", steps), device, getattr(torch, precision), batch, compiled)
    network = bundle.config.network
    side = network.tile // network.scale + 2 * network.context
    rng = np.random.default_rng(0)
    lows = rng.uniform(-1, 1, (batch, 3, side, side)).astype(np.float32)
    noises = rng.standard_normal((batch, 3, network.tile, network.tile)).astype(np.float32)
    totals, encodes = [], []
    for _ in range(3):
        began, engine.seconds_encode = time.perf_counter(), 0.0
        engine.windows(lows, noises, 10.0)
        totals.append(time.perf_counter() - began)
        encodes.append(engine.seconds_encode)
    if engine.batch < batch:
        raise DeviceError(f"The GPU's memory is too small for {batch} windows at a time.")
    encode = min(encodes) / batch
    return Speed(encode, max(1e-6, min(totals) / batch - encode) / steps)


def _measure_scene(
    bundle: Bundle[SceneModelConfig], sha256: str, device: str, precision: str, batch: int
) -> Speed:
    """The same for MetaEarth-MM, of `SCENE_STREAMS`."""
    steps = 2
    engine = SceneEngine(bundle, sha256, steps, device, getattr(torch, precision), batch)
    network, rng = bundle.config.network, np.random.default_rng(0)
    tile, (known, wanted) = network.tile, network.modalities[:2]
    picture = rng.uniform(-1, 1, (3, tile, tile)).astype(np.float32)
    seen = np.ones((tile, tile), bool)
    seen[0, 0] = False  # what is wholly known may tell the other without the network
    window = Window([Observed(known, picture, seen)], [engine.window_noise(0, wanted, 0, 0)])
    totals = []
    for _ in range(3):
        began = time.perf_counter()
        engine.windows([window] * batch, [wanted], 10.0)
        totals.append(time.perf_counter() - began)
    if engine.batch < batch:
        raise DeviceError(f"The GPU's memory is too small for {batch} windows at a time.")
    return Speed(0.0, min(totals) / batch / steps)


def fastest(bundle: Bundle, sha256: str, device: str, precision: str) -> tuple[str, int]:
    """(number format, batch): the asked format or the faster one; on the CPU, batch 1 always."""
    formats = [precision] if precision != "auto" else _formats(device)
    batches = CUDA_BATCHES if device == "cuda" else (1,)
    if len(formats) == len(batches) == 1:
        return formats[0], 1
    speeds: dict[tuple[str, int], float] = {}
    for name in formats:
        for batch in batches:
            try:
                speeds[name, batch] = calibrated(bundle, sha256, device, name, batch).evaluation_s
            except DeviceError:
                break  # larger batches need more memory still
    return min(speeds, key=lambda k: speeds[k]) if speeds else (formats[0], 1)


def _formats(device: str) -> list[str]:
    if device == "cuda":
        return ["bfloat16"] if torch.cuda.is_bf16_supported(including_emulation=False) else ["float32"]
    return ["float32", "bfloat16"] if fast_bfloat16_on_cpu() else ["float32"]


def _cached() -> dict[str, dict[str, float]]:
    try:
        return dict(json.loads(_path().read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _path() -> Path:
    return data_home() / "calibration.json"


def _remember(key: str, speed: Speed) -> None:
    """Add to the cache; a cache that cannot be written is measured again next time."""
    path = _path()
    with suppress(OSError, OutputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with complete_file(path) as partial:
            partial.write_text(json.dumps({**_cached(), key: asdict(speed)}, indent=1), encoding="utf-8")
