"""The windows of a cascade's stage: the stage before is read, filled, made finer and brought back to its units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.cascade.engine import Engine, back_project, from_three_bands, to_three_bands
from backend.raster.grid import Region
from backend.raster.holes import fill_holes
from backend.raster.pixels import Read
from backend.raster.stretch import Stretch
from backend.tiling.blocks import Place
from backend.tiling.geometry import WindowGeometry
from backend.tiling.noise import window_noise

Values = NDArray[np.float32]


@dataclass(frozen=True)
class StageSettings:
    """What the windows of one stage have in common; ``stage`` counts from 1."""

    stage: int
    geometry: WindowGeometry
    stretch: Stretch
    ground_resolution_m: float
    seed: int
    noise: str
    consistency: float
    first_window: Place = (0, 0)
    """What window (0, 0) is on the layer that the source was copied from: noise is a function of place there."""


class CascadeWindows:
    """The `WindowMaker` of a stage; ``read`` gives the stage's input by region."""

    def __init__(self, engine: Engine, read: Read, settings: StageSettings, bands: int) -> None:
        self.engine, self.read, self.settings, self.bands = engine, read, settings, bands

    @property
    def batch(self) -> int:
        """As many as the network takes at once."""
        return self.engine.batch

    def valid(self, region: Region) -> NDArray[np.bool_]:
        """Valid is what the input says, pixel by pixel."""
        scale = self.settings.geometry.scale
        cover = region.scaled_down(scale)
        valid = self.read(cover).valid.repeat(scale, axis=0).repeat(scale, axis=1)
        return valid[region.relative_to(cover.scaled(scale)).slices()]

    def input(self, row: int, col: int) -> tuple[Values, Values] | None:
        """The filled crop and the noise of a window; None if its crop has no valid pixel."""
        s = self.settings
        crop = self.read(s.geometry.input_crop(row, col))
        if not crop.valid.any():
            return None
        row, col = row + s.first_window[0], col + s.first_window[1]
        return fill_holes(crop), window_noise(s.noise, s.seed, s.stage, s.geometry.lattice, row, col, 3)

    def make(self, inputs: list[tuple[Values, Values]]) -> Values:
        """Windows in source units: (n, bands, tile, tile)."""
        s = self.settings
        lows, noises = (np.stack(part) for part in zip(*inputs))
        return render_windows(self.engine, lows, noises, s.stretch, s.ground_resolution_m, s.consistency)

    def finish(self, blended: Values, region: Region) -> Values:
        """Windows are in source units already."""
        return blended


def render_windows(
    engine: Engine, lows: Values, noises: Values, stretch: Stretch, ground_resolution_m: float, consistency: float
) -> Values:
    """Windows in source units: (n, bands, h + 2 context, w + 2 context) -> (n, bands, tile, tile)."""
    bands, context, scale = lows.shape[1], engine.config.network.context, engine.config.network.scale
    three = np.stack([to_three_bands(stretch.apply(low)) for low in lows])
    images = engine.windows(three, noises, ground_resolution_m)
    inner = np.ascontiguousarray(lows[:, :, context:lows.shape[2] - context, context:lows.shape[3] - context])
    return np.stack(
        [
            back_project(stretch.invert(from_three_bands(image, bands)), low, scale, consistency)
            for image, low in zip(images, inner)
        ]
    )
