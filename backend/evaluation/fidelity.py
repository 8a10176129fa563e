"""How near a made image or map is to the real one: PSNR, SSIM, distance of the values, overlap of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.evaluation.statistics import Estimate, Weights, estimate

Values = NDArray[np.float32]
PEAK = 255.0
LEAST_ERROR = 1e-5
"""Mean squared errors below it count as this much: a PSNR is at most 98 dB."""
SSIM_SIDE, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03


def psnr_db(made: Values, real: Values) -> float:
    """Peak signal-to-noise ratio in dB of (bands, rows, cols) in 0..255."""
    error = float(np.square(made.astype(np.float64) - real).mean())
    return 10 * float(np.log10(PEAK**2 / max(error, LEAST_ERROR)))


def ssim(made: Values, real: Values) -> float:
    """Structural similarity of (bands, rows, cols) in 0..255, averaged over pixels and bands.

    Wang et al. 2004, eq. 13: Gaussian window of 11 x 11 pixels and sd 1.5, where it lies inside the image.
    """
    x, y = made.astype(np.float64), real.astype(np.float64)
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x, var_y = (_windowed(v * v) - m * m for v, m in ((x, mean_x), (y, mean_y)))
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (SSIM_K1 * PEAK) ** 2, (SSIM_K2 * PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (var_x + var_y + c2)).mean())


def _windowed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(bands, rows, cols) -> weighted means under the window, (bands, rows - 10, cols - 10)."""
    places = np.arange(SSIM_SIDE) - SSIM_SIDE // 2
    weights = np.exp(-0.5 * (places / SSIM_SIGMA) ** 2)
    for axis in (1, 2):
        inner = values.shape[axis] - SSIM_SIDE + 1
        parts = (values.take(range(k, k + inner), axis) for k in range(SSIM_SIDE))
        values = sum(w * part for w, part in zip(weights / weights.sum(), parts))
    return values


def value_distance(made: Values, real: Values) -> float:
    """Wasserstein-1 distance between the values of two images of equally many pixels, wherever these lie."""
    return float(np.abs(np.sort(made, axis=None).astype(np.float64) - np.sort(real, axis=None)).mean())


def class_overlap(made: Values, real: Values, classes: Sequence[int]) -> NDArray[np.float64]:
    """(2, classes): pixels of each class in both maps, and in either."""
    pairs = [(made == c, real == c) for c in classes]
    return np.array([[(a & b).sum() for a, b in pairs], [(a | b).sum() for a, b in pairs]], np.float64)


def mean_iou(overlaps: NDArray[np.float64]) -> float:
    """Mean over classes of intersection over union of (2, classes) pixels; classes in neither map are left out."""
    both, either = overlaps
    there = either > 0
    return float((both[there] / either[there]).mean()) if there.any() else float("nan")


def mean_iou_estimate(overlaps: NDArray[np.float64], clusters: Sequence[str] | None) -> Estimate:
    """`mean_iou` of the sum of (n, 2, classes) and its interval."""
    return estimate(lambda w: mean_iou(np.tensordot(w, overlaps, 1)), len(overlaps), clusters)


def correlation(a: NDArray, b: NDArray) -> float:
    """Pearson's, over all values; 0 where one of them is the same everywhere."""
    return moments_correlation(moments(a, b))


def moments(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """(6,): the number of values, their sums, sums of squares, and of products; those of several images add up."""
    x, y = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    return np.array([len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y])


def moments_correlation(sums: NDArray[np.float64]) -> float:
    """`correlation` from `moments`."""
    n, x, y, xx, yy, xy = sums
    variances = (n * xx - x * x) * (n * yy - y * y)
    # sums of squares leave rounding errors of this order where nothing varies
    return float((n * xy - x * y) / np.sqrt(variances)) if variances > (1e-12 * n * n) ** 2 * xx * yy else 0.0


def pooled_correlation(sums: NDArray[np.float64], clusters: Sequence[str] | None) -> Estimate:
    """Correlation over all values of n images, from their `moments` (n, 6), and its interval."""

    def statistic(weights: Weights) -> float:
        return moments_correlation(weights @ sums) if not np.isnan(weights).any() else float("nan")

    return estimate(statistic, len(sums), clusters)
