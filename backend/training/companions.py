"""The other modalities of a chip: read on its own grid, drawn from vector files, or made of those that are there.

All are (rows, cols, bands) uint8: images as 0 to 255 between the ends of their stretch, maps as class numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from backend.errors import InputError
from backend.raster.averaging import area_average
from backend.raster.grid import Region
from backend.raster.pixels import Pixels
from backend.raster.source import RasterSource
from backend.scene.drawing import VECTORS, draw_map, read_features
from backend.scene.modality import Modality, find_modality
from backend.scene.reading import ModalityRaster
from backend.training.imagery import Imagery
from backend.training.split import Companion

Raster = NDArray[np.uint8]
Found = tuple[Raster, NDArray[np.bool_]]


class Beside(NamedTuple):
    """What else a chip shows; ``derived`` and ``relative`` as in `ChipFacts`."""

    rasters: dict[str, Raster]
    derived: tuple[str, ...]
    relative: tuple[str, ...]


class CompanionRaster:
    """A companion that is a raster, read on the grid of the imagery that it accompanies."""

    def __init__(self, companion: Companion, imagery: Imagery, lead: RasterSource, stack: ExitStack) -> None:
        self.companion, self.factor, self.modality = companion, imagery.factor, find_modality(companion.modality)
        bands = None if companion.bands is None else list(companion.bands)
        self.raster = stack.enter_context(
            ModalityRaster(
                str(companion.path), self.modality, bands, lead.grid, imagery.native_m, companion.percentiles
            )
        )

    @property
    def is_relative(self) -> bool:
        """Whether the modality has a unit that the raster's values are not in."""
        return self.raster.is_relative

    def read(self, region: Region) -> Found:
        """The chip of a region, and which of its pixels are valid."""
        pixels = self.raster.read(region.scaled(self.factor))
        valid = area_average(pixels.valid, self.factor) == 1
        if self.modality.is_map:
            return self._classes(pixels), valid
        shown = np.clip((pixels.values - self.modality.low) / (self.modality.high - self.modality.low), 0, 1)
        grey = np.rint(area_average(shown, self.factor) * 255)
        return np.ascontiguousarray(grey.astype(np.uint8).transpose(1, 2, 0)), valid

    def _classes(self, pixels: Pixels) -> Raster:
        """The most frequent class of each block of pixels."""
        meaning = self.companion.values or tuple((c.value, c.value) for c in self.modality.classes)
        shares = np.stack([area_average(pixels.values[0] == value, self.factor) for value, _ in meaning])
        numbers = np.array([number for _, number in meaning], np.uint8)
        return numbers[shares.argmax(axis=0)][..., None]


class DrawnMap:
    """A companion that is a vector file."""

    is_relative = False

    def __init__(self, companion: Companion, imagery: Imagery) -> None:
        self.imagery, self.modality = imagery, find_modality(companion.modality)
        if not self.modality.is_map:
            raise InputError(f"{companion.path} is a vector file, but {self.modality.title} is no map.")
        self.features = read_features(companion.path)

    def read(self, region: Region) -> Found:
        """The map of a region."""
        drawn = draw_map(self.features, self.modality, self.imagery.grid.crop(region))
        return drawn[..., None], np.ones(drawn.shape, bool)


class Companions:
    """All other modalities of some imagery."""

    def __init__(self, imagery: Imagery, lead: RasterSource, stack: ExitStack) -> None:
        self.imagery = imagery
        self.readers: dict[str, CompanionRaster | DrawnMap] = {
            c.modality: DrawnMap(c, imagery) if c.path.suffix.lower() in VECTORS
            else CompanionRaster(c, imagery, lead, stack)
            for c in imagery.companions
        }

    def read(self, region: Region, lead: Raster) -> Beside:
        """The chip's other modalities, without those that have a hole there; derived ones come last."""
        found = {}
        for modality, reader in self.readers.items():
            pixels, valid = reader.read(region)
            if valid.all():
                found[modality] = pixels
        missing = [name for name in self.imagery.derived if name not in found]
        made = {name: derived(find_modality(name), {self.imagery.modality: lead, **found}) for name in missing}
        relative = [name for name in found if self.readers[name].is_relative]
        if self.imagery.is_relative:
            relative.append(self.imagery.modality)
        new = {name: raster for name, raster in made.items() if raster is not None}
        return Beside({**found, **new}, tuple(new), tuple(relative))


def derived(modality: Modality, given: dict[str, Raster]) -> Raster | None:
    """A modality as the weighted sum of others' bands; None where one of them is missing."""
    total: NDArray[np.float32] | None = None
    for name, band, weight in modality.made_from:
        if name not in given:
            return None
        part = weight * given[name][..., find_modality(name).bands.index(band)].astype(np.float32)
        total = part if total is None else total + part
    return None if total is None else np.rint(total).clip(0, 255).astype(np.uint8)[..., None]


@contextmanager
def opened(imagery: Imagery) -> Iterator[tuple[RasterSource, Companions]]:
    """The raster behind some imagery, and its companions."""
    with ExitStack() as stack:
        source = stack.enter_context(imagery.open())
        yield source, Companions(imagery, source, stack)
