"""Noise as a function of place: Philox4x32-10 over absolute pixel indices, then the inverse normal CDF.

Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from backend.tiling.lattice import Lattice

UInt32 = NDArray[np.uint32]

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF


def philox4x32(counter: tuple[UInt32, UInt32, UInt32, UInt32], key: tuple[int, int], rounds: int = 10) -> list[UInt32]:
    """Four random 32-bit words for every element of the broadcast counters."""
    c0, c1, c2, c3 = np.broadcast_arrays(*counter)
    k0, k1 = key
    for _ in range(rounds):
        product0 = MULTIPLIERS[0] * c0.astype(np.uint64)
        product1 = MULTIPLIERS[1] * c2.astype(np.uint64)
        high0, low0 = (product0 >> np.uint64(32)).astype(np.uint32), product0.astype(np.uint32)
        high1, low1 = (product1 >> np.uint64(32)).astype(np.uint32), product1.astype(np.uint32)
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint32(k0), low1, high0 ^ c3 ^ np.uint32(k1), low0
        k0, k1 = (k0 + KEY_STEPS[0]) & MASK, (k1 + KEY_STEPS[1]) & MASK
    return [c0, c1, c2, c3]


def normals(words: UInt32) -> NDArray[np.float32]:
    """Standard normal values: inverse CDF of (word + 0.5) / 2^32, in float64, returned as float32."""
    uniform = (words.astype(np.float64) + 0.5) / 2.0**32
    return torch.special.ndtri(torch.from_numpy(uniform)).to(torch.float32).numpy()


def noise_field(
    seed: int, stage: int, rows: NDArray[np.int64], cols: NDArray[np.int64], bands: int, step: int = 0
) -> NDArray[np.float32]:
    """n(seed, stage, x, y, band): (bands, rows, cols) float32 at the given absolute pixel indices.

    Counter (x, y, band // 4, step), key (seed, stage); a band is word ``band % 4``. Indices may be negative.
    """
    x = (np.asarray(cols, np.int64) & MASK).astype(np.uint32)[None, None, :]
    y = (np.asarray(rows, np.int64) & MASK).astype(np.uint32)[None, :, None]
    plane = np.arange((bands + 3) // 4, dtype=np.uint32)[:, None, None]
    words = np.stack(philox4x32((x, y, plane, np.full((1, 1, 1), step, np.uint32)), (seed, stage)), axis=1)
    return normals(words.reshape(-1, len(rows), len(cols))[:bands])


def window_noise(
    mode: str, seed: int, stage: int, lattice: Lattice, row: int, col: int, bands: int, step: int = 0
) -> NDArray[np.float32]:
    """The noise of window (row, col): (bands, window, window) float32.

    "field": pixels that two windows share have equal noise. "repeated-block": the paper's simplification, one
    block of a stride's length for all windows. "independent": a draw of its own for every window.
    """

    def indices(window: int) -> NDArray[np.int64]:
        local = np.arange(lattice.window, dtype=np.int64)
        if mode == "repeated-block":
            return local % lattice.stride
        return local + (window * lattice.window if mode == "independent" else lattice.origin(window))

    return noise_field(seed, stage, indices(row), indices(col), bands, step)
