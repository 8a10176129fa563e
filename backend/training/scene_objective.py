"""The losses of MetaEarth-MM, each as one module: first the picture autoencoder's, then the scene network's."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from backend.diffusion.flow import noised
from backend.models.scene_network import SceneNetwork, Streams
from backend.models.scene_regression import SceneRegression, target_and_observed
from backend.models.spectral_prior import cosines
from backend.models.vae import PictureVae

KL_WEIGHT = 1e-5
EDGE_WEIGHT = 0.5
LEAST_VARIANCE = 0.02
"""Added to what the linear guess leaves of a coefficient: what is almost known need not be known better."""


class SceneBatch(NamedTuple):
    """Examples: ``pictures`` (n, streams, 3, crop, crop) in [-1, 1] and ``noise`` of their latents' shape.

    ``modalities`` and ``times``: (n, streams); at time 1 a stream is observed. ``ground_resolution_m``: (n,).
    """

    pictures: Tensor
    modalities: Tensor
    times: Tensor
    noise: Tensor
    ground_resolution_m: Tensor

    def to(self, device: torch.device) -> SceneBatch:
        """The same on a device."""
        return SceneBatch(*(t.to(device, non_blocking=True) for t in self))


def differences(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Of neighbouring pixels, downwards and to the right."""
    return pictures[..., 1:, :] - pictures[..., :-1, :], pictures[..., 1:] - pictures[..., :-1]


class VaeObjective(nn.Module):
    """|x - x'| + 0.5 |grad x - grad x'| + 1e-5 KL: no adversary, so that what is shown was there [ours]."""

    def __init__(self, network: SceneNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: SceneBatch) -> Tensor:
        """The loss, a scalar."""
        vae, real = cast(PictureVae, self.network.vae), batch.pictures.flatten(0, 1)
        mean, log_variance = vae.posterior(real)
        noise = batch.noise.flatten(0, 1)
        made = vae.reconstruct(mean + (0.5 * log_variance).exp() * noise)
        if self.training and torch.is_grad_enabled():
            vae.follow(mean.detach())
        edges = sum(F.l1_loss(a, b) for a, b in zip(differences(made), differences(real)))
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return F.l1_loss(made, real) + EDGE_WEIGHT * edges + KL_WEIGHT * divergence


class FlowObjective(nn.Module):
    """L_joint + weight L_sc over the streams that are not observed.

    L_joint: |v - (z - noise)|^2, each cosine coefficient in units of the variance that the linear guess leaves of it
    [ours]: 1 is what is known without the network. Else the unpredictable brightness of a place, one coefficient, and
    the modalities of which least can be known would drown the rest. Expected values stay the minimum.
    L_sc [ours]: 1 - cosine between the scene tokens of every two streams, token by token.
    """

    def __init__(self, network: SceneNetwork, consistency_weight: float) -> None:
        super().__init__()
        self.network, self.consistency_weight = network, consistency_weight

    def forward(self, batch: SceneBatch) -> Tensor:
        """The loss, a scalar."""
        with torch.no_grad():
            z = self.network.vae.encode(batch.pictures.flatten(0, 1)).unflatten(0, batch.times.shape).float()
        streams = Streams(
            noised(z, batch.noise, batch.times), batch.modalities, batch.times, batch.ground_resolution_m
        )
        scene, velocity = self.network(streams)
        error = self._whitened(velocity - (z - batch.noise), batch).square().mean(dim=(2, 3, 4))
        wanted = (batch.times < 1).to(error)
        joint = (error * wanted).sum() / wanted.sum().clamp(min=1)
        return joint + self.consistency_weight * scene_inconsistency(scene)

    def _whitened(self, error: Tensor, batch: SceneBatch) -> Tensor:
        """Errors of velocities as cosine coefficients of unit variance, were the network not there."""
        down, across = (cosines(n, error.device).float() for n in error.shape[-2:])
        left = self.network.prior.left_over(batch.modalities, batch.times, 1 - batch.times, *error.shape[-2:])
        return down @ error @ across.T / (left + LEAST_VARIANCE).sqrt()


@torch.no_grad()
def latents_and_losses(
    network: SceneNetwork, examples: Dataset, count: int
) -> tuple[list[dict[int, Tensor]], list[dict[int, Tensor]]]:
    """By modality, of the first examples: latents (channels, h, w), and what the autoencoder loses of the pictures."""
    device, vae = next(network.parameters()).device, network.vae
    latents, losses = [], []
    for number in range(count):
        pictures, modalities = examples[number].pictures.to(device), examples[number].modalities.tolist()
        z = vae.encode(pictures)
        latents.append(dict(zip(modalities, z)))
        losses.append(dict(zip(modalities, pictures - vae.decode(z))))
    return latents, losses


class RegressionObjective(nn.Module):
    """|x_j - U(observed, j)|: one stream of each example is regressed from others [ours]."""

    def __init__(self, network: SceneRegression) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: SceneBatch) -> Tensor:
        """The loss, a scalar."""
        made, real = self.regressed(batch)
        return F.l1_loss(made, real)

    def regressed(self, batch: SceneBatch) -> tuple[Tensor, Tensor]:
        """What is made of the target streams and what they are: (n, 3, crop, crop) each."""
        place, observed = target_and_observed(batch.modalities, batch.times)
        every = torch.arange(len(place), device=place.device)
        target = batch.modalities[every, place]
        made = self.network(batch.pictures, batch.modalities, observed, target, batch.ground_resolution_m)
        return made, batch.pictures[every, place]


def scene_inconsistency(scene: Tensor) -> Tensor:
    """Mean of 1 - cosine between the tokens of every two streams: (batch, streams, tokens, width) -> a scalar."""
    unit = F.normalize(scene.float(), dim=-1)
    streams = unit.shape[1]
    if streams < 2:
        return unit.new_zeros(())
    similar = torch.einsum("bsnd,btnd->bst", unit, unit) / unit.shape[2]
    pairs = streams * (streams - 1)
    return 1 - (similar.sum(dim=(1, 2)) - similar.diagonal(dim1=1, dim2=2).sum(dim=1)).mean() / pairs
