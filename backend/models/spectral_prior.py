"""What spectra say at first sight: the images of a scene as stationary Gaussian fields that belong together [ours].

A network that removes noise has to pass noise through exactly before it learns anything of what is there, and in a
scene to find out that its streams show one place. Both are linear: a Wiener filter over all streams, here in closed
form. The network adds the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

EDGES = (0.02, 0.04, 0.07, 0.11, 0.16, 0.22, 0.30, 0.40)
"""Cycles a sample at which bands end; the mean is a band of its own, and the last one has no end."""
BANDS = len(EDGES) + 2
ITERATIONS = 200
Matrix = NDArray[np.float64]


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve training too
def cosines(size: int, device: torch.device) -> Tensor:
    """The orthonormal type-II cosine transform of ``size`` samples, (size, size) float64: rows are frequencies."""
    at = torch.arange(size, dtype=torch.float64, device=device)
    table = torch.cos(torch.pi / size * (at + 0.5) * at[:, None]) * (2 / size) ** 0.5
    table[0] /= 2**0.5
    return table


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def band_members(rows: int, cols: int, device: torch.device) -> list[Tensor]:
    """Which coefficients of a (rows, cols) transform each band has: numbers into the flattened array."""
    down, across = (torch.arange(n, device=device) / (2 * n) for n in (rows, cols))
    frequency = torch.hypot(down[:, None], across[None]).flatten()
    band = torch.bucketize(frequency, torch.tensor(EDGES, device=device)) + (frequency > 0)
    return [(band == number).nonzero()[:, 0] for number in range(BANDS)]


class Known(NamedTuple):
    """What noisy coefficients x tell of z and noise in a band.

    ``gains``: coefficients of x to those of E[z] and E[noise], (batch, 2 * streams * channels, streams * channels);
    ``with_x``: covariance of z and noise with x, of the same shape; ``covariance``: of z.
    """

    gains: Tensor
    with_x: Tensor
    covariance: Tensor

    def left_over(self) -> Tensor:
        """Variance of z - noise when x is known, (batch, streams * channels).

        C + 1 - (C A - S) M^-1 (C A - S)^T, of which the diagonal.
        """
        gains, with_x = (z - noise for z, noise in (t.chunk(2, dim=1) for t in (self.gains, self.with_x)))
        return (self.covariance.diagonal(dim1=1, dim2=2) + 1 - (gains * with_x).sum(dim=2)).clamp(min=0)


class SpectralPrior(nn.Module):
    """Mean and cross-spectra of ``channels`` channels in each of some modalities; at first all is white noise.

    ``factor``: in each band of frequencies the covariance of cosine coefficients over (modality, channel) is
    factor factor^T, so that no rounding makes it indefinite; of the means for the first band. ``floor``: the variance
    of the noise that even clean streams count with, since modalities may be linear combinations of each other; of the
    first band it is that of the means, which are few to learn from.
    """

    def __init__(self, modalities: int, channels: int, floor: float = 1e-4) -> None:
        super().__init__()
        self.floor, every = floor, modalities * channels
        self.mean = nn.Parameter(torch.zeros(modalities, channels), requires_grad=False)
        white = torch.eye(every).reshape(modalities, channels, every)
        self.factor = nn.Parameter(white.repeat(BANDS, 1, 1, 1), requires_grad=False)

    @torch.no_grad()
    def parts(self, noisy: Tensor, modalities: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """E[z] and E[noise] given alpha z + sigma noise of all streams of a place, in float64.

        ``noisy``: (batch, streams, channels, h, w); the others: (batch, streams). What lies outside is taken for
        mirrored.
        """
        batch, streams, channels, rows, cols = noisy.shape
        mean = self.mean[modalities].double()[..., None, None]
        seen = noisy.double() - alpha.double()[..., None, None, None] * mean
        down, across = cosines(rows, noisy.device), cosines(cols, noisy.device)
        spectrum = (down @ seen @ across.T).reshape(batch, streams * channels, rows * cols)
        found = spectrum.new_zeros(batch, 2 * streams * channels, rows * cols)
        for band, members in enumerate(band_members(rows, cols, noisy.device)):
            gains = self._known(band, rows * cols, modalities, alpha, sigma).gains
            found[..., members] = gains @ spectrum[..., members]
        z, noise = (down.T @ found.reshape(batch, 2, streams, channels, rows, cols) @ across).unbind(1)
        return z + mean, noise

    @torch.no_grad()
    def left_over(self, modalities: Tensor, alpha: Tensor, sigma: Tensor, rows: int, cols: int) -> Tensor:
        """Variance of the cosine coefficients of z - noise that `parts` leaves: (batch, streams, channels, h, w)."""
        batch, streams = modalities.shape
        found = alpha.new_zeros(batch, streams, self.mean.shape[1], rows * cols)
        for band, members in enumerate(band_members(rows, cols, alpha.device)):
            variance = self._known(band, rows * cols, modalities, alpha, sigma).left_over()
            found[..., members] = variance.unflatten(1, (streams, -1)).to(found)[..., None]
        return found.unflatten(-1, (rows, cols))

    def _known(self, band: int, pixels: int, modalities: Tensor, alpha: Tensor, sigma: Tensor) -> Known:
        """What x = A z + S noise tells of one band of images of so many pixels; A and S: alpha and sigma on diagonals.

        With C the covariance of z and M = A C A + S^2 that of x: E[z] = C A M^-1 x and E[noise] = S M^-1 x.
        """
        power = pixels if band == 0 else 1
        factor = self.factor[band][modalities].flatten(1, 2).double()
        a, s = (v.double().repeat_interleave(self.mean.shape[1], dim=1) for v in (alpha, sigma))
        covariance = power * (factor @ factor.mT)
        z_with_x = covariance * a[:, None]
        with_x = torch.cat([z_with_x, torch.diag_embed(s)], dim=1)
        of_x = a[..., None] * z_with_x + torch.diag_embed(s.square() + power * self.floor)
        return Known(torch.linalg.solve(of_x, with_x, left=False), with_x, covariance)

    def expected(self, known: Tensor, modalities: Tensor, targets: int) -> Tensor:
        """E[z] of the last ``targets`` of ``modalities`` (batch, streams), given the streams before those, float64."""
        unknown = known.new_zeros(len(known), targets, *known.shape[2:])
        clean = (torch.arange(modalities.shape[1], device=known.device) < known.shape[1]).double()
        clean = clean.expand(modalities.shape)
        return self.parts(torch.cat([known, unknown], dim=1), modalities, clean, 1 - clean)[0][:, known.shape[1]:]

    @property
    def is_fitted(self) -> bool:
        """Whether it knows anything."""
        return bool(self.mean.any())

    @torch.no_grad()
    def fit(self, places: list[dict[int, Tensor]]) -> None:
        """Learn from places: images (channels, h, w) of some modalities, by number; no place need show all."""
        channels = self.mean.shape[1]
        every = self.mean.numel()
        together: dict[tuple[int, ...], list[Moments]] = {}
        for place in places:
            shown = tuple(sorted(place))
            by_band = self._by_band(place, shown)
            kept = together.setdefault(shown, [Moments.none(rows.shape[1]) for rows in by_band])
            together[shown] = [m.and_of(rows) for m, rows in zip(kept, by_band)]
        for band in range(BANDS):
            moments = [(_columns(shown, channels), of[band]) for shown, of in together.items()]
            if band == 0:
                moments = [(np.append(columns, every), of) for columns, of in moments]
                mean, found = affine_covariance(moments, every, self.floor)
                self.mean.copy_(torch.from_numpy(mean).reshape(self.mean.shape))
            else:
                found = covariance(moments, every, self.floor)
            values, vectors = np.linalg.eigh(found)
            factor = torch.from_numpy(vectors * np.sqrt(values.clip(0)))
            self.factor[band] = factor.reshape(self.factor.shape[1:])

    def _by_band(self, place: dict[int, Tensor], shown: tuple[int, ...]) -> list[Matrix]:
        """Coefficients of each band, (n, channels of all modalities); of the first, the means and a 1."""
        images = torch.cat([place[m].double() for m in shown])
        rows, cols = images.shape[1:]
        spectrum = (cosines(rows, images.device) @ images @ cosines(cols, images.device).T).flatten(1)
        found = [spectrum[:, members].T.cpu().numpy() for members in band_members(rows, cols, images.device)]
        return [np.append(found[0] / (rows * cols) ** 0.5, [[1.0]], axis=1), *found[1:]]


class Moments(NamedTuple):
    """How many rows were seen, and the sum of their outer products."""

    rows: int
    products: Matrix

    @classmethod
    def none(cls, size: int) -> Moments:
        """Of no rows yet."""
        return cls(0, np.zeros((size, size)))

    def and_of(self, rows: Matrix) -> Moments:
        """These and those of some more rows (n, size)."""
        return Moments(self.rows + len(rows), self.products + rows.T @ rows)


def covariance(moments: list[tuple[NDArray[np.int64], Moments]], size: int, floor: float) -> Matrix:
    """The likeliest covariance of ``size`` numbers never seen all at once, by expectation and maximisation.

    ``moments``: which numbers were seen together, and what of them. What was never seen stays of unit variance by
    itself; two numbers that were never seen together are related by what both were seen with.
    """
    total = sum(m.rows for _, m in moments)
    found = np.eye(size)
    for _ in range(ITERATIONS):
        expected = np.zeros((size, size))
        for columns, (count, products) in moments:
            known = found[np.ix_(columns, columns)] + floor * np.eye(len(columns))
            guess = np.linalg.solve(known, found[columns]).T
            expected += guess @ products @ guess.T + count * (found - guess @ found[columns])
        found = (expected + expected.T) / (2 * max(total, 1))
    return found


def affine_covariance(
    moments: list[tuple[NDArray[np.int64], Moments]], size: int, floor: float
) -> tuple[Matrix, Matrix]:
    """Mean (size,) and covariance of numbers of which the last one seen is always 1.

    What is known with the 1 tells the mean of what is not: places that show a modality are not as bright as all others.
    """
    found = covariance(moments, size + 1, floor)
    mean = found[:size, size] / found[size, size]
    return mean, found[:size, :size] - np.outer(mean, mean) * found[size, size]


def _columns(modalities: Iterable[int], size: int) -> NDArray[np.int64]:
    """Where the numbers of some modalities stand."""
    return np.concatenate([np.arange(size, dtype=np.int64) + m * size for m in modalities])
