"""Where the fine detail is: maps of local energy, their correlation, and a regression that predicts them.

A generated image need not repeat the real one's detail, but detail should be where it is in reality: trees where trees
are, none on the water. How much of that can be told from the input without any network is the bar.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.float32]
"""(bands, rows, cols) in 0..255."""
Maps = NDArray[np.float64]
"""(maps, points): values on a grid of one point every `STEP` pixels, row by row."""

WINDOW_SD = 8.0
"""Standard deviation of the Gaussian window in pixels: it sees some 16 x 16 of them."""
STEP = 8
FLOOR = 1 / 12
"""Variance in squared grey levels that rounding to 8 bits alone gives; less energy than that tells nothing."""
FOLDS = 10
RIDGE = 1e-3


def band_passed(image: Image, edges: Sequence[float]) -> Tensor:
    """(bands between ``edges``, image bands, rows, cols): the image in each interval of radial frequency.

    ``edges`` in cycles a pixel, rising; the image is mirrored at its edges, so that none of them has energy of its own.
    """
    mirrored = torch.from_numpy(np.pad(image, [(0, 0), *((0, n) for n in image.shape[1:])], mode="symmetric"))
    rows, cols = mirrored.shape[1:]
    spectrum = torch.fft.rfft2(mirrored.float())
    radius = torch.hypot(torch.fft.fftfreq(rows)[:, None], torch.fft.rfftfreq(cols)[None, :])
    masks = [(radius > low) & (radius <= high) for low, high in itertools.pairwise(edges)]
    passed = torch.stack([torch.fft.irfft2(spectrum * mask, s=(rows, cols)) for mask in masks])
    return passed[..., :image.shape[1], :image.shape[2]]


def smoothed(values: Tensor) -> Tensor:
    """(n, rows, cols) under the Gaussian window, mirrored at the edges."""
    reach = min(round(3 * WINDOW_SD), min(values.shape[1:]) - 1)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / WINDOW_SD) ** 2)
    weights = weights / weights.sum()
    padded = F.pad(values[:, None], (reach,) * 4, mode="reflect")
    across = F.conv2d(padded, weights.view(1, 1, 1, -1))
    return F.conv2d(across, weights.view(1, 1, -1, 1))[:, 0]


def _on_grid(maps: Tensor) -> Maps:
    return maps[:, STEP // 2::STEP, STEP // 2::STEP].reshape(len(maps), -1).double().numpy()


def _log_energy(squares: Tensor) -> Tensor:
    """The logarithm, so that one bright roof does not outweigh all else."""
    return torch.log(smoothed(squares) + FLOOR)


def energy_maps(image: Image, edges: Sequence[float] = (0.125, 0.25, 0.5)) -> Maps:
    """(bands between ``edges``, points): logarithm of the smoothed squared band-passed image, its bands averaged.

    By default the top two octaves, the lower one first.
    """
    return _on_grid(_log_energy(band_passed(image, edges).square().mean(dim=1)))


def input_features(interpolated: Image, scale: int) -> Maps:
    """(features, points): what the input, brought to the output's size by interpolation, tells of each point.

    Local energy of the two octaves below the input's own Nyquist frequency and of those that are asked for, of which
    interpolation leaves a little; energy of the gradient, mean of each band.
    """
    nyquist = 0.5 / scale
    energies = energy_maps(interpolated, (nyquist / 4, nyquist / 2, nyquist))
    values = torch.from_numpy(np.ascontiguousarray(interpolated, np.float32))
    gradient = sum(torch.gradient(values, dim=d)[0].square().mean(dim=0) for d in (1, 2))
    gradient_energy = _on_grid(_log_energy(torch.as_tensor(gradient)[None]))
    return np.concatenate([energies, energy_maps(interpolated), gradient_energy, _on_grid(smoothed(values))])


def correlations(made: Maps, real: Maps) -> NDArray[np.float64]:
    """(maps,): Pearson's correlation of each map of two images; 0 where one of them is the same everywhere."""
    a, b = (maps - maps.mean(axis=1, keepdims=True) for maps in (made, real))
    norms = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    return np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1), 0.0)


def predicted(features: list[Maps], real: list[Maps], places: list[str], seed: int = 0) -> list[Maps]:
    """For each chip, its maps as a linear (ridge) regression from `input_features` predicts them.

    Fitted by cross-validation over places: a chip's maps are predicted by coefficients fitted on the chips of other
    places only. Features and maps are centred chip by chip first, since a correlation within a chip is what counts.
    """
    names = sorted(set(places))
    if len(names) < 2:
        names = places = [str(k) for k in range(len(places))]
    fold_of = dict(zip(names, np.random.default_rng(seed).permutation(len(names)) % FOLDS))
    folds = np.array([fold_of[place] for place in places])
    x, y = ([maps - maps.mean(axis=1, keepdims=True) for maps in all_maps] for all_maps in (features, real))
    spread = np.sqrt(np.mean([np.square(one).mean(axis=1) for one in x], axis=0))[:, None]
    x = [one / np.maximum(spread, 1e-9) for one in x]
    grams = np.stack([one @ one.T for one in x])
    products = np.stack([one @ other.T for one, other in zip(x, y)])
    found: list[Maps] = []
    for one, fold in zip(x, folds):
        others = folds != fold
        gram = grams[others].sum(axis=0)
        ridge = RIDGE * max(np.trace(gram) / len(gram), 1e-9) * np.eye(len(gram))
        found.append(np.linalg.solve(gram + ridge, products[others].sum(axis=0)).T @ one)
    return found
