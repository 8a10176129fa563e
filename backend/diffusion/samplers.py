"""Samplers: each a plain function from noise to an image; they know nothing of tiles, files or progress bars.

``denoise(x, level)`` returns the prediction of x_0. ``callback(evaluations, x_0)`` runs after each network
evaluation and is the only way out: it may raise. The state stays in x's dtype, coefficients are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from backend.diffusion.schedules import NoiseSchedule, alpha_sigma


@dataclass(frozen=True)
class Level:
    """One noise level: x_t = alpha x_0 + sigma noise at the (fractional) time t."""

    time: float
    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """lambda = ln(alpha / sigma); infinite at the clean end."""
        return math.inf if self.sigma == 0 else math.log(self.alpha / self.sigma)


CLEAN = Level(-1.0, 1.0, 0.0)

Denoiser = Callable[[Tensor, Level], Tensor]
Callback = Callable[[int, Tensor], None]
NoiseSource = Callable[[int], Tensor]


def leading_levels(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """DDIM's "leading" spacing, t = 0, T/n, 2T/n ..., noisiest first; the paper's, with n = 50. One step: t = T - 1."""
    times = (np.arange(steps) * schedule.steps // steps)[::-1] if steps > 1 else np.array([schedule.steps - 1])
    alpha_bar = schedule.alpha_bar
    return [Level(float(t), math.sqrt(alpha_bar[t]), math.sqrt(1 - alpha_bar[t])) for t in times]


def log_snr_levels(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """Levels evenly spaced in log-SNR between the schedule's two ends, noisiest first."""
    lam = schedule.log_snr
    levels = np.linspace(lam[-1], lam[0], steps)
    return [Level(float(t), *alpha_sigma(float(v))) for t, v in zip(schedule.time_at(levels), levels)]


def ddim(
    denoise: Denoiser,
    x: Tensor,
    levels: list[Level],
    callback: Callback | None = None,
    eta: float = 0.0,
    noise: NoiseSource | None = None,
) -> Tensor:
    """DDIM (arXiv 2010.02502, eq. 12 and 16), deterministic for eta = 0.

    ``noise(step)`` gives the normal noise added after step 1, 2, ... when eta > 0.
    """
    for i, level in enumerate(levels):
        following = levels[i + 1] if i + 1 < len(levels) else CLEAN
        # "predicted x_0"
        x0 = denoise(x, level)
        if callback:
            callback(i + 1, x0)
        eps = (x - level.alpha * x0) / level.sigma
        # sigma_t(eta) of eq. 16
        ratio = level.alpha**2 / following.alpha**2
        spread = eta * math.sqrt(following.sigma**2 / level.sigma**2 * (1 - ratio))
        # "direction pointing to x_t"
        x = following.alpha * x0 + math.sqrt(max(0.0, following.sigma**2 - spread**2)) * eps
        if spread and noise is not None:
            x = x + spread * noise(i + 1)
    return x


def dpm_solver_pp_2m(denoise: Denoiser, x: Tensor, levels: list[Level], callback: Callback | None = None) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2); the last step, to sigma = 0, is of first order."""
    previous: tuple[Tensor, float] | None = None
    for i, level in enumerate(levels):
        x0 = denoise(x, level)
        if callback:
            callback(i + 1, x0)
        if i + 1 == len(levels):
            return x0
        following = levels[i + 1]
        h = following.log_snr - level.log_snr
        d = x0
        if previous is not None:
            r = previous[1] / h
            d = x0 + (x0 - previous[0]) / (2 * r)
        x = following.sigma / level.sigma * x - following.alpha * math.expm1(-h) * d
        previous = (x0, h)
    return x
