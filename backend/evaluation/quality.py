"""From traits of images made again to lines of a table, and to verdicts on the bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.evaluation.bars import Bar, Verdict
from backend.evaluation.distances import kernel_difference, kernel_distance
from backend.evaluation.energy import correlations, predicted
from backend.evaluation.remake import BICUBIC, GENERATED, L1, OFF, REAL, Remade
from backend.evaluation.spectrum import octave_ratios
from backend.evaluation.statistics import FEWEST_CLUSTERS, Estimate, mean_estimate, paired_difference
from backend.evaluation.table import Row

REGRESSION = "regression from the input"
DRAWN = "drawn around the regression"
FEWEST = 3
"""Fewer chips of a ground resolution are shown without a verdict."""
FEWEST_FOR_DISTANCE = 50
"""The same for the kernel distance."""

POWER = tuple(Bar(f"power of octave {k} of 3, generated / real", 0.85, 1.15) for k in (1, 2, 3))
GRAIN = Bar("grain", high=1.3)
ENERGY = tuple(Bar(f"energy map of octave {k}, correlation less the regression's", low=0.0) for k in (2, 3))
CONSISTENCY = Bar("consistency dB", low=42.0)
COLOUR = Bar("colour shift, worst band, grey levels", high=1.0)
HALF_OF_BICUBIC = Bar("kernel distance less half of bicubic's", high=0.0)
BELOW_L1 = Bar("kernel distance less the L1 network's", high=0.0)

Verdicts = dict[str, list[Verdict]]
"""By method: `GENERATED` is the default, `OFF` without back-projection."""


def where(gsd_m: float | None, stages: int) -> str:
    """A line of the table in words."""
    text = "1 stage" if stages == 1 else f"{stages} stages"
    return text if gsd_m is None else f"{gsd_m:g} m/px, {text}"


def regressed(remade: Sequence[Remade]) -> list[NDArray[np.float64]]:
    """For each chip, the correlation of the energy maps that a regression predicts with the real ones.

    The regression knows all chips, or those of one ground resolution where five places have it: which tells more there.
    """
    found = _predictions(remade)
    for gsd_m in {one.gsd_m for one in remade}:
        numbers = [k for k, one in enumerate(remade) if one.gsd_m == gsd_m]
        if len({remade[k].place for k in numbers}) >= FEWEST_CLUSTERS:
            own = _predictions([remade[k] for k in numbers])
            if np.mean(own) > np.mean([found[k] for k in numbers]):
                found = [own[numbers.index(k)] if k in numbers else one for k, one in enumerate(found)]
    return found


def _predictions(remade: Sequence[Remade]) -> list[NDArray[np.float64]]:
    real = [one.traits[REAL].energy for one in remade]
    maps = predicted([one.hints for one in remade], real, [one.place for one in remade])
    return [correlations(one, other) for one, other in zip(maps, real)]


def column(remade: Sequence[Remade], method: str, trait: str) -> NDArray:
    """(n, ...): one trait of what a method made of every chip."""
    return np.array([getattr(r.traits[method], trait) for r in remade])


def group_rows(
    remade: Sequence[Remade], regression: Sequence[NDArray[np.float64]], kernel: str | None
) -> tuple[list[Row], Verdicts]:
    """The lines of one ground resolution and number of stages, one a method, and the verdicts on the model's.

    ``regression``: `regressed` of these chips; ``kernel``: what the kernel distance is called, if it is measured.
    """
    places = [r.place for r in remade]
    rows: list[Row] = []
    verdicts: Verdicts = {}
    for method in (m for m in remade[0].traits if m != REAL):
        row = {
            "output m/px": f"{remade[0].gsd_m:g}",
            "stages": remade[0].stages,
            "made by": method,
            "chips": len(remade),
            "places": len(set(places)),
            **_columns(remade, method, places),
        }
        if kernel:
            row[kernel] = _distance(remade, method, places)
        if method in (GENERATED, OFF) and len(remade) >= FEWEST:
            verdicts[method] = _verdicts(remade, method, row, regression, places)
            row["bars that fail"] = ", ".join(v.bar.figure for v in verdicts[method] if v.holds is False)
        rows.append(row)
    for name, told in ((REGRESSION, np.array(regression)), (DRAWN, np.square(regression))):
        energy = [mean_estimate(told[:, k], places) for k in range(len(ENERGY))]
        rows.append({**_heading(rows[0]), "made by": name, ENERGY_COLUMN: energy})
    return rows, verdicts


POWER_COLUMN, GRAIN_COLUMN = "octave power over real (0.85 to 1.15)", "grain (at most 1.3)"
ENERGY_COLUMN = "energy maps, correlation with real (above the regression's)"
CONSISTENCY_COLUMN, COLOUR_COLUMN = "consistency dB (at least 42)", "colour shift (at most 1)"


def _heading(row: Row) -> Row:
    return {name: row[name] for name in ("output m/px", "stages", "chips", "places")}


def _columns(remade: Sequence[Remade], method: str, places: list[str]) -> Row:
    energy, shift = column(remade, method, "energy_correlation"), column(remade, method, "shift")
    return {
        POWER_COLUMN: octave_ratios(column(remade, REAL, "power"), column(remade, method, "power"), places),
        GRAIN_COLUMN: mean_estimate(column(remade, method, "grain"), places),
        ENERGY_COLUMN: [mean_estimate(energy[:, k], places) for k in range(energy.shape[1])],
        CONSISTENCY_COLUMN: mean_estimate(column(remade, method, "consistency_db"), places),
        COLOUR_COLUMN: [mean_estimate(np.abs(shift[:, band]), places) for band in range(shift.shape[1])],
    }


def _distance(remade: Sequence[Remade], method: str, places: list[str]) -> Estimate | None:
    """None of fewer than two chips."""
    if len(remade) < 2:
        return None
    return kernel_distance(column(remade, REAL, "features"), column(remade, method, "features"), True, places)


def _verdicts(
    remade: Sequence[Remade], method: str, row: Row, regression: Sequence[NDArray[np.float64]], places: list[str]
) -> list[Verdict]:
    at = where(remade[0].gsd_m, remade[0].stages)
    energy = column(remade, method, "energy_correlation")
    gains = [paired_difference(energy[:, k], np.array(regression)[:, k], places) for k in range(energy.shape[1])]
    worst = max(row[COLOUR_COLUMN], key=lambda found: found.value)
    found = [
        *(bar.judge(at, ratio) for bar, ratio in zip(POWER, row[POWER_COLUMN])),
        GRAIN.judge(at, row[GRAIN_COLUMN]),
        *(bar.judge(at, gain) for bar, gain in zip(ENERGY, gains)),
        CONSISTENCY.judge(at, row[CONSISTENCY_COLUMN]),
        COLOUR.judge(at, worst),
    ]
    measured = remade[0].traits[method].features is not None
    if measured and len(remade) >= FEWEST_FOR_DISTANCE:
        found += distance_verdicts(remade, method, at)
    return found


def distance_verdicts(remade: Sequence[Remade], method: str, at: str) -> list[Verdict]:
    """Whether the model is nearer to real imagery than half of bicubic's distance, and than the L1 network."""
    if not remade or remade[0].traits[REAL].features is None:
        return [bar.judge(at, None) for bar in (HALF_OF_BICUBIC, BELOW_L1)]
    places = [r.place for r in remade]
    real, made, plain = (column(remade, m, "features") for m in (REAL, method, BICUBIC))
    half = HALF_OF_BICUBIC.judge(at, kernel_difference(real, made, plain, 0.5, places))
    if L1 not in remade[0].traits:
        return [half, BELOW_L1.judge(at, None)]
    return [half, BELOW_L1.judge(at, kernel_difference(real, made, column(remade, L1, "features"), 1.0, places))]


def pooled_rows(remade: Sequence[Remade], kernel: str) -> tuple[list[Row], Verdicts]:
    """The kernel distance over all chips of one number of stages, one line a method, and real against real."""
    if remade[0].traits[REAL].features is None or len(remade) < 2:
        return [], {method: distance_verdicts([], method, where(None, remade[0].stages)) for method in (GENERATED, OFF)}
    places, stages = [r.place for r in remade], remade[0].stages
    rows: list[Row] = []
    verdicts: Verdicts = {}
    for method in (m for m in remade[0].traits if m != REAL):
        row: Row = {"figure": kernel, "stages": stages, "made by": method, "n": len(remade), "places": len(set(places)),
                    "value": _distance(remade, method, places)}
        if method in (GENERATED, OFF):
            verdicts[method] = distance_verdicts(remade, method, where(None, stages))
            row["less half of bicubic's (below 0)"], row["less the L1 network's (below 0)"] = (
                v.found for v in verdicts[method])
        rows.append(row)
    return [*rows, _real_against_real(remade, kernel)], verdicts


def _real_against_real(remade: Sequence[Remade], kernel: str) -> Row:
    """The distance of real images of one half of the places to those of the other, which nothing need be below."""
    names = sorted({r.place for r in remade})
    first = set(np.random.default_rng(0).permutation(names)[::2])
    a, b = ([r for r in remade if (r.place in first) is side] for side in (True, False))
    row: Row = {"figure": kernel, "stages": remade[0].stages, "made by": "real, half of the places against the others",
                "n": min(len(a), len(b)), "places": len(names)}
    if min(len(a), len(b)) > 1:
        features_a, features_b = (column(side, REAL, "features") for side in (a, b))
        places_a, places_b = ([r.place for r in side] for side in (a, b))
        row["value"] = kernel_distance(features_a, features_b, clusters=places_a, clusters_b=places_b)
    return row
