"""Estimates with bootstrap intervals: how far a figure would move had other places been drawn.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 (percentile interval) and 8 (clusters).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]
"""(n,): how often each item was drawn; all ones for the sample itself."""

DRAWS = 1000
LEVEL = 0.95
FEWEST_CLUSTERS = 5
"""Fewer say nothing of how clusters vary; items are drawn instead."""


@dataclass(frozen=True)
class Estimate:
    """A figure, the two ends of its 95 % interval, and the number of items that it was made from."""

    value: float
    low: float
    high: float
    n: int

    def covers(self, truth: float) -> bool:
        """Whether ``truth`` lies in the interval."""
        return self.low <= truth <= self.high

    def times(self, factor: float) -> Estimate:
        """The estimate in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.n)


def multiplicities(n: int, clusters: Sequence[str] | None, draws: int, seed: int) -> Weights:
    """(draws, n): how often each of n items comes up in each draw with replacement; clusters come up as a whole.

    ``clusters`` names the cluster of each item; None, or fewer than five different ones: items are drawn one by one.
    One item alone tells nothing of how others would vary: its weights, and the intervals made of them, are no numbers.
    """
    if n < 2:
        return np.full((draws, n), np.nan)
    names, member = np.unique(clusters if clusters is not None else np.arange(n), return_inverse=True)
    if clusters is not None and len(names) < FEWEST_CLUSTERS:
        names, member = np.arange(n), np.arange(n)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return drawn[:, member].astype(np.float64)


def percentile_interval(values: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """The middle ``level`` of bootstrap values; those that are no numbers are left out. Not numbers where all are."""
    if np.isnan(values).all():
        return float("nan"), float("nan")
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(values, (tail, 100 - tail))
    return float(low), float(high)


def centred_interval(value: float, drawn: NDArray[np.float64]) -> tuple[float, float]:
    """The interval of bootstrap values shifted so that their mean is ``value``.

    For statistics whose bias grows when items repeat, such as the Fréchet distance: the interval then tells the spread
    and carries the same bias as the value.
    """
    return percentile_interval(drawn + value - np.nanmean(drawn))


def estimate(
    statistic: Callable[[Weights], float],
    n: int,
    clusters: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """``statistic`` of n items, a function of their weights, and its percentile bootstrap interval."""
    drawn = np.array([statistic(w) for w in multiplicities(n, clusters, draws, seed)])
    return Estimate(float(statistic(np.ones(n))), *percentile_interval(drawn), n)


def mean_estimate(values: Sequence[float] | NDArray, clusters: Sequence[str] | None = None, seed: int = 0) -> Estimate:
    """The mean of (n,) values and its interval."""
    array = np.asarray(values, np.float64)
    weights = multiplicities(len(array), clusters, DRAWS, seed)
    interval = percentile_interval(weights @ array / weights.sum(axis=1))
    return Estimate(float(array.mean()), *interval, len(array))


def paired_difference(
    a: Sequence[float] | NDArray, b: Sequence[float] | NDArray, clusters: Sequence[str] | None = None, seed: int = 0
) -> Estimate:
    """The mean of a - b over the same n items and its interval."""
    return mean_estimate(np.asarray(a, np.float64) - np.asarray(b, np.float64), clusters, seed)


def crossed_mean(values: NDArray, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """The mean of (seeds, items) and its interval where both other seeds and other items might have been drawn.

    Both are drawn with replacement, independently (the crossed or "pigeonhole" bootstrap, Owen 2007). Values that are
    no numbers are items that a seed did not have.
    """
    rows, cols = values.shape
    by_row = multiplicities(rows, None, draws, seed) / rows
    by_col = multiplicities(cols, None, draws, seed + 1) / cols
    there = ~np.isnan(values)
    total, weight = (
        np.einsum("dr,rc,dc->d", by_row, part.astype(np.float64), by_col, optimize=True)
        for part in (np.where(there, values, 0), there)
    )
    with np.errstate(invalid="ignore"):
        drawn = total / weight
    return Estimate(float(values[there].mean()), *percentile_interval(drawn), int(there.any(axis=0).sum()))
