"""Pictures in memory through MetaEarth-MM, by the same windows as a job's: what augmentation translates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.models.bundle import SceneModelConfig
from backend.progress import Check, go_on
from backend.raster.grid import Region
from backend.raster.pixels import Pixels, read_reflected
from backend.scene.engine import SceneEngine
from backend.scene.modality import Modality
from backend.scene.windows import SceneSettings, SceneWindows
from backend.tiling.blocks import BlockRenderer
from backend.tiling.geometry import Block, WindowGeometry
from backend.tiling.lattice import Lattice


def picture_lattice(config: SceneModelConfig, rows: int, cols: int) -> Lattice:
    """One window where the picture fits into one, since nothing lies beyond its border; else the model's own."""
    tile, profile = config.network.tile, config.profile
    return Lattice(tile, 0, 0) if max(rows, cols) <= tile else Lattice(tile, profile.margin, profile.ramp)


def translate_picture(
    engine: SceneEngine,
    picture: Pixels,
    given: Modality,
    target: Modality,
    ground_resolution_m: float,
    seed: int,
    check: Check = go_on,
) -> NDArray[np.float32]:
    """(bands, rows, cols) of ``target`` in its unit, of a picture in the unit of ``given``; edges are reflected.

    ``check`` runs after each window and may raise.
    """
    region = Region(0, 0, *picture.valid.shape)
    geometry = WindowGeometry(picture_lattice(engine.config, region.height, region.width), 1, 0)

    def inside(part: Region) -> Pixels:
        return Pixels(picture.values[(slice(None), *part.slices())], picture.valid[part.slices()])

    readers = {given.id: (given, lambda part: read_reflected(part, region, inside))}
    settings = SceneSettings(geometry, (target,), ground_resolution_m, seed)
    renderer = BlockRenderer(SceneWindows(engine, readers, settings), geometry, check)
    try:
        return renderer.render(Block(0, 0, region), {}).pixels.values
    finally:
        renderer.close()
