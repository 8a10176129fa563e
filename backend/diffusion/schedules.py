"""Discrete variance-preserving noise schedules and their continuous log-SNR, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.errors import ModelError

Array = NDArray[np.float64]


def linear_betas(steps: int, start: float, end: float) -> Array:
    """Betas evenly spaced from ``start`` to ``end`` (DDPM, arXiv 2006.11239)."""
    return np.linspace(start, end, steps, dtype=np.float64)


def sqrt_linear_betas(steps: int, start: float, end: float) -> Array:
    """Betas whose square roots are evenly spaced (latent diffusion's "linear", arXiv 2112.10752)."""
    return linear_betas(steps, start**0.5, end**0.5) ** 2


BETAS = {"linear": linear_betas, "sqrt-linear": sqrt_linear_betas}


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha_bar_t for t = 0 .. T-1; MetaEarth: T = 1000, "linear" from 0.0015 to 0.0155."""

    kind: str = "linear"
    beta_start: float = 0.0015
    beta_end: float = 0.0155
    steps: int = 1000

    def __post_init__(self) -> None:
        if self.kind not in BETAS:
            raise ModelError(f"Unknown noise schedule {self.kind!r}; known: {', '.join(BETAS)}.")

    @property
    def alpha_bar(self) -> Array:
        """(steps,): product of (1 - beta) up to t."""
        alphas = 1.0 - BETAS[self.kind](self.steps, self.beta_start, self.beta_end)
        return np.cumprod(alphas, dtype=np.float64)

    @property
    def log_snr(self) -> Array:
        """(steps,): lambda_t = ln(alpha_t / sigma_t), half the logarithm of alpha_bar / (1 - alpha_bar)."""
        alpha_bar = self.alpha_bar
        return 0.5 * (np.log(alpha_bar) - np.log1p(-alpha_bar))

    def time_at(self, log_snr: Array) -> Array:
        """The (fractional) time t whose lambda_t is ``log_snr``, by linear interpolation."""
        lam = self.log_snr
        return np.interp(log_snr, lam[::-1], np.arange(self.steps, dtype=np.float64)[::-1])


def alpha_sigma(log_snr: float) -> tuple[float, float]:
    """(alpha, sigma) = (sqrt(alpha_bar), sqrt(1 - alpha_bar)) of a variance-preserving process at lambda."""
    alpha_bar = 1.0 / (1.0 + np.exp(-2.0 * log_snr))
    return float(np.sqrt(alpha_bar)), float(np.sqrt(1.0 - alpha_bar))


def p2_weights(schedule: NoiseSchedule, k: float = 1.0, gamma: float = 1.0) -> Array:
    """w_t = 1 / (k + SNR(t))^gamma, SNR = alpha_bar / (1 - alpha_bar) (P2 weighting, arXiv 2204.00227)."""
    alpha_bar = schedule.alpha_bar
    return 1.0 / (k + alpha_bar / (1.0 - alpha_bar)) ** gamma
