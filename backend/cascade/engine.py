"""The network at work on one window: encode once, sample, return source units."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from backend.diffusion.losses import data_prediction
from backend.diffusion.samplers import Level, ddim, dpm_solver_pp_2m, leading_levels, log_snr_levels
from backend.errors import DeviceError, NetworkOutputError
from backend.models.bundle import Bundle, find_bundle
from backend.models.cascade_network import CascadeNetwork, Condition, upsample
from backend.raster.stretch import Stretch

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """How noise becomes an image."""

    sampler: str
    steps: int


@functools.lru_cache(maxsize=1)
def load_network(folder: str, sha256: str, device: str, dtype: torch.dtype) -> CascadeNetwork:
    """The network of the bundle in ``folder``, kept for the next job; ``sha256`` tells a changed bundle."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return find_bundle(folder).load(dtype).to(device)
    except torch.OutOfMemoryError as error:
        raise DeviceError("The GPU's memory is too small for this model. Choose the CPU as device.") from error


@dataclass
class Engine:
    """A network on a device; counts its evaluations and the seconds they took.

    ``on_evaluation`` runs after each evaluation and may raise.
    """

    bundle: Bundle
    sha256: str
    sampling: Sampling
    device: str
    dtype: torch.dtype
    evaluations: int = 0
    seconds_network: float = 0.0
    on_evaluation: Callable[[], None] = field(default=lambda: None)

    def __post_init__(self) -> None:
        self.config = self.bundle.config
        self.network = load_network(str(self.bundle.folder), self.sha256, self.device, self.dtype)
        schedule, steps = self.config.schedule, self.sampling.steps
        self.levels = (leading_levels if self.sampling.sampler == "ddim" else log_snr_levels)(schedule, steps)

    @torch.inference_mode()
    def window(self, low: Values, noise: Values, ground_resolution_m: float) -> Values:
        """One generated window in [-1, 1]: (3, h + 2 context, w + 2 context), (3, tile, tile) -> (3, tile, tile)."""
        lr = torch.from_numpy(low)[None].to(self.device)
        x = torch.from_numpy(noise)[None].to(self.device).contiguous(memory_format=torch.channels_last)
        gsd = torch.tensor([ground_resolution_m], dtype=torch.float32, device=self.device)
        began = time.monotonic()
        try:
            condition = self.network.encode(lr.contiguous(memory_format=torch.channels_last), gsd)
            self.seconds_network += time.monotonic() - began
            sampler = ddim if self.sampling.sampler == "ddim" else dpm_solver_pp_2m
            x0 = sampler(lambda noisy, level: self._denoise(noisy, level, condition), x, self.levels, self._after)
            image = self.network.to_image(x0, condition)[0].cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise DeviceError("The GPU's memory is too small for one window. Choose the CPU as device.") from error
        if not np.isfinite(image).all():
            raise NetworkOutputError(
                "The network returned values that are not numbers. Run again with precision float32."
            )
        return image

    def _denoise(self, noisy: Tensor, level: Level, condition: Condition) -> Tensor:
        began = time.monotonic()
        t = torch.full((1,), level.time, dtype=torch.float32, device=self.device)
        prediction = self.network(noisy, t, condition)
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.seconds_network += time.monotonic() - began
        return data_prediction(self.config.prediction, prediction, noisy, level.alpha, level.sigma)

    def _after(self, evaluation: int, x0: Tensor) -> None:
        self.evaluations += 1
        self.on_evaluation()


def back_project(generated: Values, low: Values, scale: int, strength: float) -> Values:
    """The generated window moved towards its source: out + strength * up(low - down(out)), in source units.

    ``generated``: (bands, rows, cols); ``low``: (bands, rows / scale, cols / scale). Down is the area average, up is
    bicubic and therefore low-pass.
    """
    if strength == 0:
        return generated
    out, lr = torch.from_numpy(generated)[None], torch.from_numpy(low)[None]
    difference = F.pad(lr - F.avg_pool2d(out, scale), (2, 2, 2, 2), mode="replicate")
    return (out + strength * upsample(difference, 2, scale))[0].numpy()


def to_three_bands(values: Values) -> Values:
    """One band becomes three equal channels."""
    return np.repeat(values, 3, axis=0) if len(values) == 1 else values


def from_three_bands(values: Values, bands: int) -> Values:
    """Inverse of `to_three_bands`: the mean."""
    return values.mean(axis=0, keepdims=True) if bands == 1 else values


def render_window(
    engine: Engine, low: Values, noise: Values, stretch: Stretch, ground_resolution_m: float, consistency: float
) -> Values:
    """A window in source units: (bands, h + 2 context, w + 2 context) -> (bands, tile, tile)."""
    bands, context, scale = len(low), engine.config.network.context, engine.config.network.scale
    image = engine.window(to_three_bands(stretch.apply(low)), noise, ground_resolution_m)
    generated = stretch.invert(from_three_bands(image, bands))
    inner = low[:, context:low.shape[1] - context, context:low.shape[2] - context]
    return back_project(generated, np.ascontiguousarray(inner), scale, consistency)
