"""``evaluate data-engine``: does generated imagery make better training data?

The paper's protocol: classes of about 150 images, three quarters for training; four classifiers from scratch on the
originals, then on originals and five generated variants of each. Both are trained for the same number of steps [ours]:
else more training, not more images, might be what helps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.augmentation import AugmentSettings, augment, find_chips, variants_of
from backend.devices import choose_device
from backend.errors import InputError
from backend.evaluation.chips import spread
from backend.evaluation.classification import LabelledImages, Training, read_images, right_answers
from backend.evaluation.classifiers import ARCHITECTURES
from backend.evaluation.makers import side_by_side
from backend.evaluation.statistics import crossed_mean
from backend.evaluation.table import Row, Table
from backend.models.bundle import find_bundle
from backend.progress import Check, Report, watched

NOTES = (
    "Accuracy on test images that nothing was generated from, the mean over seeds. Both arms are trained for the same"
    " number of steps with images turned and mirrored. Brackets: 95 % bootstrap intervals over seeds and test images.",
    "If the generating model was trained on the test images' places, the difference is too favourable.",
)


@dataclass(frozen=True)
class DataEngineSettings:
    """``data``: one subfolder a class; ``limit`` images of each, a quarter of them for testing.

    ``size``: pixels a side that classifiers see. ``variants`` generated images of each training image.
    """

    data: Path
    output: Path
    model: str = "metaearth-lite"
    classes: tuple[str, ...] | None = None
    limit: int = 150
    variants: int = 5
    stages: int = 1
    source_resolution: float | None = None
    seeds: int = 3
    steps: int = 600
    size: int = 112
    architectures: tuple[str, ...] = tuple(ARCHITECTURES)
    consistency: float = 1.0
    seed: int = 0
    device: str = "auto"


FEWEST, FEWEST_WITH_GAP = 4, 12


def of_each_class(files: list[Path], limit: int) -> list[list[Path]]:
    """At most ``limit`` chips of each class, in the order of their names."""
    if limit < FEWEST:
        raise InputError(f"A limit of {limit} chips a class is too small: at least {FEWEST}.")
    by_class: dict[Path, list[Path]] = {}
    for file in files:
        by_class.setdefault(file.parent, []).append(file)
    for name, members in by_class.items():
        if len(members) < FEWEST:
            raise InputError(f"The class {name} has {len(members)} images; at least {FEWEST} are needed.")
    return [spread(sorted(members, key=_by_number), limit) for _, members in sorted(by_class.items())]


def split_chips(
    files: list[Path], limit: int, seed: int, number: int = 0, splits: int = 1
) -> tuple[list[Path], list[Path]]:
    """(training, test) chips, 3:1 in every class, at most ``limit`` of each class.

    Chips that follow each other by name are often neighbours on the ground: those for testing are one run of them, at
    a place drawn by ``seed``, and a twentieth on either side of it is left out, if there are `FEWEST_WITH_GAP`.
    ``number`` of ``splits`` divisions begins that far around: up to four have no test chip in common.
    """
    training, test = [], []
    for chosen in of_each_class(files, limit):
        held_out, gap = max(1, len(chosen) // 4), -(-len(chosen) // 20) if len(chosen) >= FEWEST_WITH_GAP else 0
        first = (int(np.random.default_rng(seed).integers(len(chosen))) + number * len(chosen) // splits) % len(chosen)
        chosen = chosen[first:] + chosen[:first]
        test += sorted(chosen[:held_out])
        training += sorted(chosen[held_out + gap:len(chosen) - gap])
    return training, test


def _by_number(file: Path) -> list[str | int]:
    """A key that sorts chip2 before chip10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]


def data_engine(settings: DataEngineSettings, report: Report, check: Check) -> Table:
    """The table, variants.png, and the generated images in ``output``/generated (made once, then used again)."""
    if unknown := set(settings.architectures) - set(ARCHITECTURES):
        raise InputError(f"There is no classifier {', '.join(unknown)}; known: {', '.join(ARCHITECTURES)}.")
    wanted = settings.classes
    files = [f for f in find_chips(settings.data) if wanted is None or f.parent.as_posix() in wanted]
    training_files, test_files = split_chips(files, settings.limit, settings.seed)
    classes = sorted({f.parent.as_posix() for f in training_files})
    if len(classes) < 2:
        raise InputError(f"There must be at least two classes in {settings.data}; found: {', '.join(classes)}.")
    made = [v.file for v in variants_of(training_files, settings.variants, settings.seed)]
    generated = settings.output / "generated"
    augment(_augmentation(settings, generated, training_files), report, check)

    originals, test = (read_images(settings.data, f, classes, settings.size) for f in (training_files, test_files))
    extra = read_images(generated, made, classes, settings.size)
    _picture(settings, originals, extra)
    arms = {"originals": originals, "with generated": originals.with_more(extra)}
    rows = _rows(settings, arms, test, report, check)
    facts = {
        "model": find_bundle(settings.model).config.id,
        "classes": ", ".join(classes),
        "training images": len(training_files),
        "generated": len(made),
        "test images": len(test_files),
        "seeds": settings.seeds,
        "steps": settings.steps,
    }
    table = Table("Classification with and without generated images", rows, facts, NOTES)
    table.write(settings.output)
    return table


def _augmentation(settings: DataEngineSettings, generated: Path, only: list[Path]) -> AugmentSettings:
    return AugmentSettings(
        settings.data, generated, settings.model, settings.variants, settings.stages, settings.seed,
        settings.source_resolution, settings.consistency, settings.device, only=tuple(only),
    )


def _picture(settings: DataEngineSettings, originals: LabelledImages, extra: LabelledImages) -> None:
    """One line a class: an original and its variants."""
    lines = []
    for label in np.unique(originals.labels):
        n = int(np.argmax(originals.labels == label))
        variants = extra.images[n * settings.variants:(n + 1) * settings.variants]
        lines.append([i.astype(np.float32) for i in (originals.images[n], *variants)])
    side_by_side(lines).save(settings.output / "variants.png")


def _rows(
    settings: DataEngineSettings, arms: dict[str, LabelledImages], test: LabelledImages, report: Report, check: Check
) -> list[Row]:
    """One line an architecture, and one for all."""
    training = Training(settings.steps, device=choose_device(settings.device))
    runs = [(a, arm, settings.seed + k) for a in settings.architectures for arm in arms for k in range(settings.seeds)]
    right: dict[tuple[str, str], list] = {}
    for architecture, arm, seed in watched(runs, "training classifiers", report, check):
        found = right_answers(architecture, arms[arm], test, training, seed, check)
        right.setdefault((architecture, arm), []).append(found)
    every = {(a, arm): np.array(v, np.float64) for (a, arm), v in right.items()}
    for arm in arms:
        every["all", arm] = np.concatenate([every[a, arm] for a in settings.architectures])
    return [
        {
            "classifier": name,
            "runs": len(every[name, "originals"]),
            "test images": len(test.labels),
            **{f"accuracy, {arm}": crossed_mean(every[name, arm]) for arm in arms},
            "difference": crossed_mean(every[name, "with generated"] - every[name, "originals"]),
        }
        for name in (*settings.architectures, "all")
    ]
