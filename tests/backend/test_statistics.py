"""Intervals, tables, and distances between sets, against what is known in closed form."""

import json

import numpy as np
import pytest

from backend.evaluation.distances import (
    frechet_at_infinity,
    frechet_difference,
    frechet_distance,
    frechet_estimate,
    kernel_distance,
)
from backend.evaluation.statistics import Estimate, crossed_mean, estimate, mean_estimate, paired_difference
from backend.evaluation.table import Table


def normal(n, d=4, seed=0, mean=0.0, sd=1.0):
    return np.random.default_rng(seed).normal(mean, sd, (n, d))


def test_the_interval_of_a_mean_covers_the_truth_about_19_times_in_20():
    covered = [mean_estimate(normal(60, 1, seed)[:, 0], seed=seed).covers(0.0) for seed in range(200)]
    assert 0.89 < np.mean(covered) < 0.99


def test_clusters_that_agree_within_themselves_widen_the_interval():
    rng = np.random.default_rng(0)
    of_place = rng.normal(size=12)
    values, places = of_place.repeat(10), np.arange(12).repeat(10).astype(str)
    alone, together = mean_estimate(values), mean_estimate(values, places)
    assert together.value == alone.value and together.n == 120
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_clusters_cover_the_truth_where_items_alone_do_not():
    def covers(clusters, seed):
        values = np.random.default_rng(seed).normal(size=15).repeat(8)
        return mean_estimate(values, clusters, seed).covers(0.0)

    places = np.arange(15).repeat(8).astype(str)
    by_place, by_item = (np.mean([covers(c, seed) for seed in range(100)]) for c in (places, None))
    assert by_place > 0.85 > 0.7 > by_item


def test_a_paired_difference_sees_what_two_means_do_not():
    a = normal(50, 1, sd=10.0)[:, 0]
    found = paired_difference(a + 0.1 + normal(50, 1, 1, sd=0.1)[:, 0], a)
    assert 0.05 < found.low < found.value < found.high < 0.15


def test_a_ratio_of_sums_is_estimated_by_weights():
    found = estimate(lambda w: float(w @ np.arange(1, 5) / w.sum()), 4)
    assert found.value == 2.5 and 1.0 <= found.low < 2.5 < found.high <= 4.0


def test_seeds_that_differ_widen_the_interval_of_a_crossed_mean():
    items = np.random.default_rng(0).integers(0, 2, (1, 300)).astype(float)
    equal = crossed_mean(items.repeat(5, axis=0))
    apart = crossed_mean(items + np.array([-0.3, -0.1, 0.0, 0.1, 0.3])[:, None])
    assert apart.value == pytest.approx(equal.value)
    assert apart.high - apart.low > 1.5 * (equal.high - equal.low)


def test_one_item_has_no_interval(tmp_path):
    found = mean_estimate([2.5])
    assert found.value == 2.5 and np.isnan(found.low) and np.isnan(found.high)
    Table("One", [{"figure": found}]).write(tmp_path)
    assert "| 2.5 |" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "table.json").read_text())["rows"][0]["figure"]["low"] is None


def test_a_table_is_written_for_people_and_for_programs(tmp_path):
    rows = [{"what": "a|b", "figure": Estimate(1.2345, 1.0, 1.5, 9), "octaves": [0.5, 1.0]}, {"what": "c", "more": 3}]
    Table("Figures", rows, {"model": "small"}, ("A note.",)).write(tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "| a\\|b | 1.23 [1.00, 1.50] | 0.5 1 |  |" in text and "A note." in text and "model: small" in text
    found = json.loads((tmp_path / "table.json").read_text())
    assert found["rows"][0]["figure"] == {"value": 1.2345, "low": 1.0, "high": 1.5, "n": 9}
    assert found["model"] == "small"


@pytest.mark.parametrize("n", [20, 400])  # fewer rows than features, and more
def test_the_frechet_distance_of_a_set_to_itself_is_nothing(n):
    features = normal(n, 32)
    assert abs(frechet_distance(features, features)) < 1e-7 * 32


@pytest.mark.parametrize("n", [20, 400])
def test_a_shift_is_the_frechet_distance_squared(n):
    features, shift = normal(n, 32), np.linspace(0, 1, 32)
    assert frechet_distance(features, features + shift) == pytest.approx(np.square(shift).sum(), abs=1e-6)


@pytest.mark.parametrize("n", [20, 400])
def test_a_stretch_is_the_frechet_distance_of_standard_deviations(n):
    features = normal(n, 32)
    variance = features.var(axis=0, ddof=1).sum()
    assert frechet_distance(features, 3 * features) == pytest.approx(
        np.square(2 * features.mean(axis=0)).sum() + 4 * variance, rel=1e-9
    )


def test_two_gaussians_have_the_frechet_distance_of_the_formula():
    """sum (m1 - m2)^2 + (s1 - s2)^2 for diagonal covariances; what n = 40,000 rows leave is below 2 %."""
    a, b = normal(40_000, 8), normal(40_000, 8, 1, mean=0.5, sd=2.0)
    assert frechet_distance(a, b) == pytest.approx(8 * (0.25 + 1.0), rel=0.02)


def test_rows_drawn_twice_count_twice():
    a, b = normal(30), normal(20, seed=1)
    twice = np.concatenate([a, a[:10]])
    weights = np.where(np.arange(30) < 10, 2.0, 1.0)
    assert frechet_distance(a, b, weights) == pytest.approx(frechet_distance(twice, b))


def test_the_frechet_interval_lies_around_its_value_and_the_bias_goes_away_with_n():
    few, many = (frechet_estimate(normal(n, 16), normal(n, 16, 1)) for n in (40, 1000))
    assert few.low < few.value < few.high and few.n == 40
    assert few.value > 10 * many.value > 0


def test_extrapolation_takes_most_of_the_bias():
    a, b = normal(500, 16), normal(500, 16, 1)
    assert abs(frechet_at_infinity(a, b)) < 0.3 * frechet_distance(a, b)
    assert frechet_at_infinity(a[:20], b[:20]) is None


def test_a_difference_of_distances_has_its_own_interval():
    real, places = normal(200), [str(i // 2) for i in range(200)]
    found = frechet_difference(real, real + 0.1, real + 1.0, places)
    assert found.low <= found.value <= found.high < 0
    assert found.value == pytest.approx(4 * (0.01 - 1.0), rel=1e-6)


@pytest.mark.parametrize("pairs", [False, True])
def test_the_kernel_distance_of_one_distribution_is_0_on_average_and_its_interval_covers_0(pairs):
    found = [kernel_distance(normal(40, 8, 2 * s), normal(40, 8, 2 * s + 1), pairs, draws=200) for s in range(100)]
    values = np.array([f.value for f in found])
    assert abs(values.mean()) < 3 * values.std() / 10
    assert np.mean([f.covers(0.0) for f in found]) > 0.85


def test_the_kernel_distance_sees_a_shift():
    found = kernel_distance(normal(100, 8), normal(100, 8, 1, mean=0.7))
    assert found.low > 0 and found.n == 100


def test_what_was_made_from_its_partner_is_not_compared_with_it():
    """Copies of the real set look better than another sample of the same distribution, unless pairs are left out."""
    real = [normal(30, 8, s) for s in range(60)]
    naive = np.mean([kernel_distance(x, x, draws=2).value for x in real])
    paired = np.mean([kernel_distance(x, x, pairs=True, draws=2).value for x in real])
    assert naive < 0 and abs(paired) < 1e-9


def of_places(places: int, chips: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Real features, those of made images that err alike in all chips of a place, and the places."""
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(places), chips)
    real = rng.standard_normal((places, 8))[names] + 0.5 * rng.standard_normal((len(names), 8))
    made = real + 0.3 + 0.6 * rng.standard_normal((places, 8))[names]
    return real, made, [str(name) for name in names]


def test_chips_of_one_place_count_as_no_other_samples_in_the_kernel_distance():
    """Many places of one chip each tell the truth; nine chips of each of nine places tell it too, on average."""
    truth = np.mean([kernel_distance(*of_places(400, 1, s)[:2], pairs=True, draws=2).value for s in range(4)])
    few = [of_places(9, 9, s) for s in range(60)]
    found = [kernel_distance(real, made, True, places, draws=200) for real, made, places in few]
    values = np.array([f.value for f in found])
    assert abs(values.mean() - truth) < 3 * values.std() / len(values) ** 0.5
    naive = np.mean([kernel_distance(real, made, True, draws=2).value for real, made, _ in few])
    assert naive > truth + 6 * values.std() / len(values) ** 0.5
    assert all(f.low < f.value < f.high for f in found)
