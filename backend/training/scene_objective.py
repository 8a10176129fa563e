"""The losses of MetaEarth-MM, each as one module: first the picture autoencoder's, then the scene network's."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from backend.diffusion.flow import noised
from backend.models.scene_network import Expected, SceneNetwork, Streams
from backend.models.scene_regression import SceneRegression, observed_and_wanted, of_streams
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
            found = self.network.expectation(
                batch.pictures, batch.modalities, batch.times == 1, batch.ground_resolution_m
            )
        streams = Streams(
            noised(z, batch.noise, batch.times),
            batch.modalities,
            batch.times,
            batch.ground_resolution_m,
            None if found is None else found.beyond_linear,
        )
        scene, velocity = self.network(streams)
        error = whitened(self.network, velocity - (z - batch.noise), batch.modalities, batch.times)
        joint = mean_over(batch.times < 1, error.square().mean(dim=(2, 3, 4)))
        return joint + self.consistency_weight * scene_inconsistency(scene)


def whitened(network: SceneNetwork, error: Tensor, modalities: Tensor, times: Tensor) -> Tensor:
    """Errors of velocities as cosine coefficients of unit variance, were there nothing but the linear guess."""
    down, across = (cosines(n, error.device).float() for n in error.shape[-2:])
    left = network.prior.left_over(modalities, times, 1 - times, *error.shape[-2:])
    return down @ error @ across.T / (left + LEAST_VARIANCE).sqrt()


class ExpectationObjective(nn.Module):
    """|E[z | observed] - z|^2 over the same of the guess, mean over streams [ours]; trained before the flow.

    Of the detail: the regression adds nothing to brightness. Without the quotient the places and modalities of which
    least can be known drown the rest, and nothing is learnt in a thousand steps; with it the result leans a little to
    the guess, and the flow has to find the difference.
    """

    def __init__(self, network: SceneNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: SceneBatch) -> Tensor:
        """The loss, a scalar; just below 1 for the guess, linear and pixel by pixel."""
        _, wanted = observed_and_wanted(batch.modalities, batch.times)
        with torch.no_grad():
            z = self.network.vae.encode(batch.pictures.flatten(0, 1)).unflatten(0, batch.times.shape).float()
        found = self.expected(batch)
        error = power_of_detail(found.guess + found.more - z)
        return mean_over(wanted, error / (power_of_detail(found.guess - z) + LEAST_VARIANCE))

    def expected(self, batch: SceneBatch) -> Expected:
        """What to expect of all streams' latents."""
        observed, _ = observed_and_wanted(batch.modalities, batch.times)
        found = self.network.expectation(batch.pictures, batch.modalities, observed, batch.ground_resolution_m)
        if found is None:
            raise ValueError("The network has no regression to train.")
        return found


def power_of_detail(images: Tensor) -> Tensor:
    """Mean square beside each channel's mean: (n, streams, channels, h, w) -> (n, streams)."""
    return (images - images.mean(dim=(3, 4), keepdim=True)).square().mean(dim=(2, 3, 4))


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
    """|x_j - U(observed)_j|, mean over the streams that are not observed [ours]."""

    def __init__(self, network: SceneRegression) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: SceneBatch) -> Tensor:
        """The loss, a scalar."""
        _, wanted = observed_and_wanted(batch.modalities, batch.times)
        error = (self.regressed(batch) - batch.pictures).abs().mean(dim=(2, 3, 4))
        return mean_over(wanted, error)

    def regressed(self, batch: SceneBatch) -> Tensor:
        """Pictures of all streams, as what is observed of them tells: (n, streams, 3, crop, crop)."""
        observed, _ = observed_and_wanted(batch.modalities, batch.times)
        made = self.network(batch.pictures, batch.modalities, observed, batch.ground_resolution_m)
        return of_streams(made, batch.modalities)


def mean_over(streams: Tensor, error: Tensor) -> Tensor:
    """Mean of ``error`` over the chosen ``streams``, (n, streams) each: a scalar, 0 if none is chosen."""
    return (error * streams).sum() / streams.sum().clamp(min=1)


def scene_inconsistency(scene: Tensor) -> Tensor:
    """Mean of 1 - cosine between the tokens of every two streams: (batch, streams, tokens, width) -> a scalar."""
    unit = F.normalize(scene.float(), dim=-1)
    streams = unit.shape[1]
    if streams < 2:
        return unit.new_zeros(())
    similar = torch.einsum("bsnd,btnd->bst", unit, unit) / unit.shape[2]
    pairs = streams * (streams - 1)
    return 1 - (similar.sum(dim=(1, 2)) - similar.diagonal(dim1=1, dim2=2).sum(dim=1)).mean() / pairs
