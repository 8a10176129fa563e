"""Along a path in space: where the camera is at each frame."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from backend.errors import PlanError

Point = tuple[float, float, float]
"""x, y and altitude, all in metres."""


def along(vertices: list[Point], frames: int) -> list[Point]:
    """The camera's place at each of ``frames`` (at least 2) images, the first and the last vertex among them.

    The camera flies straight lines at a speed in proportion to its altitude: what it sees moves past, or grows, at an
    even pace. Between two vertices the altitude is thus a geometric series.
    """
    if len(vertices) < 2 or frames < 2:
        raise PlanError("A flight needs a path of at least two points, and two frames.")
    if any(not 0 < altitude < math.inf for _, _, altitude in vertices):
        raise PlanError("Every point of the path needs an altitude above 0 m.")
    legs = [leg for leg in pairwise(vertices) if leg[0] != leg[1]]
    if not legs:
        return [vertices[0]] * frames
    ends = np.cumsum([_duration(*leg) for leg in legs])
    begins = np.concatenate([[0.0], ends[:-1]])
    places = []
    for time in np.linspace(0, ends[-1], frames):
        k = min(int(np.searchsorted(ends, time)), len(legs) - 1)
        places.append(_between(*legs[k], float((time - begins[k]) / (ends[k] - begins[k]))))
    places[-1] = vertices[-1]
    return places


def _duration(start: Point, stop: Point) -> float:
    """The integral of distance / altitude along a straight line: how much passes before the camera."""
    ground, climb = math.dist(start[:2], stop[:2]), math.log(stop[2] / start[2])
    mean = start[2] if abs(climb) < 1e-9 else (stop[2] - start[2]) / climb
    return math.hypot(ground / mean, climb)


def _between(start: Point, stop: Point, share: float) -> Point:
    """The place after a share of the leg's time."""
    ratio = stop[2] / start[2]
    way = share if abs(ratio - 1) < 1e-9 else (ratio**share - 1) / (ratio - 1)
    x, y = (a * (1 - way) + b * way for a, b in zip(start[:2], stop[:2]))
    return x, y, start[2] ** (1 - share) * stop[2] ** share
