"""The algorithms `metaearth:resumejob` and `metaearth:inspectraster`."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal
from qgis import processing
from qgis.core import QgsApplication, QgsProcessingContext, QgsProcessingException
from qgis_support import backend_children, write_raster

pytestmark = pytest.mark.usefixtures("qgis_processing")


def generate(source, output, **values):
    return processing.run("metaearth:generatehigherresolution",
                          {"INPUT": source, "OUTPUT": str(output), "MODEL": "tiny", "STAGES": 2, **values})


@pytest.fixture
def killed_job(tmp_path, module):
    """The folder of a job whose backend was killed after its first blocks."""
    source = write_raster(tmp_path / "in.tif", 100)
    client = module("plugin.core.backend_client")
    folder = tmp_path / "job"

    def kill_at_work():
        if len(list(folder.glob("blocks/1/s2/*.tif"))) > 1:
            for pid in backend_children(os.getpid()):
                os.kill(pid, signal.SIGKILL)

    job = {"input": source, "output": str(tmp_path / "out.tif"), "model": "tiny", "stages": 2, "steps": 12,
           "job_dir": str(folder)}
    with pytest.raises(client.BackendError, match="stopped unexpectedly"):
        client.session_client().request("generate", {"job": job}, lambda p: None, kill_at_work)
    return folder


def test_a_killed_job_is_resumed_to_the_same_pixels(killed_job, tmp_path, here):
    result = processing.run("metaearth:resumejob", {"FOLDER": killed_job.name})
    assert result["STAGE_OUTPUTS"] == [str(tmp_path / "out_stage1.tif"), str(tmp_path / "out.tif")]
    assert not killed_job.exists()
    whole = generate(str(tmp_path / "in.tif"), tmp_path / "whole.tif", STEPS=12)
    assert np.array_equal(gdal.Open(result["STAGE_OUTPUTS"][1]).ReadAsArray(), gdal.Open(whole["OUTPUT"]).ReadAsArray())
    assert result["SEED"] == 0 and result["EVALUATIONS_PER_PIXEL"] == pytest.approx(whole["EVALUATIONS_PER_PIXEL"])


def test_what_a_killed_backend_leaves_of_a_dropped_job_is_deleted(killed_job, tmp_path, module):
    unfinished = tmp_path / "out.part.tif"
    unfinished.write_text("as far as it was written")
    client = module("plugin.core.backend_client").session_client()
    pid = json.loads((killed_job / "owner.json").read_text())["pid"]
    module("plugin.core.jobs")._remove_left(killed_job, pid, client)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif"]


@pytest.mark.parametrize(("begun", "keep", "stays"), [
    (False, None, False), (True, None, True), (False, True, True), (True, False, False)])
def test_a_backend_that_did_not_answer_keeps_earlier_work(module, monkeypatch, tmp_path, begun, keep, stays):
    """Stands in for one that is at work for longer than a cancel waits, and is killed."""
    jobs, folder = module("plugin.core.jobs"), tmp_path / "out.tif.metaearth-job"
    cancelled = module("plugin.core.backend_client").BackendCancelled

    def killed(*arguments):
        folder.mkdir(exist_ok=True)
        (folder / "owner.json").write_text('{"pid": 7}')
        error = cancelled("", "cancelled")
        error.killed = 7
        raise error

    if begun:
        folder.mkdir()
        (folder / "plan.json").write_text("{}")
    monkeypatch.setattr(jobs, "_follow", killed)
    monkeypatch.setattr(jobs, "_tell_cost", lambda *arguments: [])
    job = module("backend.protocol").Job.from_dict({"input": "in.tif", "output": str(tmp_path / "out.tif")})
    feedback = jobs.JobFeedback()
    feedback.keep = keep
    with pytest.raises(cancelled):
        jobs.run_job(job, feedback)
    assert folder.exists() == stays


def test_a_folder_without_a_job_is_refused_before_the_run(tmp_path):
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("metaearth:resumejob")
    sound, sentence = algorithm.checkParameterValues({"FOLDER": str(tmp_path)}, QgsProcessingContext())
    assert not sound and sentence == f"{tmp_path} holds no unfinished job."


def test_several_samples_give_mean_and_deviation(scene, tmp_path):
    result = generate(scene, tmp_path / "o.tif", STAGES=1, SAMPLES=2)
    assert [Path(p).name for p in result["STAGE_OUTPUTS"]] == ["o.tif", "o_mean.tif", "o_std.tif"]
    assert gdal.Open(result["STAGE_OUTPUTS"][2]).ReadAsArray().max() > 0


def test_inspect_tells_what_the_backend_sees(tmp_path):
    source = write_raster(tmp_path / "in.tif", 60, bands=4, dtype=gdal.GDT_UInt16)
    page = tmp_path / "report.html"
    result = processing.run("metaearth:inspectraster", {"INPUT": source, "OUTPUT": str(page)})
    assert result["GROUND_RESOLUTION"] == pytest.approx(10, rel=1e-3)
    assert set(result["MODELS"].split(",")) == {"metaearth-lite", "tiny"}
    found = json.loads(result["REPORT"])
    assert found["dtype"] == "uint16" and found["bands"] == 4 and found["shown_bands"] == [1, 2, 3]
    assert found["pixel_width_m"] == pytest.approx(10, rel=1e-3)
    assert all(low < high for low, high in zip(found["stretch_low"], found["stretch_high"]))
    assert "60 × 60" in page.read_text()


def test_inspect_says_why_it_cannot_and_what_it_needs(tmp_path):
    source = write_raster(tmp_path / "in.tif", 20, epsg=None)
    with pytest.raises(QgsProcessingException, match="has no coordinate reference system"):
        processing.run("metaearth:inspectraster", {"INPUT": source})
    found = processing.run("metaearth:inspectraster", {"INPUT": source, "SOURCE_RESOLUTION": 0.5})
    assert found["GROUND_RESOLUTION"] == 0.5
