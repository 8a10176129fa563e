"""Windows cover the plane, their weights are a partition of unity, and they do not move with the request."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import PlanError
from backend.tiling.lattice import Lattice, paper_lattice

lattices = st.builds(
    Lattice,
    window=st.just(256),
    margin=st.integers(0, 16).map(lambda n: 4 * n),
    ramp=st.integers(0, 8).map(lambda n: 4 * n),
    offset=st.sampled_from([0, 112, -40]),
)


@given(lattices, st.integers(-5000, 5000), st.integers(1, 3000))
def test_weights_add_up_to_one_at_every_pixel(lattice, start, length):
    total = np.zeros(length, np.float64)
    for index in lattice.indices(start, start + length):
        first, stop = lattice.kept(index)
        positions = np.arange(max(first, start), min(stop, start + length))
        total[positions - start] += lattice.weights()[positions - first]
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(lattices, st.integers(-5000, 5000), st.integers(1, 3000))
def test_no_window_is_superfluous(lattice, start, length):
    for index in lattice.indices(start, start + length):
        first, stop = lattice.kept(index)
        assert first < start + length and stop > start


@given(lattices, st.integers(-50, 50))
def test_what_is_kept_lies_a_margin_inside_the_window(lattice, index):
    first, stop = lattice.kept(index)
    assert first - lattice.origin(index) == lattice.margin
    assert lattice.origin(index) + lattice.window - stop == lattice.margin


def test_default_lattice_has_stride_208_and_pixel_0_in_one_window_only():
    lattice = Lattice()
    assert lattice.stride == 208
    assert list(lattice.indices(0, 1)) == [0]


def test_paper_lattice_advances_by_half_and_keeps_the_central_halves():
    lattice = paper_lattice()
    assert (lattice.stride, lattice.margin, lattice.kept(0)) == (128, 64, (0, 128))
    assert set(lattice.weights()) == {1.0}


def test_margins_that_leave_nothing_are_refused():
    with pytest.raises(PlanError, match="no lattice"):
        Lattice(256, 128, 0)
