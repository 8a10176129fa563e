"""Does the place of the windows show? Gradients at their lines, and repetition at their distance."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from backend.tiling.lattice import Lattice

Image = NDArray[np.floating]
Pairs = NDArray[np.float64]
"""(lines, 2): mean gradient at a line where windows meet, and at the same pixels where none do."""


def lines(lattice: Lattice, length: int) -> list[range]:
    """For each line between windows, the positions p whose gradient |I(p) - I(p - 1)| it touches."""
    inner = range(lattice.indices(0, length).start, lattice.indices(0, length).stop)
    starts = (lattice.kept(index)[0] for index in inner)
    found = (range(start, start + lattice.ramp + 1) for start in starts)
    return [r for r in found if r.start > 0 and r.stop <= length]


def line_gradients(image: Image, positions: list[range]) -> NDArray[np.float64]:
    """(lines,): mean absolute gradient across each line, along columns of (rows, cols, bands)."""
    gradient = np.abs(np.diff(np.asarray(image, np.float64), axis=1)).mean(axis=(0, 2))
    return np.array([gradient[[p - 1 for p in r]].mean() for r in positions])


def seam_pairs(a: Image, b: Image, lattice_a: Lattice, lattice_b: Lattice) -> Pairs:
    """Of two runs that differ in the lattice alone: each line of A in A and in B, and each line of B in B and in A.

    Both images: (rows, cols, bands); the lines are those between columns.
    """
    of_a, of_b = lines(lattice_a, a.shape[1]), lines(lattice_b, a.shape[1])
    at_a = np.stack([line_gradients(a, of_a), line_gradients(b, of_a)], axis=1)
    at_b = np.stack([line_gradients(b, of_b), line_gradients(a, of_b)], axis=1)
    return np.concatenate([at_a, at_b])


def seam_ratio(pairs: Iterable[Pairs], draws: int = 2000) -> tuple[float, float, float]:
    """(ratio, low, high): gradient at window lines over the same place without one, with a 95 % bootstrap interval.

    ``pairs``: one array a scene. Scenes are drawn, and lines within them.
    """
    scenes = list(pairs)

    def ratio(chosen: list[Pairs]) -> float:
        return float(np.exp(np.mean([np.log(p[:, 0] / p[:, 1]).mean() for p in chosen])))

    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(draws):
        some = [scenes[i] for i in rng.integers(len(scenes), size=len(scenes))]
        drawn.append(ratio([p[rng.integers(len(p), size=len(p))] for p in some]))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return ratio(scenes), float(low), float(high)


def unpaired_seam_ratio(image: Image, lattice: Lattice, shifted: Lattice) -> float:
    """Gradient at one lattice's lines over that at another's, in one image; near 1 for a photograph."""
    both = [
        np.concatenate([line_gradients(i, lines(one, i.shape[1])) for i in (image, image.swapaxes(0, 1))]).mean()
        for one in (lattice, shifted)
    ]
    return float(both[0] / both[1])


def repetition(image: Image, lag: int) -> float:
    """High-pass autocorrelation at a lag, less its mean 20 to 40 pixels away; the larger of rows and columns."""
    return max(_repetition(i, lag) for i in (image, image.swapaxes(0, 1)))


def _repetition(image: Image, lag: int) -> float:
    grey = np.asarray(image, np.float32).mean(axis=2)
    high = grey[1:-1, 1:-1] - sum(grey[1 + r:grey.shape[0] - 1 + r, 1 + c:grey.shape[1] - 1 + c]
                                  for r in (-1, 0, 1) for c in (-1, 0, 1)) / 9
    high = high / high.std()
    around = [n for d in (*range(-40, -19, 4), *range(20, 41, 4)) if (n := lag + d) > 0]
    return _correlation(high, lag) - float(np.mean([_correlation(high, n) for n in around]))


def _correlation(high: Image, lag: int) -> float:
    return float((high[:, lag:] * high[:, :-lag]).mean())
