"""MetaEarth-MM at work on windows: encode what is observed, infer the scene, generate what is wanted."""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from backend.cascade.engine import finite
from backend.devices import fix_arithmetic
from backend.diffusion.flow import adams_bashforth
from backend.memory import halved, moved, out_of_memory, telling
from backend.models.bundle import Bundle, SceneModelConfig, find_scene_bundle
from backend.models.scene_network import SceneNetwork, Streams
from backend.tiling.noise import noise_field

Values = NDArray[np.float32]
CLEAN = 1.0
"""The time of what is observed."""


@dataclass(frozen=True)
class Observed:
    """A modality as a window sees it: its picture (3, tile, tile) with holes filled, and which pixels are known."""

    modality: str
    picture: Values
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class Window:
    """What is observed in a window, and the noise of what is wanted: (channels, tile / fold, tile / fold) each."""

    observed: list[Observed]
    noises: list[Values]

    def guides(self, targets: list[str]) -> list[Observed]:
        """What is known and not wanted."""
        return [o for o in self.observed if o.modality not in targets]

    def parts(self, targets: list[str]) -> list[Observed]:
        """What is wanted and partly known."""
        return [o for o in self.observed if o.modality in targets]

    def kind(self, targets: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Windows of one kind can be made together."""
        return tuple(o.modality for o in self.guides(targets)), tuple(o.modality for o in self.parts(targets))


@functools.lru_cache(maxsize=1)
def load_scene_network(folder: str, sha256: str, device: str, dtype: torch.dtype) -> SceneNetwork:
    """The network of the bundle in ``folder``, kept for the next job; ``sha256`` tells a changed bundle."""
    fix_arithmetic()
    return moved(find_scene_bundle(folder).load(dtype), device)


def noise_key(modality: str) -> int:
    """What stands for a modality in the noise field: it does not depend on what else is made or known."""
    return zlib.crc32(modality.encode()) & 0x7FFFFFFF


@dataclass
class SceneEngine:
    """A scene network on a device, run on ``batch`` windows at a time; counts evaluations and the seconds they took.

    ``on_evaluation`` is told the number of windows after each evaluation, and may raise. ``batch`` shrinks where the
    GPU's memory is too small.
    """

    bundle: Bundle[SceneModelConfig]
    sha256: str
    steps: int
    device: str
    dtype: torch.dtype
    batch: int = 1
    evaluations: int = 0
    seconds_network: float = 0.0
    on_evaluation: Callable[[int], None] = field(default=lambda windows: None)

    def __post_init__(self) -> None:
        self.config = self.bundle.config
        self.network = load_scene_network(str(self.bundle.folder), self.sha256, self.device, torch.float32)

    def window_noise(self, seed: int, modality: str, top: int, left: int) -> Values:
        """Noise of a window whose first pixel is (top, left): (channels, tile / fold, tile / fold).

        Hashed at absolute latent pixels: where windows overlap they have equal noise.
        """
        vae, tile = self.config.network.vae, self.config.network.tile
        local = np.arange(tile // vae.fold, dtype=np.int64)
        rows, cols = (n // vae.fold + local for n in (top, left))
        return noise_field(seed, noise_key(modality), rows, cols, vae.channels)

    def windows(self, windows: list[Window], targets: list[str], ground_resolution_m: float) -> Values:
        """Pictures of the targets: (windows, targets, 3, tile, tile) in [-1, 1].

        A target that is partly observed is completed: its known pixels stay as they are. What is observed and no target
        guides only.
        """
        tile = self.config.network.tile
        made = np.zeros((len(windows), len(targets), 3, tile, tile), np.float32)
        kinds: dict[Any, list[int]] = {}
        for number, window in enumerate(windows):
            kinds.setdefault(window.kind(targets), []).append(number)
        for alike in kinds.values():
            while alike:
                some = alike[: self.batch]
                pictures = self._tried([windows[k] for k in some], targets, ground_resolution_m)
                if pictures is not None:
                    made[some], alike = pictures, alike[len(some):]
        if self.dtype != torch.float32 and not np.isfinite(made).all():
            # as in the cascade, what bfloat16 could not compute is computed once more
            wrong = [k for k, pictures in enumerate(made) if not np.isfinite(pictures).all()]
            self.dtype, usual = torch.float32, self.dtype
            try:
                made[wrong] = self.windows([windows[k] for k in wrong], targets, ground_resolution_m)
            finally:
                self.dtype = usual
        return finite(made)

    @torch.inference_mode()
    def tokens(self, observed: list[Observed], ground_resolution_m: float, blocks: int | None = None) -> Values:
        """Scene tokens of a window, their mean over what is observed: (width, tokens down, tokens across).

        Nothing is noisy: all streams are at time 1. ``blocks``: see `SceneNetwork.scene_tokens`.
        """
        began = time.perf_counter()
        with telling("one window", self.device):
            mean = self._tokens(observed, ground_resolution_m, blocks)
        self.seconds_network += time.perf_counter() - began
        self.evaluations += 1
        self.on_evaluation(1)
        side = self.config.network.tile // self.config.network.pixels_a_token
        return finite(mean.reshape(-1, side, side))

    def _tokens(self, observed: list[Observed], ground_resolution_m: float, blocks: int | None) -> Values:
        with self._autocast():
            latents = self._encode(self._stacked([[o.picture for o in observed]]))
            times = torch.full(latents.shape[:2], CLEAN, device=self.device)
            streams = Streams(latents, self._numbers([o.modality for o in observed], 1), times,
                              self._resolution(ground_resolution_m, 1))
            found = self.network.scene_tokens(streams, self.network.condition(streams), blocks)
            return found[0].float().mean(dim=0).T.cpu().numpy()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)

    def _tried(self, windows: list[Window], targets: list[str], ground_resolution_m: float) -> Values | None:
        """Pictures of up to ``batch`` windows of one kind; None after an out-of-memory error, with a smaller batch."""
        began = time.perf_counter()
        try:
            with torch.inference_mode(), self._autocast():
                return self._one_batch(windows, targets, ground_resolution_m)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        finally:
            self.seconds_network += time.perf_counter() - began
        self.batch = halved(self.batch, self.device)
        return None

    def _one_batch(self, windows: list[Window], targets: list[str], ground_resolution_m: float) -> Values:
        count = len(windows)
        windows = windows + [windows[0]] * (self.batch - count)  # one fixed batch shape, whatever is left
        guides = [window.guides(targets) for window in windows]
        given = self._stacked([[o.picture for o in some] for some in guides])
        clean = self._encode(given)
        known = self._known(windows, targets)
        noise = torch.from_numpy(np.stack([np.stack(window.noises) for window in windows])).to(self.device)
        modalities = self._numbers([*(o.modality for o in guides[0]), *targets], self.batch)
        resolution = self._resolution(ground_resolution_m, self.batch)
        more = self.network.more_expected(given, modalities, resolution)

        def velocity(z: Tensor, time_: float) -> Tensor:
            times = torch.tensor([[CLEAN] * len(guides[0]) + [time_] * len(targets)] * self.batch, device=self.device)
            latents = torch.cat([clean, z], dim=1)
            return self.network(Streams(latents, modalities, times, resolution, more))[1][:, len(guides[0]):]

        def after(step: int, z: Tensor, reached: float) -> Tensor:
            self.evaluations += count
            self.on_evaluation(count)
            for place, (there, mask) in known.items():
                z[:, place] = torch.where(mask, reached * there + (1 - reached) * noise[:, place], z[:, place])
            return z

        sure = np.array([[o.known for o in some] for some in guides], bool).reshape(given[:, :, 0].shape)
        sure_pixels = torch.from_numpy(sure).to(self.device)
        if sure.all() and bool(self.network.computes(*modalities.tensor_split([len(guides[0])], dim=1)).all()):
            z = noise  # nothing of it is used
            self.on_evaluation(count * self.steps)
        else:
            z = adams_bashforth(velocity, noise.clone(), self.steps, after)
        made = self.network.pictures(torch.cat([clean, z], dim=1), given, modalities, sure_pixels)
        pictures = made.clamp(-1, 1).cpu().numpy()[:count]
        for picture, window in zip(pictures, windows):
            for part in window.parts(targets):
                place = targets.index(part.modality)
                picture[place] = np.where(part.known, part.picture, picture[place])
        return pictures

    def _numbers(self, modalities: list[str], batch: int) -> Tensor:
        """(batch, streams)"""
        known = self.config.network.modalities
        return torch.tensor([[known.index(name) for name in modalities]] * batch, device=self.device)

    def _resolution(self, ground_resolution_m: float, batch: int) -> Tensor:
        return torch.full((batch,), ground_resolution_m, dtype=torch.float32, device=self.device)

    def _stacked(self, pictures: list[list[Values]]) -> Tensor:
        """(batch, streams, 3, tile, tile); there may be no streams."""
        tile = self.config.network.tile
        stack = np.array(pictures, np.float32).reshape(len(pictures), len(pictures[0]), 3, tile, tile)
        return torch.from_numpy(stack).to(self.device)

    def _encode(self, pictures: Tensor) -> Tensor:
        """(batch, streams, channels, tile / fold, tile / fold)"""
        vae, tile = self.config.network.vae, self.config.network.tile
        batch, streams = pictures.shape[:2]
        if not streams:
            return torch.zeros(batch, 0, vae.channels, tile // vae.fold, tile // vae.fold, device=self.device)
        return self.network.vae.encode(pictures.flatten(0, 1)).float().unflatten(0, (batch, streams))

    def _known(self, windows: list[Window], targets: list[str]) -> dict[int, tuple[Tensor, Tensor]]:
        """By place among the targets: latents of what is partly known, and where all pixels behind them are."""
        fold, found = self.config.network.vae.fold, {}
        for number, part in enumerate(windows[0].parts(targets)):
            parts = [window.parts(targets)[number] for window in windows]
            masks = torch.from_numpy(np.stack([p.known for p in parts]).astype(np.float32))[:, None]
            latents = self._encode(self._stacked([[p.picture] for p in parts]))[:, 0]
            found[targets.index(part.modality)] = latents, (F.avg_pool2d(masks, fold) == 1).to(self.device)
        return found
