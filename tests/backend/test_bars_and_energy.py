"""Where the detail of an image is, and whether a figure reaches its bar."""

import itertools

import numpy as np
import pytest

from backend.evaluation.bars import Bar, counts, headline, summary_rows
from backend.evaluation.chips import low_resolution
from backend.evaluation.energy import correlations, energy_maps, input_features, predicted
from backend.evaluation.makers import bicubic
from backend.evaluation.statistics import Estimate


def patchy(seed, side=128):
    """(3, side, side): noise of its own strength in each block of 32 pixels."""
    rng = np.random.default_rng(seed)
    strength = rng.uniform(1, 30, (side // 32, side // 32)).repeat(32, axis=0).repeat(32, axis=1)
    return (128 + strength * rng.standard_normal((3, side, side))).astype(np.float32)


def test_energy_maps_of_equal_images_correlate_and_those_of_others_do_not():
    maps = [energy_maps(patchy(seed)) for seed in range(12)]
    assert maps[0].shape == (2, 16 * 16)
    np.testing.assert_allclose(correlations(maps[0], maps[0]), 1)
    others = np.mean([correlations(a, b) for a, b in itertools.pairwise(maps)], axis=0)
    assert np.abs(others).max() < 0.3


def test_the_energy_of_a_wave_is_in_its_own_octave():
    wave = (20 * np.cos(2 * np.pi * 0.2 * np.arange(64)) + 128)[None, None, :] * np.ones((3, 64, 1))
    low, high = energy_maps(wave.astype(np.float32))
    assert low.mean() == pytest.approx(np.log(200 + 1 / 12), abs=0.1) and high.mean() < 1


def test_a_flat_image_has_no_correlation():
    flat = energy_maps(np.full((3, 64, 64), 90, np.float32))
    np.testing.assert_array_equal(correlations(flat, energy_maps(patchy(0, 64))), 0)


def test_a_regression_tells_where_detail_is_if_the_input_does():
    images = [patchy(seed) for seed in range(8)]
    hints = [input_features(bicubic(4)(low_resolution(i.transpose(1, 2, 0), 4), 1.0, 0), 4) for i in images]
    maps = [energy_maps(i) for i in images]
    found = predicted(hints, maps, [str(k) for k in range(8)])
    assert np.mean([correlations(a, b) for a, b in zip(found, maps)]) > 0.8
    unrelated = predicted(hints[::-1], maps, [str(k) for k in range(8)])
    assert np.mean([correlations(a, b) for a, b in zip(unrelated, maps)]) < 0.3


def test_the_regression_never_sees_the_place_it_predicts():
    rng = np.random.default_rng(0)
    hints = [rng.standard_normal((1, 100)) for _ in range(6)]
    signs, places = [1, 1, 1, -1, -1, -1], list("aaabbb")
    found = predicted(hints, [sign * h for sign, h in zip(signs, hints)], places)
    for one, hint, sign in zip(found, hints, signs):
        assert correlations(one, sign * hint) == pytest.approx(-1)


def test_a_bar_holds_for_the_value_and_surely_for_the_whole_interval():
    bar = Bar("power", 0.85, 1.15)
    inside, partly, outside = (bar.judge("here", Estimate(*v, 9)) for v in ((1, 0.9, 1.1), (1.1, 1, 1.2), (2, 1, 3)))
    assert (inside.holds, inside.surely) == (True, True)
    assert (partly.holds, partly.surely) == (True, False)
    assert (outside.holds, outside.surely, str(outside)) == (False, False, "here (2)")
    assert bar.judge("", None).holds is None and not bar.judge("", None).surely
    assert not bar.judge("", Estimate(float("nan"), float("nan"), float("nan"), 1)).holds


def test_the_summary_counts_what_holds_and_names_what_does_not():
    power, speed, never = Bar("power", 0.85, 1.15), Bar("seconds", high=12), Bar("never", kind="yes")
    verdicts = [power.judge("a", 1.0), power.judge("b", 2.0), speed.judge("", 13.0), never.judge("", None)]
    assert counts(verdicts) == (1, 3)
    text = headline(verdicts, "today")
    assert "1 of 3 bars hold" in text and "Not held: power (1 of 2), seconds. Not measured: never." in text
    rows = summary_rows(verdicts)
    assert [r["holds"] for r in rows] == ["1 of 2", "0 of 1", "not measured"] and rows[0]["fails at"] == "b (2)"
    assert [r["bar"] for r in rows] == ["0.85 to 1.15", "at most 12", "yes"]
