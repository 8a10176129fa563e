"""What one pixel of a modality tells of the same pixel in another, in closed form [ours].

The linear guess takes all scenes for one Gaussian field. This one knows each pair of modalities by the places that show
both, and relations that are no straight lines: dark SAR is dark in near infrared, bright SAR can be anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from backend.models.scene_regression import PICTURE_CHANNELS
from backend.models.spectral_prior import Matrix, Moments

PRODUCTS = tuple(itertools.combinations_with_replacement(range(PICTURE_CHANNELS), 2))
FEATURES = 1 + PICTURE_CHANNELS + len(PRODUCTS)
RIDGE = 1e-4
"""Added to the mean squares: bands that are shown three times are one."""
ALL = 0.999
"""Of the variance: what is so explained by one modality was computed from it, or might have been."""


def polynomials(pictures: Tensor) -> Tensor:
    """1, the channels, and their products of two: (..., 3, h, w) -> (..., 10, h, w)."""
    channels = pictures.unbind(dim=-3)
    products = [channels[a] * channels[b] for a, b in PRODUCTS]
    return torch.stack([torch.ones_like(channels[0]), *channels, *products], dim=-3)


class PixelGuess(nn.Module):
    """Least squares from each modality's picture to each other's.

    ``weights``: (from, to, features, 3). ``explained``: (from, to), the share of the variance that is so explained in
    training, mean over channels; 0 for pairs that no place shows.
    """

    def __init__(self, modalities: int) -> None:
        super().__init__()
        shape = (modalities, modalities)
        self.weights = nn.Parameter(torch.zeros(*shape, FEATURES, PICTURE_CHANNELS), requires_grad=False)
        self.explained = nn.Parameter(torch.zeros(shape), requires_grad=False)

    def best(self, known: Tensor) -> Tensor:
        """Which of the ``known`` modalities (batch, modalities) tells most of each: (batch, modalities) numbers."""
        told = self.explained[None] * known[:, :, None]
        return told.argmax(dim=1)

    def forward(self, pictures: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures of all modalities, each as the best known one tells, float32, and where one does.

        ``pictures``: (batch, modalities, 3, h, w); ``known``: (batch, modalities), 1 or 0. The second: (batch,
        modalities), false where no known modality was seen together with that one.
        """
        best = self.best(known)
        number = torch.arange(len(best), device=best.device)[:, None]
        every = torch.arange(best.shape[1], device=best.device)
        features = polynomials(pictures[number, best].double())  # float64: autocast leaves it alone
        found = torch.einsum("btfhw,btfc->btchw", features, self.weights[best, every].double())
        return found.float(), (self.explained[best, every] > 0) & (known[number, best] > 0)

    def tells_all(self, known: Tensor) -> Tensor:
        """Of which modalities the best of the ``known`` ones tells every pixel: (batch, modalities) of both."""
        return (self.explained[None] * known[:, :, None]).amax(dim=1) > ALL

    @property
    def is_fitted(self) -> bool:
        """Whether it knows anything."""
        return bool(self.explained.any())

    @torch.no_grad()
    def fit(self, places: Iterable[dict[int, Tensor]]) -> None:
        """Learn from places: pictures (3, h, w) of some modalities, by number."""
        together: dict[tuple[int, int], Moments] = {}
        for place in places:
            for (source, given), (target, wanted) in itertools.permutations(place.items(), 2):
                rows = torch.cat([polynomials(given.double()), wanted.double()]).flatten(1).T.cpu().numpy()
                known = together.get((source, target), Moments.none(FEATURES + PICTURE_CHANNELS))
                together[source, target] = known.and_of(rows)
        for pair, moments in together.items():
            weights, explained = _least_squares(moments)
            self.weights[pair], self.explained[pair] = torch.from_numpy(weights), explained


def _least_squares(moments: Moments) -> tuple[Matrix, float]:
    """Weights (features, 3) and the share of variance explained, of rows of features and targets."""
    means = moments.products / moments.rows
    squares, products, targets = means[:FEATURES, :FEATURES], means[:FEATURES, FEATURES:], means[FEATURES:, FEATURES:]
    weights = np.asarray(np.linalg.solve(squares + RIDGE * np.eye(FEATURES), products), np.float64)
    left = np.trace(targets - 2 * weights.T @ products + weights.T @ squares @ weights)
    variance = np.trace(targets) - np.square(products[0]).sum()
    return weights, max(0.0, float(1 - left / max(variance, 1e-9)))
