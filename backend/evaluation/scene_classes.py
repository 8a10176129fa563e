"""Is a generated image still of its class? A classifier trained on real chips is asked about generated ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.evaluation.bars import Bar, Verdict
from backend.evaluation.chips import low_resolution, spread
from backend.evaluation.classification import LabelledImages, Training, right_answers
from backend.evaluation.feature_training import CLASSES_IN
from backend.evaluation.makers import Maker
from backend.evaluation.remake import GENERATED, OFF, REAL
from backend.evaluation.statistics import mean_estimate, paired_difference
from backend.evaluation.table import Row
from backend.progress import Check, Report, watched
from backend.training.data import Picture, read_picture
from backend.training.split import entries

CLASSIFIER = "resnet"
FIGURE = "accuracy of a classifier trained on real chips, %"
BAR = Bar("classifier's accuracy less that on real chips, points", -5.0, 5.0)


@dataclass(frozen=True)
class Scenes:
    """Chips of classes to train on and to test with; ``images``: (n, 3, s, s) uint8, ``gsd_m``: of all of them."""

    training: LabelledImages
    test: LabelledImages
    gsd_m: float


def read_scenes(root: Path, splits: tuple[str, ...], limit: int) -> Scenes | None:
    """The land-use chips of the training split, and up to ``limit`` a class of ``splits``; None where either has none.

    The middle of each, of the side that all of them have, down to a multiple of 16, as networks want it.
    """
    training, test = (_pictures(root, some) for some in (("train",), splits))
    names = sorted({p.path.parent.name for p in training})
    test = [p for name in names for p in spread([p for p in test if p.path.parent.name == name], limit)]
    if len(names) < 2 or not test:
        return None
    side = min(min(p.pixels.shape[:2]) for p in training + test) // 16 * 16
    return Scenes(_middle(training, names, side), _middle(test, names, side), test[0].gsd_m)


def _pictures(root: Path, splits: tuple[str, ...]) -> list[Picture]:
    return [read_picture(e) for split in splits for e in entries(root, split) if e.source == CLASSES_IN]


def _middle(pictures: list[Picture], names: list[str], side: int) -> LabelledImages:
    images = []
    for p in pictures:
        top, left = ((n - side) // 2 for n in p.pixels.shape[:2])
        images.append(p.pixels[top:top + side, left:left + side].transpose(2, 0, 1))
    return LabelledImages(np.stack(images), np.array([names.index(p.path.parent.name) for p in pictures]))


def scene_rows(
    scenes: Scenes, makers: Mapping[str, Maker], scale: int, training: Training, seed: int, report: Report, check: Check
) -> tuple[list[Row], dict[str, list[Verdict]]]:
    """Accuracy on the real test chips and on what each method makes of their area averages, and the verdicts.

    One classifier answers all of them, so that differences are of the same chips.
    """
    real = scenes.test.images
    lows = [low_resolution(image.transpose(1, 2, 0), scale) for image in real]
    sets = {REAL: real}
    made: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in makers}
    for n, low in enumerate(watched(lows, "chips of classes", report, check)):
        for name, make in makers.items():  # methods inside, so that windows are remembered
            made[name].append(make(low, scenes.gsd_m, seed + n).astype(np.uint8))
    sets |= {name: np.stack(images) for name, images in made.items()}
    report(0, 1, "training a classifier on real chips")
    asked = LabelledImages(np.concatenate(list(sets.values())), np.tile(scenes.test.labels, len(sets)))
    answers = right_answers(CLASSIFIER, scenes.training, asked, training, seed, check)
    right = dict(zip(sets, 100.0 * answers.reshape(len(sets), -1)))
    rows: list[Row] = []
    verdicts: dict[str, list[Verdict]] = {}
    for name, values in right.items():
        row: Row = {"figure": FIGURE, "stages": 1, "made by": name, "n": len(values), "value": mean_estimate(values)}
        if name != REAL:
            row["less that on real chips (-5 to 5)"] = paired_difference(values, right[REAL])
        if name in (GENERATED, OFF):
            verdicts[name] = [BAR.judge("", paired_difference(values, right[REAL]))]
        rows.append(row)
    return rows, verdicts
