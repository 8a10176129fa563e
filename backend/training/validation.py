"""What a run is judged by as it goes: the loss on held-out examples, and pictures of what the average weights make."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from backend.diffusion.flow import adams_bashforth
from backend.models.cascade_network import upsample
from backend.models.scene_network import SceneNetwork, Streams
from backend.training.examples import Examples, collate
from backend.training.first_stage import SAMPLING_STEPS, sample
from backend.training.objective import Objective, regress
from backend.training.scene_examples import SceneExamples
from backend.training.scene_objective import (
    ExpectationObjective,
    FlowObjective,
    RegressionObjective,
    SceneBatch,
    VaeObjective,
)

SceneObjective = VaeObjective | ExpectationObjective | FlowObjective | RegressionObjective
LOSS_EXAMPLES, PICTURES = 64, 4


@torch.inference_mode()
def validation_loss(objective: nn.Module, examples: Any, batch: int, device: torch.device) -> float:
    """The objective over the first examples."""
    losses = []
    for first in range(0, LOSS_EXAMPLES, batch):
        some = collate([examples[i] for i in range(first, min(first + batch, LOSS_EXAMPLES))])
        losses.append((float(objective(some.to(device))), len(some[0])))
    return sum(loss * count for loss, count in losses) / sum(count for _, count in losses)


@torch.inference_mode()
def validation_picture(objective: Objective, examples: Examples, device: torch.device) -> Image.Image:
    """One example a line: low resolution, bicubic, generated, real."""
    batch = collate([examples[i] for i in range(PICTURES)]).to(device)
    network, config = objective.network, objective.config
    condition = network.encode(batch.low, batch.ground_resolution_m)
    if objective.kind == "l1":
        x0 = regress(network, config, condition)
    else:
        x0 = sample(network, config, batch.noise, condition)
    made = network.to_image(x0, condition)
    context, scale = config.network.context, config.network.scale
    inner = batch.low[..., context:batch.low.shape[-2] - context, context:batch.low.shape[-1] - context]
    blocks = inner.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)
    columns = [blocks, upsample(batch.low, context, scale), made, batch.high]
    return _as_picture(torch.cat(columns, dim=-1))


@torch.inference_mode()
def scene_picture(
    objective: SceneObjective, examples: SceneExamples, device: torch.device
) -> Image.Image:
    """One example a line: its pictures, and below what comes of them.

    Of the autoencoder: the pictures themselves. Of the scene network: the others, made from the first. Of a regression
    and the baseline: those that they regress.
    """
    lines = []
    for number in range(PICTURES):
        batch = collate([examples[number]]).to(device)
        lines += [torch.cat(list(pictures), dim=-1) for pictures in (batch.pictures[0], _made(objective, batch))]
    width = max(line.shape[-1] for line in lines)
    return _as_picture(torch.stack([F.pad(line.float(), (0, width - line.shape[-1])) for line in lines]))


def _made(objective: SceneObjective, batch: SceneBatch) -> Tensor:
    """What comes of the pictures of one example: (pictures, 3, crop, crop)."""
    if isinstance(objective, RegressionObjective):
        return objective.regressed(batch)[0]
    network, given = objective.network, batch.pictures[0]
    z = network.vae.encode(given)
    if isinstance(objective, VaeObjective):
        return network.vae.decode(z)
    if isinstance(objective, ExpectationObjective):
        found = objective.expected(batch)
        return network.vae.decode((found.guess + found.more)[0])
    z = torch.cat([z[:1], _others(network, batch, z)])
    return torch.cat([given[:1], network.pictures(z[None], given[None, :1], batch.modalities)[0]])


def _others(network: SceneNetwork, batch: SceneBatch, z: Tensor) -> Tensor:
    """Latents of all streams but the first, made from it."""
    times = torch.ones_like(batch.times)
    more = network.more_expected(batch.pictures[:, :1], batch.modalities, batch.ground_resolution_m)

    def velocity(others: Tensor, time: float) -> Tensor:
        times[:, 1:] = time
        latents = torch.cat([z[:1], others])[None]
        streams = Streams(latents, batch.modalities, times, batch.ground_resolution_m, more)
        return network(streams)[1][0, 1:]

    return adams_bashforth(velocity, batch.noise[0, 1:], SAMPLING_STEPS)


def _as_picture(images: Tensor) -> Image.Image:
    """(n, 3, h, w) in [-1, 1], one below the other."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    return Image.fromarray(np.concatenate(pixels.transpose(0, 2, 3, 1)))
