"""Georeferencing: north-up, south-up, rotated; extents; metres per pixel."""

import math

import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from backend.errors import ExtentError
from backend.raster.grid import Grid, Region, ground_resolution_m

UTM = CRS.from_epsg(32633)
NORTH_UP = Affine(10, 0, 500_000, 0, -10, 5_000_000)
SOUTH_UP = Affine(10, 0, 500_000, 0, 10, 4_999_000)
ROTATED = Affine.translation(500_000, 5_000_000) @ Affine.rotation(30) @ Affine.scale(10, -10)
TRANSFORMS = pytest.mark.parametrize(
    "transform", [NORTH_UP, SOUTH_UP, ROTATED], ids=["north-up", "south-up", "rotated"]
)


def grid(transform, height=100, width=80):
    return Grid(height, width, transform, UTM, 10.0)


@TRANSFORMS
def test_a_finer_grid_has_the_same_corners(transform):
    coarse, fine = grid(transform), grid(transform).zoom_in(16)
    for col, row in ((0, 0), (80, 0), (0, 100), (80, 100)):
        x, y = coarse.transform @ (col, row)
        fine_col, fine_row = ~fine.transform @ (x, y)
        assert (fine_col, fine_row) == pytest.approx((16 * col, 16 * row), abs=1e-6)
    assert fine.pixel_size_m == 10 / 16


@TRANSFORMS
def test_a_crop_lies_where_it_was_cut(transform):
    part = grid(transform).crop(Region(30, 20, 60, 70))
    assert (part.height, part.width) == (30, 50)
    assert part.transform @ (0, 0) == pytest.approx(transform @ (20, 30), abs=1e-6)
    assert part.transform @ (50, 30) == pytest.approx(transform @ (70, 60), abs=1e-6)


@TRANSFORMS
def test_an_extent_is_snapped_outward_to_pixels(transform):
    x, y = transform @ (40, 50)
    region = grid(transform).region_of((x - 1, y - 1, x + 1, y + 1))
    assert (region.top, region.left, region.bottom, region.right) == (49, 39, 51, 41)


@TRANSFORMS
def test_the_whole_extent_is_the_whole_grid(transform):
    assert grid(transform).region_of(grid(transform).bounds()) == grid(transform).region


@given(st.integers(0, 99), st.integers(0, 79), st.integers(1, 50), st.integers(1, 50))
def test_extents_on_pixel_borders_are_exact(row, col, rows, cols):
    region = Region(row, col, min(100, row + rows), min(80, col + cols))
    extent = grid(NORTH_UP).crop(region).bounds()
    assert grid(NORTH_UP).region_of(extent) == region


@pytest.mark.parametrize("extent", [(0, 0, 1, 1), (500_900, 0, 500_950, 1)])
def test_an_extent_outside_is_refused(extent):
    with pytest.raises(ExtentError, match="outside the raster, whose own is 500000 4999000 500800 5000000"):
        grid(NORTH_UP).region_of(extent)


@pytest.mark.parametrize("extent", [(500_010, 4_999_500, 500_010, 4_999_600), (500_020, 4_999_500, 500_010, 4_999_600)])
def test_an_empty_extent_is_refused(extent):
    with pytest.raises(ExtentError, match="is empty"):
        grid(NORTH_UP).region_of(extent)


@pytest.mark.parametrize(
    ("transform", "crs", "expected"),
    [
        (NORTH_UP, 32633, 10.0),
        (ROTATED, 32633, 10.0),
        # feet
        (Affine(100, 0, 2_000_000, 0, -100, 700_000), 2263, 30.48),
        # 1e-4 degrees at 60 degrees north: 5.58 m by 11.14 m
        (Affine(1e-4, 0, 10, 0, -1e-4, 60), 4326, math.sqrt(5.580 * 11.141)),
        # Web Mercator doubles lengths at 60 degrees north
        (Affine(10, 0, 1_113_195, 0, -10, 8_399_737), 3857, 5.0),
        # around the South Pole, where the projection is true to scale at 71 degrees; degrees of longitude tell nothing
        (Affine(1000, 0, -5000, 0, -1000, 5000), 3031, 1028.0),
    ],
)
def test_metres_per_pixel(transform, crs, expected):
    assert ground_resolution_m(transform, 10, 10, CRS.from_epsg(crs)) == pytest.approx(expected, rel=5e-3)


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 70), st.integers(1, 70), st.integers(1, 30))
def test_tiles_cover_a_region_once(top, left, rows, cols, size):
    region = Region(top, left, top + rows, left + cols)
    tiles = list(region.tiles(size))
    assert sum(t.height * t.width for t in tiles) == rows * cols
    assert all(t.intersection(region) == t and t.height <= size and t.width <= size for t in tiles)
