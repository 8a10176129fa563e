"""Whether what is made in two modalities agrees: vegetation index, there and back again, pairs made from noise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.evaluation.fidelity import correlation, moments, pooled_correlation, psnr_db
from backend.evaluation.scene_pairs import BASELINE, MEAN, ONE, REGRESSION, Makers, Translated, places_of
from backend.evaluation.scene_scores import columns, scores, verdict
from backend.evaluation.statistics import mean_estimate, paired_difference
from backend.evaluation.table import Row, Table
from backend.progress import Check, Report, watched
from backend.scene.modality import find_modality

Values = NDArray[np.float32]
RGB, NIR = "rgb", "nir"
CONSTANT = "one value for all"


def ndvi(rgb: Values, nir: Values) -> Values:
    """(nir - red) / (nir + red) of (3, rows, cols) and (1, rows, cols); 0 where both are 0."""
    red = rgb[0]
    return (nir[0] - red) / np.maximum(nir[0] + red, 1)


def ndvi_table(found: list[Translated]) -> Table:
    """The index with made near infrared against the index with the real one; ``found``: from RGB to NIR."""
    places, rows = places_of(found), []
    real = [ndvi(t.given, t.real) for t in found]
    mean = float(np.mean([t.real.mean() for t in found]))
    nirs = {maker: [t.made[maker] for t in found] for maker in found[0].made}
    nirs[CONSTANT] = [np.full_like(t.real, mean) for t in found]
    by_chip = {}
    for maker, values in nirs.items():
        made = [ndvi(t.given, nir) for t, nir in zip(found, values)]
        by_chip[maker] = [correlation(a, b) for a, b in zip(made, real)]
        sums = np.stack([moments(a, b) for a, b in zip(made, real)])
        error = [float(np.abs(a - b).mean()) for a, b in zip(made, real)]
        rows.append({
            "made by": maker,
            "chips": len(found),
            "places": len(set(places)),
            "correlation a chip": mean_estimate(by_chip[maker], places),
            "correlation pooled": pooled_correlation(sums, places),
            "mean absolute difference": mean_estimate(error, places),
        })
    if REGRESSION in by_chip:
        gain = paired_difference(by_chip[MEAN], by_chip[REGRESSION], places)
        rows.append({"made by": f"{MEAN} less regression", "correlation a chip": gain}
                    | {"bar": verdict(gain)})
    return Table("Vegetation index (NDVI) with made near infrared", rows, notes=NDVI_NOTES)


NDVI_NOTES = (
    "Of 8-bit values as they are shown, no reflectances. Both indices share the real red band and agree by that alone:"
    " the line of one value of near infrared for all chips tells how far.",
)


def round_trip(
    makers: Makers, found: list[Translated], report: Report, check: Check
) -> tuple[Table, list[list[Values]]]:
    """RGB to NIR and back to RGB, and lines of pictures (RGB, NIR, RGB again); ``found``: from RGB to NIR."""
    back: dict[str, list[Values]] = {}
    for t in watched(found, "rgb to nir and back", report, check):
        for maker, made in came_back(makers, t).items():
            back.setdefault(maker, []).append(made)
    places, modality, real = places_of(found), makers.modality(RGB), [t.given for t in found]
    rows = [
        {"made by": maker, "chips": len(found), "places": len(set(places))}
        | columns(scores(made, real, modality), find_modality(RGB), places, False)
        for maker, made in back.items()
    ]
    lines = [[t.given, t.made[ONE].repeat(3, axis=0), again] for t, again in zip(found, back[ONE])]
    return Table("RGB to near infrared and back", rows), lines


def came_back(makers: Makers, t: Translated) -> dict[str, Values]:
    """RGB made of the near infrared that was made of RGB, each maker of its own."""
    pair, chip, modality = (NIR, RGB), t.chip, makers.modality(RGB)
    picture = makers.model.translate({NIR: t.made[ONE]}, RGB, chip.gsd_m, chip.number, makers.draws[:1])[0]
    found = {ONE: modality.from_picture(picture)}
    for maker in (REGRESSION, BASELINE):
        if maker in t.made:
            found |= {k: v for k, v in makers.plain(pair, t.made[maker], chip.gsd_m).items() if k == maker}
    return found


@dataclass(frozen=True)
class JointScene:
    """A scene from noise in both modalities, and the near infrared that the model makes of its RGB."""

    rgb: Values
    nir: Values
    translated: Values


def joint_scenes(makers: Makers, gsd_m: float, count: int, report: Report, check: Check) -> list[JointScene]:
    """Scenes of one window each."""
    found = []
    for number in watched(range(count), "rgb and nir from noise", report, check):
        made = makers.model.generate([RGB, NIR], gsd_m, number, makers.draws[0].seed)
        # the noise that made the scene must not make its translation
        elsewhere = count + number
        pictures = makers.model.translate({RGB: made[RGB]}, NIR, gsd_m, elsewhere, makers.draws)
        found.append(JointScene(made[RGB], made[NIR], makers.modality(NIR).from_picture(pictures.mean(axis=0))))
    return found


def joint_table(scenes: list[JointScene], real: list[Translated]) -> Table:
    """Agreement of pairs made together, judged by the translation; beside it that of shuffled, and of real pairs."""
    nirs = [s.nir for s in scenes]
    kinds = {
        "made together": [(s.translated, nir) for s, nir in zip(scenes, nirs)],
        "shuffled": [(s.translated, nir) for s, nir in zip(scenes, [*nirs[1:], nirs[0]])],
    }
    figures = {
        kind: (np.array([psnr_db(a, b) for a, b in pairs]), np.array([correlation(a, b) for a, b in pairs]))
        for kind, pairs in kinds.items()
    }
    rows: list[Row] = [
        {"pairs": kind, "scenes": len(scenes), "PSNR dB": mean_estimate(psnr), "correlation": mean_estimate(r)}
        for kind, (psnr, r) in figures.items()
    ]
    places, values = places_of(real), [(t.made[MEAN], t.real) for t in real]
    rows.append({
        "pairs": "real",
        "scenes": len(real),
        "PSNR dB": mean_estimate([psnr_db(a, b) for a, b in values], places),
        "correlation": mean_estimate([correlation(a, b) for a, b in values], places),
    })
    (psnr, r), (psnr_shuffled, r_shuffled) = figures.values()
    gains = paired_difference(psnr, psnr_shuffled), paired_difference(r, r_shuffled)
    rows.append({"pairs": "made together less shuffled", "scenes": len(scenes), "PSNR dB": gains[0],
                 "correlation": gains[1], "bar": verdict(gains[1])})
    return Table("RGB and near infrared made together from noise", rows, notes=JOINT_NOTES)


JOINT_NOTES = (
    "The near infrared made of the generated RGB (mean of samples) against the generated near infrared.",
)


def usual_gsd_m(found: list[Translated]) -> float:
    """The most frequent ground resolution of some chips."""
    return Counter(t.chip.gsd_m for t in found).most_common(1)[0][0]
