"""Grids and regions: immutable values that say where pixels lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_points

from backend.errors import ExtentError
from backend.protocol import GridInfo


@dataclass(frozen=True)
class Region:
    """Pixels [top, bottom) x [left, right) of a grid; may lie partly outside it."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    def scaled(self, factor: int) -> Region:
        """The same ground on a grid ``factor`` times finer."""
        return Region(self.top * factor, self.left * factor, self.bottom * factor, self.right * factor)

    def scaled_down(self, factor: int) -> Region:
        """The pixels of a grid ``factor`` times coarser that it touches."""
        return Region(self.top // factor, self.left // factor, -(-self.bottom // factor), -(-self.right // factor))

    def intersection(self, other: Region) -> Region:
        """What both have; of no height or width if that is nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        return Region(top, left, max(top, min(self.bottom, other.bottom)), max(left, min(self.right, other.right)))

    def relative_to(self, other: Region) -> Region:
        """The same pixels counted from ``other``'s corner."""
        return Region(self.top - other.top, self.left - other.left, self.bottom - other.top, self.right - other.left)

    def slices(self) -> tuple[slice, slice]:
        """Row and column slices."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def tiles(self, size: int) -> Iterator[Region]:
        """Parts of at most ``size`` pixels a side, in row order."""
        for top in range(self.top, self.bottom, size):
            for left in range(self.left, self.right, size):
                yield Region(top, left, min(top + size, self.bottom), min(left + size, self.right))


@dataclass(frozen=True)
class Grid:
    """Shape, affine transform (pixel corner to CRS) and CRS of a raster; ``pixel_size_m`` is metres per pixel."""

    height: int
    width: int
    transform: Affine
    crs: CRS | None
    pixel_size_m: float

    @property
    def region(self) -> Region:
        """All of the grid."""
        return Region(0, 0, self.height, self.width)

    def zoom_in(self, factor: int) -> Grid:
        """The grid with ``factor`` x ``factor`` pixels in place of each."""
        return Grid(
            self.height * factor,
            self.width * factor,
            self.transform @ Affine.scale(1 / factor),
            self.crs,
            self.pixel_size_m / factor,
        )

    def zoom_out(self, factor: float) -> Grid:
        """The grid whose pixels are ``factor`` times larger: same first corner, the last may reach over the edge."""
        rows, cols = (math.ceil(n / factor) for n in (self.height, self.width))
        return Grid(rows, cols, self.transform @ Affine.scale(factor), self.crs, self.pixel_size_m * factor)

    def crop(self, region: Region) -> Grid:
        """The grid of some of the pixels."""
        shift = Affine.translation(region.left, region.top)
        return Grid(region.height, region.width, self.transform @ shift, self.crs, self.pixel_size_m)

    def region_of(self, extent: Sequence[float]) -> Region:
        """The pixels that an extent (xmin, ymin, xmax, ymax) touches, snapped outward; `ExtentError` if none."""
        xmin, ymin, xmax, ymax = extent
        if not (xmax > xmin and ymax > ymin):
            raise ExtentError(
                f"The extent {xmin:g} {ymin:g} {xmax:g} {ymax:g} is empty: it must be XMIN YMIN XMAX YMAX "
                "with XMIN < XMAX and YMIN < YMAX."
            )
        corners = [~self.transform @ corner for corner in ((xmin, ymin), (xmin, ymax), (xmax, ymin), (xmax, ymax))]
        cols, rows = zip(*corners)
        # corners that were computed, not typed, miss the pixel's edge by rounding errors
        tolerance = 1e-6
        asked = Region(
            math.floor(min(rows) + tolerance),
            math.floor(min(cols) + tolerance),
            math.ceil(max(rows) - tolerance),
            math.ceil(max(cols) - tolerance),
        )
        region = asked.intersection(self.region)
        if region.height <= 0 or region.width <= 0:
            raise ExtentError(
                "The extent lies outside the raster, whose own is " + " ".join(f"{v:.8g}" for v in self.bounds()) + "."
            )
        return region

    def bounds(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax."""
        corners = [self.transform @ c for c in ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height))]
        xs, ys = zip(*corners)
        return min(xs), min(ys), max(xs), max(ys)

    def info(self) -> GridInfo:
        """The grid as plain values."""
        return GridInfo(crs_name(self.crs), list(self.transform)[:6], self.width, self.height, self.pixel_size_m)


def crs_name(crs: CRS | None) -> str:
    """EPSG code if there is one, else WKT; empty without a CRS."""
    if crs is None:
        return ""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.to_wkt()


def ground_resolution_m(transform: Affine, height: int, width: int, crs: CRS) -> float:
    """Metres on the ground along a pixel's side (geometric mean of both) at the raster's centre.

    Projected CRSs whose scale is true within 2 % give their own units; others (degrees, Web Mercator) are
    measured on the ellipsoid.
    """
    nominal = math.sqrt(abs(transform.determinant)) * (crs.linear_units_factor[1] if crs.is_projected else 1.0)
    measured = _ellipsoidal_pixel_m(transform, height, width, crs)
    if crs.is_projected and (measured is None or abs(measured / nominal - 1) < 0.02):
        return nominal
    if measured is None:
        raise ExtentError("The raster's centre lies outside its coordinate system; give the source resolution.")
    return measured


def pixel_sides_m(grid: Grid) -> tuple[float, float]:
    """Ground width and height in metres of the pixel at the grid's centre."""
    a, b, _, d, e, _ = list(grid.transform)[:6]
    nominal = math.hypot(a, d), math.hypot(b, e)
    vectors = None if grid.crs is None else _ellipsoidal_steps(grid.transform, grid.height, grid.width, grid.crs)
    sides = nominal if vectors is None else (math.hypot(*vectors[0]), math.hypot(*vectors[1]))
    to_metres = grid.pixel_size_m / math.sqrt(sides[0] * sides[1])  # a resolution given by the user counts
    return sides[0] * to_metres, sides[1] * to_metres


def _ellipsoidal_pixel_m(transform: Affine, height: int, width: int, crs: CRS) -> float | None:
    """Geometric mean side of the central pixel on WGS 84; None if the CRS does not reach it."""
    steps = _ellipsoidal_steps(transform, height, width, crs)
    if steps is None:
        return None
    (ux, uy), (vx, vy) = steps
    area = abs(ux * vy - uy * vx)
    return math.sqrt(area) if area > 0 else None


def _ellipsoidal_steps(
    transform: Affine, height: int, width: int, crs: CRS
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Metres (east, north) on WGS 84 of one column and of one row at the raster's centre; None beyond the CRS."""
    col, row = width / 2, height / 2
    points = [transform @ p for p in ((col, row), (col + 1, row), (col, row + 1))]
    try:
        lon, lat = transform_points(crs, CRS.from_epsg(4326), *(list(v) for v in zip(*points)))
    except (RasterioError, CPLE_BaseError, ValueError):
        return None
    if not all(math.isfinite(v) for v in (*lon, *lat)) or abs(lat[0]) > 90:
        return None
    # through space: at a pole, degrees of longitude tell nothing of distances
    centre, *neighbours = (_geocentric(*point) for point in zip(lon, lat))
    lam, phi = math.radians(lon[0]), math.radians(lat[0])
    east = np.array((-math.sin(lam), math.cos(lam), 0.0))
    north = np.array((-math.sin(phi) * math.cos(lam), -math.sin(phi) * math.sin(lam), math.cos(phi)))
    first, second = ((float(east @ (n - centre)), float(north @ (n - centre))) for n in neighbours)
    return first, second


def _geocentric(lon: float, lat: float) -> NDArray[np.float64]:
    """(3,): metres from the middle of the Earth to a point on WGS 84."""
    a, e2 = 6378137.0, 0.00669437999014
    lam, phi = math.radians(lon), math.radians(lat)
    normal = a / math.sqrt(1 - e2 * math.sin(phi) ** 2)
    level = normal * math.cos(phi)
    return np.array((level * math.cos(lam), level * math.sin(lam), normal * (1 - e2) * math.sin(phi)))
