"""High-order degradation: the low-resolution image of a poor sensor, made from a good image.

x_LR = D^n(x_HR), D = JPEG(resize(blur * x) + noise), n = 2 (MetaEarth, "Training"); parameters of Real-ESRGAN
(arXiv 2107.10833, section 3 and its configuration). What is drawn and what it does to pixels are apart, so that
the draws' statistics can be looked at without touching a pixel.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

KERNEL_SIZES = tuple(range(7, 22, 2))
KINDS = ("iso", "aniso", "generalized-iso", "generalized-aniso", "plateau-iso", "plateau-aniso")
KIND_PROBABILITIES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
SINC_PROBABILITY = 0.1
MODES = ("area", "bilinear", "bicubic")
GREY_PROBABILITY = 0.4
JPEG_QUALITY = (30.0, 95.0)
FINAL_SINC_PROBABILITY = 0.8


@dataclass(frozen=True)
class Round:
    """Ranges of one round of D; resize probabilities are those of up, down and keep."""

    blur_probability: float
    sigma: tuple[float, float]
    resize_probabilities: tuple[float, float, float]
    resize_range: tuple[float, float]
    gaussian_sigma: tuple[float, float]
    poisson_scale: tuple[float, float]
    generalized_beta: tuple[float, float] = (0.5, 4.0)
    plateau_beta: tuple[float, float] = (1.0, 2.0)


ROUNDS = (
    Round(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1.0, 30.0), (0.05, 3.0)),
    Round(0.8, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1.0, 25.0), (0.05, 2.5)),
)


@dataclass(frozen=True)
class Blur:
    """A kernel: its kind, side in pixels, and parameters; angles in radians, ``cutoff`` in radians a pixel."""

    kind: str
    size: int
    sigmas: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0
    beta: float = 1.0
    cutoff: float = 0.0


@dataclass(frozen=True)
class Noise:
    """Additive noise: Gaussian of a sigma in grey levels, or Poisson of a scale; ``grey``: equal in all bands."""

    kind: str
    strength: float
    grey: bool


@dataclass(frozen=True)
class RoundDraw:
    """What one round does to an image."""

    blur: Blur | None
    factor: float
    mode: str
    noise: Noise
    jpeg_quality: int


@dataclass(frozen=True)
class Draw:
    """What is done to one image: the two rounds, the final resize and the final sinc filter.

    ``resize_first``: whether the final resize and sinc come before the second JPEG.
    """

    rounds: tuple[RoundDraw, RoundDraw]
    final_mode: str
    final_sinc: Blur | None
    resize_first: bool


def draw(rng: np.random.Generator) -> Draw:
    """A random degradation."""
    first, second = (_draw_round(limits, rng) for limits in ROUNDS)
    sinc = Blur("sinc", _kernel_size(rng), cutoff=float(rng.uniform(math.pi / 3, math.pi)))
    return Draw(
        (first, second),
        str(rng.choice(MODES)),
        sinc if rng.random() < FINAL_SINC_PROBABILITY else None,
        bool(rng.random() < 0.5),
    )


def _draw_round(limits: Round, rng: np.random.Generator) -> RoundDraw:
    blur = _draw_blur(limits, rng) if rng.random() < limits.blur_probability else None
    low, high = limits.resize_range
    direction = rng.choice(3, p=limits.resize_probabilities)
    factor = float((rng.uniform(1, high), rng.uniform(low, 1), 1.0)[direction])
    gaussian = rng.random() < 0.5
    strength = float(rng.uniform(*(limits.gaussian_sigma if gaussian else limits.poisson_scale)))
    noise = Noise("gaussian" if gaussian else "poisson", strength, bool(rng.random() < GREY_PROBABILITY))
    return RoundDraw(blur, factor, str(rng.choice(MODES)), noise, round(rng.uniform(*JPEG_QUALITY)))


def _draw_blur(limits: Round, rng: np.random.Generator) -> Blur:
    size = _kernel_size(rng)
    if rng.random() < SINC_PROBABILITY:
        lowest = math.pi / 3 if size < 13 else math.pi / 5
        return Blur("sinc", size, cutoff=float(rng.uniform(lowest, math.pi)))
    kind = str(rng.choice(KINDS, p=KIND_PROBABILITIES))
    first = float(rng.uniform(*limits.sigma))
    sigmas = (first, float(rng.uniform(*limits.sigma))) if kind.endswith("aniso") else (first, first)
    beta = 1.0
    if not kind.startswith(("iso", "aniso")):
        low, high = limits.generalized_beta if kind.startswith("generalized") else limits.plateau_beta
        beta = float(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high))
    return Blur(kind, size, sigmas, float(rng.uniform(-math.pi, math.pi)), beta)


def _kernel_size(rng: np.random.Generator) -> int:
    return int(rng.choice(KERNEL_SIZES))


def kernel(blur: Blur) -> NDArray[np.float32]:
    """(size, size), summing to 1."""
    half = blur.size // 2
    rows, cols = np.mgrid[-half:half + 1, -half:half + 1].astype(np.float64)
    values = _sinc(np.hypot(rows, cols), blur.cutoff) if blur.kind == "sinc" else _bell(rows, cols, blur)
    return (values / values.sum()).astype(np.float32)


def _bell(rows: NDArray, cols: NDArray, blur: Blur) -> NDArray[np.float64]:
    """Gaussian exp(-d/2), generalized exp(-d^beta/2) or plateau 1/(1 + d^beta); d: squared Mahalanobis distance."""
    cosine, sine = math.cos(blur.angle), math.sin(blur.angle)
    along, across = cosine * cols + sine * rows, cosine * rows - sine * cols
    distance = ((along / blur.sigmas[0]) ** 2 + (across / blur.sigmas[1]) ** 2) ** blur.beta
    return 1 / (1 + distance) if blur.kind.startswith("plateau") else np.exp(-0.5 * distance)


def _sinc(radius: NDArray, cutoff: float) -> NDArray[np.float64]:
    """The circular low-pass c J1(c r) / (2 pi r); its limit at r = 0 is c^2 / (4 pi)."""
    bessel = torch.special.bessel_j1(torch.from_numpy(cutoff * radius)).numpy()
    away = np.where(radius > 0, radius, 1.0)
    return np.where(radius > 0, cutoff * bessel / (2 * math.pi * away), cutoff**2 / (4 * math.pi))


@torch.autocast("cpu", enabled=False)
def degrade(image: Tensor, scale: int, what: Draw, rng: np.random.Generator) -> Tensor:
    """(3, h, w) in [0, 1] -> (3, h / scale, w / scale) in [0, 1], rounded to 8 bit; ``rng`` makes the noise."""
    size = (image.shape[-2] // scale, image.shape[-1] // scale)
    first, second = what.rounds
    x = jpeg(_blurred_and_noisy(image, image.shape[-2:], first, rng), first.jpeg_quality)
    x = _blurred_and_noisy(x, size, second, rng)
    if what.resize_first:
        x = jpeg(_final(x, size, what), second.jpeg_quality)
    else:
        x = _final(jpeg(x, second.jpeg_quality), size, what)
    return (x.clamp(0, 1) * 255).round() / 255


def _blurred_and_noisy(x: Tensor, size: tuple[int, ...], done: RoundDraw, rng: np.random.Generator) -> Tensor:
    """Blur, resize to ``factor`` times ``size``, add noise."""
    if done.blur is not None:
        x = blurred(x, done.blur)
    x = resized(x, [max(1, round(n * done.factor)) for n in size], done.mode)
    return (x + noise_like(x, done.noise, rng)).clamp(0, 1)


def _final(x: Tensor, size: tuple[int, int], what: Draw) -> Tensor:
    x = resized(x, list(size), what.final_mode)
    return blurred(x, what.final_sinc) if what.final_sinc is not None else x


def blurred(x: Tensor, blur: Blur) -> Tensor:
    """(3, h, w) convolved with the kernel, reflected at the edges where there is enough to reflect."""
    half = blur.size // 2
    mode = "reflect" if min(x.shape[-2:]) > half else "replicate"
    weight = torch.from_numpy(kernel(blur)).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(x[None], (half,) * 4, mode=mode), weight, groups=3)[0]


def resized(x: Tensor, size: list[int], mode: str) -> Tensor:
    """(3, h, w) -> (3, *size), corners of pixels aligned; no low-pass before, as in the source of the parameters."""
    if list(x.shape[-2:]) == size:
        return x
    options = {} if mode == "area" else {"align_corners": False}
    return F.interpolate(x[None], size=size, mode=mode, **options)[0]


def reduce_bicubic(x: Tensor, scale: int) -> Tensor:
    """The bicubic reduction with its low-pass, as imaging libraries do it: (3, h, w) -> (3, h / scale, w / scale).

    It may overshoot the range of ``x`` a little.
    """
    size = [n // scale for n in x.shape[-2:]]
    return F.interpolate(x[None], size=size, mode="bicubic", antialias=True, align_corners=False)[0]


def noise_like(x: Tensor, noise: Noise, rng: np.random.Generator) -> Tensor:
    """Noise of the shape of (3, h, w), to be added."""
    of = x.mean(dim=0, keepdim=True) if noise.grey else x
    if noise.kind == "gaussian":
        made = rng.standard_normal(of.shape, dtype=np.float32) * (noise.strength / 255)
    else:
        clean = (of.clamp(0, 1) * 255).round().numpy() / 255
        levels = 2.0 ** math.ceil(math.log2(max(2, len(np.unique(clean)))))
        made = (rng.poisson(clean * levels) / levels - clean).astype(np.float32) * noise.strength
    return torch.from_numpy(made).expand_as(x)


def jpeg(x: Tensor, quality: int) -> Tensor:
    """(3, h, w) in [0, 1] compressed and read again."""
    pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    again = np.array(Image.open(buffer))
    return torch.from_numpy(again).permute(2, 0, 1).float() / 255
