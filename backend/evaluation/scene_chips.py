"""Chips of a prepared set that show a place in several modalities, and pixels of its training split."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.errors import InputError
from backend.evaluation.chips import spread
from backend.progress import Check, Report, watched
from backend.scene.modality import find_modality
from backend.training.chips import ChipRecord, ChipSet
from backend.training.places import place_of
from backend.training.scene_examples import shown

Values = NDArray[np.float32]
Pair = tuple[str, str]
"""(what is given, what is made of it)"""
PIXELS_A_CHIP = 256
MOST_PIXELS = 100_000
"""Of a pair; a regression of some ten features needs no more."""


@dataclass(frozen=True)
class SceneChip:
    """A chip of a set, by its number there; chips of one ``place`` are no independent samples."""

    number: int
    gsd_m: float
    place: str
    modalities: frozenset[str]
    derived: frozenset[str]


class SceneChips:
    """The chips of a split that show two of some modalities or more; of large chips the middle ``side`` pixels."""

    def __init__(self, folder: Path, split: str, modalities: tuple[str, ...], side: int) -> None:
        self.set, self.side = ChipSet(folder, split), side
        numbers = [n for n, record in enumerate(self.set.records) if len(shown(record) & set(modalities)) > 1]
        if not numbers:
            raise InputError(f"No chip of the {split} split in {folder} shows two of {', '.join(modalities)}.")
        facts = self.set.all_facts()
        self.chips = [
            SceneChip(
                number,
                self.set.records[number].gsd_m,
                place(self.set.records[number], facts[number]["file"]),
                frozenset(shown(self.set.records[number]) & set(modalities)),
                frozenset(facts[number].get("derived", ())),
            )
            for number in numbers
        ]

    def showing(self, pair: Pair, limit: int) -> list[SceneChip]:
        """Up to ``limit`` chips that show both modalities."""
        return over_places([c for c in self.chips if set(pair) <= c.modalities], limit)

    def read(self, chip: SceneChip) -> dict[str, Values]:
        """(bands, rows, cols) in 0..255, or class numbers, by modality."""
        return {name: self._middle(v) for name, v in rasters(self.set, chip.number, chip.modalities).items()}

    def _middle(self, values: NDArray[np.uint8]) -> Values:
        top, left = (max(0, n - self.side) // 2 for n in values.shape[:2])
        part = values[top:top + self.side, left:left + self.side]
        return np.ascontiguousarray(part.transpose(2, 0, 1), np.float32)


def rasters(chips: ChipSet, number: int, names: Collection[str]) -> dict[str, NDArray[np.uint8]]:
    """A chip in some modalities, (rows, cols, bands): a first picture of one band is stored as three equal ones."""
    found = chips.read_all(number)
    return {name: v[..., :find_modality(name).band_count] for name, v in found.items() if name in names}


def place(record: ChipRecord, file: str) -> str:
    """The place that a chip shows: its source, and its file's name without dates."""
    return f"{record.source}/{re.sub(r'^(19|20)[0-9]{6}_', '', place_of(Path(file)))}"


def over_places(chips: list[SceneChip], limit: int) -> list[SceneChip]:
    """Up to ``limit`` of the chips: one of each place before a second of any, spread evenly over them."""
    by_place: dict[str, list[SceneChip]] = {}
    for chip in chips:
        by_place.setdefault(chip.place, []).append(chip)
    found: list[SceneChip] = []
    for turn in itertools.zip_longest(*by_place.values()):
        found += spread([chip for chip in turn if chip is not None], limit - len(found))
    return sorted(found, key=lambda chip: chip.number)


class TrainingPixels:
    """Random pixels of the training split, and which modalities it shows together."""

    def __init__(
        self, folder: Path, modalities: tuple[str, ...], seed: int, report: Report, check: Check
    ) -> None:
        chips = ChipSet(folder, "train")
        rng = np.random.default_rng(seed)
        self.pixels: list[dict[str, Values]] = []
        for number in watched(range(len(chips)), "pixels to fit the regression", report, check):
            found = rasters(chips, number, modalities)
            if len(found) > 1:
                side = next(iter(found.values())).shape[:2]
                chosen = tuple(rng.integers(n, size=PIXELS_A_CHIP) for n in side)
                self.pixels.append({name: v[chosen].astype(np.float32) for name, v in found.items()})

    def of(self, pair: Pair, seed: int) -> tuple[Values, Values] | None:
        """(n, bands) of both modalities at the same pixels; None where no place shows both."""
        both = [p for p in self.pixels if set(pair) <= set(p)]
        if not both:
            return None
        given, made = (np.concatenate([p[name] for p in both]) for name in pair)
        chosen = np.random.default_rng(seed).permutation(len(given))[:MOST_PIXELS]
        return given[chosen], made[chosen]

    def together(self) -> set[frozenset[str]]:
        """The pairs of modalities that some place shows."""
        return {frozenset(pair) for found in self.pixels for pair in itertools.combinations(found, 2)}
