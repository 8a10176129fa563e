"""Area averages over whole blocks of pixels: what a sensor with larger pixels would have seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def area_average(values: NDArray, factor: int) -> NDArray[np.float32]:
    """Means of ``factor`` x ``factor`` blocks: (..., rows, cols) -> (..., rows // factor, cols // factor), float32."""
    if factor == 1:
        return values.astype(np.float32)
    rows, cols = (n // factor for n in values.shape[-2:])
    whole = values[..., :rows * factor, :cols * factor]
    return whole.reshape(*values.shape[:-2], rows, factor, cols, factor).mean(axis=(-3, -1), dtype=np.float32)


def average_down(pixels: NDArray, factor: int) -> NDArray[np.float32]:
    """`area_average` of a picture with its bands last: (rows, cols, bands) -> (rows // factor, ..., bands)."""
    return np.moveaxis(area_average(np.moveaxis(pixels, -1, 0), factor), 0, -1)
