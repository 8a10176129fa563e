"""The ledger: what a job leaves when it is interrupted, and that going on gives the same pixels."""

import dataclasses
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rio_cogeo import cog_validate

from backend.cascade import engine as engine_module
from backend.devices import use_threads
from backend.errors import (
    Cancelled,
    DeviceError,
    DiskFullError,
    InputError,
    Interrupted,
    JobBusyError,
    ModelError,
    NetworkOutputError,
    OutputError,
    PlanError,
)
from backend.jobs import calibration, portions
from backend.jobs import plan as plan_module
from backend.jobs.directory import JobDirectory, unfinished_jobs
from backend.jobs.executors import LocalExecutor
from backend.jobs.plan import JobPlan, make_plan
from backend.jobs.runner import JobRun, resume
from backend.protocol import WRITING, default_job_folder

from .conftest import keep_on, read, run, small_job

ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.usefixtures("small_blocks")


def stop_after(calls, error=Interrupted):
    """A check that ends the run at its n-th call."""
    seen = []

    def check():
        seen.append(None)
        if len(seen) > calls:
            raise error

    return check


def stop_after_blocks(output, count, error=Interrupted):
    """A check that ends the run once ``count`` blocks of the job are finished."""
    blocks = Path(default_job_folder(str(output))) / "blocks"

    def check():
        if sum(".part" not in path.name for path in blocks.rglob("*.tif")) >= count:
            raise error

    return check


def test_a_plan_survives_its_json(small_model, make_raster, tmp_path):
    source = make_raster(dtype="float32", nodata=float("nan"))
    plan = make_plan(small_job(small_model, source, tmp_path / "o.tif", stages=2, extent=[500_000, 0, 500_100, 5e6]))
    again = JobPlan.from_json(plan.to_json())
    assert again.to_json() == plan.to_json() and again.sha256 == plan.sha256
    assert again.stages == plan.stages and again.geometry == plan.geometry


def test_the_stretch_is_the_layers_whatever_the_extent(small_model, make_raster, tmp_path):
    source = make_raster(dtype="uint16", values=np.arange(3 * 18 * 22).reshape(3, 18, 22) * 40)
    whole, part = (make_plan(small_job(small_model, source, tmp_path / "o.tif", extent=extent))
                   for extent in (None, [500_050, 4_999_900, 500_100, 4_999_950]))
    assert whole.stretch == part.stretch and whole.area != part.area


def test_a_plan_changed_by_hand_is_refused(small_model, make_raster, tmp_path):
    plan = make_plan(small_job(small_model, make_raster(), tmp_path / "o.tif"))
    with pytest.raises(PlanError, match="was changed"):
        JobPlan.from_json(plan.to_json().replace('"seed": 0', '"seed": 1'))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.integers(0, 17), st.integers(1, 18)),
    st.tuples(st.integers(0, 21), st.integers(1, 22)),
    st.integers(1, 4),
    st.integers(0, 10**6),
)
def test_any_part_in_any_blocks_in_any_order_is_the_crop_of_the_whole(
    small_model, scene, tmp_path, rows, cols, side, order
):
    source, whole = scene
    shuffle = random.Random(order)
    top, left, bottom, right = rows[0], cols[0], min(18, sum(rows)), min(22, sum(cols))
    extent = [500_000 + 10 * left, 5_000_000 - 10 * bottom, 500_000 + 10 * right, 5_000_000 - 10 * top]
    plan = make_plan(small_job(small_model, source, tmp_path / "part.tif", stages=2, extent=extent))
    job = JobRun(dataclasses.replace(plan, block_windows=side), lambda p: None, keep_on)
    with pytest.MonkeyPatch.context() as patch:
        in_order = LocalExecutor.run

        def shuffled(self, sample, stage, blocks, done):
            in_order(self, sample, stage, shuffle.sample(blocks, len(blocks)), done)

        patch.setattr(LocalExecutor, "run", shuffled)
        part = job.run()
    for k, factor in ((0, 4), (1, 16)):
        there = slice(top * factor, bottom * factor), slice(left * factor, right * factor)
        np.testing.assert_array_equal(read(part.outputs[k]), read(whole.outputs[k])[(slice(None), *there)])


def test_a_preview_of_one_window_shows_the_runs_pixels(small_model, scene, tmp_path):
    source, whole = scene
    extent = [500_080, 4_999_840, 500_160, 4_999_920]
    preview = run(small_model, source, tmp_path / "preview.tif", extent=extent)
    np.testing.assert_array_equal(read(preview.outputs[0]), read(whole.outputs[0])[:, 32:64, 32:64])


def test_the_planned_preview_is_one_window_of_the_last_stage(small_model, scene, tmp_path):
    source, _ = scene
    extent = [500_100, 4_999_880, 500_110, 4_999_890]
    plan = make_plan(small_job(small_model, source, tmp_path / "x.tif", extent=extent))
    xmin, ymin, xmax, ymax = plan.preview_extent
    assert (xmin, ymin, xmax, ymax) == (500_080, 4_999_860, 500_140, 4_999_920)  # 8 output pixels less than a stride
    whole = make_plan(small_job(small_model, source, tmp_path / "x.tif", extent=plan.preview_extent))
    assert whole.windows == [1]


def test_copies_of_one_layer_have_equal_pixels_where_they_overlap(small_model, make_raster, tmp_path):
    """The second copy begins 8 rows and 16 columns further on; a stride of this model is 8 source pixels."""
    values = np.random.default_rng(2).integers(0, 255, (3, 80, 80))
    results = []
    for row, col in ((0, 0), (8, 16)):
        transform = Affine(10, 0, 500_000 + 10 * col, 0, -10, 5_000_000 - 10 * row)
        path = make_raster(f"{row}.tif", values=values[:, row:row + 64, col:col + 64], transform=transform)
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(METAEARTH_ANCHOR=f"{row - 16} {col - 16}")
        extent = [500_320, 4_999_600, 500_400, 4_999_680]
        results.append(read(run(small_model, path, tmp_path / f"out{row}.tif", stages=2, extent=extent).outputs[1]))
    np.testing.assert_array_equal(*results)


def test_blocks_in_order_compute_every_window_once(small_model, scene):
    source, whole = scene
    plan = make_plan(small_job(small_model, source, "unused.tif", stages=2))
    assert len(plan.blocks(2)) > 80
    assert whole.evaluations == sum(plan.windows) * plan.sampling.steps


def test_an_interrupted_job_goes_on_where_it_stopped(small_model, scene, tmp_path):
    source, whole = scene
    with pytest.raises(Interrupted):
        run(small_model, source, tmp_path / "out.tif", stages=2, check=stop_after(whole.evaluations))
    assert not (tmp_path / "out.tif").exists()
    result = run(small_model, source, tmp_path / "out.tif", stages=2)
    assert result.blocks_resumed > 10
    assert result.evaluations < 0.8 * whole.evaluations
    for made, expected in zip(result.outputs, whole.outputs):
        np.testing.assert_array_equal(read(made), read(expected))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tif", "out_stage1.tif"]


@pytest.mark.parametrize(
    ("where", "call", "delay"),
    [
        pytest.param("backend.jobs.directory:write_block", 3, 0.0, marks=pytest.mark.slow),
        ("backend.jobs.directory:write_block", 30, 0.002),
        pytest.param("backend.raster.output:to_disk", 5, 0.0, marks=pytest.mark.slow),
        ("backend.jobs.directory:write_mosaic", 1, 0.0),
        pytest.param("backend.jobs.runner:write_cog", 2, 0.0, marks=pytest.mark.slow),
        ("backend.jobs.runner:write_cog", 2, 0.01),
        ("backend.jobs.runner:consistency_psnr", 1, 0.0),
    ],
)
def test_a_killed_job_loses_nothing_and_keeps_nothing_wrong(small_model, scene, tmp_path, where, call, delay):
    source, whole = scene
    job = small_job(small_model, source, tmp_path / "out.tif", stages=2)
    arguments = [json.dumps(job.to_dict()), where, str(call), str(delay)]
    script = str(Path(__file__).with_name("killed_job.py"))
    killed = subprocess.run(
        [sys.executable, script, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out.tif").exists()
    result = resume(Path(default_job_folder(str(tmp_path / "out.tif"))), lambda p: None, keep_on)
    for made, expected in zip(result.outputs, whole.outputs):
        np.testing.assert_array_equal(read(made), read(expected))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tif", "out_stage1.tif"]


def test_a_cancelled_job_stays_in_the_folder_that_the_user_named(small_model, scene, tmp_path):
    source, whole = scene
    fields = {"stages": 2, "job_dir": str(tmp_path / "job")}
    with pytest.raises(Cancelled):
        run(small_model, source, tmp_path / "out.tif", check=stop_after(whole.evaluations, Cancelled), **fields)
    assert resume(tmp_path / "job", lambda p: None, keep_on).blocks_resumed > 10
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), read(whole.outputs[1]))
    assert not (tmp_path / "job").exists()


def test_another_job_in_the_folder_is_refused_by_what_differs(small_model, scene, tmp_path):
    source, _ = scene
    with pytest.raises(Interrupted):
        run(small_model, source, tmp_path / "out.tif", check=stop_after(30))
    kept = sorted(Path(default_job_folder(str(tmp_path / "out.tif"))).rglob("*.tif"))
    with pytest.raises(PlanError, match=r"differs in sampling, seed \(0, now 3\)\. Resume that one"):
        run(small_model, source, tmp_path / "out.tif", seed=3, steps=2)
    assert kept and sorted(Path(default_job_folder(str(tmp_path / "out.tif"))).rglob("*.tif")) == kept


def test_damaged_blocks_are_made_again(small_model, scene, tmp_path):
    source, whole = scene
    with pytest.raises(Interrupted):
        run(small_model, source, tmp_path / "out.tif", stages=2, check=stop_after(whole.evaluations))
    blocks = sorted((Path(default_job_folder(str(tmp_path / "out.tif"))) / "blocks").rglob("*.tif"))
    for number, path in enumerate(random.Random(1).sample(blocks, 12)):
        content = bytearray(path.read_bytes())
        content[len(content) * (number + 1) // 14] ^= 0x10
        path.write_bytes(content)
    for path in random.Random(2).sample(blocks, 12):
        edges = path.with_suffix(".npz")
        content = bytearray(edges.read_bytes())
        content[len(content) // 2] ^= 0x10
        edges.write_bytes(content)
    result = run(small_model, source, tmp_path / "out.tif", stages=2)
    assert 0 < result.blocks_resumed < len(blocks)
    for made, expected in zip(result.outputs, whole.outputs):
        np.testing.assert_array_equal(read(made), read(expected))


def test_resuming_what_is_no_job_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="holds no unfinished job"):
        resume(tmp_path, lambda p: None, keep_on)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(PlanError, match="cannot be read"):
        resume(tmp_path, lambda p: None, keep_on)


def test_two_jobs_on_one_result_are_told_apart(small_model, scene, tmp_path):
    source, _ = scene
    refused = []

    def second(progress):
        if not refused:
            for folder in (None, str(tmp_path / "other")):
                with pytest.raises(JobBusyError, match="Another job works on .*out.tif") as error:
                    run(small_model, source, tmp_path / "out.tif", job_dir=folder)
                refused.append(str(error.value))

    run(small_model, source, tmp_path / "out.tif", report=second)
    assert f"(process {os.getpid()} on " in refused[0]
    assert (tmp_path / "out.tif").exists()


def test_a_source_that_changed_before_the_resume_is_never_mixed(small_model, make_raster, tmp_path):
    source = make_raster()
    with pytest.raises(Interrupted):
        run(small_model, source, tmp_path / "out.tif", check=stop_after(20))
    make_raster(height=21)
    with pytest.raises(InputError, match="source raster changed"):
        resume(Path(default_job_folder(str(tmp_path / "out.tif"))), lambda p: None, keep_on)
    with pytest.raises(PlanError, match="differs in .*source"):
        run(small_model, source, tmp_path / "out.tif")


def test_a_poison_block_does_not_stop_the_others(small_model, scene, tmp_path, monkeypatch):
    source, whole = scene
    original, calls = engine_module.Engine.windows, []

    def sometimes_nan(self, lows, noises, resolution):
        calls.append(None)
        if len(calls) == 5:
            raise NetworkOutputError("The network returned values that are not numbers.")
        return original(self, lows, noises, resolution)

    monkeypatch.setattr(engine_module.Engine, "windows", sometimes_nan)
    with pytest.raises(NetworkOutputError, match=r"Block \d{4}_\d{4} of stage 1 could not be made.*All other blocks"):
        run(small_model, source, tmp_path / "out.tif", stages=2)
    result = run(small_model, source, tmp_path / "out.tif", stages=2)
    assert result.blocks_resumed == len(make_plan(small_job(small_model, source, "o.tif")).blocks(1)) - 1
    np.testing.assert_array_equal(read(result.outputs[1]), read(whole.outputs[1]))


def fill(disk, spare=8192):
    """Take all space of a small file system but ``spare``, or what the job's writing thread leaves of it."""
    with suppress(OSError), (disk / "other").open("ab", buffering=0) as stream:
        stream.write(bytes(max(0, shutil.disk_usage(disk).free - spare)))


@pytest.mark.parametrize("phase", ["generating", "writing"])
def test_a_disk_that_fills_up_keeps_what_is_finished(small_model, make_raster, tmp_path, tiny_disk, phase):
    source = make_raster(values=np.random.default_rng(0).uniform(0, 255, (3, 24, 24)))
    seen = []

    def report(progress):
        seen.append(progress)
        if progress.message == phase and progress.windows_done > 4:
            fill(tiny_disk)

    output = tiny_disk / "out.tif"
    with pytest.raises(DiskFullError, match=r"The disk is full while .* What is finished is kept in "):
        run(small_model, source, output, report=report)
    assert not output.exists() and not list(tiny_disk.rglob("*.part*"))
    (tiny_disk / "other").unlink()
    result = resume(Path(default_job_folder(str(output))), lambda p: None, keep_on)
    assert result.blocks_resumed > 0
    np.testing.assert_array_equal(read(output), read(run(small_model, source, tmp_path / "free.tif").outputs[0]))


def test_a_disk_too_full_for_one_block_leaves_nothing(small_model, make_raster, tiny_disk, monkeypatch):
    monkeypatch.setattr(plan_module, "check_space", lambda plan: None)
    fill(tiny_disk)
    with pytest.raises(DiskFullError, match="The disk is full"):
        run(small_model, make_raster(), tiny_disk / "out.tif")
    assert [p.name for p in tiny_disk.iterdir()] == ["other"]


def test_results_are_valid_cloud_optimized_geotiffs(scene):
    for path in scene[1].outputs:
        valid, errors, _ = cog_validate(path, strict=True, quiet=True)
        assert valid, errors


def test_live_mosaics_show_what_is_finished(small_model, scene, tmp_path, monkeypatch):
    source, whole = scene
    monkeypatch.setattr("backend.jobs.runner.LIVE_SECONDS", 0.0)
    seen = []

    def report(progress):
        live_path = progress.mosaic
        if live_path and progress.windows_done > 60 and not seen:
            expected = read(whole.outputs[1])
            live = read(live_path)
            there = live.any(axis=0)
            seen.append(there.mean())
            np.testing.assert_array_equal(live[:, there], expected[:, there])

    run(small_model, source, tmp_path / "out.tif", stages=2, report=report)
    assert 0 < seen[0] < 1


def test_samples_make_mean_and_standard_deviation(small_model, make_raster, tmp_path):
    values = np.random.default_rng(1).uniform(60, 200, (3, 20, 24))
    values[:, 3:5, 4:8] = 0
    source = make_raster(values=values, nodata=0)
    result = run(small_model, source, tmp_path / "out.tif", seed=4, samples=3)
    alone = [run(small_model, source, tmp_path / f"{k}.tif", seed=4 + k) for k in range(3)]
    alone_psnr = alone[0].consistency_psnr
    each = [read(one.outputs[0]).astype(float) for one in alone]
    np.testing.assert_array_equal(read(result.outputs[0]), each[0])
    assert [Path(p).name for p in result.statistics] == ["out_mean.tif", "out_std.tif"]
    hole = np.zeros((80, 96), bool)
    hole[12:20, 16:32] = True
    mean, deviation = (read(p) for p in result.statistics)
    np.testing.assert_array_equal(np.isnan(mean), np.broadcast_to(hole, mean.shape))
    np.testing.assert_allclose(mean[:, ~hole], np.mean(each, axis=0)[:, ~hole], rtol=1e-6)
    np.testing.assert_allclose(deviation[:, ~hole], np.std(each, axis=0, ddof=1)[:, ~hole], rtol=1e-5, atol=1e-5)
    assert deviation[:, ~hole].max() > 0
    assert result.consistency_psnr == alone_psnr


def test_a_cancelled_job_leaves_nothing_of_what_was_finished(small_model, make_raster, tmp_path):
    source, output = make_raster(), tmp_path / "out.tif"
    with pytest.raises(Cancelled):
        run(small_model, source, output, check=stop_after_blocks(output, 3, Cancelled))
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]


@pytest.fixture
def half_done(small_model, make_raster, tmp_path):
    """The folder of a job with some blocks."""
    source, output = make_raster(), tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(small_model, source, output, check=stop_after_blocks(output, 3))
    return Path(default_job_folder(str(output)))


def test_a_model_that_changed_does_not_finish_a_job(half_done, small_model):
    changed = half_done.parent / "changed"
    shutil.copytree(small_model.folder, changed)
    config = changed / "config.json"
    config.write_text(config.read_text().replace('"Small"', '"Another"'))
    directory = JobDirectory(half_done)
    directory.write_plan(dataclasses.replace(directory.plan(), model_folder=str(changed)))
    with pytest.raises(ModelError, match="changed since the job was planned"):
        resume(half_done, lambda p: None, keep_on)
    assert list(half_done.rglob("blocks/*/*/*.tif"))


def test_another_device_finishes_a_job_and_says_so(half_done):
    directory = JobDirectory(half_done)
    directory.write_plan(dataclasses.replace(directory.plan(), device_name="another CPU"))
    result = resume(half_done, lambda p: None, keep_on)
    assert any("begun on another CPU" in warning for warning in result.warnings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the GPU is there")
def test_a_job_of_a_gpu_that_is_gone_says_so_and_stays(half_done):
    directory = JobDirectory(half_done)
    directory.write_plan(dataclasses.replace(directory.plan(), device="cuda", device_name="Some GPU"))
    with pytest.raises(DeviceError, match="No CUDA GPU can be used here"):
        resume(half_done, lambda p: None, keep_on)
    assert any(half_done.rglob("blocks/*/*/*.tif"))


def test_a_job_goes_on_with_the_batch_that_it_was_begun_with(half_done, small_model, monkeypatch):
    """On a GPU the batch is measured, and may be another the next time."""
    source, output = (str(half_done.parent / name) for name in ("in.tif", "out.tif"))
    monkeypatch.setattr(calibration, "fastest", lambda *arguments: ("bfloat16", 2))
    with pytest.raises(PlanError, match=r"differs in precision \(float32, now bfloat16\)"):  # as if asked for
        run(small_model, source, output)
    monkeypatch.setattr(calibration, "fastest", lambda *arguments: ("float32", 2))
    assert run(small_model, source, output).blocks_resumed == 3


def test_more_samples_may_be_asked_of_an_unfinished_job(small_model, make_raster, tmp_path):
    source = make_raster()
    with pytest.raises(Interrupted):
        run(small_model, source, tmp_path / "out.tif", check=stop_after(20))
    result = run(small_model, source, tmp_path / "out.tif", samples=2)
    assert result.blocks_resumed > 0 and len(result.statistics) == 2


def test_samples_that_were_asked_for_later_are_not_forgotten_by_a_resumption(small_model, make_raster, tmp_path):
    source = make_raster()
    for samples, calls in ((1, 20), (2, 60)):
        with pytest.raises(Interrupted):
            run(small_model, source, tmp_path / "out.tif", check=stop_after(calls), samples=samples)
    result = resume(Path(default_job_folder(str(tmp_path / "out.tif"))), lambda p: None, keep_on)
    assert len(result.statistics) == 2 and all(Path(path).is_file() for path in result.statistics)


def test_a_disk_that_fills_up_while_statistics_are_written_costs_nothing(small_model, make_raster, tmp_path, tiny_disk):
    source, job_dir, filler = make_raster(), tiny_disk / "job", tiny_disk / "filler"
    whole = run(small_model, source, tmp_path / "whole.tif", samples=2)

    def fill_up(progress):
        if progress.message == WRITING and not filler.exists():
            filler.write_bytes(b"1" * (shutil.disk_usage(tiny_disk).free - (50 << 10)))

    with pytest.raises(DiskFullError, match=r"disk is full while writing .*What is finished is kept in"):
        run(small_model, source, tmp_path / "out.tif", fill_up, samples=2, job_dir=str(job_dir))
    assert sorted(path.name for path in tmp_path.glob("out*")) == []
    filler.unlink()
    result = resume(job_dir, lambda p: None, keep_on)
    assert result.blocks_resumed == 2 * len(make_plan(small_job(small_model, source, tmp_path / "x.tif")).blocks(1))
    for made, expected in zip(result.statistics, whole.statistics):
        np.testing.assert_array_equal(read(made), read(expected))


def test_a_source_that_changed_after_the_last_block_is_not_measured(small_model, make_raster, tmp_path, monkeypatch):
    source = make_raster()
    finish = JobRun._finish

    def then_change(self, results):
        finish(self, results)
        make_raster(seed=1)

    monkeypatch.setattr(JobRun, "_finish", then_change)
    result = run(small_model, source, tmp_path / "out.tif")
    assert result.consistency_psnr is None and any("source changed" in warning for warning in result.warnings)
    assert Path(result.outputs[0]).is_file()


def test_a_deleted_job_leaves_nothing_of_results_that_were_being_written(small_model, make_raster, tmp_path):
    source = make_raster()
    with pytest.raises(Interrupted):
        run(small_model, source, tmp_path / "out[1].tif", check=stop_after(20))
    for name in ("out[1].part.tif", "out[1].part.tif.ovr.tmp", "out1.part.tif.ovr.tmp"):
        (tmp_path / name).touch()
    JobDirectory(Path(default_job_folder(str(tmp_path / "out[1].tif")))).discard()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", "out1.part.tif.ovr.tmp"]


def test_what_a_killed_deletion_left_is_cleared_and_what_others_put_there_stays(
    small_model, make_raster, tmp_path, monkeypatch
):
    monkeypatch.setenv("METAEARTH_HOME", str(tmp_path / "home"))
    source = make_raster()
    folders = [tmp_path / name for name in ("mine", "shared", "emptied")]
    for folder in folders:
        with pytest.raises(Interrupted):
            run(small_model, source, tmp_path / f"{folder.name}.tif", check=stop_after(20), job_dir=str(folder))
        (folder / "plan.json").unlink()
    (folders[1] / "notes.txt").touch()
    shutil.rmtree(folders[2])
    (folders[2] / "model").mkdir(parents=True)
    assert unfinished_jobs() == []
    assert not folders[0].exists()
    assert (folders[1] / "notes.txt").is_file() and (folders[1] / "blocks").is_dir()
    assert (folders[2] / "model").is_dir()


def test_a_home_that_cannot_be_written_is_a_sentence(small_model, make_raster, tmp_path, monkeypatch):
    source = make_raster()
    plan = make_plan(small_job(small_model, source, tmp_path / "out.tif"))
    (tmp_path / "home").touch()
    monkeypatch.setenv("METAEARTH_HOME", str(tmp_path / "home"))
    with pytest.raises(OutputError, match="cannot be written"):
        JobRun(plan, lambda p: None, keep_on).run()


def test_a_cluster_gets_several_blocks_of_a_small_job(small_model, make_raster, tmp_path, monkeypatch):
    monkeypatch.setattr(portions, "BLOCK_SECONDS", 1e9)
    source = make_raster(height=40, width=40)
    here, there = (
        make_plan(small_job(small_model, source, tmp_path / "o.tif", executor=executor))
        for executor in ("local", "local:2")
    )
    assert len(here.blocks(1)) < portions.SHARED_BLOCKS <= len(there.blocks(1))


def test_a_users_folder_is_no_job_folder(small_model, make_raster, tmp_path):
    source = make_raster()
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"is no job folder: it holds in\.tif"):
        run(small_model, source, tmp_path / "out.tif", job_dir=str(tmp_path))
    for name in ("scene.vrt", "model/weights.bin", "blocks/1/mine.tif", "probe-flight.txt"):
        precious = tmp_path / "theirs" / name
        precious.parent.mkdir(parents=True)
        precious.write_text("mine")
        with pytest.raises(OutputError, match="is no job folder"):
            run(small_model, source, tmp_path / "out.tif", job_dir=str(tmp_path / "theirs"))
        assert precious.read_text() == "mine"
        shutil.rmtree(tmp_path / "theirs")
    (tmp_path / "empty").mkdir()
    run(small_model, source, tmp_path / "out.tif", job_dir=str(tmp_path / "empty"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", "out.tif", "precious.txt"]


def test_what_a_user_adds_to_a_job_folder_stays(small_model, make_raster, tmp_path):
    source = make_raster()
    with pytest.raises(Interrupted):
        run(small_model, source, tmp_path / "out.tif", check=stop_after(20))
    folder = Path(default_job_folder(str(tmp_path / "out.tif")))
    (folder / "notes.txt").write_text("mine")
    (folder / "scene.vrt").write_text("mine")
    resume(folder, lambda p: None, keep_on)
    assert sorted(p.name for p in folder.iterdir() if p.name != "lock") == ["notes.txt", "scene.vrt"]


def test_a_job_of_another_torch_is_not_mixed(small_model, make_raster, tmp_path):
    source = make_raster()
    with pytest.raises(Interrupted):
        run(small_model, source, tmp_path / "out.tif", check=stop_after(20))
    folder = Path(default_job_folder(str(tmp_path / "out.tif")))
    plan = dataclasses.replace(JobDirectory(folder).plan(), torch_version="1.0.0")
    (folder / "plan.json").write_text(plan.to_json())
    with pytest.raises(PlanError, match=r"planned with torch 1\.0\.0"):
        resume(folder, lambda p: None, keep_on)


def test_a_job_goes_on_from_another_working_folder(small_model, make_raster, tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    source = os.path.relpath(make_raster(), tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(Interrupted):
        run(small_model, source, "out.tif", check=stop_after(20))
    monkeypatch.chdir(tmp_path / "b")
    result = resume(tmp_path / "a" / "out.tif.metaearth-job", lambda p: None, keep_on)
    assert result.outputs == [str(tmp_path / "a" / "out.tif")] and (tmp_path / "a" / "out.tif").is_file()


def test_edges_of_another_plan_are_not_used(small_model, make_raster, tmp_path, monkeypatch):
    """Those who give are made last here: what another seed has left would be taken."""
    source, output = make_raster(), tmp_path / "out.tif"
    with pytest.raises(Interrupted):
        run(small_model, source, output, seed=1, check=stop_after_blocks(output, 10))
    folder = Path(default_job_folder(str(tmp_path / "out.tif")))
    assert list(folder.rglob("*.npz"))
    (folder / "plan.json").unlink()
    in_order = LocalExecutor.run
    monkeypatch.setattr(LocalExecutor, "run", lambda self, sample, stage, blocks, done:
                        in_order(self, sample, stage, blocks[::-1], done))
    mixed = run(small_model, source, tmp_path / "out.tif", seed=2)
    clean = run(small_model, source, tmp_path / "clean.tif", seed=2)
    np.testing.assert_array_equal(read(mixed.outputs[0]), read(clean.outputs[0]))


def with_batch(small_model, source, output, batch, **fields):
    plan = make_plan(small_job(small_model, source, output, **fields))
    return JobRun(dataclasses.replace(plan, batch=batch, block_windows=3), lambda p: None, keep_on).run()


def test_several_windows_at_a_time_repeat_bit_for_bit_too(small_model, scene, tmp_path):
    source, whole = scene
    a = with_batch(small_model, source, tmp_path / "a.tif", 4)
    part = with_batch(
        small_model, source, tmp_path / "b.tif", 4, extent=[500_050, 4_999_850, 500_170, 4_999_960]
    )
    np.testing.assert_array_equal(read(part.outputs[0]), read(a.outputs[0])[:, 16:60, 20:68])
    difference = read(a.outputs[0]).astype(int) - read(whole.outputs[0])
    assert np.abs(difference).max() <= 1


class SmallMemory(torch.nn.Module):
    """A network that runs out of memory above some windows at a time."""

    def __init__(self, network, limit):
        super().__init__()
        self.network, self.limit = network, limit

    def forward(self, noisy, time, condition):
        if len(noisy) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.network(noisy, time, condition)


@pytest.mark.parametrize("limit", [2, 0])
def test_too_small_memory_halves_the_batch_down_to_a_sentence(small_model, scene, tmp_path, monkeypatch, limit):
    source, whole = scene
    use = engine_module.Engine._use

    def small(self, dtype):
        use(self, dtype)
        if self.sampling.sampler != "ddim":  # not while calibrating
            self.forward = SmallMemory(self.forward, limit)

    monkeypatch.setattr(engine_module.Engine, "_use", small)
    if limit == 0:
        with pytest.raises(DeviceError, match="machine's memory is too small for one window"):
            with_batch(small_model, source, tmp_path / "a.tif", 8)
        return
    made = with_batch(small_model, source, tmp_path / "a.tif", 8)
    assert np.abs(read(made.outputs[0]).astype(int) - read(whole.outputs[0])).max() <= 1
    assert any("fewer windows at a time" in w for w in made.warnings)


def test_what_is_no_number_in_bfloat16_is_made_in_float32(small_model, scene, tmp_path, monkeypatch):
    source, _ = scene
    original = engine_module.Engine._one_batch

    def overflowing(self, lows, noises, resolution):
        made = original(self, lows, noises, resolution)
        return made if self.network.unet.parameters().__next__().dtype == torch.float32 else made * np.nan

    monkeypatch.setattr(engine_module.Engine, "_one_batch", overflowing)
    extent = [500_000, 4_999_900, 500_100, 5_000_000]
    a = run(small_model, source, tmp_path / "a.tif", extent=extent, precision="bfloat16")
    b = run(small_model, source, tmp_path / "b.tif", extent=extent, precision="float32")
    np.testing.assert_array_equal(read(a.outputs[0]), read(b.outputs[0]))


def test_a_directory_knows_nothing_of_missing_neighbours(small_model, make_raster, tmp_path):
    plan = make_plan(small_job(small_model, make_raster(), tmp_path / "o.tif"))
    assert JobDirectory(tmp_path / "none").edges(plan, 1, 1, plan.blocks(1)[-1]) == {}


def test_progress_never_goes_back(small_model, scene, tmp_path):
    seen = []
    run(small_model, scene[0], tmp_path / "out.tif", stages=2, report=seen.append)
    fractions = [p.fraction for p in seen]
    assert len(fractions) > 100 and fractions == sorted(fractions) and fractions[-1] > 0.9
    done = [p.windows_done for p in seen]
    assert done == sorted(done) and done[-1] == seen[-1].windows


def test_a_thread_that_begins_later_has_the_threads_of_the_process(scene, small_model, tmp_path):
    """torch gives a new thread the number that any other has set last, and readers set one for themselves."""
    try:
        use_threads(2)
        run(small_model, scene[0], tmp_path / "out.tif")
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 2
    finally:
        use_threads(1)


def test_what_does_not_fit_into_memory_is_not_tried_again_at_once(small_model, monkeypatch):
    """Stands in for a GPU that is too small: there is none."""
    tried = []

    def measure(*arguments):
        tried.append(arguments)
        raise DeviceError("The GPU's memory is too small.")

    monkeypatch.setattr(calibration, "measure", measure)
    for seconds, count in ((60, 1), (60, 1), (0, 2)):
        monkeypatch.setattr(calibration, "FAILURE_SECONDS", seconds)
        with pytest.raises(DeviceError, match="too small"):
            calibration.calibrated(small_model, "sha of this test", "cpu", "float32", 16)
        assert len(tried) == count


def test_no_result_is_written_by_two_jobs_however_they_name_it(tmp_path):
    one, other = (JobDirectory(tmp_path / name) for name in ("a", "b"))
    nir, pan = (str(tmp_path / name) for name in ("nir.tif", "pan.tif"))
    with one.locked([nir, pan]), pytest.raises(JobBusyError, match="Another job works on"), other.locked([pan, nir]):
        pass
    with other.locked([pan, nir]):
        pass


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("float32", math.nan), ("int16", -32768.0), ("int64", -(2.0**53)), ("uint64", 2.0**53)],
)
def test_holes_of_a_mask_survive_in_types_that_have_no_alpha(small_model, make_raster, tmp_path, dtype, nodata):
    source = make_raster(dtype=dtype)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(source, "r+") as opened:
        mask = np.full(opened.shape, 255, np.uint8)
        mask[:4, :4] = 0
        opened.write_mask(mask)
    result = run(small_model, source, tmp_path / "out.tif")
    with rasterio.open(result.outputs[0]) as made:
        np.testing.assert_equal(made.nodata, nodata)
        assert made.count == 3 and (made.read_masks(1) == mask.repeat(4, axis=0).repeat(4, axis=1)).all()


def test_sources_of_one_name_are_told_apart(small_model, make_raster, tmp_path):
    plan = make_plan(small_job(small_model, make_raster(), tmp_path / "out.tif"))
    two = dataclasses.replace(plan, source={"/north/o.tif": [1, 1], "/south/o.tif": [2, 2]})
    changed = dataclasses.replace(plan, source={"/north/o.tif": [1, 9], "/south/o.tif": [2, 2]})
    assert two.sha256 != changed.sha256


def test_what_lies_in_the_jobs_folder_was_announced(small_model, make_raster, tmp_path, small_blocks):
    plan = make_plan(small_job(small_model, make_raster(bands=1, height=60, width=64), tmp_path / "out.tif"))
    found = []

    def look(progress):
        if progress.message == "writing" and not found:
            found.append(sum(f.stat().st_size for f in plan.folder.rglob("*.npz")))

    JobRun(plan, look, keep_on).run()
    assert 0.5 * found[0] < plan._edge_bytes < 3 * found[0]
