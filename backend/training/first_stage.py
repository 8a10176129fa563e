"""What a second stage is given: the network's own first-stage output, made while it trains.

A cascade of real inputs alone never sees the first stage's grain, and makes texture of it. Here a share of the
examples gets its source from the network itself, as a job would: the source averaged down once more, made finer and
back-projected. The target stays the real image. Cascaded diffusion models (arXiv 2106.15282) meet the same gap with
noise on the input.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.cascade.engine import moved_towards
from backend.diffusion.losses import data_prediction
from backend.diffusion.samplers import Level, dpm_solver_pp_2m, log_snr_levels
from backend.errors import PlanError
from backend.models.bundle import ModelConfig
from backend.models.cascade_network import CascadeNetwork, Condition
from backend.models.config import NetworkConfig

SAMPLING_STEPS = 12


def sample(network: CascadeNetwork, config: ModelConfig, noise: Tensor, condition: Condition) -> Tensor:
    """x_0 from noise, (n, 3, h, w), in a few quick steps."""

    def denoise(noisy: Tensor, level: Level) -> Tensor:
        time = torch.full((len(noisy),), level.time, dtype=torch.float32, device=noisy.device)
        return data_prediction(config.prediction, network(noisy, time, condition), noisy, level.alpha, level.sigma)

    return dpm_solver_pp_2m(denoise, noise, log_snr_levels(config.schedule, SAMPLING_STEPS))


def require_first_stage(network: NetworkConfig, side: int) -> None:
    """`PlanError` unless the network can make a source of ``side`` pixels, context and all, itself."""
    unit = math.lcm(network.scale, network.total_downsampling)
    if side % unit or side // network.scale <= network.context:
        raise PlanError(
            f"second_stage: a source of {side} pixels (crop / {network.scale} and the context on both sides) cannot be"
            f" made by the network. It must be a multiple of {unit} above {network.scale * network.context}: choose"
            " another crop."
        )


@torch.no_grad()
def first_stage_output(
    network: CascadeNetwork, config: ModelConfig, low: Tensor, ground_resolution_m: Tensor, noise: Tensor
) -> Tensor:
    """``low`` averaged down and made again by the network, as 8-bit pixels: (n, 3, side, side) in [-1, 1].

    ``ground_resolution_m``: (n,), that of ``low``. ``noise``: of the shape of ``low``. Context is reflected.
    """
    scale, context = config.network.scale, config.network.context
    coarse = F.avg_pool2d(low, scale)
    condition = network.encode(F.pad(coarse, (context,) * 4, mode="reflect"), ground_resolution_m)
    made = network.to_image(sample(network, config, noise, condition), condition)
    made = moved_towards(made, coarse, scale, strength=1.0).clamp(-1, 1)
    return ((made + 1) * 127.5).round() / 127.5 - 1
