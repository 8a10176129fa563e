"""Writing: block files, the virtual mosaic over them, and the finished Cloud Optimized GeoTIFF."""

from __future__ import annotations

import glob
import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from xml.etree import ElementTree  # nosec B405 - writes XML, parses none

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # raised as it is by rasterio.shutil
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.shutil import copy as copy_raster

from backend.files import complete_file, to_disk, writing
from backend.progress import Check, go_on
from backend.raster.grid import Grid, Region
from backend.raster.pixels import Pixels
from backend.raster.source import GDAL_OPTIONS

GDAL_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "uint64": "UInt64",
    "int64": "Int64",
    "float32": "Float32",
    "float64": "Float64",
}


CHECKSUM = "METAEARTH_SHA256"


def to_type(values: NDArray[np.float32], valid: NDArray[np.bool_], dtype: np.dtype, nodata: float | None) -> NDArray:
    """Values rounded and clipped to ``dtype``; holes get ``nodata``, and no valid pixel has it by chance."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        typed = np.empty(values.shape, dtype)
        for band, out in zip(values, typed):  # one band in float64 at a time
            out[:] = np.clip(np.rint(band.astype(np.float64)), limits.min, limits.max).astype(dtype)
        if nodata is not None and limits.min <= nodata <= limits.max:
            typed[typed == nodata] = int(nodata) + (1 if nodata < limits.max else -1)
    else:
        typed = values.astype(dtype)
    hole = 0 if nodata is None else nodata
    return np.where(valid[None], typed, np.asarray(hole).astype(dtype))


def write_block(
    path: Path,
    pixels: Pixels,
    grid: Grid,
    dtype: np.dtype,
    nodata: float | None,
    alpha: bool,
    tags: dict[str, str] | None = None,
    overviews: Resampling = Resampling.average,
) -> None:
    """One block as a GeoTIFF with overviews, on the disk under its name or not there at all.

    ``alpha`` adds a band with the mask. The pixels' SHA-256 is among its tags.
    """
    typed = to_type(pixels.values, pixels.valid, dtype, nodata)
    if alpha:
        opaque = np.where(pixels.valid, alpha_value(dtype), 0).astype(dtype)
        typed = np.concatenate([typed, opaque[None]])
    digest = checksum(typed)
    with complete_file(path) as partial, writing(path, typed.nbytes):
        with (
            rasterio.Env(**GDAL_OPTIONS),
            rasterio.open(
                partial,
                "w",
                driver="GTiff",
                height=grid.height,
                width=grid.width,
                count=len(typed),
                dtype=dtype,
                crs=grid.crs,
                transform=grid.transform,
                nodata=nodata,
                tiled=True,
                blockxsize=256,
                blockysize=256,
                compress="deflate",
                zlevel=1,
                interleave="band",
                bigtiff="if_safer",
            ) as dataset,
        ):
            dataset.write(typed)
            dataset.update_tags(**(tags or {}), **{CHECKSUM: digest})
            dataset.build_overviews(_overview_factors(grid), overviews)
        to_disk(partial)
        if checksum_of(partial) != digest:
            raise OSError(f"{path.name} does not hold what was written to it.")


def _overview_factors(grid: Grid) -> list[int]:
    side = max(grid.height, grid.width)
    return [2**k for k in range(1, 12) if side >> k >= 128]


def checksum(typed: NDArray) -> str:
    """SHA-256 of shape, type and values, in hexadecimal."""
    digest = hashlib.sha256(f"{typed.shape} {typed.dtype}".encode())
    digest.update(np.ascontiguousarray(typed).data)
    return digest.hexdigest()


def checksum_of(path: Path) -> str | None:
    """The checksum of a raster's pixels; None if they cannot be read."""
    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path) as dataset:
            return checksum(dataset.read())
    except (RasterioError, CPLE_BaseError):
        return None


def valid_block(path: Path, tags: dict[str, str], grid: Grid) -> bool:
    """Whether a block is there, lies on ``grid``, carries ``tags``, and holds the pixels that were written."""
    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path) as dataset:
            found = dataset.tags()
            if any(found.get(key) != value for key, value in tags.items()) or not _lies_on(dataset, grid):
                return False
            return found.get(CHECKSUM) == checksum(dataset.read())
    except (RasterioError, CPLE_BaseError):
        return False


def _lies_on(dataset: rasterio.DatasetReader, grid: Grid) -> bool:
    """Whether a raster has the pixels of a grid, by number and, to half a pixel, by place."""
    col_row = ~grid.transform @ (dataset.transform.c, dataset.transform.f)
    return dataset.shape == (grid.height, grid.width) and max(map(abs, col_row)) < 0.5


MOST_EXACT = 2**53
"""Whole numbers up to this one are exact as floats, and written without an exponent, which GDAL would not read back."""


def hole_marks(dtype: np.dtype, nodata: float | None, has_holes: bool) -> tuple[float | None, bool]:
    """(nodata, whether there is an alpha band) of a result whose source has holes and this ``nodata``, if any.

    GDAL takes an alpha band for a mask in unsigned 8 and 16 bits only; in other types a value marks the holes.
    """
    if nodata is not None and abs(nodata) > MOST_EXACT and np.issubdtype(dtype, np.integer):
        return math.copysign(MOST_EXACT, nodata), False
    if nodata is not None or not has_holes:
        return nodata, False
    if dtype in (np.dtype("uint8"), np.dtype("uint16")):
        return None, True
    if np.issubdtype(dtype, np.floating):
        return math.nan, False
    limits = np.iinfo(dtype)
    return float(max(limits.min, -MOST_EXACT) if limits.min < 0 else min(limits.max, MOST_EXACT)), False


def alpha_value(dtype: np.dtype) -> float:
    """The value of an opaque pixel in a type of whole numbers."""
    return float(np.iinfo(dtype).max)


def colour_interpretation(bands: int, alpha: bool) -> list[ColorInterp]:
    """Grey or red, green, blue, and alpha; of any other number of bands nothing is said."""
    usual = {1: [ColorInterp.gray], 3: [ColorInterp.red, ColorInterp.green, ColorInterp.blue]}
    shown = usual.get(bands, [ColorInterp.undefined] * bands)
    return [*shown, ColorInterp.alpha] if alpha else shown


def tags_of(path: Path) -> dict[str, str]:
    """All tags of a raster."""
    with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path) as dataset:
        return dict(dataset.tags())


def write_mosaic(
    path: Path,
    blocks: list[tuple[Path, Region]],
    region: Region,
    grid: Grid,
    dtype: np.dtype,
    nodata: float | None,
    bands: list[tuple[int, ColorInterp]],
    tags: dict[str, str],
    masked: bool = False,
    palette: dict[int, tuple[int, int, int]] | None = None,
    scaling: tuple[tuple[float, float], ...] = (),
) -> None:
    """A VRT of ``region`` over block files; ``grid`` is the whole stage's, ``bands`` are those of the blocks.

    ``masked``: where there is no block, there is no data, instead of zeros. ``palette``: the first band holds numbers
    of classes, which are shown so. ``scaling``: (scale, offset) of the first bands, see `RasterSource`.
    """
    area = grid.crop(region)
    root = ElementTree.Element("VRTDataset", rasterXSize=str(area.width), rasterYSize=str(area.height))
    if grid.crs is not None:
        ElementTree.SubElement(root, "SRS", dataAxisToSRSAxisMapping="1,2").text = grid.crs.to_wkt()
    transform = ", ".join(repr(float(v)) for v in area.transform.to_gdal())
    ElementTree.SubElement(root, "GeoTransform").text = transform
    metadata = ElementTree.SubElement(root, "Metadata")
    for key, value in tags.items():
        ElementTree.SubElement(metadata, "MDI", key=key).text = value
    for index, (number, colour) in enumerate(bands, start=1):
        band = ElementTree.SubElement(root, "VRTRasterBand", dataType=GDAL_TYPES[dtype.name], band=str(index))
        if nodata is not None:
            ElementTree.SubElement(band, "NoDataValue").text = "nan" if math.isnan(nodata) else repr(nodata)
        if index <= len(scaling):
            scale, offset = scaling[index - 1]
            ElementTree.SubElement(band, "Offset").text = repr(offset)
            ElementTree.SubElement(band, "Scale").text = repr(scale)
        shown = ColorInterp.palette if palette and index == 1 else colour
        ElementTree.SubElement(band, "ColorInterp").text = shown.name.capitalize()
        if shown == ColorInterp.palette:
            _add_palette(band, palette or {})
        for block, place in blocks:
            _add_source(band, path, block, place, region, str(number))
    if masked and all(colour != ColorInterp.alpha for _, colour in bands):
        mask = ElementTree.SubElement(
            ElementTree.SubElement(root, "MaskBand"), "VRTRasterBand", dataType=GDAL_TYPES["uint8"]
        )
        for block, place in blocks:
            _add_source(mask, path, block, place, region, "mask,1")
    with writing(path):
        path.write_bytes(ElementTree.tostring(root, encoding="utf-8"))


def _add_palette(band: ElementTree.Element, palette: dict[int, tuple[int, int, int]]) -> None:
    table = ElementTree.SubElement(band, "ColorTable")
    for value in range(max(palette) + 1):
        red, green, blue = palette.get(value, (0, 0, 0))
        ElementTree.SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4="255")


def _add_source(
    band: ElementTree.Element, vrt: Path, block: Path, place: Region, region: Region, band_name: str
) -> None:
    shared = place.intersection(region)
    if shared.height <= 0 or shared.width <= 0:
        return
    source = ElementTree.SubElement(band, "SimpleSource")
    name = ElementTree.SubElement(source, "SourceFilename", relativeToVRT="1")
    name.text = block.relative_to(vrt.parent).as_posix()
    ElementTree.SubElement(source, "SourceBand").text = band_name
    for tag, origin in (("SrcRect", place), ("DstRect", region)):
        part = shared.relative_to(origin)
        ElementTree.SubElement(
            source, tag, xOff=str(part.left), yOff=str(part.top), xSize=str(part.width), ySize=str(part.height)
        )


def write_cog(mosaic: Path, path: Path, dtype: np.dtype, check: Check = go_on) -> None:
    """The mosaic as a Cloud Optimized GeoTIFF at ``path``: tiled, compressed, with overviews, and verified.

    ``check`` is asked before the verification, and may raise.
    Overviews are averages, of class numbers the most frequent; the blocks' own, which nobody checks, are left out.
    """
    predictor = "FLOATING_POINT" if np.issubdtype(dtype, np.floating) else "STANDARD"
    with rasterio.open(mosaic) as dataset:
        needed_bytes = dataset.width * dataset.height * dataset.count * dtype.itemsize
        classes = dataset.colorinterp[0] == ColorInterp.palette
    with whole_or_gone(path), writing(path, needed_bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.Env(**GDAL_OPTIONS):
            copy_raster(
                mosaic,
                path,
                driver="COG",
                compress="DEFLATE",
                predictor=predictor,
                blocksize=512,
                bigtiff="IF_SAFER",
                overview_resampling="MODE" if classes else "AVERAGE",
                overviews="IGNORE_EXISTING",
                num_threads=2,
            )
        check()
        _verify_copy(path, mosaic)
        to_disk(path)


@contextmanager
def whole_or_gone(path: Path) -> Iterator[None]:
    """Nothing of a raster is left where writing it failed."""
    try:
        yield
    except BaseException:
        remove_unfinished(path)
        raise


def remove_unfinished(path: Path) -> None:
    """Delete a raster that was being written, and the overviews that GDAL makes beside it."""
    for left in (path, *path.parent.glob(f"{glob.escape(path.name)}.*")):
        with suppress(OSError):
            left.unlink(missing_ok=True)


def _verify_copy(path: Path, mosaic: Path) -> None:
    """OSError unless both rasters have equal checksums in every band."""
    with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path) as copied, rasterio.open(mosaic) as original:
        if any(copied.checksum(band) != original.checksum(band) for band in original.indexes):
            raise OSError(f"{path.name} does not hold what was written to it.")
