"""Stages, regions and blocks: each stage computes what the next one reads."""

import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from backend.cascade.planning import stage_regions, stages_for
from backend.errors import PlanError
from backend.raster.grid import Grid, Region
from backend.raster.pixels import reflected_region
from backend.tiling.geometry import WindowGeometry
from backend.tiling.lattice import Lattice

GEOMETRY = WindowGeometry(Lattice(64, 12, 8), 4, 4)


@pytest.mark.parametrize(
    ("pixel", "target", "stages", "start"),
    [
        (10, 2.5, 1, None),
        (10, 0.625, 2, None),
        (64, 1, 3, None),
        (10, 2, 1, 8),
        (10, 5, 1, 20),
        (10, 0.6, 2, 9.6),
        (30, 1, 2, 16),
    ],
)
def test_target_resolutions_become_stages_and_a_resampling(pixel, target, stages, start):
    found_stages, found_start = stages_for(pixel, target, 4)
    assert found_stages == stages
    assert found_start == (None if start is None else pytest.approx(start))


@given(st.floats(0.1, 1000), st.floats(1.01, 4000))
def test_the_resampling_stays_below_a_factor_of_four(pixel, ratio):
    stages, start = stages_for(pixel, pixel / ratio, 4)
    assert stages >= 1
    assert 1 / 4 < (start or pixel) / pixel < 4


def test_a_target_that_is_no_finer_is_refused():
    with pytest.raises(PlanError, match="already"):
        stages_for(10, 10, 4)


areas = st.tuples(st.integers(1, 90), st.integers(1, 90)).flatmap(
    lambda size: st.tuples(
        st.just(size), st.integers(0, size[0] - 1), st.integers(0, size[1] - 1), st.integers(1, 60), st.integers(1, 60)
    )
)


@given(areas, st.integers(1, 3))
def test_every_window_finds_its_input_in_the_stage_before(area, stages):
    (height, width), top, left, rows, cols = area
    source = Grid(height, width, Affine.identity(), None, 10.0)
    asked = Region(top, left, min(height, top + rows), min(width, left + cols))
    regions = stage_regions(asked, source, stages, GEOMETRY)
    for stage in range(2, stages + 1):
        input_grid = source.zoom_in(4 ** (stage - 1)).region
        available = regions[stage - 2]
        for row, col in GEOMETRY.windows(regions[stage - 1]):
            read = reflected_region(GEOMETRY.input_crop(row, col), input_grid)
            assert read.intersection(available) == read
        assert asked.scaled(4 ** (stage - 1)).intersection(available) == asked.scaled(4 ** (stage - 1))


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 5))
def test_blocks_cover_a_region_once_and_border_on_the_lattice(top, left, rows, cols, side):
    region = Region(top, left, top + rows, left + cols)
    blocks = [block.region for block in GEOMETRY.blocks(region, side)]
    assert sum(b.height * b.width for b in blocks) == rows * cols
    stride, ramp = GEOMETRY.lattice.stride, GEOMETRY.lattice.ramp
    for block in blocks:
        assert block.intersection(region) == block
        assert block.top == region.top or (block.top + ramp) % stride == 0
        assert block.left == region.left or (block.left + ramp) % stride == 0
