"""The plainest translation between modalities: each pixel by itself, a polynomial of its bands.

Images are regressed by least squares; the classes of a map by multinomial logistic regression. A map as input is one
number a class.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from backend.scene.modality import Modality

Values = NDArray[np.float32]
"""(n, bands), 0 to 255, or class numbers."""
RIDGE = 1e-6
ITERATIONS = 200


def polynomial(pixels: Values, modality: Modality, degree: int) -> NDArray[np.float64]:
    """(n, features): all products of up to ``degree`` bands in [-1, 1], or which class a pixel has."""
    if modality.is_map:
        return np.stack([pixels[:, 0] == c.value for c in modality.classes], axis=1).astype(np.float64)
    bands = pixels.astype(np.float64) / 127.5 - 1
    chosen = itertools.chain.from_iterable(
        itertools.combinations_with_replacement(range(bands.shape[1]), d) for d in range(1, degree + 1)
    )
    return np.stack([np.ones(len(bands)), *(bands[:, list(c)].prod(axis=1) for c in chosen)], axis=1)


@dataclass(frozen=True)
class PixelRegression:
    """A fitted regression; ``weights``: (features, bands or classes of the target)."""

    source: Modality
    target: Modality
    degree: int
    weights: NDArray[np.float64]

    def __call__(self, values: Values) -> Values:
        """(bands, rows, cols) of the source -> (bands, rows, cols) of the target, rounded."""
        rows, cols = values.shape[1:]
        found = polynomial(values.reshape(len(values), -1).T, self.source, self.degree) @ self.weights
        if self.target.is_map:
            numbers = np.array([c.value for c in self.target.classes], np.float32)
            return numbers[found.argmax(axis=1)].reshape(1, rows, cols)
        return np.rint(found).clip(0, 255).astype(np.float32).T.reshape(-1, rows, cols)


def fit(source: Modality, target: Modality, given: Values, wanted: Values, degree: int) -> PixelRegression:
    """The regression of pixels (n, bands) from the same pixels in another modality."""
    features = polynomial(given, source, degree)
    fitting = _logistic if target.is_map else _least_squares
    return PixelRegression(source, target, degree, fitting(features, wanted, target))


def _least_squares(features: NDArray[np.float64], wanted: Values, target: Modality) -> NDArray[np.float64]:
    normal = features.T @ features + RIDGE * np.eye(features.shape[1])
    return np.asarray(np.linalg.solve(normal, features.T @ wanted.astype(np.float64)), np.float64)


def _logistic(features: NDArray[np.float64], wanted: Values, target: Modality) -> NDArray[np.float64]:
    """Maximum likelihood with a slight pull to zero, by L-BFGS."""
    x = torch.from_numpy(features)
    y = torch.from_numpy(polynomial(wanted, target, 1).argmax(axis=1))
    weights = torch.zeros(features.shape[1], len(target.classes), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(x @ weights, y) + RIDGE * weights.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return weights.detach().numpy()
