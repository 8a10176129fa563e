"""Schedules and samplers against diffusers, the field's reference, and what samplers promise."""

import itertools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from backend.diffusion.losses import alpha_sigma_at, data_prediction, draw_times, prediction_target
from backend.diffusion.samplers import ddim, dpm_solver_pp_2m, leading_levels, log_snr_levels
from backend.diffusion.schedules import NoiseSchedule, p2_weights

SCHEDULE = NoiseSchedule()
COMMON = dict(num_train_timesteps=1000, beta_start=0.0015, beta_end=0.0155)


def epsilon_model(x, alpha, sigma):
    """A nonlinear stand-in for a network: eps as a smooth function of the noisy image and its level."""
    return torch.tanh(x * (0.5 + sigma)) + 0.1 * alpha * torch.sin(3 * x)


def denoise(x, level):
    return data_prediction("eps", epsilon_model(x, level.alpha, level.sigma), x, level.alpha, level.sigma)


@pytest.fixture
def noise():
    return torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("ours", "theirs"), [("linear", "linear"), ("sqrt-linear", "scaled_linear")])
def test_schedules_equal_diffusers(ours, theirs):
    reference = DDIMScheduler(**COMMON, beta_schedule=theirs).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(NoiseSchedule(ours).alpha_bar, reference, rtol=2e-4)


def test_the_ends_of_both_schedules():
    assert NoiseSchedule("linear").alpha_bar[-1] == pytest.approx(1.95e-4, rel=0.01)
    assert NoiseSchedule("sqrt-linear").alpha_bar[-1] == pytest.approx(6.69e-4, rel=0.01)
    assert np.sqrt(1 - SCHEDULE.alpha_bar[0]) == pytest.approx(0.039, abs=5e-4)


@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_equals_diffusers(noise, steps):
    reference = DDIMScheduler(**COMMON, beta_schedule="linear", clip_sample=False, steps_offset=0)
    reference.set_timesteps(steps)
    x = noise.clone()
    for t in reference.timesteps:
        alpha_bar = float(reference.alphas_cumprod[t])
        x = reference.step(epsilon_model(x, alpha_bar**0.5, (1 - alpha_bar) ** 0.5), int(t), x).prev_sample
    ours = ddim(denoise, noise.clone(), leading_levels(SCHEDULE, steps))
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-4)


def test_ddim_with_eta_equals_diffusers(noise):
    reference = DDIMScheduler(**COMMON, beta_schedule="linear", clip_sample=False, steps_offset=0)
    reference.set_timesteps(10)
    draws = [
        torch.randn(noise.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(11)
    ]
    x = noise.clone()
    for i, t in enumerate(reference.timesteps):
        alpha_bar = float(reference.alphas_cumprod[t])
        eps = epsilon_model(x, alpha_bar**0.5, (1 - alpha_bar) ** 0.5)
        x = reference.step(eps, int(t), x, eta=0.7, variance_noise=draws[i + 1]).prev_sample
    ours = ddim(denoise, noise.clone(), leading_levels(SCHEDULE, 10), eta=0.7, noise=lambda step: draws[step])
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("steps", [8, 12])
def test_dpm_solver_equals_diffusers_on_the_same_levels(noise, steps):
    reference = DPMSolverMultistepScheduler(
        **COMMON,
        beta_schedule="linear",
        solver_order=2,
        algorithm_type="dpmsolver++",
        final_sigmas_type="zero",
        lower_order_final=True,
        euler_at_final=False,
        use_lu_lambdas=True,
        prediction_type="epsilon",
    )
    reference.set_timesteps(steps)
    # the reference's levels, given to ours: its lambdas start and end at the schedule's own ends
    ours_levels = log_snr_levels(SCHEDULE, steps)
    sigmas = np.array([level.sigma / level.alpha for level in ours_levels])
    reference.sigmas = torch.cat([torch.from_numpy(sigmas), torch.zeros(1)]).double()
    x = noise.clone()
    for i, t in enumerate(reference.timesteps):
        alpha, sigma = ours_levels[i].alpha, ours_levels[i].sigma
        x = reference.step(epsilon_model(x, alpha, sigma), t, x).prev_sample
    torch.testing.assert_close(dpm_solver_pp_2m(denoise, noise.clone(), ours_levels), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 7, 50, 600, 999, 1000])
def test_ddim_starts_where_there_is_little_but_noise(steps):
    levels = leading_levels(SCHEDULE, steps)
    assert len(levels) == steps
    assert levels[0].sigma > 0.97
    assert all(a.time > b.time for a, b in itertools.pairwise(levels))


def test_levels_are_uniform_in_log_snr():
    steps = np.diff([level.log_snr for level in log_snr_levels(SCHEDULE, 12)])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)


def test_times_of_levels_invert_the_schedule():
    times = np.array([0.0, 17.0, 500.0, 999.0])
    np.testing.assert_allclose(SCHEDULE.time_at(SCHEDULE.log_snr[times.astype(int)]), times, atol=1e-6)


@pytest.mark.parametrize(("sampler", "levels"), [(ddim, leading_levels), (dpm_solver_pp_2m, log_snr_levels)])
def test_a_perfect_denoiser_is_reached_exactly(noise, sampler, levels):
    truth = torch.linspace(-1, 1, noise.numel(), dtype=torch.float64).reshape(noise.shape)
    torch.testing.assert_close(sampler(lambda x, level: truth, noise, levels(SCHEDULE, 10)), truth)


@pytest.mark.parametrize(("sampler", "levels"), [(ddim, leading_levels), (dpm_solver_pp_2m, log_snr_levels)])
def test_the_callback_sees_every_evaluation_and_may_stop(noise, sampler, levels):
    seen = []
    sampler(denoise, noise, levels(SCHEDULE, 10), callback=lambda n, x0: seen.append(n))
    assert seen == list(range(1, 11))

    def stop(n, x0):
        if n == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler(denoise, noise, levels(SCHEDULE, 10), callback=stop)


def test_more_steps_come_closer_to_the_limit(noise):
    limit = dpm_solver_pp_2m(denoise, noise, log_snr_levels(SCHEDULE, 400))
    errors = [
        float((dpm_solver_pp_2m(denoise, noise, log_snr_levels(SCHEDULE, n)) - limit).norm()) for n in (10, 20, 40)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_predictions_convert_back_to_the_image(kind, noise):
    image = torch.rand_like(noise)
    alpha, sigma = alpha_sigma_at(SCHEDULE, np.array([300.0, 300.0]))
    noisy = alpha[0] * image + sigma[0] * noise
    target = prediction_target(kind, image, noise, alpha, sigma)
    torch.testing.assert_close(data_prediction(kind, target, noisy, float(alpha[0]), float(sigma[0])), image)


def test_p2_weights_are_one_over_one_plus_snr():
    np.testing.assert_allclose(p2_weights(SCHEDULE), 1 - SCHEDULE.alpha_bar, rtol=1e-9)


def test_mixed_times_visit_the_clean_end_more_often():
    rng = np.random.default_rng(0)
    uniform, mixed = (np.mean(draw_times(SCHEDULE, how, 20000, rng) < 20) for how in ("uniform", "mixed"))
    assert uniform < 0.03 < 0.08 < mixed
