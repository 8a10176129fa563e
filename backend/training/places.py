"""The split by place: neighbours on the ground are never in different splits."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from backend.raster.grid import Grid, Region
from backend.training.chips import SPLITS

SHARES = (0.8, 0.1, 0.1)
"""Of train, validation and test (MetaEarth: 8:1:1)."""
DEGREE_M = 111_320.0
"""Metres along a degree of a meridian."""

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees; a box over the antimeridian has its east beyond 180."""
OFF_THE_EARTH = (math.inf, math.inf, -math.inf, -math.inf)


def place_of(path: Path) -> str:
    """A picture's name without dates, so that one place at two dates is one place."""
    return re.sub(r"_(19|20)\d{2}(\d{4})?(?=_|$)|_(pre|post)(?=_|$)", "", path.stem)


def split_of(place: str) -> str:
    """The split of a named place: a function of the name alone, so that it stays when imagery is added."""
    drawn = int.from_bytes(hashlib.sha256(place.encode()).digest()[:8], "big") / 2**64
    return SPLITS[0] if drawn < SHARES[0] else SPLITS[1] if drawn < SHARES[0] + SHARES[1] else SPLITS[2]


@dataclass(frozen=True)
class Cells:
    """The globe in rows of cells of about ``side_m`` a side."""

    side_m: float

    @property
    def degrees(self) -> float:
        """Height of a row of cells."""
        return min(180.0, self.side_m / DEGREE_M)

    def _columns(self, row: int) -> int:
        middle = -90 + (row + 0.5) * self.degrees
        return max(1, round(360 * max(0.0, math.cos(math.radians(middle))) / self.degrees))

    def touched(self, box: Box) -> set[tuple[int, int]]:
        """Row and column of every cell that a box touches."""
        west, south, east, north = box
        lowest, highest = (max(0, math.floor((v + 90) / self.degrees)) for v in (max(-90, south), min(90, north)))
        found: set[tuple[int, int]] = set()
        for row in range(lowest, highest + 1):
            width = 360 / self._columns(row)
            first, last = math.floor((west + 180) / width), math.floor((east + 180) / width)
            found.update((row, col % self._columns(row)) for col in range(first, min(last, first + 10_000) + 1))
        return found

    def split_of(self, box: Box) -> str | None:
        """The split of all the cells that a box touches; None if they are not of one."""
        if not all(map(math.isfinite, box)):
            return None
        splits = {split_of(f"cell {self.side_m:g} {row} {col}") for row, col in self.touched(box)}
        return splits.pop() if len(splits) == 1 else None


def box_of(grid: Grid, region: Region) -> Box:
    """West, south, east, north of some pixels, in degrees; not finite where they reach off the Earth's picture."""
    try:
        west, south, east, north = transform_bounds(grid.crs, "EPSG:4326", *grid.crop(region).bounds())
    except (RasterioError, CPLE_BaseError):
        return OFF_THE_EARTH
    return west, south, east + 360 if east < west else east, north


def with_neighbours(region: Region) -> Region:
    """A chip and as much around it as it is wide and high: wherever a neighbour of its size may lie."""
    height, width = region.height, region.width
    return Region(region.top - height, region.left - width, region.bottom + height, region.right + width)
