"""The network at work on windows: encode once, sample; values in [-1, 1]."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from backend.devices import fix_arithmetic
from backend.diffusion.losses import data_prediction
from backend.diffusion.samplers import Level, ddim, dpm_solver_pp_2m, leading_levels, log_snr_levels
from backend.errors import NetworkOutputError
from backend.memory import halved, moved, out_of_memory
from backend.models.bundle import Bundle, find_bundle
from backend.models.cascade_network import CascadeNetwork, Condition, upsample

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """How noise becomes an image."""

    sampler: str
    steps: int


@functools.lru_cache(maxsize=1)
def load_network(folder: str, sha256: str, device: str, dtype: torch.dtype) -> CascadeNetwork:
    """The network of the bundle in ``folder``, kept for the next job; ``sha256`` tells a changed bundle."""
    fix_arithmetic()
    return moved(find_bundle(folder).load(dtype), device)


@dataclass
class Engine:
    """A network on a device, run on ``batch`` windows at a time; counts its evaluations and the seconds they took.

    ``on_evaluation`` is told the number of windows after each evaluation, and may raise. ``batch`` shrinks where the
    GPU's memory is too small.
    """

    bundle: Bundle
    sha256: str
    sampling: Sampling
    device: str
    dtype: torch.dtype
    batch: int = 1
    compiled: bool = False
    evaluations: int = 0
    seconds_encode: float = 0.0
    seconds_steps: float = 0.0
    on_evaluation: Callable[[int], None] = field(default=lambda windows: None)

    @property
    def seconds_network(self) -> float:
        """Seconds in the network: conditions and evaluations."""
        return self.seconds_encode + self.seconds_steps

    def __post_init__(self) -> None:
        self.config = self.bundle.config
        self._use(self.dtype)
        schedule, steps = self.config.schedule, self.sampling.steps
        self.levels = (leading_levels if self.sampling.sampler == "ddim" else log_snr_levels)(schedule, steps)

    def _use(self, dtype: torch.dtype) -> None:
        self.network = load_network(str(self.bundle.folder), self.sha256, self.device, dtype)
        can_compile = self.device == "cuda" and sys.platform == "linux"
        self.forward = torch.compile(self.network, dynamic=False) if self.compiled and can_compile else self.network

    def windows(self, lows: Values, noises: Values, ground_resolution_m: float) -> Values:
        """Generated windows in [-1, 1]: (n, 3, h + 2 context, w + 2 context), (n, 3, tile, tile) -> (n, 3, tile, tile).

        Where bfloat16 gave values that are no numbers, those windows are made once more in float32.
        """
        images = self._in_batches(lows, noises, ground_resolution_m)
        wrong = [k for k, image in enumerate(images) if not np.isfinite(image).all()]
        if wrong and self.dtype != torch.float32:
            self._use(torch.float32)
            images[wrong] = self._in_batches(lows[wrong], noises[wrong], ground_resolution_m)
            self._use(self.dtype)
        return finite(images)

    def _in_batches(self, lows: Values, noises: Values, ground_resolution_m: float) -> Values:
        """All windows, ``batch`` at a time; after an out-of-memory error with half as many, down to one."""
        done: list[Values] = []
        while len(done) < len(lows):
            some = slice(len(done), len(done) + self.batch)
            try:
                done.extend(self._one_batch(lows[some], noises[some], ground_resolution_m))
                continue
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            self.batch = halved(self.batch, self.device)
        return np.stack(done)

    @torch.inference_mode()
    def _one_batch(self, lows: Values, noises: Values, ground_resolution_m: float) -> Values:
        count = len(lows)
        padding = [0] * (self.batch - count)  # one fixed batch shape, whatever the number of windows left
        lr = self._tensor(lows[[*range(count), *padding]])
        x = self._tensor(noises[[*range(count), *padding]])
        gsd = torch.full((self.batch,), ground_resolution_m, dtype=torch.float32, device=self.device)
        began = time.perf_counter()
        condition = self.network.encode(lr, gsd)
        self._synchronize()
        self.seconds_encode += time.perf_counter() - began
        sampler = ddim if self.sampling.sampler == "ddim" else dpm_solver_pp_2m
        x0 = sampler(
            lambda noisy, level: self._denoise(noisy, level, condition),
            x,
            self.levels,
            lambda evaluation, state: self._after(count),
        )
        return self.network.to_image(x0, condition)[:count].cpu().numpy()

    def _tensor(self, values: Values) -> Tensor:
        return torch.from_numpy(values).to(self.device).contiguous(memory_format=torch.channels_last)

    def _denoise(self, noisy: Tensor, level: Level, condition: Condition) -> Tensor:
        began = time.perf_counter()
        t = torch.full((len(noisy),), level.time, dtype=torch.float32, device=self.device)
        try:
            prediction = self.forward(noisy, t, condition)
        except Exception as error:
            if self.forward is self.network or out_of_memory(error):
                raise
            self.forward = self.network  # what cannot be compiled runs as it is
            prediction = self.forward(noisy, t, condition)
        self._synchronize()
        self.seconds_steps += time.perf_counter() - began
        return data_prediction(self.config.prediction, prediction, noisy, level.alpha, level.sigma)

    def _synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _after(self, windows: int) -> None:
        self.evaluations += windows
        self.on_evaluation(windows)


def finite(values: Values) -> Values:
    """The same values; `NetworkOutputError` if some are no numbers."""
    if not np.isfinite(values).all():
        raise NetworkOutputError("The network returned values that are not numbers.")
    return values


def back_project(generated: Values, low: Values, scale: int, strength: float) -> Values:
    """The generated window moved towards its source: out + strength * up(low - down(out)), in source units.

    ``generated``: (bands, rows, cols); ``low``: (bands, rows / scale, cols / scale). Down is the area average, up is
    bicubic and therefore low-pass.
    """
    if strength == 0:
        return generated
    return moved_towards(torch.from_numpy(generated)[None], torch.from_numpy(low)[None], scale, strength)[0].numpy()


def moved_towards(generated: Tensor, low: Tensor, scale: int, strength: float) -> Tensor:
    """`back_project` of a batch: (n, bands, rows, cols), (n, bands, rows / scale, cols / scale)."""
    difference = F.pad(low - F.avg_pool2d(generated, scale), (2, 2, 2, 2), mode="replicate")
    return generated + strength * upsample(difference, 2, scale)


def to_three_bands(values: Values) -> Values:
    """One band becomes three equal channels."""
    return np.repeat(values, 3, axis=0) if len(values) == 1 else values


def from_three_bands(values: Values, bands: int) -> Values:
    """Inverse of `to_three_bands`: the mean."""
    return values.mean(axis=0, keepdims=True) if bands == 1 else values
