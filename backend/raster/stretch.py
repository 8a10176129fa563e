"""The one linear stretch of a job: source units to the network's [-1, 1] and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.errors import InputError

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Stretch:
    """Per band, the source values that become -1 and 1."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def _columns(self) -> tuple[Values, Values]:
        low, high = (np.asarray(v, np.float32)[:, None, None] for v in (self.low, self.high))
        return low, high

    def apply(self, values: Values) -> Values:
        """(bands, rows, cols) in source units -> [-1, 1], clipped."""
        low, high = self._columns()
        return np.clip((values - low) / (high - low) * 2 - 1, -1, 1).astype(np.float32)

    def invert(self, values: Values) -> Values:
        """Network values -> source units."""
        low, high = self._columns()
        return ((values + 1) / 2 * (high - low) + low).astype(np.float32)

    @property
    def range(self) -> float:
        """The widest band's range: the peak of PSNR."""
        return max(h - low for low, h in zip(self.low, self.high))


def identity_stretch(bands: int) -> Stretch:
    """8-bit data as they are."""
    return Stretch((0.0,) * bands, (255.0,) * bands)


def even_stretch(low: float, high: float, bands: int) -> Stretch:
    """The same two values for every band."""
    return Stretch((low,) * bands, (high,) * bands)


def percentile_stretch(values: Values, valid: NDArray[np.bool_], low: float = 0.5, high: float = 99.5) -> Stretch:
    """Per band, percentiles of the valid pixels of (bands, rows, cols)."""
    if not valid.any():
        raise InputError("The raster has no valid pixel: all are nodata.")
    lows, highs = [], []
    for band in values:
        lo, hi = (float(v) for v in np.percentile(band[valid].astype(np.float64), (low, high)))
        if not hi > lo:
            hi = lo + max(1.0, abs(lo)) * 1e-3
        lows.append(lo)
        highs.append(hi)
    return Stretch(tuple(lows), tuple(highs))
