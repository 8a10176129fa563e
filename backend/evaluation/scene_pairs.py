"""Held-out chips translated from one modality into another by all that is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backend.evaluation.kept import Kept
from backend.evaluation.pixel_regression import PixelRegression, fit
from backend.evaluation.scene_chips import Pair, SceneChip, SceneChips, TrainingPixels
from backend.evaluation.scene_scores import Scores, scores
from backend.evaluation.translators import BaselineTranslator, Draw, SceneTranslator, in_chips, joined
from backend.progress import Check, Report, watched
from backend.scene.modality import Modality

Values = NDArray[np.float32]
ONE, MEAN, REGRESSION, BASELINE = "one sample", "mean of samples", "per-pixel regression", "L1 network"


@dataclass(frozen=True)
class Translated:
    """A chip in two modalities, and what was made of the first by each maker."""

    chip: SceneChip
    given: Values
    real: Values
    made: dict[str, Values]


@dataclass
class Makers:
    """All that translates: the model, once a draw; the L1 network, if there is one; regressions, fitted once.

    ``kept``: what the model made of chips, also in an earlier run.
    """

    model: SceneTranslator
    baseline: BaselineTranslator | None
    pixels: TrainingPixels
    draws: Sequence[Draw]
    degree: int
    kept: Kept
    regressions: dict[Pair, PixelRegression | None] = field(default_factory=dict)

    def modality(self, name: str) -> Modality:
        """As it is in the chips."""
        return in_chips(name)

    def regression(self, pair: Pair) -> PixelRegression | None:
        """That of a pair; None where no training place shows both modalities."""
        if pair not in self.regressions:
            found = self.pixels.of(pair, self.draws[0].seed)
            source, target = (self.modality(name) for name in pair)
            self.regressions[pair] = None if found is None else fit(source, target, *found, self.degree)
        return self.regressions[pair]

    def plain(self, pair: Pair, given: Values, gsd_m: float) -> dict[str, Values]:
        """What the makers without noise make."""
        made, (source, target) = {}, pair
        if (regression := self.regression(pair)) is not None:
            made[REGRESSION] = regression(given)
        if self.baseline is not None and self.baseline.knows(*pair):
            made[BASELINE] = self.baseline.translate({source: given}, target, gsd_m)
        return made

    def translated(self, pair: Pair, chip: SceneChip, rasters: dict[str, Values]) -> Translated:
        """One chip."""
        given, real = (rasters[name] for name in pair)
        modalities = repr([self.model.modalities[name] for name in pair])
        key = (modalities, given.tobytes(), str(given.shape), chip.gsd_m, chip.number, repr(self.draws))
        own = self.kept.arrays(key, lambda: self.sampled(pair, chip, given))
        return Translated(chip, given, real, own | self.plain(pair, given, chip.gsd_m))

    def sampled(self, pair: Pair, chip: SceneChip, given: Values) -> dict[str, Values]:
        """What the model makes: one sample, and what all draws say together."""
        source, target = pair
        pictures = self.model.translate({source: given}, target, chip.gsd_m, chip.number, self.draws)
        modality = self.model.modalities[target]
        return {MEAN: joined(pictures, modality), ONE: modality.from_picture(pictures[0])}


def translate_pair(
    makers: Makers, chips: SceneChips, pair: Pair, limit: int, report: Report, check: Check
) -> list[Translated]:
    """Up to ``limit`` chips that show both modalities; an empty list where none does."""
    chosen = chips.showing(pair, limit)
    message = "{} to {}".format(*pair)
    return [makers.translated(pair, chip, chips.read(chip)) for chip in watched(chosen, message, report, check)]


def scores_of(found: list[Translated], modality: Modality) -> dict[str, Scores]:
    """The figures of every maker."""
    real = [t.real for t in found]
    return {maker: scores([t.made[maker] for t in found], real, modality) for maker in found[0].made}


def places_of(found: list[Translated]) -> list[str]:
    """The place of each chip."""
    return [t.chip.place for t in found]
