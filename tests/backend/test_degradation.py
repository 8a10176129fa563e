"""High-order degradation: what is drawn, and what each branch does to pixels."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from backend.training import degradation
from backend.training.degradation import (
    KINDS,
    ROUNDS,
    Blur,
    Noise,
    blurred,
    degrade,
    draw,
    jpeg,
    kernel,
    noise_like,
    resized,
)

DRAWS = 4000


@pytest.fixture(scope="module")
def draws():
    rng = np.random.default_rng(0)
    return [draw(rng) for _ in range(DRAWS)]


def near(count, of, share):
    """Within four standard deviations of a binomial."""
    assert abs(count / of - share) < 4 * math.sqrt(share * (1 - share) / of)


def test_the_first_round_always_blurs_and_the_second_in_four_cases_of_five(draws):
    assert all(d.rounds[0].blur for d in draws)
    near(sum(d.rounds[1].blur is not None for d in draws), DRAWS, 0.8)


def test_kernels_are_drawn_as_the_table_says(draws):
    blurs = [d.rounds[0].blur for d in draws]
    near(sum(b.kind == "sinc" for b in blurs), DRAWS, 0.1)
    kinds = Counter(b.kind for b in blurs if b.kind != "sinc")
    for kind, share in zip(KINDS, (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)):
        near(kinds[kind], kinds.total(), share)
    assert {b.size for b in blurs} == set(range(7, 22, 2))
    sigmas = [s for b in blurs if b.kind != "sinc" for s in b.sigmas]
    assert 0.2 <= min(sigmas) < 0.25 and 2.95 < max(sigmas) <= 3
    second = [s for d in draws if d.rounds[1].blur for s in d.rounds[1].blur.sigmas]
    assert 1.45 < max(second) <= 1.5


def test_equal_sigmas_belong_to_isotropic_kernels(draws):
    blurs = [d.rounds[0].blur for d in draws if d.rounds[0].blur.kind != "sinc"]
    assert all((b.sigmas[0] == b.sigmas[1]) is not b.kind.endswith("aniso") for b in blurs)


@pytest.mark.parametrize(("kind", "limits"), [("generalized", (0.5, 4)), ("plateau", (1, 2)), ("iso", (1, 1))])
def test_the_exponents_of_kernels_fill_their_ranges(draws, kind, limits):
    betas = [d.rounds[0].blur.beta for d in draws if d.rounds[0].blur.kind.startswith(kind)]
    assert limits[0] <= min(betas) < limits[0] + 0.1 and limits[1] - 0.2 < max(betas) <= limits[1]


def test_small_sinc_kernels_cut_off_later(draws):
    sincs = [d.rounds[0].blur for d in draws if d.rounds[0].blur.kind == "sinc"]
    assert min(b.cutoff for b in sincs if b.size < 13) >= math.pi / 3
    assert math.pi / 5 <= min(b.cutoff for b in sincs if b.size >= 13) < math.pi / 4


@pytest.mark.parametrize(("number", "shares"), [(0, (0.2, 0.7, 0.1)), (1, (0.3, 0.4, 0.3))])
def test_resizes_noise_and_compression_are_drawn_as_the_table_says(draws, number, shares):
    done = [d.rounds[number] for d in draws]
    limits = ROUNDS[number]
    for share, right in zip(shares, (lambda f: f > 1, lambda f: f < 1, lambda f: f == 1)):
        near(sum(right(d.factor) for d in done), DRAWS, share)
    low, high = limits.resize_range
    assert low <= min(d.factor for d in done) < low + 0.02 and high - 0.02 < max(d.factor for d in done) <= high
    for mode in ("area", "bilinear", "bicubic"):
        near(sum(d.mode == mode for d in done), DRAWS, 1 / 3)
    near(sum(d.noise.kind == "gaussian" for d in done), DRAWS, 0.5)
    near(sum(d.noise.grey for d in done), DRAWS, 0.4)
    for kind, (least, most) in (("gaussian", limits.gaussian_sigma), ("poisson", limits.poisson_scale)):
        strengths = [d.noise.strength for d in done if d.noise.kind == kind]
        assert least <= min(strengths) and 0.98 * most < max(strengths) <= most
    assert {d.jpeg_quality for d in done} == set(range(30, 96))


def test_the_last_steps_are_drawn_as_the_table_says(draws):
    near(sum(d.resize_first for d in draws), DRAWS, 0.5)
    near(sum(d.final_sinc is not None for d in draws), DRAWS, 0.8)
    cutoffs = [d.final_sinc.cutoff for d in draws if d.final_sinc]
    assert math.pi / 3 <= min(cutoffs) and max(cutoffs) <= math.pi


@pytest.mark.parametrize("kind", [*KINDS, "sinc"])
def test_kernels_keep_the_mean_and_lie_in_the_middle(kind):
    made = kernel(Blur(kind, 15, (1.5, 0.8 if kind.endswith("aniso") else 1.5), 0.7, 1.4, 2.0))
    assert made.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(made, made[::-1, ::-1], atol=1e-7)
    assert made[7, 7] == made.max()


def test_a_gaussian_kernel_has_its_standard_deviation():
    made = kernel(Blur("aniso", 21, (2.0, 1.0), 0.0)).astype(float)
    offsets = np.arange(21) - 10
    assert (made.sum(axis=0) * offsets**2).sum() == pytest.approx(4, rel=0.01)
    assert (made.sum(axis=1) * offsets**2).sum() == pytest.approx(1, rel=0.01)


def test_a_sinc_kernel_passes_what_is_below_its_cutoff():
    frequencies = np.abs(np.fft.fft2(kernel(Blur("sinc", 21, cutoff=1.6)), (64, 64)))
    angular = 2 * math.pi * np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    assert frequencies[angular < 0.8].min() > 0.85 and frequencies[angular > 2.6].mean() < 0.1


def test_blur_keeps_a_flat_image_flat_also_where_there_is_little_to_reflect():
    flat = torch.full((3, 9, 40), 0.4)
    assert torch.allclose(blurred(flat, Blur("iso", 21, (2.0, 2.0))), flat, atol=1e-5)


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
def test_resizing_keeps_things_in_their_place(mode):
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64)
    again = resized(resized(ramp, [32, 32], mode), [64, 64], mode)
    assert float((again - ramp)[:, :, 4:-4].abs().mean()) < 0.01


def test_gaussian_noise_has_its_sigma_in_grey_levels():
    made = noise_like(torch.full((3, 128, 128), 0.5), Noise("gaussian", 20.0, False), np.random.default_rng(0))
    assert float(made.std()) * 255 == pytest.approx(20, rel=0.02)
    assert not torch.equal(made[0], made[1])


def test_poisson_noise_grows_with_brightness():
    image = torch.linspace(0, 1, 256).expand(3, 256, 256)
    made = noise_like(image, Noise("poisson", 1.0, False), np.random.default_rng(0))
    dark, bright = made[..., 20:40].std(), made[..., 200:220].std()
    assert float(bright / dark) == pytest.approx(math.sqrt(210 / 30), rel=0.1)
    assert float(made[..., 128].std()) == pytest.approx(math.sqrt(0.5 / 256), rel=0.15)


@pytest.mark.parametrize("kind", ["gaussian", "poisson"])
def test_grey_noise_is_equal_in_all_bands(kind):
    made = noise_like(torch.rand(3, 32, 32), Noise(kind, 2.0, True), np.random.default_rng(0))
    assert torch.equal(made[0], made[1]) and torch.equal(made[1], made[2])


def test_compression_is_worse_at_a_lower_quality():
    image = torch.from_numpy(np.random.default_rng(0).random((3, 64, 64), np.float32))
    image = blurred(image, Blur("iso", 7, (1.0, 1.0)))
    errors = [float((jpeg(image, q) - image).abs().mean()) for q in (30, 60, 95)]
    assert errors == sorted(errors, reverse=True)


def test_the_whole_makes_a_quarter_in_whole_grey_levels_the_same_for_one_seed():
    image = torch.from_numpy(np.random.default_rng(0).random((3, 96, 64), np.float32))
    for seed in range(12):
        made = [degrade(image, 4, draw(rng), rng) for rng in (np.random.default_rng(seed) for _ in range(2))]
        assert made[0].shape == (3, 24, 16) and torch.equal(made[0], made[1])
        levels = made[0] * 255
        assert torch.allclose(levels, levels.round(), atol=1e-4) and levels.min() >= 0 and levels.max() <= 255
    other = np.random.default_rng(99)
    assert not torch.equal(made[0], degrade(image, 4, draw(other), other))


def test_the_picture_stays_in_its_place(monkeypatch):
    """Without noise, what is degraded and enlarged again correlates best with the original at no shift."""
    monkeypatch.setattr(degradation, "noise_like", lambda x, noise, rng: torch.zeros_like(x))
    smooth = blurred(torch.from_numpy(np.random.default_rng(1).random((3, 128, 128), np.float32)),
                     Blur("iso", 21, (3.0, 3.0)))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    rng = np.random.default_rng(2)
    total = sum(resized(degrade(smooth, 4, draw(rng), rng), [128, 128], "bicubic") for _ in range(24)) / 24
    inner = total[:, 16:-16, 16:-16]
    scores = {
        (r, c): float(torch.corrcoef(torch.stack(
            [inner.flatten(), smooth[:, 16 + r:112 + r, 16 + c:112 + c].flatten()]))[0, 1])
        for r in (-2, 0, 2) for c in (-2, 0, 2)
    }
    assert max(scores, key=scores.get) == (0, 0)
