"""Raster layers of QGIS as input of a job: a plain file as it is, anything else as a snapshot of its pixels."""

from __future__ import annotations

import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Set, Tuple

from osgeo import gdal
from qgis.core import (
    Qgis,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransformContext,
    QgsCsException,
    QgsMultiBandColorRenderer,
    QgsPointXY,
    QgsProcessingFeedback,
    QgsProviderRegistry,
    QgsRaster,
    QgsRasterBlockFeedback,
    QgsRasterDataProvider,
    QgsRasterFileWriter,
    QgsRasterInterface,
    QgsRasterLayer,
    QgsRasterPipe,
    QgsRectangle,
    QgsSingleBandGrayRenderer,
    QgsSingleBandPseudoColorRenderer,
    QgsUnitTypes,
)
from qgis.PyQt.QtCore import Qt

from ...backend.protocol import ANCHOR_STEP, ANCHOR_TAG, RASTER_DRIVERS, STRETCH_TAG, data_home
from .extents import on_ellipsoid
from .paths import absolute
from .translate import tr

SNAP_PIXELS = ANCHOR_STEP
# A window at the extent's border reads up to 72 pixels beyond it, and those of an earlier stage 24 more.
MARGIN_PIXELS = 96
STRETCH_SHARES = (0.005, 0.995)
STRETCH_SAMPLE = 1024 * 1024
IMAGE_TYPES = (Qgis.DataType.ARGB32, Qgis.DataType.ARGB32_Premultiplied)


class LayerError(Exception):
    """A layer cannot be used as asked; the message is a sentence for the user."""


@dataclass(frozen=True)
class LayerSource:
    """What a job needs of a raster layer, read on the main thread and used on any.

    ``path`` is the layer's file if the backend can read it as QGIS shows it, else None. ``pixel_size`` is (x, y) in
    map units, None for a layer that has no pixels of its own. ``shown_bands`` are what the renderer shows, if it
    shows one or three bands as they are. ``provider`` is a copy.
    """

    name: str
    path: Optional[str]
    crs: QgsCoordinateReferenceSystem
    extent: QgsRectangle
    pixel_size: Optional[Tuple[float, float]]
    shown_bands: Optional[List[int]]
    provider: QgsRasterDataProvider


@dataclass(frozen=True)
class SnapshotGrid:
    """Extent and size of a snapshot in pixels; ``col`` and ``row`` are its first pixel's on the layer's grid."""

    extent: QgsRectangle
    cols: int
    rows: int
    col: int = 0
    row: int = 0


def layer_source(layer: QgsRasterLayer) -> LayerSource:
    """The source in ``layer``; to be called on the layer's thread."""
    return LayerSource(layer.name(), plain_file(layer), layer.crs(), layer.extent(), own_pixel_size(layer),
                       shown_bands(layer), layer.dataProvider().clone())


def own_pixel_size(layer: QgsRasterLayer) -> Optional[Tuple[float, float]]:
    """The layer's pixel size (x, y) in map units; None if it is rendered at any scale (XYZ, WMS)."""
    provider = layer.dataProvider()  # None where this QGIS does not know the layer's kind
    if provider is None or not provider.capabilities() & QgsRasterInterface.Capability.Size or not layer.width():
        return None
    return layer.rasterUnitsPerPixelX(), layer.rasterUnitsPerPixelY()


def plain_file(layer: QgsRasterLayer) -> Optional[str]:
    """The layer's file from the root, if it is one that the backend reads as QGIS does; None otherwise."""
    provider = layer.dataProvider()
    return None if provider.crs() != layer.crs() or has_own_nodata(provider) else own_file(layer)


def has_own_nodata(provider: QgsRasterDataProvider) -> bool:
    """Whether QGIS was told to take other values for nodata than the file does."""
    return any(provider.userNoDataValues(band) or _is_switched_off(provider, band) for band in _bands(provider))


def _is_switched_off(provider: QgsRasterDataProvider, band: int) -> bool:
    """Whether the file has a nodata value that QGIS was told to ignore."""
    return provider.sourceHasNoDataValue(band) and not provider.useSourceNoDataValue(band)


def _bands(provider: QgsRasterDataProvider) -> range:
    return range(1, provider.bandCount() + 1)


def own_file(layer: QgsRasterLayer) -> Optional[str]:
    """The layer's file from the root, if it is one that the backend reads, whatever QGIS was told of it; else None."""
    if layer.providerType() != "gdal":
        return None
    parts = QgsProviderRegistry.instance().decodeUri("gdal", layer.source())
    path = parts.get("path") or ""
    if parts.get("vsiPrefix") or parts.get("layerName") or parts.get("openOptions") or not os.path.isfile(path):
        return None
    driver = gdal.IdentifyDriver(path)
    return absolute(path) if driver and driver.ShortName in RASTER_DRIVERS and not _is_warped(path) else None


def _is_warped(path: str) -> bool:
    """Whether QGIS warps a file to show it: one that control points or a camera model place, but no grid."""
    dataset = gdal.Open(path)
    if dataset is None or dataset.GetGeoTransform(can_return_null=True) is not None:
        return False
    return bool(dataset.GetGCPCount() or dataset.GetMetadata("RPC"))


def shown_bands(layer: QgsRasterLayer) -> Optional[List[int]]:
    """The one or three bands that the renderer shows; None if it shows a palette or a ready picture."""
    renderer = layer.renderer()
    if isinstance(renderer, QgsMultiBandColorRenderer):
        bands = [renderer.redBand(), renderer.greenBand(), renderer.blueBand()]
        return bands if min(bands) > 0 else None
    of_one_band = isinstance(renderer, (QgsSingleBandGrayRenderer, QgsSingleBandPseudoColorRenderer))
    return renderer.usesBands()[:1] if of_one_band else None


def has_colours(layer: QgsRasterLayer) -> bool:
    """Whether the file says which of its bands are red, green and blue."""
    provider, meant = layer.dataProvider(), QgsRaster.ColorInterpretation
    found = {provider.colorInterpretation(n + 1) for n in range(layer.bandCount())}
    return {meant.RedBand, meant.GreenBand, meant.BlueBand} <= found


def snapshot_grid(source: LayerSource, extent: QgsRectangle, resolution_m: Optional[float]) -> SnapshotGrid:
    """The grid of a snapshot that covers ``extent`` and a margin.

    Its corners lie on multiples of `SNAP_PIXELS` pixels from the layer's upper left corner, or from the CRS's origin
    where the layer has no pixels of its own; it never leaves the layer. `LayerError` if the pixel size is unknown.
    """
    left, top = (source.extent.xMinimum(), source.extent.yMaximum()) if source.pixel_size else (0.0, 0.0)
    size_x, size_y = source.pixel_size or _pixel_size(source, resolution_m)
    first_col, last_col = _snapped((extent.xMinimum() - left) / size_x, (extent.xMaximum() - left) / size_x)
    first_row, last_row = _snapped((top - extent.yMaximum()) / size_y, (top - extent.yMinimum()) / size_y)
    if source.pixel_size:
        first_col, last_col = max(first_col, 0), min(last_col, round(source.extent.width() / size_x))
        first_row, last_row = max(first_row, 0), min(last_row, round(source.extent.height() / size_y))
    bounds = QgsRectangle(left + first_col * size_x, top - last_row * size_y,
                          left + last_col * size_x, top - first_row * size_y)
    return SnapshotGrid(bounds, last_col - first_col, last_row - first_row, first_col, first_row)


def tile_count(grid: SnapshotGrid) -> int:
    """About how many tiles of 256 pixels a tile service must give for a snapshot."""
    return (math.ceil(grid.cols / 256) + 1) * (math.ceil(grid.rows / 256) + 1)


def ground_pixel_size_m(layer: QgsRasterLayer) -> Optional[float]:
    """Metres per pixel at the layer's centre, as the backend measures them; None without CRS or pixels of its own."""
    size, crs = own_pixel_size(layer), layer.crs()
    if size is None or not crs.isValid():
        return None
    measure = on_ellipsoid(crs, layer.transformContext())
    centre = layer.extent().center()
    right, up = QgsPointXY(centre.x() + size[0], centre.y()), QgsPointXY(centre.x(), centre.y() + size[1])
    try:
        measured = math.sqrt(measure.measureLine(centre, right) * measure.measureLine(centre, up))
    except QgsCsException:  # the centre lies off the Earth
        return None
    if crs.isGeographic():
        return measured
    metres = QgsUnitTypes.fromUnitToUnitFactor(crs.mapUnits(), QgsUnitTypes.DistanceUnit.DistanceMeters)
    nominal = math.sqrt(size[0] * size[1]) * metres
    return nominal if abs(measured / nominal - 1) < 0.02 else measured


def blank_raster(source: LayerSource, grid: SnapshotGrid, folder: Path) -> str:
    """Path of an empty raster with the grid and type of a snapshot of ``source``; it takes no space."""
    _check_kind(source)
    _check_space(source.provider, grid)
    path = str(folder / "blank.tif")
    image = source.provider.dataType(1) in IMAGE_TYPES
    kind = gdal.GDT_Byte if image else int(source.provider.dataType(1))
    bands = 3 if image else source.provider.bandCount()
    dataset = gdal.GetDriverByName("GTiff").Create(path, grid.cols, grid.rows, bands, kind, ["SPARSE_OK=TRUE"])
    dataset.SetProjection(source.crs.toWkt(QgsCoordinateReferenceSystem.WktVariant.WKT_PREFERRED_GDAL))
    extent = grid.extent
    dataset.SetGeoTransform((extent.xMinimum(), extent.width() / grid.cols, 0,
                             extent.yMaximum(), 0, -extent.height() / grid.rows))
    dataset.SetMetadataItem(STRETCH_TAG, " ".join(["0,1"] * bands))  # it has no values that could tell
    del dataset
    _tell_what_it_is(path, grid, source.provider)
    return path


def _pixel_size(source: LayerSource, resolution_m: Optional[float]) -> Tuple[float, float]:
    """``resolution_m`` in the CRS's units."""
    if not resolution_m:
        raise LayerError(tr("The layer {} has no pixel size of its own. Give the source resolution: the metres per "
                            "pixel at which it is read.").format(source.name))
    return in_units_of(source.crs, resolution_m)


def in_units_of(crs: QgsCoordinateReferenceSystem, metres: float) -> Tuple[float, float]:
    """A pixel size (x, y) in map units at which a layer without pixels of its own is read."""
    size = metres * QgsUnitTypes.fromUnitToUnitFactor(QgsUnitTypes.DistanceUnit.DistanceMeters, crs.mapUnits())
    return size, size


def _snapped(first: float, last: float) -> Tuple[int, int]:
    """The pixels [first, last) with a margin, outward to multiples of `SNAP_PIXELS`."""
    return (math.floor((first - MARGIN_PIXELS) / SNAP_PIXELS) * SNAP_PIXELS,
            math.ceil((last + MARGIN_PIXELS) / SNAP_PIXELS) * SNAP_PIXELS)


def write_snapshot(source: LayerSource, grid: SnapshotGrid, folder: Path,
                   transforms: QgsCoordinateTransformContext, feedback: QgsProcessingFeedback) -> str:
    """Path of a GeoTIFF with the layer's pixels on ``grid``; `LayerError` if it cannot be made."""
    provider = source.provider
    _check_kind(source)
    _check_space(provider, grid)
    # The file's name ends up in the result's tags as its source.
    path = str(folder / (re.sub(r"[^\w.-]+", "_", source.name)[:80] + ".tif"))
    writer = QgsRasterFileWriter(path)
    writer.setOutputProviderKey("gdal")
    writer.setOutputFormat("GTiff")
    options = getattr(writer, "setCreationOptions", None) or writer.setCreateOptions  # its name until QGIS 3.42
    options(["COMPRESS=DEFLATE", "TILED=YES", "BIGTIFF=IF_SAFER"])
    pipe = QgsRasterPipe()
    if not pipe.set(provider.clone()):
        raise LayerError(tr("The layer {} cannot be read.").format(source.name))
    progress = QgsRasterBlockFeedback()
    # Direct: the thread that writes has no events to deliver a queued cancel.
    feedback.canceled.connect(progress.cancel, Qt.ConnectionType.DirectConnection)
    outcome = writer.writeRaster(pipe, grid.cols, grid.rows, grid.extent, source.crs, transforms, progress)
    if feedback.isCanceled():
        return path
    if outcome != QgsRasterFileWriter.WriterError.NoError:
        raise LayerError(tr("The pixels of the layer {} cannot be copied to {}. {}").format(
            source.name, path, " ".join(progress.errors())))
    _tell_what_it_is(path, grid, provider)
    _tell_stretch(path, provider)
    if provider.dataType(1) in IMAGE_TYPES and _is_blank(path):
        raise LayerError(tr("The layer {} gave no picture for this extent. Check that it can be reached, and that it "
                            "has data there.").format(source.name))
    return path


def _tell_what_it_is(path: str, grid: SnapshotGrid, provider: QgsRasterDataProvider) -> None:
    """Write into a copy what QGIS leaves out: palette, alpha band, nodata set in QGIS.

    And where it lies on the layer's grid, so that every copy of a place gets the same detail.
    """
    dataset = gdal.Open(path, gdal.GA_Update)
    dataset.SetMetadataItem(ANCHOR_TAG, f"{grid.row} {grid.col}")
    if dataset.RasterCount != provider.bandCount():
        return  # a picture that was painted
    for band in _bands(provider):
        if provider.colorInterpretation(band) == QgsRaster.ColorInterpretation.AlphaBand:
            dataset.GetRasterBand(band).SetColorInterpretation(gdal.GCI_AlphaBand)
    if provider.colorTable(1):
        dataset.GetRasterBand(1).SetColorTable(_colour_table(provider))
    given = _nodata_ranges(provider)
    for band in _bands(provider):
        if given:
            dataset.GetRasterBand(band).SetNoDataValue(min(given)[0])
        elif _is_switched_off(provider, band):
            dataset.GetRasterBand(band).DeleteNoDataValue()


def _tell_stretch(path: str, provider: QgsRasterDataProvider) -> None:
    """Write the whole layer's percentiles into a copy, so that every copy of a place gets the same detail.

    8-bit values are taken as they are; bands without two values are written as nan.
    """
    if provider.dataType(1) in (Qgis.DataType.Byte, *IMAGE_TYPES):
        return
    ends = [provider.cumulativeCut(band, *STRETCH_SHARES, QgsRectangle(), STRETCH_SAMPLE) for band in _bands(provider)]
    dataset = gdal.Open(path, gdal.GA_Update)
    dataset.SetMetadataItem(STRETCH_TAG, " ".join(f"{low!r},{high!r}" for low, high in ends))


def _nodata_ranges(provider: QgsRasterDataProvider) -> Set[Tuple[float, float]]:
    """(first, last) of the values that QGIS was told to take for nodata, but where the file has a nodata value.

    There, QGIS writes the file's own in their place.
    """
    return {(found.min(), found.max()) for band in _bands(provider) for found in provider.userNoDataValues(band)
            if not (provider.sourceHasNoDataValue(band) and provider.useSourceNoDataValue(band))}


def _colour_table(provider: QgsRasterDataProvider) -> gdal.ColorTable:
    table = gdal.ColorTable()
    for item in provider.colorTable(1):
        table.SetColorEntry(int(item.value), item.color.getRgb())
    return table


def _check_kind(source: LayerSource) -> None:
    """`LayerError` if the layer's numbers are of a kind that this QGIS does not know, or nodata of one no file can."""
    provider = source.provider
    if provider.dataType(1) == Qgis.DataType.UnknownDataType:
        raise LayerError(tr("The numbers of the layer {} are of a kind that this version of QGIS cannot copy. Save it "
                            "with another data type first.").format(source.name))
    ranges = _nodata_ranges(provider)
    if len(ranges) > 1 or any(first != last for first, last in ranges):
        raise LayerError(tr("The layer {} has several nodata values, of which a file can hold one. Leave one of them "
                            "in the layer's properties.").format(source.name))


def _is_blank(path: str) -> bool:
    """Whether the alpha band of a picture is transparent everywhere; services that fail give such pictures."""
    dataset = gdal.Open(path)
    return dataset.GetRasterBand(dataset.RasterCount).ComputeRasterMinMax(False)[1] == 0


def _check_space(provider: QgsRasterDataProvider, grid: SnapshotGrid) -> None:
    """`LayerError` if the snapshot may not fit on the disk of MetaEarth's folder, where copies lie."""
    home = data_home()
    folder = next(place for place in (home, *home.parents) if place.is_dir())
    pixel_bytes = 4 if provider.dataType(1) in IMAGE_TYPES else provider.bandCount() * provider.dataTypeSize(1)
    needed, free = grid.cols * grid.rows * pixel_bytes, shutil.disk_usage(folder).free
    if needed > free:
        raise LayerError(tr("The extent has {} x {} pixels, {:.1f} GB, and {:.1f} GB are free. Choose a smaller extent "
                            "or a coarser source resolution.").format(grid.cols, grid.rows, needed / 1e9, free / 1e9))
