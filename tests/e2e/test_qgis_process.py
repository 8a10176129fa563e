import pytest
from osgeo import gdal
from qgis_support import LEFT, PIXEL, TOP, write_raster


def test_provider_is_listed(qgis_process):
    text, _ = qgis_process.start("list").communicate(timeout=60)
    assert "metaearth:generatehigherresolution\tGenerate higher resolution" in text


def test_help_names_every_parameter(qgis_process):
    text, _ = qgis_process.start("help", "metaearth:generatehigherresolution").communicate(timeout=60)
    for name in ("INPUT", "OUTPUT", "EXTENT", "STAGES", "RESOLUTION", "MODEL", "BANDS", "SEED", "SAMPLER", "STEPS",
                 "NOISE", "OVERLAP", "CONSISTENCY", "SOURCE_RESOLUTION", "DEVICE", "PRECISION", "COMPILE", "SAMPLES",
                 "EXECUTOR", "JOB_DIR"):
        assert f"\n{name}: " in text


def test_success_is_0_and_a_georeferenced_file(qgis_process, scene):
    status, text = qgis_process.run_job(INPUT=scene, SEED=4)
    assert status == 0, text
    assert qgis_process.results() == ["o.tif"]
    dataset = gdal.Open(str(qgis_process.folder / "o.tif"))
    assert dataset.GetGeoTransform() == (LEFT, PIXEL / 4, 0, TOP, 0, -PIXEL / 4)
    assert dataset.GetMetadata()["METAEARTH_SEED"] == "4"
    assert "SEED:\t4" in text and "STAGE_OUTPUTS:" in text


def test_relative_names_are_of_the_folder_that_the_user_is_in(qgis_process):
    write_raster(qgis_process.folder / "scene.tif", 16)
    status, text = qgis_process.run_job(INPUT="scene.tif", STAGES=2, SEED=7, OUTPUT="finer.tif")
    assert status == 0, text
    assert qgis_process.results() == ["finer.tif", "finer_stage1.tif", "scene.tif"]


def test_a_scene_becomes_other_modalities_on_its_grid(qgis_process, scene):
    status, text = qgis_process.run_job(
        "metaearth:translatemodality", RGB=scene, TARGETS="nir,osm", MODEL="tiny-mm", SEED=4, OUTPUT="town")
    assert status == 0, text
    made = {path.name: gdal.Open(str(path)) for path in (qgis_process.folder / "town").glob("*.tif")}
    assert sorted(made) == ["nir.tif", "osm.tif"]
    for dataset in made.values():
        assert dataset.GetGeoTransform() == (LEFT, PIXEL, 0, TOP, 0, -PIXEL) and dataset.RasterXSize == 48
        assert dataset.GetMetadata()["METAEARTH_SEED"] == "4"
    assert made["osm.tif"].GetRasterBand(1).GetColorTable() is not None
    status, text = qgis_process.run_job("metaearth:translatemodality", TARGETS="nir", MODEL="tiny-mm", OUTPUT="none")
    assert status == 1 and "at least one raster" in text


def extent(left, right, bottom, top):
    return f"{left},{right},{bottom},{top} [EPSG:32611]"


@pytest.mark.parametrize(("values", "sentence"), [
    ({"INPUT": "missing.tif"}, "missing.tif cannot be opened"),
    ({"EXTENT": extent(0, 100, 0, 100)}, "The extent lies outside the layer"),
    ({"EXTENT": extent(LEFT, LEFT, TOP - 100, TOP)}, "The extent is empty"),
    ({"STAGES": "2", "RESOLUTION": "1"}, "not both"),
    ({"MODEL": "unknown"}, "There is no model 'unknown'"),
])
def test_bad_input_is_1_with_a_sentence_and_no_file(qgis_process, scene, values, sentence):
    status, text = qgis_process.run_job(**{"INPUT": scene, **values})
    assert status == 1
    assert sentence in text
    assert not list(qgis_process.folder.iterdir())


def test_no_crs_is_1_with_a_sentence_and_no_file(qgis_process, tmp_path):
    status, text = qgis_process.run_job(INPUT=write_raster(tmp_path / "bare.tif", 16, epsg=None))
    assert status == 1
    assert "no coordinate reference system" in text
    assert not list(qgis_process.folder.iterdir())


def test_complex_data_is_1_with_a_sentence_and_no_file(qgis_process, tmp_path):
    status, text = qgis_process.run_job(INPUT=write_raster(tmp_path / "complex.tif", 16, 1, dtype=gdal.GDT_CFloat32))
    assert status == 1
    assert "holds complex numbers" in text
    assert not list(qgis_process.folder.iterdir())
