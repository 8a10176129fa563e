"""What one pixel of a modality tells of the same pixel in another, in closed form [ours].

The linear guess takes all scenes for one Gaussian field. This one knows each pair of modalities by the places that show
both, and relations that are no straight lines: dark SAR is dark in near infrared, bright SAR can be anything.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

CHANNELS = 3
PRODUCTS = tuple((a, b) for a in range(CHANNELS) for b in range(a, CHANNELS))
FEATURES = 1 + CHANNELS + len(PRODUCTS)
RIDGE = 1e-4
"""Added to the mean squares: bands that are shown three times are one."""


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
        self.weights = nn.Parameter(torch.zeros(*shape, FEATURES, CHANNELS), requires_grad=False)
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
        features = polynomials(pictures.double())[number, best]  # float64: autocast leaves it alone
        found = torch.einsum("btfhw,btfc->btchw", features, self.weights[best, every].double())
        return found.float(), (self.explained[best, every] > 0) & (known[number, best] > 0)

    @property
    def is_fitted(self) -> bool:
        """Whether it knows anything."""
        return bool(self.explained.any())

    @torch.no_grad()
    def fit(self, places: Iterable[dict[int, Tensor]]) -> None:
        """Learn from places: pictures (3, h, w) of some modalities, by number."""
        count, device = len(self.weights), self.weights.device
        size = FEATURES + CHANNELS
        moments = torch.zeros(count, count, size, size, dtype=torch.float64, device=device)
        for place in places:
            for source, given in place.items():
                features = polynomials(given.double()).flatten(1)
                for target, wanted in place.items():
                    rows = torch.cat([features, wanted.double().flatten(1)])
                    moments[source, target] += rows @ rows.T
        for source in range(count):
            for target in range(count):
                if source != target and moments[source, target, 0, 0] > 0:
                    weights, explained = _least_squares(moments[source, target])
                    self.weights[source, target], self.explained[source, target] = weights, explained


def _least_squares(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (features, 3) and the share of variance explained, from sums of products of features and targets."""
    moments = moments / moments[0, 0]
    squares, products = moments[:FEATURES, :FEATURES], moments[:FEATURES, FEATURES:]
    targets = moments[FEATURES:, FEATURES:]
    weights = torch.linalg.solve(squares + RIDGE * torch.eye(FEATURES).to(squares), products)
    left = (targets - 2 * weights.T @ products + weights.T @ squares @ weights).diagonal()
    variance = targets.diagonal() - products[0].square()
    return weights, (1 - left.sum() / variance.sum().clamp(min=1e-9)).clamp(min=0)
