"""What earlier runs of a job have left: blocks of other sizes, plans of other versions, sources that moved."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from backend.errors import Cancelled, Interrupted, PlanError
from backend.jobs.directory import JobDirectory, unfinished_jobs
from backend.jobs.plan import make_plan
from backend.jobs.runner import JobRun, resume
from backend.protocol import default_job_folder

from .conftest import keep_on, read, run, small_job
from .test_jobs import stop_after_blocks


@pytest.fixture
def begun(small_model, make_raster, tmp_path, monkeypatch, small_blocks):
    """The folder of a job with three blocks, and its source."""
    monkeypatch.setenv("METAEARTH_HOME", str(tmp_path / "home"))
    source, output = make_raster(), tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(small_model, source, output, check=stop_after_blocks(output, 3))
    return Path(default_job_folder(str(output))), source


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2)])
def test_blocks_of_another_size_are_not_taken_for_those_of_their_names(
    small_model, make_raster, tmp_path, before, after
):
    """A deletion that was killed takes the plan first, and the same job may be begun with other blocks."""
    source, output = make_raster(height=40, width=40), tmp_path / "out.tif"
    plan = dataclasses.replace(make_plan(small_job(small_model, source, output)), block_windows=before)
    with pytest.raises(Interrupted):
        JobRun(plan, lambda p: None, stop_after_blocks(output, 3)).run()
    folder = Path(default_job_folder(str(output)))
    (folder / "plan.json").unlink()
    other = dataclasses.replace(plan, block_windows=after)
    assert other.sha256 == plan.sha256 and (folder / "blocks" / "1" / "s1" / f"{other.blocks(1)[0].name}.tif").is_file()
    result = JobRun(other, lambda p: None, keep_on).run()
    run(small_model, source, tmp_path / "anew.tif")
    assert result.blocks_resumed == 0
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), read(tmp_path / "anew.tif"))


def test_a_job_of_another_version_is_offered_and_can_be_deleted(begun):
    folder, source = begun
    path = folder / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": "of another version"}))
    assert [(j.folder, j.input, j.output) for j in unfinished_jobs()] == [
        (str(folder), str(source), str(folder.parent / "out.tif"))
    ]
    with pytest.raises(PlanError, match="of another version"):
        resume(folder, lambda p: None, keep_on)
    JobDirectory(folder).discard()
    assert not folder.exists() and unfinished_jobs() == []


def test_a_deleted_job_of_another_version_leaves_no_partial_results(small_model, make_raster, tmp_path, small_blocks):
    source, output = make_raster(), tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(small_model, source, output, check=stop_after_blocks(output, 3), samples=2)
    directory = JobDirectory(Path(default_job_folder(str(output))))
    assert sorted(directory.begun().results) == sorted(directory.plan().result_paths)


def test_a_model_that_could_not_be_deleted_is_not_taken(begun, small_model, tmp_path):
    folder, source = begun
    (folder / "plan.json").unlink()
    (folder / "model").mkdir()
    (folder / "model" / ".nfs0001").touch()
    assert run(small_model, source, tmp_path / "out.tif").blocks_resumed == 3


def test_a_plan_that_is_no_plan_is_a_sentence(begun):
    folder, _ = begun
    (folder / "plan.json").write_text("{")
    with pytest.raises(PlanError, match="cannot be read"):
        JobDirectory(folder).discard()
    assert folder.is_dir()


def test_a_cancel_keeps_what_an_earlier_run_has_finished(begun, small_model, tmp_path):
    folder, source = begun
    with pytest.raises(Cancelled):
        run(small_model, source, tmp_path / "out.tif", check=stop_after_blocks(tmp_path / "out.tif", 4, Cancelled))
    assert run(small_model, source, tmp_path / "out.tif").blocks_resumed == 4
    assert not folder.exists()


def test_what_could_not_be_deleted_is_no_hindrance(begun, small_model, tmp_path, monkeypatch):
    folder, source = begun
    with monkeypatch.context() as held:  # stands in for a virus scanner that holds a block
        held.setattr(shutil, "rmtree", lambda path, ignore_errors=False: None)
        held.setattr("backend.jobs.directory.DELETION_WAITS", (0.0,))
        JobDirectory(folder).discard()
    assert not (folder / "plan.json").exists() and list(folder.rglob("*.tif"))
    result = run(small_model, source, tmp_path / "out.tif")
    assert result.blocks_resumed == 3 and not folder.exists()


def test_what_could_not_be_deleted_goes_later(begun, monkeypatch):
    folder, _ = begun
    with monkeypatch.context() as held:
        held.setattr(shutil, "rmtree", lambda path, ignore_errors=False: None)
        held.setattr("backend.jobs.directory.DELETION_WAITS", (0.0,))
        JobDirectory(folder).discard()
        assert unfinished_jobs() == [] and folder.exists()
    assert unfinished_jobs() == [] and not folder.exists()


def test_a_job_goes_on_where_source_and_model_are_now(begun, small_model, tmp_path):
    _, source = begun
    (tmp_path / "moved").mkdir()
    there, model = Path(shutil.move(source, tmp_path / "moved")), tmp_path / "moved" / "model"
    shutil.copytree(small_model.folder, model)
    plan = make_plan(dataclasses.replace(small_job(small_model, there, tmp_path / "out.tif"), model=str(model)))
    assert JobRun(plan, lambda p: None, keep_on).run().blocks_resumed == 3
