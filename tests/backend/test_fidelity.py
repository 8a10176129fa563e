"""The figures and baselines that translations between modalities are measured by."""

from __future__ import annotations

import numpy as np
import pytest

from backend.evaluation.fidelity import (
    class_overlap,
    correlation,
    mean_iou,
    moments,
    pooled_correlation,
    psnr_db,
    ssim,
    value_distance,
)
from backend.evaluation.pixel_regression import fit
from backend.evaluation.scene_checks import ndvi
from backend.evaluation.scene_scores import scores, verdict
from backend.evaluation.statistics import Estimate
from backend.evaluation.translators import filled_up, joined, middle
from backend.scene.modality import find_modality

WEIGHTS = np.array([0.5, 0.3, 0.1])


def test_ssim_and_psnr_know_what_is_the_same_and_what_is_not():
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (3, 40, 30)).astype(np.float32)
    assert ssim(image, image) == pytest.approx(1) and psnr_db(image, image) > 90
    assert psnr_db(image + 5, image) == pytest.approx(20 * np.log10(255 / 5), abs=1e-4)
    noisy = [ssim(image, image + rng.normal(0, sd, image.shape)) for sd in (10, 40)]
    assert 1 > noisy[0] > noisy[1] > 0 and ssim(255 - image, image) < 0


def test_ssim_of_flat_images_is_its_luminance_term():
    flat = np.full((1, 20, 20), 100, np.float32)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert ssim(flat, flat + 50) == pytest.approx(expected, rel=1e-6)


def test_ssim_agrees_with_the_formula_written_pixel_by_pixel():
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0, 255, (2, 1, 11, 11))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    mean_a, mean_b = (window * a[0]).sum(), (window * b[0]).sum()
    var_a, var_b = (window * (a[0] - mean_a) ** 2).sum(), (window * (b[0] - mean_b) ** 2).sum()
    covariance = (window * (a[0] - mean_a) * (b[0] - mean_b)).sum()
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    expected /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    assert ssim(a, b) == pytest.approx(expected)


def test_the_distance_of_values_does_not_see_where_they_lie():
    values = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    assert value_distance(values[:, ::-1], values) == 0
    assert value_distance(values + 7, values) == 7
    assert value_distance(values * 0, values) == pytest.approx(5.5)


def test_mean_iou_counts_what_is_in_either_map():
    real = np.array([[[0, 0, 3, 3]]], np.float32)
    made = np.array([[[0, 3, 3, 3]]], np.float32)
    found = class_overlap(made, real, (0, 1, 3))
    np.testing.assert_array_equal(found, [[1, 0, 2], [2, 0, 3]])
    assert mean_iou(found) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert mean_iou(class_overlap(real, real, (0, 1, 3))) == 1
    assert mean_iou(class_overlap(real * 0 + 1, real, (0, 1, 3))) == 0


def test_correlations_of_parts_add_up_to_that_of_all():
    rng = np.random.default_rng(0)
    a = rng.normal(5, 2, (6, 50))
    b = a * 0.5 + rng.normal(0, 1, a.shape) + np.arange(6)[:, None]
    sums = np.stack([moments(x, y) for x, y in zip(a, b)])
    assert pooled_correlation(sums, None).value == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert correlation(a, -3 * a) == pytest.approx(-1)
    assert correlation(a, np.full_like(a, 0.1)) == 0


def test_ndvi_is_high_where_near_infrared_is():
    rgb, nir = np.zeros((3, 1, 3), np.float32), np.array([[[60, 0, 20]]], np.float32)
    rgb[0] = [20, 0, 60]
    np.testing.assert_allclose(ndvi(rgb, nir), [[0.5, 0, -0.5]])


def test_a_bar_is_met_by_a_whole_interval_only():
    assert verdict(Estimate(1, 0.5, 2, 9)) == "met" and verdict(Estimate(-1, -2, -0.5, 9)) == "missed"
    nan = float("nan")
    assert verdict(Estimate(1, -0.5, 2, 9)) == verdict(Estimate(1, nan, nan, 1)) == "undecided"


def test_the_spectrum_error_is_nothing_for_the_real_strength_and_one_for_its_double():
    rng = np.random.default_rng(0)
    real = [rng.normal(100, 20, (1, 64, 64)).astype(np.float32) for _ in range(3)]
    louder = [100 + (image - 100) * 2**0.5 for image in real]
    nir = find_modality("nir")
    assert scores(real, real, nir).spectrum_error(np.ones(3)) == pytest.approx(0, abs=1e-9)
    assert scores(louder, real, nir).spectrum_error(np.ones(3)) == pytest.approx(1, abs=0.01)
    assert scores([i * 0 for i in real], real, nir).spectrum_error(np.ones(3)) > 10


def test_the_regression_recovers_a_known_linear_map_and_a_product():
    rng = np.random.default_rng(0)
    given = rng.integers(0, 256, (4000, 3)).astype(np.float32)
    rgb, nir = find_modality("rgb"), find_modality("nir")
    linear = (20 + given @ WEIGHTS)[:, None]
    image = given[:100].T.reshape(3, 10, 10)
    found = fit(rgb, nir, given, linear, 1)
    np.testing.assert_allclose(found.weights[:, 0], [20 + 127.5 * WEIGHTS.sum(), *(127.5 * WEIGHTS)], rtol=1e-4)
    assert np.abs(found(image).ravel() - linear[:100, 0]).max() <= 0.51  # it is rounded
    product = given[:, :1] * given[:, 1:2] / 255
    errors = [np.abs(fit(rgb, nir, given, product, d)(image).ravel() - product[:100, 0]).mean() for d in (1, 2)]
    assert errors[1] < 0.5 < errors[0]


def test_the_regression_learns_classes_and_the_means_of_classes():
    rng = np.random.default_rng(0)
    given = rng.integers(0, 256, (3000, 3)).astype(np.float32)
    classes = np.where(given[:, :1] > 120, 3.0, 0.0).astype(np.float32)
    rgb, osm = find_modality("rgb"), find_modality("osm")
    made = fit(rgb, osm, given, classes, 2)(given.T.reshape(3, 60, 50))
    assert (made.ravel() == classes[:, 0]).mean() > 0.98
    back = fit(osm, rgb, classes, given, 2)(np.array([[[0, 3]]], np.float32))
    np.testing.assert_allclose(back[0, 0], [given[classes[:, 0] == c, 0].mean() for c in (0, 3)], atol=1)


def test_a_window_is_filled_up_by_reflection_and_cut_back():
    picture = np.random.default_rng(0).uniform(-1, 1, (3, 47, 40)).astype(np.float32)
    filled = filled_up(picture, 64)
    assert filled.shape == (3, 64, 64)
    np.testing.assert_array_equal(middle(filled, (47, 40)), picture)
    np.testing.assert_array_equal(filled[:, 8, 11], picture[:, 0, 1])


def test_samples_are_joined_by_their_mean_and_maps_by_a_vote():
    nir, osm = find_modality("nir"), find_modality("osm")
    pictures = [nir.to_picture(np.full((1, 2, 2), v, np.float32)) for v in (10, 20, 60)]
    assert (joined(np.stack(pictures), nir) == 30).all()
    votes = [osm.to_picture(np.full((1, 2, 2), v, np.float32)) for v in (1, 3, 3)]
    assert (joined(np.stack(votes), osm) == 3).all()
