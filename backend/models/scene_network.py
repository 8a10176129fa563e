"""MetaEarth-MM's network (arXiv 2605.20090): scene inference over the streams of all modalities, routed generator.

The figure of the paper gives the parts; sizes, what blocks have beside them (`scene_blocks`), and what the velocities
begin with, the expectation of a regression and a linear guess, are choices of this project.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backend.models.embeddings import ScalarEmbedding
from backend.models.pixel_guess import PixelGuess
from backend.models.scene_blocks import (
    GeneratorBlock,
    InferenceBlock,
    Place,
    RoutedLinear,
    modulated,
    place_of,
    zeroed,
)
from backend.models.scene_config import SceneNetworkConfig
from backend.models.scene_regression import PICTURE_CHANNELS, SceneRegression, by_modality, of_streams
from backend.models.spectral_prior import SpectralPrior
from backend.models.vae import picture_autoencoder

TIME_STEPS = 1000.0
"""Times of 0 to 1 are encoded as the cascade's of 0 to 1000."""
NONE = -1
"""In place of a modality's number."""


class Streams(NamedTuple):
    """One place in several modalities, (batch, streams, ...) each.

    ``latents``: (batch, streams, channels, h, w), noisy where ``times`` (batch, streams) is below 1, pure noise at 0.
    ``modalities``: (batch, streams) numbers in the order of the configuration. ``ground_resolution_m``: (batch,).
    ``more``: what is expected of the latents beyond the linear guess, of their shape; see `SceneNetwork.expectation`.
    """

    latents: Tensor
    modalities: Tensor
    times: Tensor
    ground_resolution_m: Tensor
    more: Tensor | None = None


class Expected(NamedTuple):
    """What to expect of all streams' latents, (batch, streams, channels, h, w) each, when some are observed.

    ``linear``: what the linear guess has; ``guess``: with what single pixels tell; ``more``: what the regression adds.
    """

    linear: Tensor
    guess: Tensor
    more: Tensor

    @property
    def beyond_linear(self) -> Tensor:
        """All that the linear guess does not have."""
        return self.guess + self.more - self.linear


class SceneNetwork(nn.Module):
    """(noisy latents of some modalities, their times) -> scene tokens, and velocities z - noise of every stream."""

    def __init__(self, config: SceneNetworkConfig) -> None:
        super().__init__()
        self.config = config
        width, count = config.width, len(config.modalities)
        inputs = config.vae.channels * config.patch**2
        self.vae = picture_autoencoder(config.vae)
        self.prior = SpectralPrior(count, config.vae.channels)
        self.lost = SpectralPrior(count, PICTURE_CHANNELS, floor=1e-6)
        self.regression = (
            SceneRegression(count, config.expectation, config.tile, guided=True) if config.expectation else None
        )
        self.pixels = PixelGuess(count) if config.expectation else None
        self.embed = RoutedLinear(count, inputs, width)
        self.embed_again = RoutedLinear(count, 2 * inputs, width)
        self.modality = nn.Embedding(count, width)
        self.time = ScalarEmbedding(config.encoding_channels, width)
        self.resolution = ScalarEmbedding(config.encoding_channels, width)
        self.inference = nn.ModuleList(InferenceBlock(config) for _ in range(config.inference_blocks))
        self.generator = nn.ModuleList(GeneratorBlock(config) for _ in range(config.generator_blocks))
        self.last_modulation = zeroed(nn.Linear(width, 2 * width))
        self.last = RoutedLinear(count, width, inputs, zero=True)
        nn.init.normal_(self.modality.weight, std=0.02)
        self.recompute = False

    def forward(self, streams: Streams) -> tuple[Tensor, Tensor]:
        """(scene tokens (batch, streams, tokens, width), velocities of the latents' shape, float32)."""
        condition = self.condition(streams)
        scene = self.scene_tokens(streams, condition)
        return scene, self.velocities(streams, scene, condition)

    def condition(self, streams: Streams) -> Tensor:
        """e_m + e_t + e_s of each stream: (batch, streams, 1, width)."""
        shape = streams.times.shape
        time = self.time(streams.times.flatten() * TIME_STEPS).unflatten(0, shape)
        resolution = self.resolution(streams.ground_resolution_m)[:, None]
        return (self.modality(streams.modalities).to(time.dtype) + time + resolution)[:, :, None]

    def scene_tokens(self, streams: Streams, condition: Tensor, blocks: int | None = None) -> Tensor:
        """E: what is inferred of the scene from all streams together, a token for each patch and stream.

        ``blocks``: as they are after so many of the inference blocks; None: after all.
        """
        x = self.embed(self._patches(streams.latents), streams.modalities)
        place = self._place(streams.latents)
        for block in self.inference[:blocks]:
            x = self._run(block, x, condition, place)
        return x

    def velocities(self, streams: Streams, scene: Tensor, condition: Tensor) -> Tensor:
        """G: the velocity of every stream's latents, from its scene tokens: what it adds to the guess."""
        latents, modalities = streams.latents, streams.modalities
        guess = self.guess(streams)
        shown = torch.cat([self._patches(latents), self._patches(guess)], dim=-1)
        x = self.embed_again(shown, modalities)
        place, condition = self._place(latents), condition + scene
        for block in self.generator:
            x = self._run(block, x, condition, place, modalities)
        shift, scale = self.last_modulation(F.silu(condition)).chunk(2, dim=-1)
        return guess + self._latents(self.last(modulated(x, shift, scale), modalities), latents)

    def guess(self, streams: Streams) -> Tensor:
        """Velocities as the linear guess has them, around what is expected of each stream; float32."""
        latents, modalities, times, more = streams.latents, streams.modalities, streams.times, streams.more
        if more is None:
            z, noise = self.prior.parts(latents, modalities, times, 1 - times)
            return (z - noise).float()
        z, noise = self.prior.parts(latents - times[..., None, None, None] * more, modalities, times, 1 - times)
        return (z + more - noise).float()

    def more_expected(self, given: Tensor, modalities: Tensor, ground_resolution_m: Tensor) -> Tensor | None:
        """`Streams.more` for streams of which the first are ``given``, (batch, known, 3, h, w)."""
        missing = given.new_zeros(len(given), modalities.shape[1] - given.shape[1], *given.shape[2:])
        observed = torch.arange(modalities.shape[1], device=given.device) < given.shape[1]
        pictures = torch.cat([given, missing], dim=1)
        found = self.expectation(pictures, modalities, observed.expand(modalities.shape), ground_resolution_m)
        return None if found is None else found.beyond_linear

    def expectation(
        self, pictures: Tensor, modalities: Tensor, observed: Tensor, ground_resolution_m: Tensor
    ) -> Expected | None:
        """What to expect of all streams' latents; None where there is no regression or nothing is observed.

        Nothing is added to what is observed, and the regression leaves the brightness of a place as guessed: few places
        tell of it. ``pictures``: (batch, streams, 3, h, w); ``modalities`` and ``observed``: (batch, streams).
        """
        if self.regression is None or self.pixels is None or not bool(observed.any()):
            return None
        count = len(self.config.modalities)
        with torch.no_grad():
            latents = self.vae.encode(pictures.flatten(0, 1)).float().unflatten(0, modalities.shape)
            known = by_modality(torch.ones_like(modalities)[..., None], modalities, observed, count)[..., 0]
            latents = by_modality(latents, modalities, observed, count)
            linear = self._linear(latents, known)
            told, from_pixels = self.pixels(by_modality(pictures, modalities, observed, count), known)
            z = self.vae.encode(told.flatten(0, 1)).float().unflatten(0, linear.shape[:2])
            unknown = observed.any(dim=1, keepdim=True) & (known == 0)
            told_of = unknown & from_pixels
            z = linear + z - self._of_best(torch.where(told_of, self.pixels.best(known), NONE), linear, latents, known)
            z = torch.where(told_of[..., None, None, None], z, linear)
            guess = self.vae.decode(z.flatten(0, 1)).float()
        seen = self.regression(pictures, modalities, observed, ground_resolution_m, guess.unflatten(0, z.shape[:2]))
        more = (self.vae.encode(guess + seen.flatten(0, 1)) - self.vae.encode(guess)).float().unflatten(0, z.shape[:2])
        more = (more - more.mean(dim=(3, 4), keepdim=True)) * unknown[..., None, None, None]
        return Expected(*(of_streams(t, modalities) for t in (linear, z, more)))

    def _linear(self, latents: Tensor, known: Tensor) -> Tensor:
        """The linear guess of all modalities' latents (batch, modalities, ...), of which some are ``known``, 1 or 0."""
        every = torch.arange(known.shape[1], device=known.device).expand(len(known), -1)
        return self.prior.parts(latents, every, known, 1 - known)[0].float()

    def _of_best(self, best: Tensor, linear: Tensor, latents: Tensor, known: Tensor) -> Tensor:
        """The linear guess of each modality from one known modality alone, the ``best`` of it (batch, modalities).

        Where that is `NONE`, or the only one known, it is ``linear``.
        """
        found = linear.clone()
        several = (known.sum(dim=1, keepdim=True) > 1) & (best != NONE)
        for source in best[several].unique().tolist():
            chosen = several & (best == source)
            some = chosen.any(dim=1)
            alone = torch.zeros_like(known[some])
            alone[:, source] = 1
            guess = self._linear(latents[some], alone)
            found[some] = torch.where(chosen[some][..., None, None, None], guess, found[some])
        return found

    def pictures(
        self, latents: Tensor, given: Tensor, modalities: Tensor, sure: Tensor | None = None
    ) -> Tensor:
        """Pictures of all streams but the first ones, whose pictures are ``given``: (batch, targets, 3, h, w) float32.

        What the autoencoder loses of a given picture tells what it loses of the others, by a linear map; what the given
        pixels tell all of is computed from them [ours].
        ``latents``: (batch, streams, ...), the given streams first; ``modalities``: (batch, streams).
        ``sure``: which of the given pixels are known, (batch, known, h, w); None: all.
        """
        known = given.shape[1]
        made = self.vae.decode(latents.flatten(0, 1)).float().unflatten(0, latents.shape[:2])
        if not known:
            return made
        more = self.lost.expected(given - made[:, :known], modalities, latents.shape[1] - known)
        return self._computed(made[:, known:] + more.float(), given, modalities, sure)

    def _computed(self, made: Tensor, given: Tensor, modalities: Tensor, sure: Tensor | None) -> Tensor:
        """The ``made`` pictures, replaced by what the ``given`` ones tell where they tell all, and are ``sure``."""
        count, (shown, wanted) = len(self.config.modalities), modalities.tensor_split([given.shape[1]], dim=1)
        computed = self.computes(shown, wanted)
        if self.pixels is None or not bool(computed.any()):
            return made
        every, known = torch.ones_like(shown, dtype=torch.bool), self._which(shown)
        told, _ = self.pixels(by_modality(given, shown, every, count), known)
        where = computed[..., None, None, None]
        if sure is not None:
            tellers = of_streams(by_modality(sure, shown, every, count), self.pixels.best(known))
            where = where & of_streams(tellers, wanted)[:, :, None]
        return torch.where(where, of_streams(told, wanted), made)

    def computes(self, shown: Tensor, wanted: Tensor) -> Tensor:
        """Which of the ``wanted`` modalities' pixels those of the ``shown`` tell all of; (batch, streams) of all."""
        if self.pixels is None or not shown.shape[1]:
            return torch.zeros_like(wanted, dtype=torch.bool)
        return of_streams(self.pixels.tells_all(self._which(shown)), wanted)

    def _which(self, shown: Tensor) -> Tensor:
        """(batch, modalities): 1 for those that are ``shown``, else 0."""
        known = torch.zeros(len(shown), len(self.config.modalities), device=shown.device)
        return known.scatter(1, shown, 1.0)

    def _run(self, block: nn.Module, *inputs: object) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def _patches(self, latents: Tensor) -> Tensor:
        """(batch, streams, channels, h, w) -> (batch, streams, tokens, channels * patch^2)."""
        folded = F.pixel_unshuffle(latents.flatten(0, 1), self.config.patch).flatten(2).transpose(1, 2)
        return folded.unflatten(0, latents.shape[:2]).to(self.modality.weight.dtype)

    def _latents(self, patches: Tensor, like: Tensor) -> Tensor:
        """Inverse of `_patches`, float32."""
        rows, cols = (n // self.config.patch for n in like.shape[-2:])
        folded = patches.flatten(0, 1).transpose(1, 2).unflatten(2, (rows, cols)).float()
        return F.pixel_shuffle(folded, self.config.patch).unflatten(0, like.shape[:2])

    def _place(self, latents: Tensor) -> Place:
        rows, cols = (n // self.config.patch for n in latents.shape[-2:])
        return place_of(rows, cols, self.config.width // self.config.heads, latents.device)

    def count_parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.parameters())
