"""``evaluate ablations``: what the cascade and what the high-order degradation are good for.

One-shot against cascade: the same 4 x 4 pixels become 256 x 256 by one model of scale 64, or by three stages of one
of scale 4. Degradation: a model trained on inputs of high-order degradation and one trained on bicubic inputs only,
both on clean and on degraded inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backend.cascade.engine import Engine
from backend.devices import choose_device
from backend.errors import PlanError
from backend.evaluation.chips import Chip, held_out_chips, low_resolution
from backend.evaluation.distances import frechet_difference, kernel_difference
from backend.evaluation.features import Extractor, load_extractor
from backend.evaluation.makers import Maker, Values, bicubic, cascade, generator, side_by_side
from backend.evaluation.protocols.fid import Images, distance_columns, make_all
from backend.evaluation.spectrum import consistency_db, octave_ratios, powers
from backend.evaluation.statistics import mean_estimate
from backend.evaluation.table import Row, Table
from backend.jobs.engines import open_engine
from backend.models.bundle import find_bundle
from backend.models.feature_network import FEATURE_MODEL
from backend.progress import Check, Report
from backend.training.degradation import degrade, draw

NOTES = (
    "Distances as in `evaluate fid`. Octave power: generated over real, the three octaves below the Nyquist frequency."
    " Consistency: the result averaged down against the clean input. Less the line above: of the same chips, drawn"
    " together; below 0 the line is nearer to real imagery. Brackets: 95 % bootstrap intervals over places.",
)


@dataclass(frozen=True)
class AblationSettings:
    """Which bundles are compared; what is not named is left out.

    ``one_shot`` has the scale of ``stages`` stages of ``model``. ``robust`` was trained with high-order degradation,
    ``plain`` with bicubic inputs only.
    """

    data: Path
    output: Path
    model: str = "metaearth-lite"
    one_shot: str | None = None
    stages: int = 3
    robust: str | None = None
    plain: str | None = None
    split: str = "validation"
    limit: int = 24
    features: str = FEATURE_MODEL
    consistency: float = 1.0
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Trial:
    """What one method makes of one kind of input.

    ``kernel``: how the clean input was made coarser, which results are compared with.
    """

    ablation: str
    given: str
    method: str
    make: Maker
    lows: list[Values]
    engine: Engine | None
    kernel: str = "area"


@dataclass(frozen=True)
class Truth:
    """The real chips, as images and as features."""

    chips: list[Chip]
    images: NDArray[np.float32]
    features: NDArray[np.float64]
    places: list[str] = field(default_factory=list)


def ablations(settings: AblationSettings, report: Report, check: Check) -> Table:
    """The table, and one picture an ablation (input, each method, real) in ``output``."""
    extractor = load_extractor(settings.features, choose_device(settings.device))
    tile = find_bundle(settings.model).config.network.tile
    chips = [c for some in held_out_chips(settings.data, settings.split, tile, settings.limit).values() for c in some]
    images = np.stack([chip.pixels.transpose(2, 0, 1) for chip in chips])
    truth = Truth(chips, images, extractor(images, report, check), [chip.place for chip in chips])
    trials = [*_one_shot_trials(settings, chips, check), *_degradation_trials(settings, chips, check)]
    settings.output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    shown: dict[tuple[str, str], list[list[Values]]] = {}
    above: dict[tuple[str, str], NDArray[np.float64]] = {}
    for trial in trials:
        made, features, row = run_trial(trial, truth, extractor, settings.seed, report, check)
        if trial.engine:
            rival = above.setdefault((trial.ablation, trial.given), features)
            row |= {} if rival is features else differences(truth, features, rival)
        rows.append(row)
        lines = shown.setdefault((trial.ablation, trial.given), [[low] for low in trial.lows[:6]])
        for line, image in zip(lines, made):
            line.append(image.astype(np.float32))
    for (ablation, given), lines in shown.items():
        name = f"{ablation} {given}".replace(" ", "-")
        side_by_side([[*line, real] for line, real in zip(lines, images)]).save(settings.output / f"{name}.png")
    facts = {"features": extractor.name, "split": settings.split, "chips": len(chips), "seed": settings.seed}
    table = Table("Ablations", rows, facts, NOTES)
    table.write(settings.output)
    return table


def _one_shot_trials(settings: AblationSettings, chips: list[Chip], check: Check) -> list[Trial]:
    engine = open_engine(find_bundle(settings.model), settings.device)
    factor = engine.config.network.scale**settings.stages
    lows = [low_resolution(chip.pixels, factor) for chip in chips]
    given = f"{lows[0].shape[1]} px"
    several = cascade(engine, settings.stages, settings.consistency, check)
    trials = [
        Trial("cascade", given, "bicubic", bicubic(factor), lows, None),
        Trial("cascade", given, f"{engine.config.id}, {settings.stages} stages", several, lows, engine),
    ]
    if settings.one_shot:
        one = open_engine(find_bundle(settings.one_shot), settings.device)
        if one.config.network.scale != factor:
            raise PlanError(
                f"{one.config.id} makes pixels {one.config.network.scale} times finer, but {settings.stages} stages of"
                f" {engine.config.id} {factor} times: the two cannot be compared."
            )
        make = generator(one, settings.consistency, check)
        trials.append(Trial("cascade", given, f"{one.config.id}, one shot", make, lows, one))
    return trials


def _degradation_trials(settings: AblationSettings, chips: list[Chip], check: Check) -> list[Trial]:
    named = [m for m in (settings.plain, settings.robust) if m]
    engines = [open_engine(find_bundle(m), settings.device) for m in named]
    if not engines:
        return []
    scale = engines[0].config.network.scale
    rng = np.random.default_rng(settings.seed)
    inputs = {
        "clean": [low_resolution(chip.pixels, scale, "bicubic") for chip in chips],
        "degraded": [degraded(chip.pixels, scale, rng) for chip in chips],
    }
    trials = []
    for given, lows in inputs.items():
        trials.append(Trial("degradation", given, "bicubic", bicubic(scale), lows, None, "bicubic"))
        for engine in engines:
            make = generator(engine, settings.consistency, check)
            trials.append(Trial("degradation", given, engine.config.id, make, lows, engine, "bicubic"))
    return trials


def degraded(picture: Values, scale: int, rng: np.random.Generator) -> Values:
    """A high-order degradation drawn from ``rng``: (rows, cols, 3) -> (3, rows / scale, cols / scale), in 0..255."""
    image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32) / 255)
    return degrade(image, scale, draw(rng), rng).numpy() * 255


def differences(truth: Truth, features: NDArray[np.float64], above: NDArray[np.float64]) -> Row:
    """How much nearer to the real chips one method comes than the one in the line above."""
    return {
        "Fréchet, less the line above": frechet_difference(truth.features, features, above, truth.places),
        "kernel, less the line above": kernel_difference(truth.features, features, above, clusters=truth.places),
    }


def run_trial(
    trial: Trial, truth: Truth, extractor: Extractor, seed: int, report: Report, check: Check
) -> tuple[Images, NDArray[np.float64], Row]:
    """What the trial made, as images and as features, and its line of the table."""
    before = trial.engine.evaluations if trial.engine else 0
    gsds = [chip.gsd_m for chip in truth.chips]
    made = make_all(trial.make, trial.lows, gsds, seed, f"{trial.method}, {trial.given}", report, check)
    spent = (trial.engine.evaluations - before) if trial.engine else 0
    scale = made.shape[-1] // trial.lows[0].shape[-1]
    clean = [low_resolution(chip.pixels, scale, trial.kernel) for chip in truth.chips]
    of_real, of_made = (powers(list(images.astype(np.float32))) for images in (truth.images, made))
    window = trial.engine.config.network.tile**2 if trial.engine else 0
    features = extractor(made, report, check)
    return made, features, {
        "ablation": trial.ablation,
        "input": trial.given,
        "made by": trial.method,
        "n": len(made),
        "places": len(set(truth.places)),
        **distance_columns(extractor, truth.features, features, truth.places),
        "octave power": octave_ratios(of_real, of_made, truth.places),
        "consistency dB": mean_estimate([consistency_db(m, c) for m, c in zip(made, clean)], truth.places),
        "evaluations a pixel": round(spent * window / (made.size / 3), 1),
    }
