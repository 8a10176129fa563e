"""How fine a result is to be: metres per pixel and stages, each from the other."""

from __future__ import annotations

import math
from typing import List

from ...backend.protocol import FIELDS

SCALE = 4
MAX_STAGES = int(FIELDS["stages"].maximum)


def stage_sizes(pixel_size_m: float, stages: int) -> List[float]:
    """Metres per pixel of the source and of every stage."""
    return [pixel_size_m / SCALE**k for k in range(stages + 1)]


def sizes_to(pixel_size_m: float, resolution_m: float) -> List[float]:
    """Metres per pixel of the source, of what it is resampled to first if need be, and of every stage."""
    stages = stages_to(pixel_size_m, resolution_m)
    return sizes_through(pixel_size_m, [resolution_m * SCALE**k for k in range(stages - 1, -1, -1)])


def sizes_through(pixel_size_m: float, stages_m: List[float]) -> List[float]:
    """The same, from metres per pixel of every stage."""
    first = stages_m[0] * SCALE
    resampled = [] if math.isclose(first, pixel_size_m, rel_tol=1e-6) else [first]
    return [pixel_size_m, *resampled, *stages_m]


def stages_to(pixel_size_m: float, resolution_m: float) -> int:
    """Stages that reach a target; at least one."""
    return min(MAX_STAGES, max(1, math.floor(math.log(pixel_size_m / resolution_m, SCALE) + 1e-9)))


def as_chain(sizes: List[float]) -> str:
    """ "64 → 16 → 4 m"."""
    return " → ".join(f"{size:.3g}" for size in sizes) + " m"
