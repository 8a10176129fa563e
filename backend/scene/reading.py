"""Rasters of a modality, read in its own unit on a common grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backend.errors import InputError
from backend.raster.grid import Grid, Region
from backend.raster.pixels import Pixels
from backend.raster.source import RasterSource
from backend.raster.stretch import Stretch, even_stretch
from backend.scene.modality import Modality


class ModalityRaster:
    """An open raster of a modality on ``grid``; a context manager.

    Values of 8 bits are taken as they are, 0 to 255 over the modality's range. Others are in its unit where it has
    one, and are else stretched between percentiles, as 8-bit values are where ``percentiles`` says so.
    """

    def __init__(
        self,
        path: str,
        modality: Modality,
        bands: list[int] | None = None,
        grid: Grid | None = None,
        pixel_size_m: float | None = None,
        percentiles: bool = False,
    ) -> None:
        self.modality = modality
        self.source = RasterSource(path, bands, pixel_size_m, None, grid, modality.is_map)
        try:
            self.stretch = None if modality.is_map else self._stretch(percentiles)
        except BaseException:
            self.source.close()
            raise

    def __enter__(self) -> ModalityRaster:
        return self

    def __exit__(self, *error: object) -> None:
        self.source.close()

    def _stretch(self, percentiles: bool) -> Stretch:
        """What becomes -1 and 1, in as many bands as the modality has."""
        source, modality = self.source, self.modality
        if source.out_bands != modality.band_count:
            raise InputError(
                f"{Path(source.path).name} shows {source.out_bands} band(s), and {modality.title} has"
                f" {modality.band_count}: choose its bands."
            )
        if self.is_measured:
            return source.stretch_between(modality.low, modality.high)
        return source.percentiles() if percentiles else source.stretch()

    @property
    def is_measured(self) -> bool:
        """Whether the modality has a unit that the raster's values are in."""
        return self.source.dtype != np.uint8 and not self.modality.is_eight_bit

    @property
    def is_relative(self) -> bool:
        """Whether the modality has a unit that the raster's values are not in."""
        return self.source.dtype == np.uint8 and not self.modality.is_eight_bit

    def read(self, region: Region) -> Pixels:
        """The pixels of a region in the modality's unit; beyond the grid's edges reflected.

        What is in that unit already may lie beyond the modality's range, all else is clipped to it.
        """
        pixels = self.source.read(region)
        if self.stretch is None:
            return pixels
        if self.is_measured:
            return Pixels(self.source.in_unit(pixels.values), pixels.valid)
        whole = even_stretch(self.modality.low, self.modality.high, self.modality.band_count)
        return Pixels(whole.invert(self.stretch.apply(pixels.values)), pixels.valid)
