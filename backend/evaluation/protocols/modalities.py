"""``evaluate modalities``: every modality made of every other, on held-out places that show both.

MetaEarth-MM stands beside a per-pixel regression, which knows no neighbourhood, and beside an L1 network of its own
size, which knows no detail that is not certain.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.errors import PlanError
from backend.evaluation.kept import Kept
from backend.evaluation.makers import side_by_side
from backend.evaluation.scene_checks import NIR, RGB, joint_scenes, joint_table, ndvi_table, round_trip, usual_gsd_m
from backend.evaluation.scene_chips import Pair, SceneChips, TrainingPixels
from backend.evaluation.scene_pairs import (
    BASELINE,
    MEAN,
    ONE,
    REGRESSION,
    Makers,
    Translated,
    places_of,
    scores_of,
    translate_pair,
)
from backend.evaluation.scene_scores import Scores, columns, gain_over_baseline, gains_over_regression
from backend.evaluation.table import Row, Table
from backend.evaluation.translators import BaselineTranslator, SceneTranslator, antithetic
from backend.jobs.engines import open_scene_engine
from backend.models.bundle import SceneModelConfig, find_scene_bundle
from backend.progress import Check, Report
from backend.scene.modality import Modality, find_modality

Values = NDArray[np.float32]
SHOWN = 4
TOGETHER, ZERO_SHOT = "together", "zero-shot"
NOTES = (
    "Training: whether the model saw the two modalities of one place in training; zero-shot: never. Derived: modalities"
    " that no sensor has seen in some of these chips, computed from the others; a regression that finds the weights is"
    " then exact. Mean of samples: of pictures; of maps the most frequent class; samples come"
    " in pairs of a noise field and its negative (antithetic variates). Octave power: of three octaves up to Nyquist,"
    " summed over chips. Distance of values: Wasserstein-1 between those of a made and a real chip, wherever"
    " they lie; relative: nobody calibrated them. Mean IoU: over the classes that are in the maps or should be."
    " Brackets: 95 % bootstrap intervals over places.",
    "Per-pixel regression, fitted on the training split: least squares on polynomials of the bands; class means where"
    " a map is given; multinomial logistic regression where a map is wanted. It has no line where no training place"
    " shows both modalities.",
)
BAR_NOTES = (
    "Every difference is to be above 0: met where its whole interval is, missed where it is below, else undecided."
    " Spectrum error: mean of |log2 (octave power, made / real)| over the top two octaves.",
)


@dataclass(frozen=True)
class ModalitySettings:
    """``samples`` translations of up to ``limit`` chips a pair; ``l1``: the regression baseline's bundle, if any.

    ``regression``: degree of the per-pixel regression's polynomials. ``modalities``: only these.
    """

    data: Path
    output: Path
    model: str = "metaearth-mm-lite"
    l1: str | None = None
    modalities: list[str] | None = None
    split: str = "validation"
    limit: int = 24
    samples: int = 8
    regression: int = 2
    steps: int | None = None
    seed: int = 0
    device: str = "auto"


def modalities(settings: ModalitySettings, report: Report, check: Check) -> Table:
    """The tables, and in ``output`` a picture a pair and pictures of round trips and of pairs from noise."""
    bundle = find_scene_bundle(settings.model)
    config = bundle.config
    known = chosen_modalities(config, settings.modalities)
    baseline = BaselineTranslator(settings.l1, settings.device) if settings.l1 else None
    side = min(config.network.tile, baseline.network.tile if baseline else config.network.tile)
    chips = SceneChips(settings.data, settings.split, known, side)
    engine = open_scene_engine(bundle, settings.device, steps=settings.steps)
    engine.on_evaluation = lambda windows: check()
    pixels = TrainingPixels(settings.data, known, settings.seed, report, check)
    draws = antithetic(settings.seed, max(1, settings.samples))
    kept = Kept(settings.output, engine.sha256, engine.steps, str(engine.device), str(engine.dtype))
    makers = Makers(SceneTranslator(engine), baseline, pixels, draws, settings.regression, kept)
    settings.output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    bars: list[Row] = []
    rgb_to_nir: list[Translated] = []
    for pair in itertools.permutations(known, 2):
        if found := translate_pair(makers, chips, pair, settings.limit, report, check):
            label = {"from": pair[0], "to": pair[1], "training": training(config, pixels, pair)}
            more, gain = pair_rows(found, makers, pair, label, pair[1] in config.relative)
            rows.extend(more)
            bars.append(gain)
            strips(found, makers, pair).save(settings.output / f"{pair[0]}-{pair[1]}.png")
            rgb_to_nir = found if pair == (RGB, NIR) else rgb_to_nir
    following = [Table("Bars", bars, notes=BAR_NOTES)]
    if rgb_to_nir:
        following += agreement(makers, rgb_to_nir, settings, report, check)
    table = Table("Modalities made of each other", rows, facts(settings, makers), NOTES, tuple(following))
    table.write(settings.output)
    kept.clear()
    return table


def facts(settings: ModalitySettings, makers: Makers) -> dict[str, Any]:
    """What was measured with what."""
    engine, baseline = makers.model.engine, makers.baseline
    return {
        "model": engine.config.id,
        "sha256": engine.sha256[:16],
        **({"L1 network": baseline.id, "its sha256": baseline.sha256[:16]} if baseline else {}),
        "split": settings.split,
        "samples": len(makers.draws),
        "steps": engine.steps,
        "degree of the regression": settings.regression,
        "seed": settings.seed,
    }


def chosen_modalities(config: SceneModelConfig, wanted: list[str] | None) -> tuple[str, ...]:
    """Those that the model was trained on, or some of them."""
    trained = tuple(m for m in config.network.modalities if m not in config.untrained)
    chosen = tuple(m for m in trained if wanted is None or m in wanted)
    if len(chosen) < 2 or not set(wanted or ()) <= set(trained):
        known = ", ".join(trained)
        raise PlanError(f"Choose two modalities or more of those that {config.id} was trained on: {known}.")
    return chosen


def training(config: SceneModelConfig, pixels: TrainingPixels, pair: Pair) -> str:
    """Whether the model saw both modalities of one place; where its bundle does not tell, whether the set has such."""
    seen = config.saw_together(*pair) if config.pairs else frozenset(pair) in pixels.together()
    return TOGETHER if seen else ZERO_SHOT


def pair_rows(
    found: list[Translated], makers: Makers, pair: Pair, label: Row, relative: bool
) -> tuple[list[Row], Row]:
    """A line a maker, and the line of bars."""
    modality, places = makers.modality(pair[1]), places_of(found)
    derived = sorted({m for t in found for m in t.chip.derived if m in pair})
    by_maker = scores_of(found, modality)
    about = label | {"derived": " ".join(derived)}
    rows = [
        about | {"made by": maker, "chips": len(found), "places": len(set(places))}
        | columns(by_maker[maker], find_modality(pair[1]), places, relative)
        for maker in (MEAN, ONE, REGRESSION, BASELINE)
        if maker in by_maker
    ]
    return rows, about | gained(by_maker, places)


def gained(by_maker: dict[str, Scores], places: list[str]) -> Row:
    """Differences to both baselines, where there are."""
    found: Row = {}
    if REGRESSION in by_maker:
        found |= gains_over_regression(by_maker[MEAN], by_maker[REGRESSION], places)
    if BASELINE in by_maker:
        found |= gain_over_baseline(by_maker[ONE], by_maker[BASELINE], places)
    return found


def agreement(
    makers: Makers, found: list[Translated], settings: ModalitySettings, report: Report, check: Check
) -> list[Table]:
    """The tables on RGB and near infrared together, and their pictures; ``found``: from RGB to NIR."""
    back, lines = round_trip(makers, found, report, check)
    side_by_side(lines[:SHOWN]).save(settings.output / "round-trip.png")
    scenes = joint_scenes(makers, usual_gsd_m(found), settings.limit, report, check)
    made = [[s.rgb, s.nir.repeat(3, axis=0), s.translated.repeat(3, axis=0)] for s in scenes[:SHOWN]]
    side_by_side(made).save(settings.output / "joint.png")
    return [ndvi_table(found), back, joint_table(scenes, found)]


def strips(found: list[Translated], makers: Makers, pair: Pair) -> Image.Image:
    """One chip a line: input, truth, one sample, mean of samples, per-pixel regression, L1 network."""
    source, target = (makers.modality(name) for name in pair)
    lines = []
    for t in found[:SHOWN]:
        made = [t.made[maker] for maker in (ONE, MEAN, REGRESSION, BASELINE) if maker in t.made]
        lines.append([shown(t.given, source), *(shown(values, target) for values in (t.real, *made))])
    return side_by_side(lines)


def shown(values: Values, modality: Modality) -> Values:
    """(bands, rows, cols) -> (3, rows, cols) in 0..255; classes in their colours."""
    return (modality.to_picture(values) + 1) * 127.5
