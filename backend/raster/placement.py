"""A picture without a place becomes a map: the start of a parallel world."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from backend.errors import ExtentError, InputError
from backend.files import complete_file, to_disk, writing
from backend.raster.grid import Grid, Region, ground_resolution_m, pixel_sides_m
from backend.raster.output import colour_interpretation
from backend.raster.source import GDAL_OPTIONS, RasterSource

STRIP_ROWS = 512
METRES_A_DEGREE = 111_320.0
POLE, TURN = 90.0, 360.0
"""Degrees."""


def place_picture(
    picture: str, out: Path, metres_per_pixel: float, crs: str = "EPSG:3857", x: float = 0.0, y: float = 0.0
) -> Grid:
    """The grid of the picture as a GeoTIFF at ``out``: north up, its middle at (x, y) of ``crs``.

    Red, green and blue, 8 bits; a palette is expanded, grey becomes three equal bands, alpha is kept. A georeference
    that the picture has is not looked at. See `picture_grid` for the pixels' size. Without a CRS the map lies in Web
    Mercator where equator and prime meridian meet, in the open sea: there its metres are metres on the ground, every
    program draws it, and nobody takes an invented land for a real one. `InputError` for what is no picture of 8 bits
    and for an unknown CRS, `ExtentError` for a place that the CRS does not reach.
    """
    unplaced = warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning)
    with unplaced, RasterSource(picture, None, metres_per_pixel, placed=False) as source:
        if source.dtype != np.uint8:
            raise InputError(
                f"{Path(picture).name} has values of the type {source.dtype.name}, but a picture has 8 bits a channel. "
                "Save it as an 8-bit PNG, or give it a georeference as it is."
            )
        grid = picture_grid(source.grid.height, source.grid.width, metres_per_pixel, crs, x, y)
        with complete_file(out) as partial, writing(out, 4 * grid.height * grid.width):
            out.parent.mkdir(parents=True, exist_ok=True)
            _write(source, partial, grid)
            to_disk(partial)
    return grid


def picture_grid(height: int, width: int, metres_per_pixel: float, crs: str, x: float, y: float) -> Grid:
    """A north-up grid whose middle is at (x, y), with pixels of that many metres on the ground.

    Projected CRSs that are true to scale there (within 2 %) count in their own units. Pixels of other projected ones,
    such as Web Mercator, stay square and have that size on the ellipsoid; in degrees, width and height are each
    measured.
    """
    system = known_crs(crs)
    unit_m = system.linear_units_factor[1] if system.is_projected else METRES_A_DEGREE
    side = metres_per_pixel / unit_m
    transform = _around(x, y, height, width, side, side)
    try:
        size_m = ground_resolution_m(transform, height, width, system)
    except ExtentError as error:
        raise ExtentError(f"{x:.8g} {y:.8g} lies outside of what {crs} can show; choose another place.") from error
    sides_m = (size_m, size_m)
    if system.is_geographic:
        sides_m = pixel_sides_m(Grid(height, width, transform, system, size_m))
    wide, high = (side * metres_per_pixel / side_m for side_m in sides_m)
    placed = Grid(height, width, _around(x, y, height, width, wide, high), system, metres_per_pixel)
    if system.is_geographic:
        _check_degrees(placed)
    return placed


def _check_degrees(grid: Grid) -> None:
    """`ExtentError` if a grid in degrees reaches over a pole or around the Earth."""
    west, south, east, north = grid.bounds()
    if south < -POLE or north > POLE or east - west > TURN or west < -TURN or east > TURN:
        raise ExtentError(
            f"In degrees the picture would reach from {west:.6g} {south:.6g} to {east:.6g} {north:.6g}, over a pole or"
            " around the Earth; choose another place, smaller pixels or another coordinate reference system."
        )


def known_crs(name: str) -> CRS:
    """The coordinate reference system of that name, geographic or projected; `InputError` if it is none."""
    try:
        with rasterio.Env(**GDAL_OPTIONS):
            system = CRS.from_user_input(name)
    except (CRSError, CPLE_BaseError, ValueError) as error:
        raise InputError(
            f"{name!r} is no known coordinate reference system. Give a code such as EPSG:32633, or its WKT."
        ) from error
    if not (system.is_projected or system.is_geographic):
        raise InputError(f"{name} is neither projected nor geographic, so it places nothing on the ground.")
    return system


def _around(x: float, y: float, height: int, width: int, wide: float, high: float) -> Affine:
    return Affine(wide, 0, x - wide * width / 2, 0, -high, y + high * height / 2)


def _write(source: RasterSource, path: Path, grid: Grid) -> None:
    transparent = source.needs_alpha or source.nodata is not None
    with rasterio.Env(**GDAL_OPTIONS), rasterio.open(source.path) as picture, rasterio.open(
        path, "w", driver="GTiff", height=grid.height, width=grid.width, count=3 + transparent, dtype="uint8",
        crs=grid.crs, transform=grid.transform, photometric="rgb", tiled=True, compress="deflate",
        bigtiff="if_safer",
    ) as out:  # fmt: skip
        out.colorinterp = colour_interpretation(3, transparent)
        for top in range(0, grid.height, STRIP_ROWS):
            rows = Region(top, 0, min(top + STRIP_ROWS, grid.height), grid.width)
            window = Window(0, rows.top, rows.width, rows.height)
            try:
                pixels = source.read(rows)
                alpha = np.where(pixels.valid, 255, 0).astype(np.uint8)
                if source.alpha_band is not None:
                    alpha = picture.read(source.alpha_band, window=window)
            except RasterioError as error:
                raise InputError(f"{source.path} is damaged: {error}.") from error
            values = np.broadcast_to(pixels.values.astype(np.uint8), (3, rows.height, rows.width))
            out.write(np.concatenate([values, alpha[None]]) if transparent else values, window=window)
