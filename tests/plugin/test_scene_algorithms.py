"""MetaEarth-MM in the toolbox: layers in, a group of aligned layers out."""

from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal
from qgis import processing
from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsMultiBandColorRenderer,
    QgsPalettedRasterRenderer,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputMultipleLayers,
    QgsProject,
    QgsRasterLayer,
    QgsSingleBandGrayRenderer,
)
from qgis_support import write_raster

pytestmark = pytest.mark.usefixtures("qgis_processing")


def pixels(path):
    return gdal.Open(str(path)).ReadAsArray()


def test_a_layer_is_translated_into_a_group_of_aligned_layers(scene, tmp_path):
    context, feedback = QgsProcessingContext(), QgsProcessingFeedback()
    context.setProject(QgsProject.instance())
    found = processing.run(
        "metaearth:translatemodality",
        {"RGB": scene, "TARGETS": ["nir", "osm"], "MODEL": "tiny-mm", "OUTPUT": str(tmp_path / "town"), "SEED": 4},
        context=context, feedback=feedback,
    )
    assert "Estimated time:" in feedback.textLog()
    source = QgsRasterLayer(scene)
    nir, osm = (QgsRasterLayer(path) for path in found["RESULTS"])
    assert nir.extent() == osm.extent() == source.extent() and nir.width() == source.width()
    assert Path(found["OUTPUT"]) == tmp_path / "town" and found["EVALUATIONS"] > 0
    details = context.layersToLoadOnCompletion()
    assert [d.name for d in details.values()] == [
        "Near infrared, 8 bit, tiny-mm, seed 4 (synthetic)", "Map (OpenStreetMap), tiny-mm, seed 4 (synthetic)"]
    one = details[osm.source()]
    one.postProcessor().postProcessLayer(osm, context, QgsProcessingFeedback())
    assert isinstance(osm.renderer(), QgsPalettedRasterRenderer)
    assert [c.label for c in osm.renderer().classes()][:2] == ["other", "building"]
    assert "synthetic" in osm.metadata().keywords()["metaearth"]


def test_a_scene_that_only_the_next_step_needs_is_not_loaded(scene, tmp_path):
    context = QgsProcessingContext()
    context.setProject(QgsProject.instance())
    found = processing.run(
        "metaearth:translatemodality",
        {"RGB": scene, "TARGETS": ["nir"], "MODEL": "tiny-mm", "OUTPUT": str(tmp_path / "town"), "LOAD": False},
        context=context,
    )
    assert Path(*found["RESULTS"]).is_file() and context.layersToLoadOnCompletion() == {}


def test_samples_give_mean_and_deviation_of_each_modality(tmp_path):
    context = QgsProcessingContext()
    context.setProject(QgsProject.instance())
    found = processing.run("metaearth:translatemodality", {
        "RGB": write_raster(tmp_path / "a.tif", 48), "TARGETS": ["nir", "osm"], "MODEL": "tiny-mm", "SAMPLES": 3,
        "SEED": 4, "OUTPUT": str(tmp_path / "out")}, context=context)
    names = [Path(path).name for path in found["STATISTICS"]]
    assert names == ["nir_mean.tif", "nir_std.tif", "osm_mean.tif", "osm_std.tif"]
    loaded = {Path(path).name: details for path, details in context.layersToLoadOnCompletion().items()}
    assert loaded["nir_std.tif"].name == "Near infrared, 8 bit, tiny-mm, seed 4 (synthetic), deviation of samples"
    usual = QgsRasterLayer(str(tmp_path / "out" / "osm_mean.tif"))
    loaded["osm_mean.tif"].postProcessor().postProcessLayer(usual, context, QgsProcessingFeedback())
    assert isinstance(usual.renderer(), QgsPalettedRasterRenderer)


def test_an_extent_gives_the_same_pixels_as_all_of_the_layer(tmp_path):
    source = write_raster(tmp_path / "a.tif", 96)
    common = {"RGB": source, "TARGETS": ["nir"], "MODEL": "tiny-mm", "PRECISION": "float32"}
    whole = processing.run("metaearth:translatemodality", {**common, "OUTPUT": str(tmp_path / "all")})
    area = QgsRasterLayer(source).extent()
    half = f"{area.xMinimum()},{area.xMinimum() + 480},{area.yMaximum() - 500},{area.yMaximum()}"
    part = processing.run("metaearth:translatemodality", {**common, "OUTPUT": str(tmp_path / "part"), "EXTENT": half})
    assert np.array_equal(pixels(*part["RESULTS"]), pixels(*whole["RESULTS"])[:50, :48])


def test_an_extent_in_another_crs_fits_a_modality_of_ones_own(module, tmp_path):
    """Nothing but heights is known of the scene; the extent comes from a map in degrees."""
    dem = QgsRasterLayer(write_raster(tmp_path / "dem.tif", 96, bands=1))
    degrees = QgsCoordinateReferenceSystem("EPSG:4326")
    box = QgsCoordinateTransform(dem.crs(), degrees, QgsProject.instance()).transformBoundingBox(dem.extent())
    translate = module("plugin.core.scenes").scene_algorithm(module("backend.protocol").TRANSLATE)
    found = translate.values({
        "OTHER_INPUTS": f"dem={dem.source()}", "TARGETS": ["nir"],
        "EXTENT": f"{box.xMinimum()},{box.xMaximum()},{box.yMinimum()},{box.yMaximum()} [EPSG:4326]",
    }, module("plugin.core.scenes").project_context())
    area = dem.extent()
    corners = [area.xMinimum(), area.yMinimum(), area.xMaximum(), area.yMaximum()]
    assert found["extent"] == pytest.approx(corners, abs=20)


def test_a_scene_is_made_from_a_seed(tmp_path):
    found = processing.run(
        "metaearth:generatepaired",
        {"TARGETS": ["rgb", "sar"], "MODEL": "tiny-mm", "OUTPUT": str(tmp_path / "new"), "METRES_PER_PIXEL": 10,
         "WIDTH": 64, "HEIGHT": 48, "CRS": "EPSG:32633"},
    )
    rgb, sar = (QgsRasterLayer(path) for path in found["RESULTS"])
    assert (rgb.bandCount(), sar.bandCount()) == (3, 1) and rgb.extent() == sar.extent()
    assert (rgb.width(), rgb.height(), rgb.crs().authid()) == (64, 48, "EPSG:32633")


def test_a_layer_becomes_a_raster_of_features(tmp_path):
    source = write_raster(tmp_path / "a.tif", 96)
    common = {"RGB": source, "MODEL": "tiny-mm", "PRECISION": "float32"}
    found = processing.run("metaearth:embedscene", {**common, "OUTPUT": str(tmp_path / "f.tif")})
    layer = QgsRasterLayer(found["OUTPUT"])
    assert (found["FEATURES"], found["PLACES"]) == (32, 144) and layer.bandCount() == 32
    assert layer.extent() == QgsRasterLayer(source).extent() and layer.rasterUnitsPerPixelX() == 80
    area = layer.extent()
    half = f"{area.xMinimum()},{area.xMinimum() + 480},{area.yMaximum() - 480},{area.yMaximum()}"
    part = processing.run("metaearth:embedscene", {**common, "OUTPUT": str(tmp_path / "p.tif"), "EXTENT": half})
    assert np.array_equal(pixels(part["OUTPUT"]), pixels(found["OUTPUT"])[:, :6, :6])


def test_labelled_chips_become_vectors(tmp_path):
    for name in ("beach", "forest"):
        (tmp_path / "chips" / name).mkdir(parents=True)
        write_raster(tmp_path / "chips" / name / "a.tif", 32)
    found = processing.run("metaearth:embedscene", {
        "CHIPS": str(tmp_path / "chips"), "OUTPUT": str(tmp_path / "f.npz"), "MODEL": "tiny-mm"})
    with np.load(found["OUTPUT"]) as arrays:
        assert arrays["features"].shape == (2, 32) and list(arrays["classes"]) == ["beach", "forest"]


def test_rasters_are_read_in_the_bands_that_qgis_shows(module, tmp_path):
    names = {name: write_raster(tmp_path / f"{name}.tif", 32, 4, dtype=gdal.GDT_UInt16)
             for name in ("RGB", "NIR", "PAN")}
    layers = {name: QgsRasterLayer(path, name) for name, path in names.items()}
    layers["RGB"].setRenderer(QgsMultiBandColorRenderer(layers["RGB"].dataProvider(), 3, 2, 1))
    layers["NIR"].setRenderer(QgsSingleBandGrayRenderer(layers["NIR"].dataProvider(), 4))
    QgsProject.instance().addMapLayers(list(layers.values()))
    context = QgsProcessingContext()
    context.setProject(QgsProject.instance())
    values = {**{name: layer.id() for name, layer in layers.items()}, "TARGETS": ["sar"], "OUTPUT": str(tmp_path)}
    for algorithm in ("translatemodality", "embedscene"):
        read = QgsApplication.processingRegistry().createAlgorithmById(f"metaearth:{algorithm}").values
        assert read(values, context)["band_choice"] == ["rgb=3,2,1", "nir=4"]
        assert read({**values, "BAND_CHOICE": "nir=2"}, context)["band_choice"] == ["nir=2", "rgb=3,2,1"]
    coloured = gdal.Open(names["RGB"], gdal.GA_Update)
    for band, colour in zip((3, 2, 1), (gdal.GCI_RedBand, gdal.GCI_GreenBand, gdal.GCI_BlueBand)):
        coloured.GetRasterBand(band).SetColorInterpretation(colour)
    coloured.FlushCache()
    false_colour = QgsRasterLayer(names["RGB"], "false colour")
    false_colour.setRenderer(QgsMultiBandColorRenderer(false_colour.dataProvider(), 4, 3, 2))
    QgsProject.instance().addMapLayer(false_colour)
    assert read({**values, "RGB": false_colour.id()}, context)["band_choice"] == ["nir=4"]
    QgsProject.instance().removeAllMapLayers()


@pytest.mark.parametrize("targets", [{}, {"TARGETS": []}, {"TARGETS": None}])
def test_without_targets_the_usual_ones_are_made(scene, targets):
    create = QgsApplication.processingRegistry().createAlgorithmById
    for name, values in (("translatemodality", {"RGB": scene}), ("generatepaired", {"METRES_PER_PIXEL": 10.0})):
        algorithm, given = create(f"metaearth:{name}"), {**values, **targets, "OUTPUT": "TEMPORARY_OUTPUT"}
        assert algorithm.checkParameterValues(given, QgsProcessingContext()) == (True, "")
        assert not algorithm.values(given, QgsProcessingContext())["targets"]
    own = {"RGB": scene, "OTHER_TARGETS": "dem", "OUTPUT": "TEMPORARY_OUTPUT", **targets}
    assert create("metaearth:translatemodality").checkParameterValues(own, QgsProcessingContext()) == (True, "")


def test_the_results_are_layers_for_the_next_step_of_a_model():
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("metaearth:translatemodality")
    kinds = {output.name(): output.type() for output in algorithm.outputDefinitions()}
    assert kinds["RESULTS"] == kinds["STATISTICS"] == QgsProcessingOutputMultipleLayers("x").type()


def test_what_cannot_be_gets_a_sentence(scene, tmp_path):
    common = {"MODEL": "tiny-mm", "OUTPUT": str(tmp_path / "x")}
    for values, sentence in (
        ({"TARGETS": ["nir"]}, "at least one raster"),
        ({"RGB": scene, "TARGETS": ["nir"], "MODEL": "tiny"}, "knows no modalities"),
    ):
        with pytest.raises(QgsProcessingException, match=sentence):
            processing.run("metaearth:translatemodality", {**common, **values})
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").iterdir())
