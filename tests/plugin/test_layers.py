import json
import os
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal
from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransformContext,
    QgsProcessingFeedback,
    QgsRasterLayer,
    QgsRasterRange,
    QgsRectangle,
    QgsSingleBandPseudoColorRenderer,
)
from qgis_support import LEFT, PIXEL, TOP, write_raster


@pytest.fixture
def layers(module):
    return module("plugin.core.layers")


def snapshot(layers, layer, extent, tmp_path, resolution_m=None):
    source = layers.layer_source(layer)
    grid = layers.snapshot_grid(source, extent, resolution_m)
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    path = layers.write_snapshot(source, grid, folder, QgsCoordinateTransformContext(), QgsProcessingFeedback())
    return gdal.Open(path)


def window(first, last):
    """The extent of source pixels [first, last) in both directions."""
    return QgsRectangle(LEFT + first * PIXEL, TOP - last * PIXEL, LEFT + last * PIXEL, TOP - first * PIXEL)


def test_a_plain_file_is_passed_on_as_it_is(layers, scene):
    source = layers.layer_source(QgsRasterLayer(scene, "scene"))
    assert source.path == scene
    assert source.shown_bands == [1, 2, 3]
    assert source.pixel_size == (PIXEL, PIXEL)


def test_bands_are_those_that_the_layer_shows(layers, tmp_path):
    layer = QgsRasterLayer(write_raster(tmp_path / "four.tif", 16, bands=4), "four")
    layer.renderer().setRedBand(4)
    assert layers.shown_bands(layer) == [4, 2, 3]
    grey = QgsRasterLayer(write_raster(tmp_path / "one.tif", 16, bands=1), "one")
    assert layers.shown_bands(grey) == [1]


def test_a_crs_that_the_user_set_makes_a_snapshot_with_that_crs(layers, scene, tmp_path):
    layer = QgsRasterLayer(scene, "scene")
    layer.setCrs(QgsCoordinateReferenceSystem("EPSG:32612"))
    assert layers.plain_file(layer) is None
    dataset = snapshot(layers, layer, layer.extent(), tmp_path)
    assert dataset.GetSpatialRef().GetAuthorityCode(None) == "32612"
    assert dataset.GetGeoTransform() == (LEFT, PIXEL, 0, TOP, 0, -PIXEL)
    assert np.array_equal(dataset.ReadAsArray(), gdal.Open(scene).ReadAsArray())


def test_what_is_inside_another_file_makes_a_snapshot(layers, scene, tmp_path):
    archive = tmp_path / "scene.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.write(scene, "scene.tif")
    zipped = QgsRasterLayer(f"/vsizip/{archive}/scene.tif", "zipped")
    gdal.Translate(str(tmp_path / "two.gpkg"), scene, format="GPKG", creationOptions=["RASTER_TABLE=first"])
    gdal.Translate(str(tmp_path / "two.gpkg"), scene, format="GPKG",
                   creationOptions=["RASTER_TABLE=second", "APPEND_SUBDATASET=YES"])
    table = QgsRasterLayer(f"GPKG:{tmp_path}/two.gpkg:second", "table")
    for layer in (zipped, table):
        assert layer.isValid() and layers.plain_file(layer) is None


def test_a_format_that_the_backend_does_not_open_makes_a_snapshot(layers, scene, tmp_path):
    gdal.Translate(str(tmp_path / "scene.gif"), scene, format="GIF", bandList=[1], noData="none")
    layer = QgsRasterLayer(str(tmp_path / "scene.gif"), "gif")
    assert layer.isValid() and layers.plain_file(layer) is None


def test_snapshots_of_one_layer_share_a_grid_and_stay_inside_it(layers, tmp_path):
    layer = QgsRasterLayer(write_raster(tmp_path / "large.tif", 600), "large")
    source = layers.layer_source(layer)
    inner = layers.snapshot_grid(source, window(230, 250), None)
    assert inner.extent == window(104, 364)
    assert (inner.cols, inner.rows, inner.col, inner.row) == (260, 260, 104, 104)
    assert layers.snapshot_grid(source, window(231, 249.5), None) == inner
    edge = layers.snapshot_grid(source, window(0, 600), None)
    assert edge.extent == layer.extent()
    assert (edge.cols, edge.rows) == (600, 600)


def test_a_snapshot_holds_the_layers_pixels(layers, tmp_path):
    path = write_raster(tmp_path / "large.tif", 600, dtype=gdal.GDT_UInt16)
    dataset = snapshot(layers, QgsRasterLayer(path, "large"), window(230, 250), tmp_path)
    assert np.array_equal(dataset.ReadAsArray(), gdal.Open(path).ReadAsArray()[:, 104:364, 104:364])
    assert dataset.GetRasterBand(1).DataType == gdal.GDT_UInt16


@pytest.fixture
def shown(layers, tmp_path):
    """A raster as a layer that is no plain file, and its copy."""
    def copied(name, bands, kind=gdal.GDT_Byte, tweak=lambda dataset: None, options=()):
        path = str(tmp_path / name)
        dataset = gdal.GetDriverByName("GTiff").Create(path, 32, 32, bands, kind, list(options))
        dataset.SetGeoTransform((LEFT, PIXEL, 0, TOP, 0, -PIXEL))
        dataset.SetProjection("EPSG:32633")
        values = np.random.default_rng(0).integers(1, 100, (bands, 32, 32))
        values[:, :4] = 0
        dataset.WriteArray(values)
        tweak(dataset)
        del dataset
        layer = QgsRasterLayer(path, "shown")
        layer.setCrs(QgsCoordinateReferenceSystem("EPSG:32612"))
        return layer, lambda: snapshot(layers, layer, layer.extent(), tmp_path)
    return copied


def test_a_copy_keeps_palette_and_alpha(layers, shown, tmp_path):
    table = gdal.ColorTable()
    table.SetColorEntry(2, (10, 200, 30, 255))
    layer, copy = shown("palette.tif", 1, tweak=lambda dataset: dataset.GetRasterBand(1).SetColorTable(table))
    found = copy()
    band = found.GetRasterBand(1)
    source = layers.layer_source(layer)
    blank = gdal.Open(layers.blank_raster(source, layers.snapshot_grid(source, layer.extent(), None), tmp_path))
    assert blank.GetRasterBand(1).GetColorInterpretation() == gdal.GCI_PaletteIndex  # else its cost would be a third
    assert band.GetColorInterpretation() == gdal.GCI_PaletteIndex
    assert band.GetColorTable().GetColorEntry(2) == (10, 200, 30, 255)
    options = ["PHOTOMETRIC=RGB", "ALPHA=YES"]
    _, copy = shown("alpha.tif", 4, gdal.GDT_UInt16, options=options)
    found = copy()
    assert found.GetRasterBand(4).GetColorInterpretation() == gdal.GCI_AlphaBand
    assert found.GetRasterBand(1).GetMaskFlags() & gdal.GMF_ALPHA


def test_nodata_that_was_set_in_qgis_counts(layers, tmp_path):
    layer = QgsRasterLayer(write_raster(tmp_path / "black.tif", 32), "black")
    assert layers.plain_file(layer)
    for band in (1, 2, 3):
        layer.dataProvider().setUserNoDataValue(band, [QgsRasterRange(0, 0)])
    assert layers.plain_file(layer) is None
    dataset = snapshot(layers, layer, layer.extent(), tmp_path)
    assert [dataset.GetRasterBand(band).GetNoDataValue() for band in (1, 2, 3)] == [0, 0, 0]
    layer.dataProvider().setUserNoDataValue(1, [QgsRasterRange(0, 9)])
    with pytest.raises(layers.LayerError, match="several nodata values"):
        snapshot(layers, layer, layer.extent(), tmp_path)


@pytest.mark.parametrize(("kind", "nodata"), [(gdal.GDT_Int16, -999), (gdal.GDT_Float32, float("nan"))])
def test_an_additional_nodata_value_becomes_the_files_own(layers, tmp_path, kind, nodata):
    path = write_raster(tmp_path / "two.tif", 32, bands=1, dtype=kind)
    opened = gdal.Open(path, gdal.GA_Update)
    values = opened.GetRasterBand(1).ReadAsArray()
    values[:2], values[2:4], values[4:] = nodata, 7, 100
    opened.GetRasterBand(1).WriteArray(values)
    opened.GetRasterBand(1).SetNoDataValue(nodata)
    del opened
    layer = QgsRasterLayer(path, "two")
    layer.dataProvider().setUserNoDataValue(1, [QgsRasterRange(7, 7)])
    dataset = snapshot(layers, layer, layer.extent(), tmp_path)
    mask = dataset.GetRasterBand(1).GetMaskBand().ReadAsArray()
    assert not mask[:4].any() and mask[4:].all()


def test_nodata_that_was_switched_off_in_qgis_does_not_count(layers, tmp_path):
    path = write_raster(tmp_path / "black.tif", 32)
    opened = gdal.Open(path, gdal.GA_Update)
    opened.GetRasterBand(1).SetNoDataValue(0)
    del opened
    layer = QgsRasterLayer(path, "black")
    assert layers.plain_file(layer)
    for band in (1, 2, 3):
        layer.dataProvider().setUseSourceNoDataValue(band, False)
    assert layers.plain_file(layer) is None
    assert snapshot(layers, layer, layer.extent(), tmp_path).GetRasterBand(1).GetNoDataValue() is None


def test_an_xyz_layer_becomes_pixels_of_the_asked_size(layers, tiles, tmp_path):
    extent = QgsRectangle(-1e6, 2e6, 1e6, 4e6)
    dataset = snapshot(layers, tiles, extent, tmp_path, resolution_m=20000)
    left, width, _, top, _, height = dataset.GetGeoTransform()
    assert (width, height) == (20000, -20000)
    assert left % (52 * 20000) == 0 and top % (52 * 20000) == 0
    assert left <= -1e6 and top >= 4e6
    assert Path(dataset.GetDescription()).name == "tiles.tif"
    row, col = int((4e6 - top) / height) + 1, int((-1e6 - left) / width) + 1
    assert dataset.RasterCount == 4
    # Zoom 3, tile x 3, y 3: the pixel lies north-west of the origin of EPSG:3857.
    assert list(dataset.ReadAsArray()[:, row, col]) == [80, 80, 180, 255]


def test_an_xyz_layer_without_a_resolution_is_refused(layers, tiles):
    with pytest.raises(layers.LayerError, match="no pixel size of its own"):
        layers.snapshot_grid(layers.layer_source(tiles), QgsRectangle(0, 0, 10, 10), None)


def test_an_xyz_layer_that_gives_no_picture_is_refused(layers, unreachable_tiles, tmp_path):
    with pytest.raises(layers.LayerError, match="gave no picture"):
        snapshot(layers, unreachable_tiles, QgsRectangle(0, 0, 1e6, 1e6), tmp_path, resolution_m=20000)


def test_a_snapshot_larger_than_the_disk_is_refused(layers, tiles, tmp_path):
    with pytest.raises(layers.LayerError, match="Choose a smaller extent"):
        snapshot(layers, tiles, QgsRectangle(-1e7, -1e7, 1e7, 1e7), tmp_path, resolution_m=0.5)


def test_old_copies_are_swept_unless_a_job_that_can_be_resumed_needs_them(module, tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("METAEARTH_HOME", str(home))
    snapshots, storage = module("plugin.core.snapshots"), module("plugin.core.storage")
    stale, kept, fresh = (snapshots.new_snapshot_folder(home) for _ in range(3))
    job = tmp_path / "finer.tif.metaearth-job"
    job.mkdir()
    (job / "plan.json").write_text(json.dumps({"job": {"input": str(kept / "web.tif")}}))
    notes = module("backend.protocol").unfinished_folder()
    notes.mkdir(parents=True)
    (notes / "1.txt").write_text(str(job))
    old = time.time() - snapshots.STALE_SECONDS - 60
    for folder in (stale, kept):
        os.utime(folder, (old, old))
    new = snapshots.new_snapshot_folder(home)
    assert not stale.exists() and kept.exists() and fresh.exists()
    storage.clear(home)
    assert kept.exists() and fresh.exists() and new.exists()
    (notes / "1.txt").unlink()
    storage.clear(home)
    assert not kept.exists() and fresh.exists()


def test_a_band_in_pseudocolour_is_the_one_that_is_taken(layers, scene):
    layer = QgsRasterLayer(scene, "scene")
    layer.setRenderer(QgsSingleBandPseudoColorRenderer(layer.dataProvider(), 2))
    assert layers.shown_bands(layer) == [2]


def test_a_raster_that_control_points_place_is_copied_as_qgis_shows_it(layers, tmp_path):
    path = str(tmp_path / "scanned.tif")
    dataset = gdal.GetDriverByName("GTiff").Create(path, 64, 64, 1)
    corners = ((0, 0), (64, 0), (0, 64), (64, 64))
    points = [gdal.GCP(LEFT + 10 * col + row, TOP - 10 * row, 0, col, row) for col, row in corners]
    wkt = QgsCoordinateReferenceSystem("EPSG:32632").toWkt(QgsCoordinateReferenceSystem.WktVariant.WKT_PREFERRED_GDAL)
    dataset.SetGCPs(points, wkt)
    dataset = None
    layer = QgsRasterLayer(path, "scanned")
    assert layer.isValid() and layers.layer_source(layer).path is None
