"""Reading an earlier stage back from the blocks that were written."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from backend.errors import OutputError
from backend.raster.grid import Grid, Region
from backend.raster.pixels import Pixels, read_reflected
from backend.raster.source import GDAL_OPTIONS


class Mosaic:
    """A stage's mosaic, which covers ``covered`` of ``grid``; use as a context manager."""

    def __init__(self, path: Path, grid: Grid, covered: Region, bands: int) -> None:
        self.grid, self.covered, self.bands = grid, covered, bands
        with rasterio.Env(**GDAL_OPTIONS):
            self._file = rasterio.open(path)

    def __enter__(self) -> Mosaic:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, region: Region) -> Pixels:
        """The pixels of ``region`` of the grid, beyond the grid's edges reflected."""
        return read_reflected(region, self.grid.region, self._read_inside)

    def _read_inside(self, region: Region) -> Pixels:
        place = region.relative_to(self.covered)
        window = Window(place.left, place.top, place.width, place.height)
        shown = list(range(1, self.bands + 1))
        try:
            values = self._file.read(shown, window=window).astype(np.float32)
            valid = (self._file.read_masks(shown, window=window) > 0).all(axis=0)
            if self._file.count > self.bands:
                valid &= self._file.read(self.bands + 1, window=window) > 0
        except RasterioError as error:
            raise OutputError(f"A finished block of the job cannot be read any more: {error}. Resume it.") from error
        return Pixels(values, valid & np.isfinite(values).all(axis=0))
