"""Scene tokens as features: what MetaEarth-MM infers of a place from clean imagery, before it generates anything.

The paper leaves open how they are used downstream. [ours]: the output of the inference module, or of one of its blocks;
the mean over the modalities observed, whose tokens training makes equal; one vector an image is the mean over its
tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from backend.errors import InputError, PlanError
from backend.models.bundle import SceneModelConfig
from backend.progress import Check, Report, go_on, watched
from backend.raster.grid import Grid, Region
from backend.raster.pixels import Pixels
from backend.raster.source import resolution_without_crs
from backend.scene.engine import Observed, SceneEngine
from backend.scene.modality import Modality
from backend.scene.reading import ModalityRaster
from backend.scene.windows import Readers, known_pixels, observe
from backend.tiling.blocks import BlockRenderer, Edges
from backend.tiling.geometry import Block, WindowGeometry
from backend.tiling.lattice import Lattice

Values = NDArray[np.float32]


def check_block(config: SceneModelConfig, block: int | None) -> None:
    """`PlanError` if a model's inference module has no such block; None: the last one."""
    depth = config.network.inference_blocks
    if block is not None and not 1 <= block <= depth:
        raise PlanError(f"The inference module of {config.id} has {depth} blocks; block {block} is none.")


@dataclass(frozen=True)
class TokenLattice(Lattice):
    """Windows with lengths in tokens."""

    multiple: ClassVar[int] = 1


def token_lattice(config: SceneModelConfig) -> TokenLattice:
    """The windows of rasters of any size.

    They advance as far as those that drop the model's margin, but half of it is blended: features have no seams [ours].
    """
    network = config.network
    half = config.profile.margin // (2 * network.pixels_a_token)
    return TokenLattice(network.tile // network.pixels_a_token, half, 2 * half)


def chip_lattice(config: SceneModelConfig, grid: Grid) -> TokenLattice:
    """One window where the chip fits into one, since nothing lies beyond its border."""
    tile = config.network.tile
    if max(grid.height, grid.width) > tile:
        return token_lattice(config)
    return TokenLattice(tile // config.network.pixels_a_token, 0, 0)


@dataclass(frozen=True)
class TokenWindows:
    """The `WindowMaker` of features; regions and places are in tokens. ``blocks``: see `SceneNetwork.scene_tokens`."""

    engine: SceneEngine
    readers: Readers
    lattice: TokenLattice
    ground_resolution_m: float
    blocks: int | None = None
    batch: ClassVar[int] = 1

    @property
    def bands(self) -> int:
        """Features of a token."""
        return self.engine.config.network.width

    def valid(self, region: Region) -> NDArray[np.bool_]:
        """Valid is a token of which any modality knows any pixel."""
        p = self.engine.config.network.pixels_a_token
        known = known_pixels(self.readers, region.scaled(p))
        return np.logical_or.reduce(known.reshape(region.height, p, region.width, p), axis=(1, 3))

    def input(self, row: int, col: int) -> list[Observed] | None:
        """What is observed in a window; None if nothing is."""
        top, left = (self.lattice.origin(i) for i in (row, col))
        window = Region(top, left, top + self.lattice.window, left + self.lattice.window)
        return observe(self.readers, window.scaled(self.engine.config.network.pixels_a_token)) or None

    def make(self, inputs: list[list[Observed]]) -> Values:
        """(n, features, tokens, tokens)."""
        return np.stack([self.engine.tokens(observed, self.ground_resolution_m, self.blocks) for observed in inputs])

    def finish(self, blended: Values, region: Region) -> Values:
        """Features have no unit."""
        return blended


def strips(windows: TokenWindows, region: Region, after_window: Callable[[], None]) -> Iterator[tuple[Region, Pixels]]:
    """The tokens of a region from top to bottom, one row of windows at a time; neighbours share what is blended."""
    lattice = windows.lattice
    renderer = BlockRenderer(windows, WindowGeometry(lattice, 1, 0), after_window)
    edges: Edges = {}
    try:
        first, last = ((n + lattice.ramp) // lattice.stride for n in (region.top, region.bottom - 1))
        for row in range(first, last + 1):
            top = row * lattice.stride - lattice.ramp
            place = Region(top, region.left, top + lattice.stride, region.right).intersection(region)
            made = renderer.render(Block(row, 0, place), edges)
            edges = made.below
            yield place, made.pixels
    finally:
        renderer.close()


def count_windows(lattice: Lattice, region: Region) -> int:
    """How many windows `strips` makes."""
    return WindowGeometry(lattice, 1, 0).count(region)


def chip_vector(engine: SceneEngine, raster: ModalityRaster, blocks: int | None = None, check: Check = go_on) -> Values:
    """(features,) float32: the mean over the tokens of a chip that show anything."""
    config, grid = engine.config, raster.source.grid
    tokens = grid.zoom_out(config.network.pixels_a_token).region
    readers: Readers = {raster.modality.id: (raster.modality, raster.read)}
    windows = TokenWindows(engine, readers, chip_lattice(config, grid), grid.pixel_size_m, blocks)
    found = [pixels.values[:, pixels.valid] for _, pixels in strips(windows, tokens, check)]
    shown = np.concatenate(found, axis=1)
    if not shown.size:
        raise InputError(f"{Path(raster.source.path).name} has no valid pixel: all are nodata.")
    return shown.mean(axis=1, dtype=np.float64).astype(np.float32)


@dataclass(frozen=True)
class LabelledFeatures:
    """One vector a chip: (n, features) float32, (n,) numbers of classes, paths below the folder of chips."""

    features: Values
    labels: NDArray[np.int64]
    files: list[Path]
    classes: list[str]
    pixel_sizes_m: tuple[float, ...] = ()
    """Those that some chip has."""


@dataclass(frozen=True)
class ChipReading:
    """How chips are read: their modality, and their metres per pixel where they have no CRS."""

    modality: Modality
    source_resolution: float | None = None

    def opened(self, path: Path) -> ModalityRaster:
        """A chip on its own grid."""
        size_m = resolution_without_crs(path, self.source_resolution)
        return ModalityRaster(str(path), self.modality, None, None, size_m)


def embed_chips(
    engine: SceneEngine, data: Path, files: list[Path], reading: ChipReading, blocks: int | None, report: Report,
    check: Check,
) -> LabelledFeatures:  # fmt: skip
    """A vector of every chip of a labelled folder; a chip's class is the folder that it lies in."""
    vectors, sizes = [], set[float]()
    for file in watched(files, "embedding chips", report, check):
        with reading.opened(data / file) as raster:
            vectors.append(chip_vector(engine, raster, blocks, check))
            sizes.add(raster.source.grid.pixel_size_m)
    classes = sorted({file.parent.as_posix() for file in files})
    labels = np.array([classes.index(file.parent.as_posix()) for file in files], np.int64)
    return LabelledFeatures(np.stack(vectors), labels, files, classes, tuple(sorted(sizes)))
