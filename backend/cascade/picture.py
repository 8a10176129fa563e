"""Pictures in memory through the same windows as a job's: what evaluation and augmentation generate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.cascade.engine import Engine
from backend.cascade.windows import CascadeWindows, StageSettings
from backend.models.bundle import ModelConfig
from backend.raster.grid import Region
from backend.raster.pixels import Pixels, read_reflected
from backend.raster.stretch import Stretch, identity_stretch
from backend.tiling.blocks import BlockRenderer
from backend.tiling.geometry import Block, WindowGeometry
from backend.tiling.lattice import Lattice

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Manner:
    """How pictures are made: seed, noise, back-projection, windows (None: `picture_lattice`), stretch (None: 8 bit)."""

    seed: int = 0
    noise: str = "field"
    consistency: float = 1.0
    lattice: Lattice | None = None
    stretch: Stretch | None = None


def picture_lattice(config: ModelConfig, rows: int, cols: int) -> Lattice:
    """One window where the result fits into one, since nothing lies beyond its border; else the model's own windows."""
    tile, profile = config.network.tile, config.profile
    return Lattice(tile, 0, 0) if max(rows, cols) <= tile else Lattice(tile, profile.margin, profile.ramp)


def render_picture(
    engine: Engine,
    low: Pixels,
    ground_resolution_m: float,
    manner: Manner = Manner(),
    stage: int = 1,
    check: Callable[[], None] = lambda: None,
) -> Values:
    """One stage of a picture: (bands, h, w) in source units -> (bands, h scale, w scale), beyond the edges reflected.

    ``ground_resolution_m`` is the result's; ``check`` runs after each window and may raise.
    """
    config = engine.config
    bands, rows, cols = low.values.shape
    scale, given = config.network.scale, Region(0, 0, rows, cols)
    lattice = manner.lattice or picture_lattice(config, rows * scale, cols * scale)

    def inside(region: Region) -> Pixels:
        return Pixels(low.values[(slice(None), *region.slices())], low.valid[region.slices()])

    settings = StageSettings(
        stage,
        WindowGeometry(lattice, scale, config.network.context),
        manner.stretch or identity_stretch(bands),
        ground_resolution_m,
        manner.seed,
        manner.noise,
        manner.consistency,
    )
    renderer = BlockRenderer(
        CascadeWindows(engine, lambda r: read_reflected(r, given, inside), settings, bands), settings.geometry, check
    )
    try:
        return renderer.render(Block(0, 0, given.scaled(scale)), {}).pixels.values
    finally:
        renderer.close()


def render_stages(
    engine: Engine,
    low: Pixels,
    stages: int,
    ground_resolution_m: float,
    manner: Manner = Manner(),
    check: Callable[[], None] = lambda: None,
) -> list[Values]:
    """The results of all stages, first stage first; ``ground_resolution_m`` is that of the last one."""
    scale = engine.config.network.scale
    made: list[Values] = []
    for stage in range(1, stages + 1):
        values = render_picture(engine, low, ground_resolution_m * scale ** (stages - stage), manner, stage, check)
        valid = low.valid.repeat(scale, axis=0).repeat(scale, axis=1)
        low = Pixels(values, valid)
        made.append(values)
    return made
