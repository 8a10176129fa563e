"""A real Dask cluster on loopback: the same pixels, and what happens when its parts die."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import distributed
import numpy as np
import pytest
from rasterio.errors import RasterioError

from backend.errors import Cancelled, ExecutorError, NetworkOutputError, OutputError, PlanError
from backend.jobs import cluster as cluster_module
from backend.jobs import portions
from backend.jobs.directory import JobDirectory
from backend.jobs.plan import make_plan
from backend.jobs.portions import executor_of
from backend.jobs.renderer import await_files
from backend.jobs.runner import JobRun, resume
from backend.jobs.scene_plan import SceneInput, SceneRequest, make_scene_plan
from backend.jobs.worker import Probe, forget
from backend.protocol import default_job_folder

from .conftest import keep_on, read, run, small_job

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("small_blocks")


class Cluster:
    """A scheduler and workers as processes, in a folder where our code is not."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.file = folder / "scheduler.json"
        self.workers = []
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file)]
        self.scheduler = self._start("dask_scheduler", *options)
        end = time.monotonic() + 60
        while not self.file.exists():
            assert time.monotonic() < end
            time.sleep(0.05)

    def _start(self, program, *options, prefix=()):
        with (self.folder / "log").open("a") as log:
            command = [*prefix, sys.executable, "-m", f"distributed.cli.{program}", *options]
            environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def address(self):
        return json.loads(self.file.read_text())["address"]

    def add_worker(self, prefix=()):
        options = ["--scheduler-file", str(self.file), "--nthreads", "1", "--no-dashboard"]
        self.workers.append(self._start("dask_worker", *options, prefix=prefix))

    def close(self):
        for process in (*self.workers, self.scheduler):
            kill_group(process)


def kill_group(process):
    """SIGKILL a process and its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("dask") / "cluster")
    cluster.add_worker()
    cluster.add_worker()
    with distributed.Client(cluster.address, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
    yield cluster
    cluster.close()


@pytest.fixture
def own_cluster(tmp_path):
    cluster = Cluster(tmp_path / "cluster")
    yield cluster
    cluster.close()


def equal(result, whole):
    for made, expected in zip(result.outputs, whole.outputs):
        np.testing.assert_array_equal(read(made), read(expected))


@pytest.mark.slow
def test_a_scene_on_two_workers_has_the_same_pixels(two_workers, scene_model, make_raster, tmp_path):
    rgb = make_raster("rgb.tif", height=80, width=100)

    def translated(name, executor):
        wanted = SceneRequest((SceneInput("rgb", rgb),), ("nir", "pan"), str(tmp_path / name), str(scene_model.folder),
                              device="cpu", precision="float32", executor=executor)
        return JobRun(make_scene_plan(wanted), lambda p: None, keep_on).run()

    equal(translated("cluster", two_workers.address), translated("here", "local"))


def test_two_workers_make_the_same_pixels(two_workers, small_model, scene, tmp_path):
    source, whole = scene
    result = run(small_model, source, tmp_path / "out.tif", stages=2, executor=two_workers.address)
    equal(result, whole)
    assert result.warnings == []
    assert result.seconds_network > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tif", "out_stage1.tif"]


def test_a_scheduler_file_and_the_environment_name_a_cluster(two_workers, small_model, scene, tmp_path, monkeypatch):
    source, whole = scene
    result = run(small_model, source, tmp_path / "out.tif", executor=str(two_workers.file))
    np.testing.assert_array_equal(read(result.outputs[0]), read(whole.outputs[0]))
    assert executor_of("auto", "auto") == "local"
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", two_workers.address)
    assert executor_of("auto", "auto") == two_workers.address


@pytest.mark.slow
def test_three_processes_of_this_machine_make_the_same_pixels(small_model, scene, tmp_path):
    source, whole = scene
    equal(run(small_model, source, tmp_path / "out.tif", stages=2, executor="local:3"), whole)


def test_a_worker_that_dies_is_no_loss(own_cluster, small_model, scene, tmp_path):
    source, whole = scene
    own_cluster.add_worker()
    own_cluster.add_worker()
    killed = []

    def report(progress):
        if progress.windows_done > 20 and not killed:
            killed.append(kill_group(own_cluster.workers[0]))

    result = run(small_model, source, tmp_path / "out.tif", stages=2, executor=own_cluster.address, report=report)
    assert killed
    equal(result, whole)


@pytest.mark.slow
def test_a_scheduler_that_dies_leaves_a_job_that_can_be_resumed(
    own_cluster, small_model, scene, tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 3)
    source, whole = scene
    own_cluster.add_worker()
    killed = []

    def report(progress):
        if progress.windows_done > 20 and not killed:
            killed.append(kill_group(own_cluster.scheduler))

    with pytest.raises(ExecutorError, match=r"connection to the Dask scheduler at tcp://.* was lost.*resume the job"):
        run(small_model, source, tmp_path / "out.tif", stages=2, executor=own_cluster.address, report=report)
    assert killed
    folder = Path(default_job_folder(str(tmp_path / "out.tif")))
    with pytest.raises(ExecutorError, match="No Dask scheduler answers"):
        resume(folder, lambda p: None, keep_on)
    result = run(small_model, source, tmp_path / "out.tif", stages=2, executor="local")
    assert result.blocks_resumed > 5
    equal(result, whole)


def test_a_client_that_dies_leaves_the_cluster_idle_and_a_job_that_can_be_resumed(
    two_workers, small_model, scene, tmp_path
):
    source, whole = scene
    job = small_job(small_model, source, tmp_path / "out.tif", stages=2, executor=two_workers.address)
    script = str(Path(__file__).with_name("killed_job.py"))
    arguments = [json.dumps(job.to_dict()), "backend.jobs.runner:JobRun._live_mosaic", "20", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, script, *arguments], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    result = resume(Path(default_job_folder(str(tmp_path / "out.tif"))), lambda p: None, keep_on)
    assert result.blocks_resumed > 10
    equal(result, whole)


def test_a_cancelled_block_is_given_up_in_its_middle(own_cluster, small_model, make_raster, tmp_path, monkeypatch):
    """A worker that went on to the block's end would be lost to others for that long: here more than ten minutes."""
    monkeypatch.setattr(portions, "BLOCK_SECONDS", 3600.0)
    own_cluster.add_worker()
    source = make_raster(height=200, width=200)
    started: list[float] = []

    with distributed.Client(own_cluster.address, timeout=60) as client:

        def check():
            if any(key.startswith("metaearth-") for keys in client.processing().values() for key in keys):
                started.append(time.monotonic())
            if started and time.monotonic() > started[0] + 2:  # it is past the reading, in the network
                raise Cancelled

        with pytest.raises(Cancelled):
            run(small_model, source, tmp_path / "out.tif", steps=1000, executor=own_cluster.address, check=check)
        assert client.submit(forget, pure=False).result(timeout=60) is None  # waits for the block
    assert not (tmp_path / "out.tif.metaearth-job").exists()


def test_cancel_stops_the_workers_and_leaves_nothing(two_workers, small_model, scene, tmp_path):
    source, _ = scene
    stop = threading.Event()

    def report(progress):
        if progress.windows_done > 10:
            stop.set()

    def check():
        if stop.is_set():
            raise Cancelled

    with pytest.raises(Cancelled):
        run(small_model, source, tmp_path / "o.tif", stages=2, executor=two_workers.address, report=report, check=check)
    time.sleep(1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_block_that_kills_its_workers_is_named(own_cluster, small_model, scene, tmp_path, monkeypatch):
    source, whole = scene
    own_cluster.add_worker()
    poison = "1_2"
    original = cluster_module.packed_code

    def deadly():
        """Our code with a line that kills the process at one block."""
        stream = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(original())) as before, zipfile.ZipFile(stream, "w") as after:
            for name in before.namelist():
                text = before.read(name).decode()
                if name == "backend/jobs/worker.py":
                    line = "    with _one_at_a_time:\n"
                    trap = f'    if stage == 1 and f"{{row}}_{{col}}" == "{poison}":\n        os.kill(os.getpid(), 9)\n'
                    text = text.replace(line, trap + line, 1)
                after.writestr(name, text)
        return stream.getvalue()

    monkeypatch.setattr(cluster_module, "packed_code", deadly)
    with pytest.raises(NetworkOutputError, match=r"^Block 0001_0002 killed 4 workers\. All other"):
        run(small_model, source, tmp_path / "out.tif", stages=2, executor=own_cluster.address)
    result = run(small_model, source, tmp_path / "out.tif", stages=2, executor="local")
    blocks = len(make_plan(small_job(small_model, source, tmp_path / "x.tif", stages=2)).blocks(1))
    assert result.blocks_resumed == blocks - 1
    equal(result, whole)


def test_workers_that_cannot_see_the_job_are_named(own_cluster, small_model, scene, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    blind = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {shared} && exec "$@"', "sh"]
    if os.geteuid() or subprocess.run([*blind, "true"], check=False).returncode:
        pytest.skip("a worker that sees other disks needs root")
    own_cluster.add_worker(blind)
    with pytest.raises(ExecutorError, match=r"cannot do this job. tcp://.*does not see the job's folder"):
        run(small_model, scene[0], shared / "out.tif", executor=own_cluster.address)
    assert list(shared.iterdir()) == []


def test_workers_that_come_later_are_asked_too(two_workers, small_model, make_raster, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "WORKERLESS_SECONDS", 3)
    source = make_raster()
    plan = make_plan(small_job(small_model, source, tmp_path / "out.tif", executor=two_workers.address))
    directory = JobDirectory(plan.folder)
    with directory.locked(plan.result_paths):
        directory.write_plan(plan)
        with cluster_module.ClusterExecutor(two_workers.address, plan, directory, keep_on) as executor:
            first, late = executor._fit_workers()

            def fit_without(address):
                """Who is fit, once a worker that comes anew has answered."""
                del executor._problems[address]
                executor._fit_workers()
                while executor._asked:
                    time.sleep(0.05)
                    found = executor._fit_workers()
                return found

            assert fit_without(late) == [first, late]
            os.utime(source, (1, 1))  # whoever is asked now sees another source
            assert fit_without(late) == [first]
            assert late in executor.warnings[-1] and "sees another version" in executor.warnings[-1]
            with pytest.raises(ExecutorError, match=r"No worker is left that can do this job. tcp://"):
                fit_without(first)
        directory.remove()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("tcp://127.0.0.1:9", "No Dask scheduler answers at tcp://127.0.0.1:9"),
        ("missing.json", "No Dask scheduler"),
        ("local:0", "executor 'local:0' is not understood"),
        ("local:two", "executor 'local:two' is not understood"),
    ],
)
def test_a_cluster_that_is_not_there_is_a_sentence(small_model, scene, tmp_path, monkeypatch, address, sentence):
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 1)
    with pytest.raises((ExecutorError, PlanError), match=sentence):
        run(small_model, scene[0], tmp_path / "out.tif", executor=address)
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_without_workers_is_a_sentence(own_cluster, small_model, scene, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "WORKERLESS_SECONDS", 1)
    with pytest.raises(ExecutorError, match="has no workers"):
        run(small_model, scene[0], tmp_path / "out.tif", executor=own_cluster.address)


@pytest.fixture
def executor(small_model, make_raster, tmp_path):
    """Of a job whose folder is there; it is not connected to anything."""
    plan = make_plan(small_job(small_model, make_raster(), tmp_path / "o.tif", device="auto"))
    directory = JobDirectory(tmp_path / "job")
    directory.folder.mkdir()
    directory.write_plan(plan)
    return cluster_module.ClusterExecutor("tcp://127.0.0.1:1", plan, directory, keep_on)


def test_a_block_that_the_disk_shows_late_is_waited_for(executor, monkeypatch):
    answers = iter([RasterioError("not there"), RasterioError("not there"), "the report"])

    def late(path, plan):
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    block = executor.plan.blocks(1)[0]
    monkeypatch.setattr(cluster_module, "report_of", late)
    assert executor._report(1, 1, block) == "the report"
    monkeypatch.undo()
    monkeypatch.setattr(cluster_module, "VISIBLE_SECONDS", 0)
    with pytest.raises(ExecutorError, match="cannot be read here"):
        executor._report(1, 1, block)


def test_a_stage_that_the_disk_shows_late_is_waited_for(tmp_path):
    late, looks = tmp_path / "late.tif", []

    def check():
        looks.append(None)
        if len(looks) == 2:
            late.touch()

    await_files([late], 60, check)
    assert len(looks) == 2
    with pytest.raises(OutputError, match=r"never\.tif, which the job has written, is not there"):
        await_files([late, tmp_path / "never.tif"], 0, check)


@pytest.mark.parametrize(
    ("address", "told"),
    [(r"C:\dask\scheduler.json", False), ("/shared/scheduler.json", False), ("tls://10.0.0.1:8786", False),
     ("tcp://127.0.0.1:8786", False), ("tcp://10.0.0.1:8786", True)],
)
def test_an_open_door_is_told(executor, address, told):
    executor.address = address
    executor._warn_of_open_door()
    assert bool(executor.warnings) == told


def test_a_gpu_that_the_plan_does_not_use_is_told(executor):
    class Answer:
        def __init__(self, has_gpu):
            self.has_gpu = has_gpu

        def result(self):
            return Probe("there", executor.plan.device_name, self.has_gpu, None)

    assert executor._problem_of("tcp://a", Answer(False)) == "" and not executor.warnings
    for _ in range(2):
        assert executor._problem_of("tcp://b", Answer(True)) == ""
    assert executor.warnings == ([cluster_module.NO_GPU] if executor.plan.device == "cpu" else [])
