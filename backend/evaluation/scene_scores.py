"""Figures of made rasters beside the real ones, chip by chip; columns of tables, and bars that a model is to pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.evaluation.fidelity import class_overlap, mean_iou, mean_iou_estimate, psnr_db, ssim, value_distance
from backend.evaluation.spectrum import octave_power
from backend.evaluation.statistics import Estimate, Weights, estimate, mean_estimate, paired_difference
from backend.evaluation.table import Row
from backend.scene.modality import Modality

Values = NDArray[np.float32]
Figures = NDArray[np.float64]
TOP_OCTAVES = 2
LEAST_RATIO = 1e-6
"""Of octave power: where nothing was made."""


@dataclass(frozen=True)
class Scores:
    """Of n images: (n,) ``psnr_db``, ``ssim`` and ``distance``, (n, octaves) powers; of n maps: (n, 2, classes)."""

    psnr_db: Figures
    ssim: Figures
    distance: Figures
    made_power: Figures
    real_power: Figures
    overlaps: Figures

    def octave_ratio(self, weights: Weights) -> Figures:
        """(octaves,): power of the made images over that of the real ones, summed over images."""
        real = np.maximum(weights @ self.real_power, np.finfo(float).tiny)
        return np.maximum(weights @ self.made_power / real, LEAST_RATIO)

    def spectrum_error(self, weights: Weights) -> float:
        """Mean |log2| of the ratio in the top two octaves; 0 is detail of the right strength [ours]."""
        return float(np.abs(np.log2(self.octave_ratio(weights)[-TOP_OCTAVES:])).mean())


def scores(made: list[Values], real: list[Values], modality: Modality) -> Scores:
    """Of rasters (bands, rows, cols) in 0..255, or of class numbers."""
    none = np.zeros(0)
    if modality.is_map:
        numbers = [c.value for c in modality.classes]
        overlaps = np.stack([class_overlap(m, r, numbers) for m, r in zip(made, real)])
        return Scores(none, none, none, none, none, overlaps)
    pairs = list(zip(made, real))
    powers = [np.stack([octave_power(image.transpose(1, 2, 0)) for image in images]) for images in (made, real)]
    return Scores(
        np.array([psnr_db(m, r) for m, r in pairs]),
        np.array([ssim(m, r) for m, r in pairs]),
        np.array([value_distance(m, r) for m, r in pairs]),
        powers[0],
        powers[1],
        none,
    )


def columns(found: Scores, modality: Modality, places: list[str], relative: bool) -> Row:
    """The figures of one line; the distance of values is in the modality's unit unless it is ``relative``."""
    if modality.is_map:
        return {"mean IoU": mean_iou_estimate(found.overlaps, places)}
    octaves = found.real_power.shape[1]
    ratios = [
        estimate(lambda w, k=k: float(found.octave_ratio(w)[k]), len(places), places)  # type: ignore[misc]
        for k in range(octaves)
    ]
    unit = 1.0 if relative else (modality.high - modality.low) / 255
    return {
        "PSNR dB": mean_estimate(found.psnr_db, places),
        "SSIM": mean_estimate(found.ssim, places),
        "octave power, made / real": ratios,
        "distance of values": mean_estimate(found.distance, places).times(unit),
        "unit": "relative, 0 to 255" if relative else modality.unit,
    }


def verdict(difference: Estimate) -> str:
    """Whether a gain is one: met where its whole interval is above 0, missed where it is below."""
    if difference.low > 0:
        return "met"
    return "missed" if difference.high < 0 else "undecided"


def bar(what: str, difference: Estimate) -> Row:
    """A difference that is to be above 0, and whether it is."""
    return {what: difference, f"{what}: bar": verdict(difference)}


def gains_over_regression(mean: Scores, regression: Scores, places: list[str]) -> Row:
    """What the samples' mean gains over the per-pixel regression."""
    if len(mean.overlaps):
        def gain(weights: Weights) -> float:
            a, b = (mean_iou(np.tensordot(weights, s.overlaps, 1)) for s in (mean, regression))
            return a - b

        return bar("mean IoU less regression's", estimate(gain, len(places), places))
    return {
        **bar("PSNR dB less regression's", paired_difference(mean.psnr_db, regression.psnr_db, places)),
        **bar("SSIM less regression's", paired_difference(mean.ssim, regression.ssim, places)),
    }


def gain_over_baseline(one: Scores, baseline: Scores, places: list[str]) -> Row:
    """How much nearer to 1 one sample's octave power is than that of the L1 network, in octaves' doublings."""
    if len(one.overlaps):
        return {}
    nearer = estimate(lambda w: baseline.spectrum_error(w) - one.spectrum_error(w), len(places), places)
    return bar("spectrum error of L1 less that of one sample", nearer)
