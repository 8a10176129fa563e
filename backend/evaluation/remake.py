"""Real images made coarser and made again, by every method that is compared, with one and with two stages."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backend.cascade.engine import Engine
from backend.evaluation.chips import Chip, low_resolution
from backend.evaluation.energy import Maps, correlations, energy_maps, input_features
from backend.evaluation.features import Extractor
from backend.evaluation.makers import Maker, bicubic, cascade, regressor
from backend.evaluation.spectrum import EDGE, consistency_db, powers, smooth_patch_grain
from backend.progress import Check, go_on

Values = NDArray[np.float32]
BICUBIC, L1, OFF, GENERATED = "bicubic", "L1 network", "generated, back-projection off", "generated"
REAL = "real"
KEPT = 3


@dataclass
class RememberingEngine(Engine):
    """An engine that keeps its last windows: with and without back-projection, which comes later, they are the same."""

    kept: OrderedDict[tuple[bytes, bytes, float], Values] = field(default_factory=OrderedDict)

    def windows(self, lows: Values, noises: Values, ground_resolution_m: float) -> Values:
        """As `Engine.windows`."""
        key = lows.tobytes(), noises.tobytes(), ground_resolution_m
        if key not in self.kept:
            self.kept[key] = super().windows(lows, noises, ground_resolution_m)
        self.kept.move_to_end(key)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return self.kept[key]


def remembering(engine: Engine) -> RememberingEngine:
    """The same engine with a memory."""
    return RememberingEngine(engine.bundle, engine.sha256, engine.sampling, engine.device, engine.dtype, engine.batch)


def repeated(make: Maker, stages: int, scale: int) -> Maker:
    """One stage's maker applied ``stages`` times, each at its own ground resolution."""

    def again(low: Values, gsd_m: float, seed: int) -> Values:
        for k in reversed(range(stages)):
            low = make(low, gsd_m * scale**k, seed)
        return low

    return again


def methods(engine: Engine, baseline: Engine | None, stages: int, check: Check = go_on) -> dict[str, Maker]:
    """Bicubic interpolation, the L1 network if there is one, and the model without and with its back-projection.

    The L1 network's result is back-projected as the model's is, so that only what the two were trained for differs.
    """
    scale = engine.config.network.scale
    found = {BICUBIC: bicubic(scale**stages)}
    if baseline is not None:
        found[L1] = repeated(regressor(baseline, 1.0), stages, scale)
    found[OFF] = cascade(engine, stages, 0.0, check)
    found[GENERATED] = cascade(engine, stages, 1.0, check)
    return found


@dataclass(frozen=True)
class Traits:
    """What is measured of one image against the real one.

    ``power``: of the top three octaves, low to high. ``energy``: `energy_maps`. ``shift``: generated less real, the
    mean of each band in grey levels. ``features``: (d,), where there is an extractor.
    """

    power: NDArray[np.float64]
    grain: float
    energy: Maps
    energy_correlation: NDArray[np.float64]
    consistency_db: float
    shift: NDArray[np.float64]
    features: NDArray[np.float64] | None


@dataclass(frozen=True)
class Remade:
    """A chip, and the traits of what each method made of its area average in ``stages`` stages; ``REAL`` among them.

    ``hints``: what the input tells of where detail is, see `input_features`.
    """

    gsd_m: float
    place: str
    stages: int
    traits: dict[str, Traits]
    hints: Maps


def inner(image: Values) -> Values:
    """The image without its edge: no method sees what lies beyond it, and a job drops a window's own."""
    return image[:, EDGE:-EDGE, EDGE:-EDGE]


def measure(images: dict[str, Values], low: Values, extractor: Extractor | None) -> dict[str, Traits]:
    """The traits of every image, ``REAL`` among them; (3, rows, cols) each."""
    inside = {name: inner(image) for name, image in images.items()}
    features = extractor(np.stack(list(inside.values()))) if extractor else [None] * len(images)
    energies = {name: energy_maps(image) for name, image in inside.items()}
    rows_last = {name: image.transpose(1, 2, 0) for name, image in inside.items()}
    return {
        name: Traits(
            powers([image])[0],
            smooth_patch_grain(rows_last[REAL], rows_last[name]),
            energies[name],
            correlations(energies[name], energies[REAL]),
            consistency_db(image, low),
            (inside[name] - inside[REAL]).mean(axis=(1, 2), dtype=np.float64),
            found,
        )
        for (name, image), found in zip(images.items(), features)
    }


def remake(
    chip: Chip, stages: int, scale: int, seed: int, makers: dict[str, Maker], extractor: Extractor | None
) -> tuple[Remade, list[Values]]:
    """A chip made again by every method, and the images to show: input, each method's, real."""
    low = low_resolution(chip.pixels, scale**stages)
    real = np.ascontiguousarray(chip.pixels.transpose(2, 0, 1), np.float32)
    images = {name: make(low, chip.gsd_m, seed) for name, make in makers.items()}
    hints = input_features(inner(images[BICUBIC]), scale**stages)
    traits = measure({**images, REAL: real}, low, extractor)
    return Remade(chip.gsd_m, chip.place, stages, traits, hints), [low, *images.values(), real]
