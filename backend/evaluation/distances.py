"""Distances between two sets of feature vectors: Fréchet distance and unbiased polynomial-kernel MMD^2 (KID).

The Fréchet distance of two finite samples of one distribution is above 0: its bias falls as 1/n and grows with the
number of features. Compare only figures of equal n, or take the kernel distance, which has no bias at any n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from backend.evaluation.statistics import (
    DRAWS,
    Estimate,
    Weights,
    centred_interval,
    multiplicities,
    percentile_interval,
)

Features = NDArray[np.float64]
"""(n, d)"""

FRECHET_DRAWS = 200


def frechet_distance(
    a: Features, b: Features, weights_a: Weights | None = None, weights_b: Weights | None = None
) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2) of two samples' means and covariances.

    Heusel et al. 2017 (arXiv 1706.08500), eq. 6. ``weights``: (n,), how often each row counts.
    """
    mean_a, root_a = _mean_and_root(a, weights_a)
    mean_b, root_b = _mean_and_root(b, weights_b)
    cross = _trace_of_root(root_a, root_b)
    return float(np.square(mean_a - mean_b).sum() + np.square(root_a).sum() + np.square(root_b).sum() - 2 * cross)


def _mean_and_root(features: Features, weights: Weights | None) -> tuple[NDArray[np.float64], Features]:
    """(d,) mean, and R with R^T R = the unbiased covariance."""
    features = np.asarray(features, np.float64)
    w = np.ones(len(features)) if weights is None else weights
    mean = w @ features / w.sum()
    drawn = w > 0
    return mean, np.sqrt(w[drawn] / (w.sum() - 1))[:, None] * (features[drawn] - mean)


def _trace_of_root(a: Features, b: Features) -> float:
    """tr((C_a^1/2 C_b C_a^1/2)^1/2) with C = R^T R, in float64, without a root of a matrix that is not symmetric.

    Few rows: it is the sum of the singular values of R_a R_b^T, whose squares are the same eigenvalues.
    """
    if min(len(a), len(b)) <= a.shape[1]:
        return float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    values, vectors = np.linalg.eigh(a.T @ a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = root @ (b.T @ b) @ root
    return float(np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(min=0)).sum())


def frechet_estimate(
    a: Features,
    b: Features,
    pairs: bool = False,
    clusters: Sequence[str] | None = None,
    draws: int = FRECHET_DRAWS,
    seed: int = 0,
    clusters_b: Sequence[str] | None = None,
) -> Estimate:
    """The Fréchet distance of (n, d) and (m, d) and the interval of its spread; the bias at this n is in both.

    ``pairs``: b_i was made from a_i, and the two are drawn together; ``clusters``: whole clusters of a are drawn, of b
    ``clusters_b``, where b is independent.
    """
    value = frechet_distance(a, b)
    drawn = [frechet_distance(a, b, *w) for w in zip(*_drawn(len(a), len(b), pairs, clusters, draws, seed, clusters_b))]
    low, high = centred_interval(value, np.array(drawn))
    return Estimate(value, max(0.0, low), high, min(len(a), len(b)))  # a distance is never below 0


def frechet_difference(
    real: Features, a: Features, b: Features, clusters: Sequence[str], draws: int = FRECHET_DRAWS, seed: int = 0
) -> Estimate:
    """Distance of a to the real images less that of b, row i of all three of one place; the same places are drawn."""
    value = frechet_distance(real, a) - frechet_distance(real, b)
    drawn, _ = _drawn(len(real), len(real), True, clusters, draws, seed)
    values = np.array([frechet_distance(real, a, w, w) - frechet_distance(real, b, w, w) for w in drawn])
    return Estimate(value, *centred_interval(value, values), len(real))


def _drawn(
    n: int,
    m: int,
    pairs: bool,
    clusters: Sequence[str] | None,
    draws: int,
    seed: int,
    clusters_b: Sequence[str] | None = None,
) -> tuple[Weights, Weights]:
    """(draws, n) and (draws, m): how often each row of the two sets is drawn."""
    of_a = multiplicities(n, clusters, draws, seed)
    return of_a, of_a if pairs else multiplicities(m, clusters_b, draws, seed + 1)


def frechet_at_infinity(a: Features, b: Features, seed: int = 0, sizes: int = 8, repeats: int = 4) -> float | None:
    """The Fréchet distance extrapolated to n -> infinity; None with fewer than 2 d rows, where the line is no line.

    Distances of random subsets of n/2 .. n rows are fitted by a line over 1/n (Chong and Forsyth 2020,
    arXiv 1911.07023).
    """
    n = min(len(a), len(b))
    if n < 2 * a.shape[1]:
        return None
    rng = np.random.default_rng(seed)
    counts = np.repeat(np.linspace(n // 2, n, sizes).astype(int), repeats)
    values = [frechet_distance(rng.permutation(a)[:k], rng.permutation(b)[:k]) for k in counts]
    return float(np.polyfit(1 / counts, values, 1)[1])


def polynomial_kernel(a: Features, b: Features) -> NDArray[np.float64]:
    """(n, m): k(x, y) = (x.y / d + 1)^3, the kernel of KID."""
    return (np.asarray(a, np.float64) @ np.asarray(b, np.float64).T / a.shape[1] + 1) ** 3


def kernel_distance(
    a: Features,
    b: Features,
    pairs: bool = False,
    clusters: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    clusters_b: Sequence[str] | None = None,
) -> Estimate:
    """Unbiased MMD^2 with KID's kernel (Binkowski et al. 2018, arXiv 1801.01401) and a bootstrap interval.

    ``pairs``: b_i was made from a_i, so that the two are not independent; products of i with itself are then left out
    everywhere (the one-sample U-statistic of Gretton et al. 2012, JMLR 13, eq. 4) and rows are drawn together. With
    ``clusters`` (of b ``clusters_b``, where b is independent), whole clusters are left out and drawn: their rows are no
    independent samples either. What is drawn twice is never compared with itself, so that the bootstrap has no bias.
    """
    values = _discrepancy(a, b, pairs, clusters, clusters_b)
    drawn_a, drawn_b = _drawn(len(a), len(b), pairs, clusters, draws, seed, clusters_b)
    value = float(values(np.ones((1, len(a))), np.ones((1, len(b))))[0])
    return Estimate(value, *percentile_interval(values(drawn_a, drawn_b)), min(len(a), len(b)))


def kernel_difference(
    real: Features,
    a: Features,
    b: Features,
    share: float = 1.0,
    clusters: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Kernel distance of a to the real images less ``share`` times that of b; below 0: a is nearer.

    Row i of all three is of one image; the same images, or whole clusters of them, are drawn for both distances.
    """
    of_a, of_b = _discrepancy(real, a, True, clusters), _discrepancy(real, b, True, clusters)
    every = np.ones((1, len(real)))
    drawn, _ = _drawn(len(real), len(real), True, clusters, draws, seed)
    value = float((of_a(every, every) - share * of_b(every, every))[0])
    return Estimate(value, *percentile_interval(of_a(drawn, drawn) - share * of_b(drawn, drawn)), len(real))


def _discrepancy(
    a: Features,
    b: Features,
    pairs: bool,
    clusters: Sequence[str] | None,
    clusters_b: Sequence[str] | None = None,
) -> Callable[[Weights, Weights], NDArray[np.float64]]:
    """(draws, n) and (draws, m) weights of the rows -> (draws,) unbiased MMD^2."""
    of_a = _related(len(a), clusters)
    of_b = of_a if pairs else _related(len(b), clusters_b)
    within_a, within_b, across = (polynomial_kernel(*p) for p in ((a, a), (b, b), (a, b)))
    within_a[of_a[:, None] == of_a] = 0
    within_b[of_b[:, None] == of_b] = 0
    if pairs:
        across[of_a[:, None] == of_a] = 0

    def values(wa: Weights, wb: Weights) -> NDArray[np.float64]:
        norm_a, norm_b = (w.sum(axis=1) ** 2 - _squares_of_clusters(w, of) for w, of in ((wa, of_a), (wb, of_b)))
        norm_across = norm_a if pairs else wa.sum(axis=1) * wb.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (
                ((wa @ within_a) * wa).sum(axis=1) / norm_a
                + ((wb @ within_b) * wb).sum(axis=1) / norm_b
                - 2 * ((wa @ across) * wb).sum(axis=1) / norm_across
            )

    return values


def _related(n: int, clusters: Sequence[str] | None) -> NDArray[np.intp]:
    """(n,): rows of one number are not compared; of one cluster alone each row has a number of its own."""
    if clusters is None or len(set(clusters)) < 2:
        return np.arange(n)
    return np.unique(clusters, return_inverse=True)[1]


def _squares_of_clusters(weights: Weights, member: NDArray[np.intp]) -> NDArray[np.float64]:
    """(draws,): the squared sum of each cluster's weights, summed over clusters."""
    starts = np.flatnonzero(np.diff(np.sort(member), prepend=-1))
    sums = np.add.reduceat(weights[:, np.argsort(member, kind="stable")], starts, axis=1)
    return np.square(sums).sum(axis=1)
