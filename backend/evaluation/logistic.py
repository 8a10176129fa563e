"""Multinomial logistic regression on frozen features: the linear probe (Alain and Bengio, arXiv 1610.01644)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

STRENGTHS = tuple(10.0**k for k in range(1, -5, -1))
"""Of the penalty strength / 2 |W|^2 on the mean cross-entropy, strongest first."""
FOLDS = 3
ROUGH, FINE = 1e-4, 1e-6
"""The gradient at which a fit ends: where only strengths are compared, and in the end."""


@dataclass(frozen=True)
class LogisticRegression:
    """Scores (x - mean) / scale W + b; ``strength`` is that of the penalty it was fitted with."""

    mean: Array
    scale: Array
    weights: Array
    bias: Array
    strength: float

    def predict(self, features: NDArray) -> Labels:
        """(n, d) -> (n,) numbers of classes."""
        scores = (features.astype(np.float64) - self.mean) / self.scale @ self.weights + self.bias
        return scores.argmax(axis=1)


def fit_probe(features: NDArray, labels: Labels, classes: int, seed: int = 0) -> LogisticRegression:
    """The regression on (n, d) standardised features whose penalty predicts held-out folds best (cross-entropy)."""
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale[scale < 1e-9 * (1 + np.abs(mean))] = 1
    x, y = (features - mean) / scale, torch.from_numpy(labels)
    basis = _row_space(x)
    inputs = torch.from_numpy(x @ basis)
    strength = _chosen_strength(inputs, y, classes, folds_of(labels, FOLDS, seed))
    start = torch.zeros(inputs.shape[1] + 1, classes, dtype=torch.float64)
    fitted = _fit(inputs, y, strength, start, FINE).numpy()
    return LogisticRegression(mean, scale, basis @ fitted[:-1], fitted[-1], strength)


def folds_of(labels: Labels, count: int, seed: int) -> Labels:
    """(n,): the fold of each example; every class is spread evenly over them."""
    fold, rng = np.empty(len(labels), np.int64), np.random.default_rng(seed)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        fold[members] = np.arange(len(members)) % count
    return fold


def _row_space(x: Array) -> Array:
    """(d, k) orthonormal: where n < d, the penalised weights lie in the span of the n examples."""
    if x.shape[0] >= x.shape[1]:
        return np.eye(x.shape[1])
    return np.linalg.svd(x, full_matrices=False)[2].T


def _chosen_strength(x: Tensor, y: Tensor, classes: int, fold: Labels) -> float:
    losses = np.zeros(len(STRENGTHS))
    for held_out in np.unique(fold):
        out = torch.from_numpy(fold == held_out)
        weights = torch.zeros(x.shape[1] + 1, classes, dtype=torch.float64)
        for place, strength in enumerate(STRENGTHS):
            weights = _fit(x[~out], y[~out], strength, weights, ROUGH)
            losses[place] += float(F.cross_entropy(_scores(x[out], weights), y[out], reduction="sum"))
    return STRENGTHS[int(losses.argmin())]


def _scores(x: Tensor, weights: Tensor) -> Tensor:
    return x @ weights[:-1] + weights[-1]


def _fit(x: Tensor, y: Tensor, strength: float, start: Tensor, tolerance: float) -> Tensor:
    """(d + 1, classes): weights, and the bias last, which has no penalty."""
    weights = start.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=300, tolerance_grad=tolerance, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(_scores(x, weights), y) + strength / 2 * weights[:-1].square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return weights.detach()
