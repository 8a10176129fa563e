"""What a place's patches say of each other at first sight: all modalities of a patch as one Gaussian [ours].

A flow network has to pass noise through exactly and to find out that streams show one place, before it learns anything
of what is there. Both are linear, and here in closed form; what is left to the network is the rest.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

ITERATIONS = 200
Matrix = NDArray[np.float64]


class GaussianPrior(nn.Module):
    """Mean and covariance of the ``size`` numbers of a patch in each of some modalities; at first all independent.

    ``factor``: the covariance is factor factor^T over (modality, number), so that no rounding makes it indefinite.
    ``floor``: the variance of the noise that even clean streams count with, since modalities may be linear combinations
    of each other.
    """

    def __init__(self, modalities: int, size: int, floor: float = 1e-3) -> None:
        super().__init__()
        self.floor, every = floor, modalities * size
        self.mean = nn.Parameter(torch.zeros(modalities, size), requires_grad=False)
        self.factor = nn.Parameter(torch.eye(every).reshape(modalities, size, every), requires_grad=False)

    @torch.no_grad()
    def velocities(self, patches: Tensor, modalities: Tensor, times: Tensor) -> Tensor:
        """E[z - noise] given t z + (1 - t) noise of all streams of the same patch: (batch, streams, tokens, size).

        With C the covariance and T the times on a diagonal: E[z] = C T M^-1 x and E[noise] = (1 - T) M^-1 x, where
        M = T C T + (1 - T)^2 is the covariance of x. Computed and returned in float64.
        """
        streams, tokens, size = patches.shape[1:]
        factor = self.factor[modalities].flatten(1, 2).double()
        mean = self.mean[modalities].double()[:, :, None]
        t = times.double().repeat_interleave(size, dim=1)[..., None]
        scaled = t * (factor @ factor.mT)
        noisy = scaled * t.mT + torch.diag_embed((1 - t[..., 0]).square() + self.floor)
        both = torch.linalg.solve(noisy, scaled - torch.diag_embed(1 - t[..., 0]))
        seen = patches.double() - times.double()[:, :, None, None] * mean
        flat = seen.transpose(1, 2).reshape(len(patches), tokens, streams * size) @ both
        return flat.reshape(len(patches), tokens, streams, size).transpose(1, 2) + mean

    def expected(self, patches: Tensor, modalities: Tensor, targets: int) -> Tensor:
        """E[z] of the last ``targets`` of ``modalities`` (batch, streams), given the patches of those before."""
        batch, known, tokens, size = patches.shape
        unknown = patches.new_zeros(batch, targets, tokens, size)
        times = (torch.arange(known + targets, device=patches.device) < known).float().expand(batch, -1)
        return self.velocities(torch.cat([patches, unknown], dim=1), modalities, times)[:, known:]

    @property
    def is_fitted(self) -> bool:
        """Whether it knows anything."""
        return bool(self.mean.any())

    @torch.no_grad()
    def fit(self, places: Iterable[dict[int, Tensor]]) -> None:
        """Learn from places: the patches (tokens, size) of some modalities, by number; no place shows all."""
        count, size = self.mean.shape
        gathered: dict[tuple[int, ...], list[Tensor]] = {}
        for place in places:
            shown = tuple(sorted(place))
            gathered.setdefault(shown, []).append(torch.cat([place[m].double().cpu() for m in shown], dim=1))
        together = {shown: torch.cat(parts).numpy() for shown, parts in gathered.items()}
        mean = np.zeros((count, size))
        for modality in range(count):
            seen = [x[:, _columns([shown.index(modality)], size)] for shown, x in together.items() if modality in shown]
            if seen:
                mean[modality] = np.concatenate(seen).mean(axis=0)
        moments = []
        for shown, x in together.items():
            centred = x - mean[list(shown)].ravel()
            moments.append((_columns(shown, size), len(x), centred.T @ centred / len(x)))
        values, vectors = np.linalg.eigh(covariance(moments, count * size, self.floor))
        factor = vectors * np.sqrt(values.clip(0))
        self.mean.copy_(torch.from_numpy(mean))
        self.factor.copy_(torch.from_numpy(factor).reshape(self.factor.shape))


def covariance(moments: list[tuple[NDArray[np.int64], int, Matrix]], size: int, floor: float) -> Matrix:
    """The likeliest covariance of ``size`` numbers never seen all at once, by expectation and maximisation.

    ``moments``: which numbers were seen together, how often, and their covariance. What was never seen stays of unit
    variance by itself; two numbers that were never seen together are related by what both were seen with.
    """
    total = sum(count for _, count, _ in moments)
    found = np.eye(size)
    for _ in range(ITERATIONS):
        expected = np.zeros((size, size))
        for columns, count, seen in moments:
            known = found[np.ix_(columns, columns)] + floor * np.eye(len(columns))
            guess = np.linalg.solve(known, found[columns]).T
            expected += count / total * (guess @ seen @ guess.T + found - guess @ found[columns])
        found = (expected + expected.T) / 2
    return found


def _columns(modalities: Iterable[int], size: int) -> NDArray[np.int64]:
    """Where the numbers of some modalities stand."""
    return np.concatenate([np.arange(size, dtype=np.int64) + m * size for m in modalities])
