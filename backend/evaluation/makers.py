"""What makes a fine picture of a coarse one: a model, its regression twin, or bicubic interpolation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from backend.cascade.engine import Engine, back_project
from backend.cascade.picture import Manner, render_picture, render_stages
from backend.models.cascade_network import upsample
from backend.progress import Check, go_on
from backend.raster.pixels import Pixels
from backend.raster.stretch import identity_stretch
from backend.training.objective import regress

Values = NDArray[np.float32]
Maker = Callable[[Values, float, int], Values]
"""(low resolution (3, h, w) in 0..255, m/px of the result, seed) -> (3, h scale, w scale), rounded, in 0..255."""
EDGE = 8


def eight_bit(values: Values) -> Values:
    """Rounded and clipped to 0..255, as a picture is written."""
    return np.clip(np.rint(values), 0, 255).astype(np.float32)


def whole(low: Values) -> Pixels:
    """The picture without holes."""
    return Pixels(np.ascontiguousarray(low, np.float32), np.ones(low.shape[1:], bool))


def generator(engine: Engine, consistency: float = 1.0, check: Check = go_on) -> Maker:
    """One stage of the model through the windows of a job."""

    def make(low: Values, gsd_m: float, seed: int) -> Values:
        return eight_bit(render_picture(engine, whole(low), gsd_m, Manner(seed, consistency=consistency), 1, check))

    return make


def cascade(engine: Engine, stages: int, consistency: float = 1.0, check: Check = go_on) -> Maker:
    """Several stages, each from the result of the one before, as `generator` for scale ** stages."""

    def make(low: Values, gsd_m: float, seed: int) -> Values:
        manner = Manner(seed, consistency=consistency)
        return eight_bit(render_stages(engine, whole(low), stages, gsd_m, manner, check)[-1])

    return make


def regressor(engine: Engine, consistency: float = 0.0) -> Maker:
    """The same for a network trained with ``objective = l1``."""
    network = engine.config.network

    @torch.inference_mode()
    def make(low: Values, gsd_m: float, seed: int) -> Values:
        stretch, margin = identity_stretch(3), network.context
        padded = np.pad(low, [(0, 0), (margin, margin), (margin, margin)], mode="symmetric")
        lr = torch.from_numpy(stretch.apply(padded))[None].to(engine.device)
        condition = engine.network.encode(lr, torch.tensor([gsd_m], device=engine.device))
        x0 = regress(engine.network, engine.config, condition)
        made = stretch.invert(engine.network.to_image(x0, condition)[0].cpu().numpy())
        return eight_bit(back_project(made, low, network.scale, consistency))

    return make


def bicubic(scale: int) -> Maker:
    """Bicubic interpolation, the picture reflected beyond its edges."""

    def make(low: Values, gsd_m: float, seed: int) -> Values:
        padded = np.pad(low, [(0, 0), (EDGE, EDGE), (EDGE, EDGE)], mode="symmetric")
        return eight_bit(upsample(torch.from_numpy(padded)[None], EDGE, scale)[0].numpy())

    return make


def maker_of(engine: Engine, consistency: float = 1.0, check: Check = go_on) -> Maker:
    """What the engine's model is: a generator, or the regression baseline."""
    if engine.config.training.get("objective") == "l1":
        return regressor(engine)
    return generator(engine, consistency, check)


def side_by_side(lines: list[list[Values]]) -> Image.Image:
    """One line of pictures a row, (3, rows, cols) each, smaller ones enlarged pixel by pixel to the line's height."""
    drawn = []
    for line in lines:
        height = max(p.shape[1] for p in line)
        enlarged = [p.repeat(height // p.shape[1], axis=1).repeat(height // p.shape[1], axis=2) for p in line]
        drawn.append(np.concatenate(enlarged, axis=2))
    width = min(d.shape[2] for d in drawn)
    every = np.concatenate([d[:, :, :width] for d in drawn], axis=1)
    return Image.fromarray(eight_bit(every).astype(np.uint8).transpose(1, 2, 0))
