"""The loss of a batch, as one module: what data parallelism wraps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from backend.diffusion.losses import alpha_sigma_at, expand, loss_weights, prediction_target
from backend.models.bundle import ModelConfig
from backend.models.cascade_network import CascadeNetwork, Condition
from backend.training.examples import Batch
from backend.training.first_stage import first_stage_output


class Objective(nn.Module):
    """w_t ||target - prediction||^2 averaged over a batch, or plain L1 for the regression baseline."""

    def __init__(self, network: CascadeNetwork, config: ModelConfig, kind: str, weighting: str) -> None:
        super().__init__()
        self.network, self.config, self.kind, self.weighting = network, config, kind, weighting

    def forward(self, batch: Batch) -> Tensor:
        """The loss, a scalar."""
        condition = self.network.encode(self._source(batch), batch.ground_resolution_m)
        x0 = self.network.to_model_space(batch.high, condition)
        if self.kind == "l1":
            return F.l1_loss(regress(self.network, self.config, condition), x0)
        times = batch.times.cpu().numpy()
        alpha, sigma = (v.to(x0) for v in alpha_sigma_at(self.config.schedule, times))
        noisy = expand(alpha, x0) * x0 + expand(sigma, x0) * batch.noise
        target = prediction_target(self.config.prediction, x0, batch.noise, alpha, sigma)
        prediction = self.network(noisy, batch.times.to(x0), condition)
        error = (prediction - target).square().mean(dim=(1, 2, 3))
        return (loss_weights(self.config.schedule, self.weighting, times).to(error) * error).mean()

    def _source(self, batch: Batch) -> Tensor:
        """What the examples are made from: (n, 3, side, side) in [-1, 1]; of some the network's own output."""
        own = batch.second_stage
        if not own.any():
            return batch.low
        source, resolution = batch.low.clone(), batch.ground_resolution_m[own] * self.config.network.scale
        source[own] = first_stage_output(self.network, self.config, batch.low[own], resolution, batch.first_noise[own])
        return source


@torch.no_grad()
def folded_images(network: CascadeNetwork, examples: Dataset, count: int) -> list[dict[int, Tensor]]:
    """What is diffused of the first examples, folded: what the linear guess is fitted to."""
    device, found = next(network.parameters()).device, []
    for number in range(count):
        example = examples[number]
        condition = network.encode(example.low[None].to(device), example.ground_resolution_m[None].to(device))
        x0 = network.to_model_space(example.high[None].to(device), condition)
        found.append({0: F.pixel_unshuffle(x0[0], network.config.unshuffle)})
    return found


def regress(network: CascadeNetwork, config: ModelConfig, condition: Condition) -> Tensor:
    """The regression baseline's x_0: the same network at t = T - 1 with zeros instead of noise."""
    zeros = torch.zeros_like(condition.base)
    time_ = torch.full((len(zeros),), float(config.schedule.steps - 1), device=zeros.device)
    return network(zeros, time_, condition)
