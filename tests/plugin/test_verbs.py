"""Algorithms made of the backend's verbs, from the toolbox to real files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal
from PIL import Image
from qgis import processing
from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsFeature,
    QgsGeometry,
    QgsMultiBandColorRenderer,
    QgsPointXY,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputLayerDefinition,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis_support import write_raster

pytestmark = pytest.mark.usefixtures("qgis_processing")

VERBS = ("view", "flythrough", "placepicture", "preparetrainingdata", "trainmodel", "augmentdataset", "evaluate",
         "translatemodality", "generatepaired", "embedscene")


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_an_algorithm_that_tells_what_it_does(name):
    algorithm = QgsApplication.processingRegistry().createAlgorithmById(f"metaearth:{name}")
    assert algorithm.displayName() and algorithm.group() in ("World", "Train", "Modalities")
    for parameter in algorithm.parameterDefinitions():
        assert parameter.description() in algorithm.shortHelpString() or parameter.name() == "ALTITUDES"
        assert parameter.help()
        # what has a default need not be given to qgis_process
        assert parameter.defaultValue() is None or parameter.checkValueIsAcceptable(None), parameter.name()
    assert algorithm.canExecute()[0]


def pixels(path):
    return gdal.Open(str(path)).ReadAsArray()


def view(source, output, altitude, **values):
    return processing.run("metaearth:view", {"INPUT": source, "OUTPUT": str(output), "ALTITUDE": altitude, "WIDTH": 48,
                                             "HEIGHT": 32, "MODEL": "tiny", "STAGES": 1, **values})


def test_a_view_is_a_georeferenced_raster_at_the_altitudes_resolution(scene, tmp_path):
    found = view(scene, tmp_path / "view.tif", 48 * 5 / (2 * math.tan(math.radians(30))))
    layer = QgsRasterLayer(found["OUTPUT"])
    assert layer.isValid() and layer.rasterUnitsPerPixelX() == pytest.approx(5) and (layer.width(), layer.height()) == (
        48, 32)
    assert found["STAGE"] == 1 and found["EVALUATIONS"] > 0
    assert view(scene, tmp_path / "again.tif", 48 * 5 / (2 * math.tan(math.radians(30))))["EVALUATIONS"] == 0


@pytest.mark.parametrize(("altitude", "is_made"), [(210, True), (5000, False)])
def test_a_view_that_is_loaded_says_whether_it_is_synthetic(scene, tmp_path, altitude, is_made):
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("metaearth:view")
    context, output = QgsProcessingContext(), str(tmp_path / "view.tif")
    context.setProject(QgsProject.instance())
    values = {"INPUT": scene, "ALTITUDE": altitude, "WIDTH": 48, "HEIGHT": 32, "MODEL": "tiny", "STAGES": 1,
              "OUTPUT": QgsProcessingOutputLayerDefinition(output, QgsProject.instance())}
    assert algorithm.run(values, context, QgsProcessingFeedback())[1]
    details = context.layersToLoadOnCompletion()[output]
    assert details.name.endswith(" (synthetic)") == is_made
    if is_made:
        layer = QgsRasterLayer(output)
        details.postProcessor().postProcessLayer(layer, context, QgsProcessingFeedback())
        assert "synthetic" in layer.metadata().keywords()["metaearth"]


def test_relative_names_are_of_the_folder_that_qgis_is_in(scene, here):
    found = view("scene.tif", "view.tif", 1000, WORLD="world")
    assert (here / "view.tif").is_file() and found["OUTPUT"] == "view.tif"
    assert Path(found["WORLD"]) == here / "world" and (here / "world").is_dir()


def test_the_centre_of_a_view_may_be_in_any_crs(scene, tmp_path):
    layer = QgsRasterLayer(scene)
    centre = layer.extent().center()
    own = view(scene, tmp_path / "a.tif", 1000, CENTRE=f"{centre.x()},{centre.y()}")
    middle = view(scene, tmp_path / "b.tif", 1000)
    assert np.array_equal(pixels(own["OUTPUT"]), pixels(middle["OUTPUT"]))
    to_degrees = QgsCoordinateTransform(layer.crs(), QgsCoordinateReferenceSystem("EPSG:4326"), QgsProject.instance())
    there = to_degrees.transform(centre)
    other = view(scene, tmp_path / "c.tif", 1000, CENTRE=f"{there.x():.9f},{there.y():.9f} [EPSG:4326]")
    assert np.array_equal(pixels(other["OUTPUT"]), pixels(middle["OUTPUT"]))


def test_a_view_has_the_bands_that_qgis_shows(scene, tmp_path):
    layer = QgsRasterLayer(scene, "scene")
    layer.setRenderer(QgsMultiBandColorRenderer(layer.dataProvider(), 3, 2, 1))
    shown = view(layer, tmp_path / "shown.tif", 1000)
    chosen = view(scene, tmp_path / "chosen.tif", 1000, BANDS=[3, 2, 1])
    other = view(layer, tmp_path / "other.tif", 1000, BANDS=[1, 2, 3])
    assert np.array_equal(pixels(shown["OUTPUT"]), pixels(chosen["OUTPUT"]))
    assert not np.array_equal(pixels(shown["OUTPUT"]), pixels(other["OUTPUT"]))


def test_a_crs_that_only_qgis_knows_is_told(tmp_path):
    layer = QgsRasterLayer(write_raster(tmp_path / "bare.tif", 48, epsg=None), "bare")
    layer.setCrs(QgsCoordinateReferenceSystem("EPSG:32611"))
    with pytest.raises(QgsProcessingException, match="The layer bare: .* was set in QGIS only. .* Assign projection."):
        view(layer, tmp_path / "view.tif", 1000)


def line_layer(points, crs, z=None):
    layer = QgsVectorLayer(f"LineString{'Z' if z else ''}?crs={crs}", "path", "memory")
    feature = QgsFeature()
    if z:
        text = ", ".join(f"{x} {y} {h}" for (x, y), h in zip(points, z))
        feature.setGeometry(QgsGeometry.fromWkt(f"LineStringZ ({text})"))
    else:
        feature.setGeometry(QgsGeometry.fromPolylineXY([QgsPointXY(*p) for p in points]))
    layer.dataProvider().addFeature(feature)
    return layer


def fly(scene, tmp_path, layer, **values):
    return processing.run("metaearth:flythrough", {
        "INPUT": scene, "PATH": layer, "OUTPUT": str(tmp_path / "flight.gif"), "FRAMES": 5, "WIDTH": 32, "HEIGHT": 24,
        "MODEL": "tiny", "STAGES": 1, **values})


@pytest.fixture
def loop(scene):
    """A closed path over the scene."""
    box = QgsRasterLayer(scene).extent()
    x, y, d = box.center().x(), box.center().y(), box.width() / 6
    return [(x - d, y - d), (x + d, y - d), (x, y + d), (x - d, y - d)]


def test_a_loop_over_a_line_layer_ends_with_its_first_frame(scene, tmp_path, loop):
    crs = QgsRasterLayer(scene).crs().authid()
    found = fly(scene, tmp_path, line_layer(loop, crs), ALTITUDES="200")
    frames = sorted(Path(found["FRAMES_FOLDER"]).glob("frame_*.png"))
    assert len(frames) == 5 and found["FRAMES"] == 5 and Path(found["OUTPUT"]).stat().st_size > 100
    first, middle, last = (np.asarray(Image.open(frames[k])) for k in (0, 2, 4))
    assert np.array_equal(first, last) and not np.array_equal(first, middle)


def test_the_profile_may_be_the_lines_own_z_values(scene, tmp_path, loop):
    crs = QgsRasterLayer(scene).crs().authid()
    heights = [200, 400, 800, 200]
    by_z = fly(scene, tmp_path, line_layer(loop, crs, heights))
    own = [np.asarray(Image.open(p)) for p in sorted(Path(by_z["FRAMES_FOLDER"]).glob("frame_*.png"))]
    level = fly(scene, tmp_path, line_layer(loop, crs), ALTITUDES="200")
    other = [np.asarray(Image.open(p)) for p in sorted(Path(level["FRAMES_FOLDER"]).glob("frame_*.png"))]
    assert np.array_equal(own[0], other[0]) and not np.array_equal(own[2], other[2])


def test_a_path_without_altitudes_is_told(scene, tmp_path, loop):
    with pytest.raises(QgsProcessingException, match="no Z values"):
        fly(scene, tmp_path, line_layer(loop, "EPSG:32633"))
    with pytest.raises(QgsProcessingException, match="such as: 5000 400 5000"):
        fly(scene, tmp_path, line_layer(loop, "EPSG:32633"), ALTITUDES="high")


def test_altitudes_are_spread_evenly_along_the_path(module):
    fly_through = module("plugin.processing.fly_through")
    places = [(0.0, 0.0, 0.0), (100.0, 0.0, 0.0), (100.0, 300.0, 0.0)]
    found = fly_through.with_altitudes(places, [100.0, 400.0, 100.0], lambda a, b: a.distance(b))
    assert [tuple(round(v, 6) for v in p) for p in found] == [
        (0, 0, 100), (100, 0, 200), (100, 100, 400), (100, 300, 100)]


def test_a_picture_is_placed_where_it_is_asked_for(tmp_path):
    picture = tmp_path / "painting.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)).save(picture)
    found = processing.run("metaearth:placepicture", {
        "INPUT": str(picture), "OUTPUT": str(tmp_path / "map.tif"), "METRES_PER_PIXEL": 64, "CRS": "EPSG:32633",
        "CENTRE": "500000,5000000 [EPSG:32633]"})
    layer = QgsRasterLayer(found["OUTPUT"])
    assert layer.crs().authid() == "EPSG:32633" and layer.rasterUnitsPerPixelX() == 64
    assert layer.extent().center() == QgsPointXY(500000, 5000000)


def test_where_qgis_takes_a_picture_to_lie_does_not_matter(tmp_path):
    """QGIS can give what has no CRS that of the project."""
    picture = tmp_path / "painting.png"
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(picture)
    layer = QgsRasterLayer(str(picture))
    layer.setCrs(QgsCoordinateReferenceSystem("EPSG:3857"))
    found = processing.run("metaearth:placepicture", {
        "INPUT": layer, "OUTPUT": str(tmp_path / "map.tif"), "METRES_PER_PIXEL": 64, "CRS": "EPSG:32633"})
    assert QgsRasterLayer(found["OUTPUT"]).crs().authid() == "EPSG:32633"


def test_a_model_is_trained_on_ones_own_layers_and_used(tmp_path):
    """Prepare, train, generate: what a laboratory does, in the toolbox."""
    source = write_raster(tmp_path / "in.tif", 256)
    found = processing.run("metaearth:preparetrainingdata", {
        "SOURCES": [source], "OUTPUT": str(tmp_path / "set"), "CHIP": 64, "HALVINGS": 0, "CELL_KM": 1000, "WORKERS": 1})
    counts = {split: found[split.upper()] for split in ("train", "validation", "test")}
    assert sum(counts.values()) == 16
    (tmp_path / "set" / "train").mkdir(exist_ok=True)
    place = next(split for split, count in counts.items() if count)
    if place != "train":  # one cell, hence one split, whichever its name draws
        (tmp_path / "set" / "train").rmdir()
        (tmp_path / "set" / place).rename(tmp_path / "set" / "train")
    trained = processing.run("metaearth:trainmodel", {
        "CONFIG": "tiny", "DATA": str(tmp_path / "set"), "OUTPUT": str(tmp_path / "mine"), "STEPS": 3,
        "SET": "batch=1 crop=64 warmup=1", "WORKERS": 0, "DEVICE": "cpu"})
    assert trained["STEP"] == 3
    assert json.loads((tmp_path / "mine" / "config.json").read_text())["training"]["steps"] == 3
    made = processing.run("metaearth:generatehigherresolution", {
        "INPUT": write_raster(tmp_path / "small.tif", 20), "OUTPUT": str(tmp_path / "fine.tif"),
        "MODEL": str(tmp_path / "mine")})
    assert gdal.Open(made["OUTPUT"]).RasterXSize == 80


def test_what_cannot_be_trained_is_a_sentence(tmp_path):
    with pytest.raises(QgsProcessingException, match="There is no training setting 'speed'"):
        processing.run("metaearth:trainmodel", {"CONFIG": "tiny", "DATA": str(tmp_path), "SET": "speed=9",
                                                "OUTPUT": str(tmp_path / "mine")})


def test_labelled_chips_get_variants_with_their_georeference(tmp_path):
    for name in ("beach", "forest"):
        (tmp_path / "chips" / name).mkdir(parents=True)
        write_raster(tmp_path / "chips" / name / "a.tif", 32)
    found = processing.run("metaearth:augmentdataset", {
        "DATA": str(tmp_path / "chips"), "OUTPUT": str(tmp_path / "more"), "MODEL": "tiny", "VARIANTS": 2})
    assert found["COUNT"] == 4 and Path(found["MANIFEST"]).read_text().count("beach") == 6
    made, chip = (gdal.Open(str(tmp_path / p)) for p in ("more/beach/a_v1.tif", "chips/beach/a.tif"))
    assert made.GetGeoTransform() == chip.GetGeoTransform() and made.GetProjection() == chip.GetProjection()
    assert not np.array_equal(made.ReadAsArray(), chip.ReadAsArray())


def test_an_evaluation_ends_in_a_table(tmp_path):
    folder = tmp_path / "imagery" / "train" / "s2_amazon_10m"
    folder.mkdir(parents=True)
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (300, 300, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"test_{number}.jpg", quality=95)
    found = processing.run("metaearth:evaluate", {
        "PROTOCOL": "spectrum", "DATA": str(tmp_path / "imagery"), "OUTPUT": str(tmp_path / "told"), "MODEL": "tiny",
        "SET": "limit=1 device=cpu"})
    assert "octave" in Path(found["TABLE"]).read_text()
    with pytest.raises(QgsProcessingException, match="unrecognized arguments: --colour blue"):
        processing.run("metaearth:evaluate", {"PROTOCOL": "spectrum", "DATA": str(tmp_path), "OUTPUT": str(tmp_path),
                                              "MODEL": "tiny", "SET": "colour=blue"})
