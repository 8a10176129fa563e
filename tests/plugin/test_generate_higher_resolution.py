import gc
import json
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal
from qgis import processing
from qgis.core import (
    QgsApplication,
    QgsProcessingAlgRunnerTask,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputLayerDefinition,
    QgsProcessingUtils,
    QgsProject,
    QgsRasterLayer,
    QgsRasterRange,
)
from qgis_support import LEFT, PIXEL, TOP, wait_for, write_raster

ID = "metaearth:generatehigherresolution"

pytestmark = pytest.mark.usefixtures("qgis_processing")


def run(**values):
    return processing.run(ID, {"MODEL": "tiny", "OUTPUT": "TEMPORARY_OUTPUT", **values})


def pixels(path):
    return gdal.Open(path).ReadAsArray()


@pytest.fixture
def algorithm():
    return QgsApplication.processingRegistry().createAlgorithmById(ID)


def test_one_stage_is_four_times_finer_in_the_same_place(scene, tmp_path):
    result = run(INPUT=scene, OUTPUT=str(tmp_path / "o.tif"), SEED=5)
    dataset = gdal.Open(result["OUTPUT"])
    assert (dataset.RasterXSize, dataset.RasterYSize, dataset.RasterCount) == (192, 192, 3)
    assert dataset.GetGeoTransform() == (LEFT, PIXEL / 4, 0, TOP, 0, -PIXEL / 4)
    assert dataset.GetSpatialRef().GetAuthorityCode(None) == "32611"
    assert result["STAGE_OUTPUTS"] == [result["OUTPUT"]] == [str(tmp_path / "o.tif")]
    assert result["SEED"] == 5 and result["SECONDS"] > 0 and result["GROUND_RESOLUTION"] == pytest.approx(2.5, rel=1e-3)
    assert result["EVALUATIONS_PER_PIXEL"] > 0 and result["CONSISTENCY"] > 30


def test_every_stage_is_kept(tmp_path):
    source = write_raster(tmp_path / "small.tif", 16)
    result = run(INPUT=source, OUTPUT=str(tmp_path / "o.tif"), STAGES=2)
    assert result["STAGE_OUTPUTS"] == [str(tmp_path / "o_stage1.tif"), str(tmp_path / "o.tif")]
    assert [pixels(path).shape for path in result["STAGE_OUTPUTS"]] == [(3, 64, 64), (3, 256, 256)]


def test_the_seed_decides_the_pixels(scene):
    first, again, other = (pixels(run(INPUT=scene, SEED=seed)["OUTPUT"]) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_extent_in_another_crs_is_transformed(scene):
    result = run(INPUT=scene, EXTENT=f"{LEFT + 100},{LEFT + 220},{TOP - 200},{TOP - 100} [EPSG:32611]")
    dataset = gdal.Open(result["OUTPUT"])
    assert (dataset.RasterXSize, dataset.RasterYSize) == (48, 40)
    assert dataset.GetGeoTransform()[0::3] == (LEFT + 100, TOP - 100)


def test_what_the_layer_shows_is_what_is_made(scene, tmp_path):
    layer = QgsRasterLayer(scene, "scene")
    layer.renderer().setRedBand(3)
    layer.renderer().setBlueBand(1)
    shown = pixels(run(INPUT=layer)["OUTPUT"])
    assert np.array_equal(shown, pixels(run(INPUT=scene, BANDS=[3, 2, 1])["OUTPUT"]))


def test_an_xyz_layer_is_copied_first_and_its_copy_deleted(tiles, home):
    result = run(INPUT=tiles, EXTENT="-1000000,-360000,2000000,2640000 [EPSG:3857]", SOURCE_RESOLUTION=20000)
    dataset = gdal.Open(result["OUTPUT"])
    assert dataset.GetGeoTransform()[1] == 5000
    assert dataset.GetMetadata()["METAEARTH_SOURCE"] == "tiles.tif"
    assert not list((home / "snapshots").iterdir())


def test_two_extents_of_a_service_agree_where_they_overlap(tiles):
    """32 x 32 tile pixels each, the second 8 to the right: their copies begin at other places."""
    first, second = (
        pixels(run(INPUT=tiles, EXTENT=f"{left},{left + 640000},2000000,2640000 [EPSG:3857]", STAGES=2,
                   SOURCE_RESOLUTION=20000)["OUTPUT"])
        for left in (-3200000, -3040000))
    assert first.shape == (4, 512, 512)
    assert np.array_equal(first[:, :, 128:], second[:, :, :384])
    assert not np.array_equal(first[:3, :, 128:], first[:3, :, :384])


def test_two_extents_of_a_copied_layer_share_its_stretch(tmp_path):
    """16 bit, brighter from left to right, nodata set in QGIS: each copy holds other values."""
    path = write_raster(tmp_path / "ramp.tif", 400, dtype=gdal.GDT_UInt16)
    opened = gdal.Open(path, gdal.GA_Update)
    opened.WriteArray(opened.ReadAsArray() + 20 * np.arange(400, dtype=np.uint16))
    del opened
    layer = QgsRasterLayer(path, "ramp")
    for band in (1, 2, 3):
        layer.dataProvider().setUserNoDataValue(band, [QgsRasterRange(0, 0)])
    first, second = (
        pixels(run(INPUT=layer, EXTENT=f"{left},{left + 800},{TOP - 160},{TOP} [EPSG:32611]")["OUTPUT"])
        for left in (LEFT + 1000, LEFT + 1600))
    assert np.array_equal(first[:, :, 240:], second[:, :, :80])


@pytest.mark.parametrize("stretch", ["0,128", [0, 128]])
def test_a_typed_stretch_is_used(scene, stretch):
    result = run(INPUT=scene, STRETCH=stretch)
    plan = json.loads(gdal.Open(result["OUTPUT"]).GetMetadata()["METAEARTH_PLAN"])
    assert plan["stretch"] == {"low": [0, 0, 0], "high": [128, 128, 128]}


def test_the_backends_sentence_is_the_exception(scene):
    with pytest.raises(QgsProcessingException, match="There is no model 'unknown'"):
        run(INPUT=scene, MODEL="unknown")


@pytest.mark.parametrize("relative", [False, True])
def test_all_stages_are_loaded_with_names_and_provenance(qgis_new_project, algorithm, here, monkeypatch, relative):
    from processing.gui import Postprocessing

    monkeypatch.setattr(Postprocessing, "iface", None, raising=False)  # there is no window, hence no layer tree's view
    source = QgsRasterLayer(write_raster(here / "small.tif", 16), "Valley")
    output = QgsProcessingOutputLayerDefinition("o.tif" if relative else str(here / "o.tif"), QgsProject.instance())
    values = {"INPUT": source, "OUTPUT": output, "STAGES": 2, "MODEL": "tiny", "SEED": 3}
    task, result = in_background(algorithm, values)
    wait_for(lambda: finished(result), 120)
    gc.collect()
    context, feedback = task.parts
    assert Postprocessing.handleAlgorithmResults(algorithm, context, feedback, parameters=values)
    layers = {layer.name(): layer for layer in QgsProject.instance().mapLayers().values()}
    assert set(layers) == {"Valley – 2.5 m, tiny, seed 3 (synthetic)", "Valley – 0.625 m, tiny, seed 3 (synthetic)"}
    for layer in layers.values():
        metadata = layer.metadata()
        keywords = metadata.keywords()["metaearth"]
        assert "synthetic" in keywords and "seed: 3" in keywords
        assert any(word.startswith("model_sha256: ") for word in keywords)
        assert "not a measurement" in metadata.abstract()


def in_background(algorithm, values):
    """The running task with its context and feedback, and its result, empty until it ends, as a dock would start it."""
    context, feedback, result = QgsProcessingContext(), QgsProcessingFeedback(), {}
    context.setProject(QgsProject.instance())
    task = QgsProcessingAlgRunnerTask(algorithm, values, context, feedback)
    task.executed.connect(lambda succeeded, outputs: result.update(succeeded=succeeded, **outputs))
    task.parts = (context, feedback)
    QgsApplication.taskManager().addTask(task)
    return task, result


def finished(result):
    QgsApplication.processEvents()
    return result


def test_in_a_background_thread(algorithm, scene, tmp_path):
    values = {"INPUT": scene, "OUTPUT": str(tmp_path / "o.tif"), "MODEL": "tiny"}
    task, result = in_background(algorithm, values)
    wait_for(lambda: finished(result), 120)
    assert result["succeeded"], task.parts[1].textLog()
    assert Path(result["OUTPUT"]).is_file()


def test_cancel_in_a_background_thread_ends_it_and_leaves_no_result(algorithm, tmp_path):
    source = write_raster(tmp_path / "large.tif", 400)
    values = {"INPUT": source, "OUTPUT": str(tmp_path / "out" / "o.tif"), "MODEL": "tiny", "STEPS": 900}
    task, result = in_background(algorithm, values)
    wait_for(lambda: finished(result) or list(tmp_path.glob("out/*.metaearth-job/plan.json")), 120)
    assert not result
    feedback = task.parts[1]
    feedback.cancel()
    wait_for(lambda: finished(result), 20)
    assert not result["succeeded"] and "cancelled" in feedback.textLog()
    assert not list(tmp_path.glob("out/*.tif"))


def test_a_temporary_result_lies_in_qgis_temporary_folder(scene):
    assert Path(run(INPUT=scene)["OUTPUT"]).is_relative_to(QgsProcessingUtils.tempFolder())
