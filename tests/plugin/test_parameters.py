import pytest
from osgeo import gdal
from qgis.core import QgsApplication, QgsProcessingContext, QgsProcessingParameterDefinition
from qgis_support import LEFT, TOP, write_raster

ID = "metaearth:generatehigherresolution"


@pytest.fixture
def algorithm():
    return QgsApplication.processingRegistry().createAlgorithmById(ID)


def check(algorithm, **values):
    return algorithm.checkParameterValues({"OUTPUT": "TEMPORARY_OUTPUT", **values}, QgsProcessingContext())


def extent(xmin, xmax, ymin, ymax):
    return f"{LEFT + xmin},{LEFT + xmax},{TOP - ymin},{TOP - ymax} [EPSG:32611]"


def test_every_job_field_is_a_parameter_with_label_help_and_default(algorithm, module):
    advanced = QgsProcessingParameterDefinition.Flag.FlagAdvanced
    for field in module("backend.protocol").JOB_FIELDS:
        parameter = algorithm.parameterDefinition(field.name.upper())
        assert parameter.description() == field.label
        assert parameter.help()
        assert field.label in algorithm.shortHelpString()
        assert parameter.defaultValue() == field.default
        assert bool(parameter.flags() & advanced) == field.advanced
        assert bool(parameter.flags() & QgsProcessingParameterDefinition.Flag.FlagOptional) == (
            not field.required and (field.default is None))


def test_outputs(algorithm):
    assert {output.name() for output in algorithm.outputDefinitions()} == {
        "OUTPUT", "STAGE_OUTPUTS", "SEED", "SECONDS", "GROUND_RESOLUTION", "EVALUATIONS_PER_PIXEL", "CONSISTENCY"}


def test_missing_backend_is_told_before_the_run(algorithm, monkeypatch, tmp_path):
    assert algorithm.canExecute() == (True, "")
    monkeypatch.setenv("METAEARTH_PYTHON", str(tmp_path / "python"))
    ready, reason = algorithm.canExecute()
    assert not ready and "METAEARTH_PYTHON" in reason


@pytest.mark.parametrize("values", [
    {}, {"STAGES": 2}, {"RESOLUTION": 2.5}, {"BANDS": [1]}, {"BANDS": [3, 2, 1]}, {"BANDS": "3;2;1"},
    {"EXTENT": extent(0, 100, 0, 100)}, {"EXTENT": "-117,-116.999,40.64,40.65 [EPSG:4326]"}, {"SEED": "7"},
    {"SAMPLER": "ddim", "STEPS": 5}, {"SAMPLES": 3, "EXECUTOR": "local"},
    {"SEED": 1e6}, {"SEED": "1e+06"}, {"BANDS": ""}])
def test_sound_values_pass(algorithm, scene, values):
    assert check(algorithm, INPUT=scene, **values) == (True, "")


@pytest.mark.parametrize(("values", "sentence"), [
    ({"STAGES": 2, "RESOLUTION": 2.5}, "either a number of stages or a target resolution"),
    ({"STAGES": 0}, "Stages: 0 is outside 1 to 6"),
    ({"SEED": -1}, "Seed: -1 is outside 0 to 2147483647"),
    ({"SEED": "many"}, "Seed: 'many' is not a valid integer"),
    ({"SEED": 1.5}, "Seed: '1.5' is not a valid integer"),
    ({"CONSISTENCY": 1.5}, "Consistency: 1.5 is outside 0 to 1"),
    ({"SAMPLER": "euler"}, "'euler' is not one of auto, dpm-solver++, ddim"),
    ({"BANDS": [1, 2]}, "one band or three"),
    ({"STRETCH": [0, 1, 2]}, "Stretch: "),
    ({"BANDS": [1, 2, 4]}, "the layer has 3 bands, and band 4 is chosen"),
    ({"EXTENT": extent(10, 10, 0, 100)}, "The extent is empty"),
    ({"EXTENT": extent(1000, 2000, 0, 100)}, "outside the layer"),
    ({"OUTPUT": "result.png"}, "ends in .tif"),
    ({"INPUT": "missing.tif"}, "missing.tif cannot be opened"),
    ({"INPUT": None}, "cannot be opened"),
])
def test_bad_values_get_a_sentence(algorithm, scene, values, sentence):
    passed, reason = check(algorithm, **{"INPUT": scene, **values})
    assert not passed and sentence in reason


def test_without_crs_the_source_resolution_is_needed(algorithm, tmp_path):
    bare = write_raster(tmp_path / "bare.tif", 16, epsg=None)
    passed, reason = check(algorithm, INPUT=bare)
    assert not passed and "no coordinate reference system" in reason
    assert check(algorithm, INPUT=bare, SOURCE_RESOLUTION=10) == (True, "")


def test_no_stage_may_overwrite_the_source(algorithm, scene, tmp_path):
    link = tmp_path / "link.tif"
    link.symlink_to(scene)
    for output in (scene, str(link)):
        assert "overwrite the source" in check(algorithm, INPUT=scene, OUTPUT=output)[1]
    earlier = gdal.GetDriverByName("GTiff").CreateCopy(str(tmp_path / "x_stage1.tif"), gdal.Open(scene))
    earlier.FlushCache()
    found = check(algorithm, INPUT=str(tmp_path / "x_stage1.tif"), OUTPUT=str(tmp_path / "x.tif"), STAGES=2)
    assert "overwrite the source" in found[1]


def test_a_layer_without_pixels_needs_extent_and_resolution(algorithm, tiles):
    where = "0,1000,0,1000 [EPSG:3857]"
    assert "no pixels of its own" in check(algorithm, INPUT=tiles)[1]
    assert "no pixels of its own" in check(algorithm, INPUT=tiles, EXTENT=where)[1]
    assert check(algorithm, INPUT=tiles, EXTENT=where, SOURCE_RESOLUTION=10) == (True, "")


def test_a_model_that_is_a_folder_here_is_named_from_the_root(algorithm, module, monkeypatch, tmp_path):
    """The backend's working directory is another."""
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    fields = tuple(f for f in module("backend.protocol").JOB_FIELDS if f.name == "model")
    read = module("plugin.processing.parameters").scalar_values
    for text, meant in (("models/mine", str(tmp_path / "models" / "mine")), ("models", "models"), ("a/b", "a/b")):
        assert read(algorithm, fields, {"MODEL": text}, QgsProcessingContext()) == {"model": meant}


def test_words_have_spaces_in_quotes_and_their_files_are_named_from_the_root(module, monkeypatch, tmp_path):
    (tmp_path / "my heights.tif").touch()
    monkeypatch.chdir(tmp_path)
    algorithm = QgsApplication.processingRegistry().algorithmById("metaearth:translatemodality")
    fields = tuple(f for f in module("backend.protocol").TRANSLATE.fields if f.name == "other_inputs")
    text = '"dem=my heights.tif" snow=c:\\data\\snow.tif it\'s=#1'
    found = module("plugin.processing.parameters").scalar_values(
        algorithm, fields, {"OTHER_INPUTS": text}, QgsProcessingContext())
    assert found == {"other_inputs": [f"dem={tmp_path / 'my heights.tif'}", "snow=c:\\data\\snow.tif", "it's=#1"]}
