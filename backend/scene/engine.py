"""MetaEarth-MM at work on one window: encode what is observed, infer the scene, generate what is wanted."""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from backend.cascade.engine import out_of_memory
from backend.diffusion.flow import adams_bashforth
from backend.errors import DeviceError, NetworkOutputError
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


@functools.lru_cache(maxsize=1)
def load_scene_network(folder: str, sha256: str, device: str, dtype: torch.dtype) -> SceneNetwork:
    """The network of the bundle in ``folder``, kept for the next job; ``sha256`` tells a changed bundle."""
    try:
        return find_scene_bundle(folder).load(dtype).to(device)
    except torch.OutOfMemoryError as error:
        raise DeviceError("The GPU's memory is too small for this model. Choose the CPU as device.") from error


def noise_key(modality: str) -> int:
    """What stands for a modality in the noise field: it does not depend on what else is made or known."""
    return zlib.crc32(modality.encode()) & 0x7FFFFFFF


@dataclass
class SceneEngine:
    """A scene network on a device, one window at a time; counts evaluations and the seconds they took.

    ``on_evaluation`` is told the number of windows after each evaluation, and may raise.
    """

    bundle: Bundle[SceneModelConfig]
    sha256: str
    steps: int
    device: str
    dtype: torch.dtype
    evaluations: int = 0
    seconds_network: float = 0.0
    on_evaluation: Callable[[int], None] = field(default=lambda windows: None)
    batch: int = 1

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

    @torch.inference_mode()
    def window(
        self, observed: list[Observed], targets: list[str], noises: list[Values], ground_resolution_m: float
    ) -> Values:
        """Pictures of the targets: (targets, 3, tile, tile) in [-1, 1].

        A target that is partly observed is completed: its known pixels stay as they are. Modalities are those of the
        network; what is observed and no target guides only.
        """
        with self._at_work():
            made = self._window(observed, targets, noises, ground_resolution_m)
        return _finite(made)

    @torch.inference_mode()
    def tokens(self, observed: list[Observed], ground_resolution_m: float, blocks: int | None = None) -> Values:
        """Scene tokens of a window, their mean over what is observed: (width, tokens down, tokens across).

        Nothing is noisy: all streams are at time 1. ``blocks``: see `SceneNetwork.scene_tokens`.
        """
        with self._at_work():
            latents = self._encode([o.picture for o in observed])[None]
            times = torch.full(latents.shape[:2], CLEAN, device=self.device)
            streams = Streams(latents, self._numbers([o.modality for o in observed]), times,
                              self._resolution(ground_resolution_m))
            found = self.network.scene_tokens(streams, self.network.condition(streams), blocks)
            self.evaluations += 1
            self.on_evaluation(1)
            mean = found[0].float().mean(dim=0).T.cpu().numpy()
        side = self.config.network.tile // self.config.network.pixels_a_token
        return _finite(mean.reshape(-1, side, side))

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """In the engine's number format, timed; `DeviceError` where memory is too small."""
        began = time.monotonic()
        try:
            with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
                yield
        except RuntimeError as error:
            if out_of_memory(error):
                raise DeviceError("The GPU's memory is too small for one window. Choose the CPU as device.") from error
            raise
        finally:
            self.seconds_network += time.monotonic() - began

    def _window(
        self, observed: list[Observed], targets: list[str], noises: list[Values], ground_resolution_m: float
    ) -> Values:
        parts = {o.modality: o for o in observed if o.modality in targets}
        guides = [o for o in observed if o.modality not in targets]
        clean = self._encode([o.picture for o in guides])
        known = {m: (self._encode([o.picture])[0], self._known(o.known)) for m, o in parts.items()}
        noise = torch.from_numpy(np.stack(noises)).to(self.device)
        modalities = self._numbers([*(o.modality for o in guides), *targets])
        resolution = self._resolution(ground_resolution_m)

        def velocity(z: Tensor, time_: float) -> Tensor:
            times = torch.tensor([[CLEAN] * len(guides) + [time_] * len(targets)], device=self.device)
            latents = torch.cat([clean, z])[None]
            _, v = self.network(Streams(latents, modalities, times, resolution))
            return v[0, len(guides):]

        def after(step: int, z: Tensor, reached: float) -> Tensor:
            self.evaluations += 1
            self.on_evaluation(1)
            for place, modality in enumerate(targets):
                if modality in known:
                    there, mask = known[modality]
                    z[place] = torch.where(mask, reached * there + (1 - reached) * noise[place], z[place])
            return z

        z = adams_bashforth(velocity, noise.clone(), self.steps, after)
        made = self.network.vae.decode(z).clamp(-1, 1).float().cpu().numpy()
        for place, modality in enumerate(targets):
            if modality in parts:
                made[place] = np.where(parts[modality].known, parts[modality].picture, made[place])
        return made

    def _numbers(self, modalities: list[str]) -> Tensor:
        """(1, streams)"""
        known = self.config.network.modalities
        return torch.tensor([[known.index(name) for name in modalities]], device=self.device)

    def _resolution(self, ground_resolution_m: float) -> Tensor:
        return torch.tensor([ground_resolution_m], dtype=torch.float32, device=self.device)

    def _encode(self, pictures: list[Values]) -> Tensor:
        """(n, channels, tile / fold, tile / fold); an empty list gives no latents."""
        vae, tile = self.config.network.vae, self.config.network.tile
        if not pictures:
            return torch.zeros(0, vae.channels, tile // vae.fold, tile // vae.fold, device=self.device)
        return self.network.vae.encode(torch.from_numpy(np.stack(pictures)).to(self.device)).float()

    def _known(self, known: NDArray[np.bool_]) -> Tensor:
        """Latent pixels all of whose pixels are known: (tile / fold, tile / fold)."""
        share = F.avg_pool2d(torch.from_numpy(known.astype(np.float32))[None], self.config.network.vae.fold)
        return (share[0] == 1).to(self.device)


def _finite(values: Values) -> Values:
    if not np.isfinite(values).all():
        raise NetworkOutputError("The network returned values that are not numbers.")
    return values
