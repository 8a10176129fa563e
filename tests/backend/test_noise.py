"""The noise field: known answers of Philox, a function of place, white."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.tiling.lattice import Lattice, paper_lattice
from backend.tiling.noise import noise_field, philox4x32, window_noise


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers_of_random123(counter, key, answer):
    words = philox4x32(tuple(np.array([c], np.uint32) for c in counter), key)
    assert " ".join(f"{int(w[0]):08x}" for w in words) == answer


@given(st.integers(-40, 40), st.integers(-40, 40), st.sampled_from(["field", "repeated-block"]))
def test_neighbours_share_their_noise_where_they_overlap(row, col, mode):
    lattice = Lattice(64, 4, 8)
    overlap = lattice.window - lattice.stride
    here, right, below = (
        window_noise(mode, 3, 1, lattice, r, c, 3) for r, c in ((row, col), (row, col + 1), (row + 1, col))
    )
    np.testing.assert_array_equal(here[:, :, -overlap:], right[:, :, :overlap])
    np.testing.assert_array_equal(here[:, -overlap:, :], below[:, :overlap, :])


def test_independent_windows_share_nothing():
    lattice = Lattice(64, 4, 8)
    here, right = (window_noise("independent", 3, 1, lattice, 0, c, 3) for c in (0, 1))
    assert abs(np.corrcoef(here[:, :, -24:].ravel(), right[:, :, :24].ravel())[0, 1]) < 0.06


def test_the_papers_block_has_four_equal_quadrants():
    noise = window_noise("repeated-block", 3, 1, paper_lattice(), 5, 7, 1)[0]
    np.testing.assert_array_equal(noise[:128, :128], noise[128:, 128:])


def test_the_field_is_standard_normal():
    noise = noise_field(1, 1, np.arange(1024), np.arange(1024), 4)
    n = noise.size
    assert abs(noise.mean()) < 4 / n**0.5
    assert abs(noise.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((noise**4).mean() - 3) < 4 * (96 / n) ** 0.5


def test_the_field_is_correlated_at_no_lag():
    noise = noise_field(1, 1, np.arange(1024), np.arange(1024), 1)[0].astype(np.float64)
    spectrum = np.abs(np.fft.fft2(noise - noise.mean())) ** 2
    correlation = np.fft.ifft2(spectrum).real
    correlation /= correlation[0, 0]
    correlation[0, 0] = 0
    # the largest of a million normal values with sd 1/1024 stays under 6 sd
    assert np.abs(correlation).max() < 6 / 1024


@pytest.mark.parametrize("other", [dict(seed=2), dict(stage=2), dict(step=1)])
def test_seed_stage_and_step_make_other_fields(other):
    common = dict(seed=1, stage=1, rows=np.arange(256), cols=np.arange(256), bands=1, step=0)
    one, two = noise_field(**common).ravel(), noise_field(**{**common, **other}).ravel()
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / 256


def test_bands_are_independent():
    noise = noise_field(1, 1, np.arange(256), np.arange(256), 6).reshape(6, -1)
    correlation = np.corrcoef(noise) - np.eye(6)
    assert np.abs(correlation).max() < 5 / 256
