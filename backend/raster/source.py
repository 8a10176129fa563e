"""The source raster: bands as the map shows them, mask, stretch, reading by region."""

from __future__ import annotations

import math
import os
import threading
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from backend.errors import InputError, MissingCrsError
from backend.protocol import ANCHOR_TAG, RASTER_DRIVERS, STRETCH_TAG
from backend.raster.grid import Grid, Region, ground_resolution_m
from backend.raster.pixels import Pixels, read_reflected
from backend.raster.stretch import Stretch, identity_stretch, percentile_stretch

GDAL_OPTIONS = {"GDAL_VRT_ENABLE_PYTHON": "NO", "GDAL_CACHEMAX": 32}

SAMPLE_SIDE = 1024
UNSCALED = (1.0, 0.0)

# a raster without place is told of by our own sentence, where it matters
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


def resolution_without_crs(path: str | Path, given: float | None) -> float | None:
    """The metres per pixel that are ``given`` for pictures without a CRS, if the file is one; else None, it tells."""
    if given is None:
        return None
    try:
        with rasterio.open(path) as opened:
            return given if opened.crs is None else None
    except RasterioError:
        return given  # whoever reads it says what is wrong


class RasterSource:
    """An open raster; use as a context manager.

    ``pixel_size_m`` overrides the metres per pixel, ``resample_to_m`` reads the raster on a grid of that
    many metres per pixel with the same corner, ``onto`` on another raster's grid. ``classes``: the values are numbers
    of classes, which have no mean; a palette is not applied. Values are the file's numbers; ``scaling`` has (scale,
    offset) of each band that is read, by which they are values in its unit, and nothing where they are that already.
    ``placed``: it matters where the raster lies.
    """

    def __init__(
        self,
        path: str,
        bands: list[int] | None = None,
        pixel_size_m: float | None = None,
        resample_to_m: float | None = None,
        onto: Grid | None = None,
        classes: bool = False,
        placed: bool = True,
    ) -> None:
        self.path, self.classes, self.placed = path, classes, placed
        self._stack = ExitStack()
        try:
            with rasterio.Env(**GDAL_OPTIONS):  # not for longer: an Env belongs to a thread, a source does not
                self._file = self._open(path)
                self.grid = self._native_grid(pixel_size_m)
                self._set_bands(bands)
                self._data = self._file if resample_to_m is None else self._resampled(resample_to_m)
                if onto is not None:
                    self._data = self._aligned(onto)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RasterSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def _open(self, path: str) -> rasterio.DatasetReader:
        if not Path(path).is_file():
            raise InputError(f"There is no file {path}.")
        try:
            opened = self._stack.enter_context(rasterio.open(path))
        except (RasterioError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a raster: {error}") from error
        if opened.driver not in RASTER_DRIVERS:
            raise InputError(
                f"{path} is of the format {opened.driver}, which is not read directly. Save it as GeoTIFF first."
            )
        if opened.count == 0:
            first = next(iter(opened.subdatasets), path)
            raise InputError(
                f"{path} holds several rasters. Load the one you want in QGIS, or save it as GeoTIFF first, for"
                f" instance: gdal_translate '{first}' one.tif"
            )
        return opened

    def _native_grid(self, pixel_size_m: float | None) -> Grid:
        f = self._file
        if self.placed and f.crs is None and f.transform.is_identity and (f.gcps[0] or f.rpcs):
            raise InputError(
                f"{Path(self.path).name} is placed by control points or a sensor model alone, which is not read. Warp"
                " it first, for instance: gdalwarp -tps in.tif out.tif (with a sensor model: gdalwarp -rpc)."
            )
        if f.crs is None and pixel_size_m is None:
            raise MissingCrsError(
                f"{Path(self.path).name} has no coordinate reference system, so its metres per pixel are "
                "unknown. Give the source resolution, or assign a CRS to the layer."
            )
        transform = f.transform
        if f.crs is None and transform.is_identity:  # no place at all: where QGIS shows it, with rows that run down
            transform = Affine.scale(1, -1)
        size = pixel_size_m or ground_resolution_m(transform, f.height, f.width, f.crs)
        return Grid(f.height, f.width, transform, f.crs, size)

    def _set_bands(self, bands: list[int] | None) -> None:
        f = self._file
        self.alpha_band = next((i + 1 for i, c in enumerate(f.colorinterp) if c == ColorInterp.alpha), None)
        self.palette = None
        if bands is None and self.classes and (shown := f.count - (self.alpha_band is not None)) > 1:
            raise InputError(
                f"{Path(self.path).name} has {shown} bands, as a picture of a map has; a map is one band of class"
                " numbers. Give that, or say which of these bands it is."
            )
        if bands is None:
            bands = [1] if self.classes else shown_bands(list(f.colorinterp))
            if not self.classes and len(bands) == 1 and f.colorinterp[bands[0] - 1] == ColorInterp.palette:
                self.palette = palette_table(f.colormap(bands[0]))
        if max(bands) > f.count:
            raise InputError(f"Band {max(bands)} was asked for, but {Path(self.path).name} has {f.count}.")
        if any(np.issubdtype(np.dtype(_numpy_name(f.dtypes[b - 1])), np.complexfloating) for b in bands):
            raise InputError(f"{Path(self.path).name} holds complex numbers. Compute amplitude or phase first.")
        types = dict.fromkeys(f.dtypes[b - 1] for b in bands)
        if len(types) > 1:
            raise InputError(
                f"The bands of {Path(self.path).name} are of different types ({', '.join(types)}), and a result has"
                " one. Save it in one of them first."
            )
        self.bands = bands
        self.dtype = np.dtype("uint8") if self.palette is not None else np.dtype(f.dtypes[bands[0] - 1])
        scaling = tuple((f.scales[b - 1] or 1.0, f.offsets[b - 1]) for b in bands)
        self.scaling = () if self.palette is not None or set(scaling) == {UNSCALED} else scaling
        marks = [f.nodatavals[b - 1] for b in bands]
        self._hole = next((mark for mark in marks if mark is not None), None)
        self._marks_differ = len(set(map(repr, marks))) > 1
        self.nodata = None if self.palette is not None else self._hole
        holes = self.alpha_band is not None or any(MaskFlags.all_valid not in f.mask_flag_enums[b - 1] for b in bands)
        self.needs_alpha = self.nodata is None and holes
        if self.nodata is None and not self.needs_alpha and np.issubdtype(self.dtype, np.floating):
            self.nodata = math.nan  # NaN pixels are holes, whether declared or not

    def _resampled(self, resolution_m: float) -> WarpedVRT:
        f, factor = self._file, resolution_m / self.grid.pixel_size_m
        # half a pixel more is averaged from what there is, but not interpolated: its centre lies on the raster's edge
        half = 0.5 if factor > 1 else 0.5 - 1e-6
        height, width = (max(1, math.floor(n / factor + half)) for n in (f.height, f.width))
        transform = f.transform @ Affine.scale(factor)
        if f.crs is None:
            raise MissingCrsError(
                "A raster without coordinate reference system can be made finer by whole stages only; "
                "give a number of stages instead of a target resolution."
            )
        self.grid = Grid(height, width, transform, f.crs, resolution_m)
        return self._warped(Resampling.average if factor > 1 else Resampling.cubic, self.needs_alpha)

    def _aligned(self, grid: Grid) -> rasterio.DatasetReader | WarpedVRT:
        """The raster on ``grid``; `InputError` if it cannot be told how it lies there."""
        own, self.grid = self.grid, grid
        same_shape = (own.height, own.width) == (grid.height, grid.width)
        if own.crs is None or grid.crs is None:
            if same_shape and own.crs == grid.crs:
                return self._data
            raise InputError(
                f"{Path(self.path).name} cannot be laid over the other rasters: without a coordinate reference system "
                f"it must have their size, {grid.width} x {grid.height} pixels."
            )
        if same_shape and own.crs == grid.crs and own.transform.almost_equals(grid.transform, 1e-6 * grid.transform.a):
            return self._data
        method = Resampling.average if grid.pixel_size_m > 1.5 * own.pixel_size_m else Resampling.cubic
        return self._warped(method, True)

    def _warped(self, method: Resampling, has_holes: bool) -> WarpedVRT:
        """The file on ``self.grid``; palettes and classes are not averaged."""
        f, grid = self._file, self.grid
        if self._marks_differ:
            raise InputError(
                f"The bands of {Path(self.path).name} mark what they do not show by different values, and cannot be"
                " laid onto other pixels. Save it with one nodata value first."
            )
        if self.palette is not None or self.classes:
            method = Resampling.nearest
        return self._stack.enter_context(
            WarpedVRT(
                f,
                src_crs=f.crs,
                src_nodata=self._hole if self.nodata is None else self.nodata,
                nodata=self.nodata,
                crs=grid.crs,
                transform=grid.transform,
                height=grid.height,
                width=grid.width,
                resampling=method,
                add_alpha=self.alpha_band is None and self.nodata is None and has_holes,
            )
        )

    @property
    def driver(self) -> str:
        """GDAL's name of the format."""
        return str(self._file.driver)

    @property
    def count(self) -> int:
        """Bands in the file."""
        return int(self._file.count)

    @property
    def out_bands(self) -> int:
        """Bands of the values read: one or three."""
        return 3 if self.palette is not None else len(self.bands)

    def read(self, region: Region) -> Pixels:
        """The pixels of ``region``, beyond the raster's edges reflected."""
        return read_reflected(region, self.grid.region, self._read_inside)

    def _read_inside(self, region: Region, shape: tuple[int, int] | None = None) -> Pixels:
        window = Window(region.left, region.top, region.width, region.height)
        shape = shape or (region.height, region.width)
        try:
            raw = self._data.read(self.bands, window=window, out_shape=(len(self.bands), *shape))
            masks = self._data.read_masks(self.bands, window=window, out_shape=(len(self.bands), *shape))
            valid = masks.all(axis=0)
            if self.alpha_band is not None:
                valid &= self._data.read(self.alpha_band, window=window, out_shape=shape) > 0
        except RasterioError as error:
            raise InputError(
                f"{self.path} is damaged: it cannot be read at rows {region.top} to {region.bottom}, "
                f"columns {region.left} to {region.right} ({error})."
            ) from error
        if self.palette is not None:
            raw = self.palette[np.clip(raw[0], 0, len(self.palette) - 1)].transpose(2, 0, 1)
        values = raw.astype(np.float32)
        valid &= np.isfinite(values).all(axis=0)
        return Pixels(values, valid)

    def stretch(self) -> Stretch:
        """8-bit data: identity; others: percentiles of a decimated read of the whole file, whatever is asked of it."""
        if self.dtype == np.uint8:
            return identity_stretch(self.out_bands)
        told = self._told_stretch()
        if told:
            return told
        key = repr((self.fingerprint(), self.bands, self.nodata, self.needs_alpha))
        if key in _stretches:
            return _stretches[key]
        with _stretching:  # whoever asks for the same meanwhile waits for it, instead of reading the file, too
            if key not in _stretches:
                while len(_stretches) >= MOST_STRETCHES:
                    _stretches.pop(next(iter(_stretches)))
                with RasterSource(self.path, self.bands, self.grid.pixel_size_m) as whole:
                    _stretches[key] = whole.percentiles()
            return _stretches[key]

    def _told_stretch(self) -> Stretch | None:
        """The whole layer's, which the copy of a part of it tells; None where bands had no two values."""
        told = self._file.tags().get(STRETCH_TAG, "").split()
        if len(told) != self._file.count:
            return None
        low, high = zip(*(map(float, told[band - 1].split(",")) for band in self.bands))
        return Stretch(low, high) if all(one < other for one, other in zip(low, high)) else None

    def stretch_between(self, low: float, high: float) -> Stretch:
        """Between two values in the bands' unit, which QGIS shows; the file may hold other numbers, see ``scaling``."""
        scaling = self.scaling or (UNSCALED,) * self.out_bands
        ends = [sorted(((low - offset) / scale, (high - offset) / scale)) for scale, offset in scaling]
        return Stretch(tuple(e[0] for e in ends), tuple(e[1] for e in ends))

    def in_unit(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """(bands, rows, cols) of the file's numbers in the bands' unit."""
        if not self.scaling:
            return values
        scale, offset = np.array(self.scaling).T[:, :, None, None]
        return (values * scale + offset).astype(values.dtype)

    def percentiles(self) -> Stretch:
        """The stretch of a decimated read of the whole layer's percentiles."""
        side = max(self.grid.height, self.grid.width)
        factor = max(1.0, side / SAMPLE_SIDE)
        shape = (max(1, round(self.grid.height / factor)), max(1, round(self.grid.width / factor)))
        sample = self._read_inside(self.grid.region, shape)
        return percentile_stretch(sample.values, sample.valid)

    def anchor(self) -> tuple[int, int] | None:
        """Row and column of the first pixel on the grid of the layer that this is a copy of; None if it is none."""
        parts = self._file.tags().get(ANCHOR_TAG, "").split()
        return (int(parts[0]), int(parts[1])) if len(parts) == 2 else None

    def files(self) -> list[str]:
        """The files that the raster is made of: itself, sidecars, and what a VRT refers to."""
        return sorted({self.path, *(name for name in self._file.files if os.path.isfile(name))})

    def shows_any_of(self, grid: Grid) -> bool:
        """Whether the file's corners and a grid's enclose some ground in common; True where a CRS is not known."""
        if self._file.crs is None or grid.crs is None:
            return True
        # either may be the world, which has no bounds in the other's projection
        file, own, bounds = self._file, self._file_bounds(), grid.bounds()
        return any(
            _meet(transform_bounds(crs, other_crs, *box), other_box)
            for crs, box, other_crs, other_box in (
                (file.crs, own, grid.crs, bounds), (grid.crs, bounds, file.crs, own)
            )
        )

    def _file_bounds(self) -> Box:
        """xmin, ymin, xmax, ymax of the file in its CRS, whichever way its rows and columns run."""
        f = self._file
        return Grid(f.height, f.width, f.transform, f.crs, self.grid.pixel_size_m).bounds()

    def fingerprint(self) -> dict[str, list[int]]:
        """What changes when the raster does: size in bytes and time of the last change of each of its files.

        What programs leave beside a raster, statistics (.aux.xml) and overviews (.ovr), is no change.
        """
        try:
            status = {os.path.abspath(n): os.stat(n) for n in self.files() if not n.endswith((".aux.xml", ".ovr"))}
        except OSError as error:
            raise InputError(f"The source raster {self.path} is gone: {error}.") from error
        return {name: [s.st_size, s.st_mtime_ns] for name, s in status.items()}


_stretches: dict[str, Stretch] = {}
"""What was read of whole layers: a panel asks for the same plan again and again."""
_stretching = threading.Lock()
MOST_STRETCHES = 64

Box = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax."""


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and one[2] > other[0] and one[1] < other[3] and one[3] > other[1]


def _numpy_name(dtype: str) -> str:
    return {"complex_int16": "complex64"}.get(dtype, dtype)


def shown_bands(interpretations: list[ColorInterp]) -> list[int]:
    """The bands that make the picture: red, green and blue if named so, else the first three, else the first."""
    rgb = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    if all(c in interpretations for c in rgb):
        return [interpretations.index(c) + 1 for c in rgb]
    plain = [i + 1 for i, c in enumerate(interpretations) if c != ColorInterp.alpha]
    if not plain:
        raise InputError("The raster has only an alpha band.")
    return plain[:3] if len(plain) >= 3 else plain[:1]


def palette_table(colormap: dict[int, tuple[int, int, int, int]]) -> NDArray[np.uint8]:
    """(entries, 3): the colours of a palette."""
    table = np.zeros((max(colormap) + 1, 3), np.uint8)
    for value, colour in colormap.items():
        table[value] = colour[:3]
    return table
