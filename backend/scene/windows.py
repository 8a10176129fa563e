"""The windows of a scene: what is known of it in some modalities is read, what is wanted is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.raster.grid import Region
from backend.raster.holes import fill_holes
from backend.raster.pixels import Pixels, Read
from backend.scene.engine import Observed, SceneEngine, Window
from backend.scene.modality import Modality
from backend.tiling.geometry import WindowGeometry

Values = NDArray[np.float32]
Readers = dict[str, tuple[Modality, Read]]
"""What is known of a scene, by modality, in its unit; a region may lie partly outside the raster."""


@dataclass(frozen=True)
class SceneSettings:
    """What the windows of a scene have in common; ``targets`` in the order of their bands in the result."""

    geometry: WindowGeometry
    targets: tuple[Modality, ...]
    ground_resolution_m: float
    seed: int


def observe(readers: Readers, crop: Region) -> list[Observed]:
    """The modalities of which anything is known in a window, holes filled."""
    observed = []
    for modality, read in readers.values():
        pixels = read(crop)
        if pixels.valid.any():
            # colours, not class numbers: between two classes there is no third one
            picture = modality.to_picture(np.where(pixels.valid, pixels.values, 0))
            observed.append(Observed(modality.id, fill_holes(Pixels(picture, pixels.valid)), pixels.valid))
    return observed


def known_pixels(readers: Readers, region: Region) -> NDArray[np.bool_]:
    """Which pixels of a region any modality knows: (rows, cols)."""
    return np.any([read(region).valid for _, read in readers.values()], axis=0)


class SceneWindows:
    """The `WindowMaker` of a scene; ``readers`` give what is known, by modality. Without any, all comes from noise."""

    def __init__(
        self, engine: SceneEngine, readers: Readers, settings: SceneSettings
    ) -> None:
        self.engine, self.readers, self.settings = engine, readers, settings

    @property
    def batch(self) -> int:
        """As many as the network takes at once."""
        return self.engine.batch

    @property
    def bands(self) -> int:
        """Windows are blended as pictures: class numbers have no mean."""
        return 3 * len(self.settings.targets)

    def valid(self, region: Region) -> NDArray[np.bool_]:
        """Valid is a pixel that any modality knows; all are, where the scene comes from noise."""
        return known_pixels(self.readers, region) if self.readers else np.ones((region.height, region.width), bool)

    def input(self, row: int, col: int) -> Window | None:
        """What is observed in a window, and the targets' noise; None if something is known, but nothing here."""
        s = self.settings
        crop = s.geometry.input_crop(row, col)
        observed = observe(self.readers, crop)
        if self.readers and not observed:
            return None
        return Window(observed, [self.engine.window_noise(s.seed, m.id, crop.top, crop.left) for m in s.targets])

    def make(self, inputs: list[Window]) -> Values:
        """Pictures of all targets: (n, 3 targets, tile, tile)."""
        s = self.settings
        made = self.engine.windows(inputs, [m.id for m in s.targets], s.ground_resolution_m)
        return made.reshape(len(inputs), self.bands, *made.shape[-2:])

    def finish(self, blended: Values, region: Region) -> Values:
        """The bands of all targets in their units, one after the other."""
        pictures = blended.reshape(-1, 3, *blended.shape[-2:])
        return np.concatenate([self._values(m, p, region) for m, p in zip(self.settings.targets, pictures)])

    def _values(self, modality: Modality, picture: Values, region: Region) -> Values:
        """What a picture shows; measured values stay as they are, also beyond the range that pictures can show."""
        values = modality.from_picture(picture)
        if modality.is_map or modality.id not in self.readers:
            return values
        given = self.readers[modality.id][1](region)
        return np.where(given.valid, given.values, values)
