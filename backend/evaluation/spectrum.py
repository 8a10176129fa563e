"""Radial power by octave and grain: is the generated detail of the right strength?"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from backend.evaluation.statistics import Estimate, estimate
from backend.raster.averaging import area_average

Image = NDArray[np.floating]

EDGE = 16
"""Pixels at an image's border that are not looked at."""
ROUNDING = 12**-0.5
"""Standard deviation of rounding to whole grey levels."""


def octave_power(image: Image, octaves: int = 3) -> NDArray[np.float64]:
    """(octaves,): power in the top octaves of radial frequency, low to high, averaged over bands.

    ``image``: (rows, cols, bands). A Hann window is applied; the last octave ends at the Nyquist frequency.
    """
    rows, cols = image.shape[:2]
    window = np.hanning(rows)[:, None] * np.hanning(cols)[None, :]
    centred = (image - image.mean(axis=(0, 1))) * window[..., None]
    power = (np.abs(np.fft.fft2(centred, axes=(0, 1))) ** 2).mean(axis=2)
    radius = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(cols)[None, :])
    edges = [0.5 / 2**k for k in range(octaves, -1, -1)]
    return np.array([power[(radius > low) & (radius <= high)].mean() for low, high in itertools.pairwise(edges)])


def powers(images: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """(n, octaves): power of each (3, rows, cols) image without its edge."""
    return np.stack([octave_power(image[:, EDGE:-EDGE, EDGE:-EDGE].transpose(1, 2, 0)) for image in images])


def octave_ratios(
    real: NDArray[np.float64], made: NDArray[np.float64], clusters: list[str] | None
) -> list[Estimate]:
    """Summed power of the made images over that of the real ones, octave by octave, low to high."""
    return [
        estimate(lambda w, k=k: float(w @ made[:, k] / (w @ real[:, k])), len(real), clusters)  # type: ignore[misc]
        for k in range(real.shape[1])
    ]


def consistency_db(made: NDArray[np.float32], low: NDArray[np.float32]) -> float:
    """PSNR in dB of the made image's area average against the source; at most 98."""
    difference = area_average(made, made.shape[1] // low.shape[1]) - low
    return float(10 * np.log10(255**2 / max(float(np.square(difference).mean()), 1e-5)))


def smooth_patch_grain(real: Image, other: Image, patch: int = 16, share: float = 0.1) -> float:
    """High-pass sd of ``other`` over that of ``real`` in the patches where ``real`` is smoothest.

    Both: (rows, cols, bands) in grey levels. High-pass: the image minus its 3 x 3 mean. Patches of one value, such as
    black borders, count as having the noise of rounding.
    """
    sd_real, sd_other = (_patch_sd(image, patch) for image in (real, other))
    smoothest = np.argsort(sd_real)[: max(1, round(share * len(sd_real)))]
    return float(sd_other[smoothest].mean() / max(ROUNDING, sd_real[smoothest].mean()))


def _patch_sd(image: Image, patch: int) -> NDArray[np.float64]:
    padded = np.pad(np.asarray(image, np.float64), ((1, 1), (1, 1), (0, 0)), mode="reflect")
    rows, cols = image.shape[:2]
    mean = sum(padded[i:i + rows, j:j + cols] for i in range(3) for j in range(3)) / 9
    high = (image - mean)[: rows // patch * patch, : cols // patch * patch]
    blocks = high.reshape(rows // patch, patch, cols // patch, patch, -1).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(len(blocks) * blocks.shape[1], -1).std(axis=1)
