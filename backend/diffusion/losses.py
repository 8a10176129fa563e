"""Training objectives and the conversions between predictions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backend.diffusion.schedules import NoiseSchedule, p2_weights


def expand(values: Tensor, like: Tensor) -> Tensor:
    """(batch,) -> (batch, 1, 1, 1) beside ``like``."""
    return values.to(like)[:, None, None, None]


def prediction_target(kind: str, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """eps, or v = alpha eps - sigma x_0 (progressive distillation, arXiv 2202.00512)."""
    return noise if kind == "eps" else expand(alpha, x0) * noise - expand(sigma, x0) * x0


def data_prediction(kind: str, prediction: Tensor, noisy: Tensor, alpha: float, sigma: float) -> Tensor:
    """x_0 from the network's eps or v at one (alpha, sigma)."""
    if kind == "eps":
        return (noisy - sigma * prediction) / alpha
    return alpha * noisy - sigma * prediction


def draw_times(schedule: NoiseSchedule, how: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """``size`` times in [0, T-1]: "uniform" in t as in DDPM, or "mixed": half uniform in t, half in log-SNR.

    Samplers that step uniformly in log-SNR spend a sixth of their evaluations at times that a uniform draw
    visits in one case of a hundred; "mixed" trains them.
    """
    uniform = rng.uniform(0, schedule.steps - 1, size)
    if how == "uniform":
        return np.rint(uniform)
    lam = schedule.log_snr
    log_snr = schedule.time_at(rng.uniform(lam[-1], lam[0], size))
    return np.where(rng.random(size) < 0.5, uniform, log_snr)


def alpha_sigma_at(schedule: NoiseSchedule, times: np.ndarray) -> tuple[Tensor, Tensor]:
    """(batch,) alpha and sigma at fractional times, log-SNR interpolated linearly."""
    lam = np.interp(times, np.arange(schedule.steps), schedule.log_snr)
    alpha_bar = 1.0 / (1.0 + np.exp(-2.0 * lam))
    return torch.from_numpy(np.sqrt(alpha_bar)), torch.from_numpy(np.sqrt(1.0 - alpha_bar))


def loss_weights(schedule: NoiseSchedule, kind: str, times: np.ndarray) -> Tensor:
    """(batch,) weights: "none" or "p2"."""
    if kind == "none":
        return torch.ones(len(times))
    return torch.from_numpy(np.interp(times, np.arange(schedule.steps), p2_weights(schedule))).float()
