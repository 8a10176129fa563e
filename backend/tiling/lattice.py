"""The lattice of windows: anchored to the stage's grid, never to the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from backend.errors import PlanError


@dataclass(frozen=True)
class Lattice:
    """Square windows along both axes of a stage's grid; lengths in output pixels.

    Window i covers [i S - margin - ramp, i S - margin - ramp + window). ``margin`` is dropped on each side;
    what is kept, [i S - ramp, i S + S), overlaps its neighbours by ``ramp`` pixels, where the two are blended.
    Pixel 0 of the grid is thus kept by window 0 alone. S = window - 2 margin - ramp. ``offset`` moves all windows; it
    is 0 but for measuring what the place of the windows does to the pixels.
    """

    window: int = 256
    margin: int = 20
    ramp: int = 8
    offset: int = 0

    multiple: ClassVar[int] = 4
    """Of what all lengths are: windows are to begin at whole input and latent pixels."""

    def __post_init__(self) -> None:
        lengths = (self.window, self.margin, self.ramp, self.offset)
        if self.stride < max(1, self.ramp) or any(n % self.multiple for n in lengths):
            raise PlanError(
                f"Windows of {self.window} px with margin {self.margin} and ramp {self.ramp} make no lattice."
            )

    @property
    def stride(self) -> int:
        """S, the distance between neighbouring windows."""
        return self.window - 2 * self.margin - self.ramp

    def origin(self, index: int) -> int:
        """First pixel that window ``index`` sees."""
        return index * self.stride - self.margin - self.ramp + self.offset

    def kept(self, index: int) -> tuple[int, int]:
        """[start, stop) of the pixels that window ``index`` contributes to."""
        return index * self.stride - self.ramp + self.offset, (index + 1) * self.stride + self.offset

    def alone(self, index: int) -> tuple[int, int]:
        """[start, stop) of the pixels that no other window contributes to."""
        start, stop = self.kept(index)
        return start + self.ramp, stop - self.ramp

    def indices(self, start: int, stop: int) -> range:
        """Windows that contribute to the pixels [start, stop)."""
        start, stop = start - self.offset, stop - self.offset
        return range(start // self.stride, (stop - 1 + self.ramp) // self.stride + 1)

    def weights(self) -> NDArray[np.float32]:
        """(S + ramp,) weights over the kept pixels; neighbours' weights add up to one at every pixel."""
        weights = np.ones(self.stride + self.ramp, dtype=np.float32)
        rising = (np.arange(self.ramp, dtype=np.float32) + 0.5) / max(1, self.ramp)
        weights[: self.ramp] = rising
        weights[self.stride:] = 1 - rising
        return weights


def paper_lattice(window: int = 256) -> Lattice:
    """MetaEarth's own: windows advance by half, a quarter is dropped on each side, no blending."""
    return Lattice(window, margin=window // 4, ramp=0)
