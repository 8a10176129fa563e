import os
import signal

import pytest
from qgis_support import CHECKOUT, backend_children, is_running, wait_for, write_raster


@pytest.fixture
def backend(module):
    """The module, while no other file's tests have a backend."""
    found = module("plugin.core.backend_client")
    found.close_session_client()
    return found


@pytest.fixture
def client(backend, home):
    client = backend.BackendClient(CHECKOUT, home)
    yield client
    client.close()


@pytest.fixture
def long_job(tmp_path):
    """Minutes of work for the tiny model."""
    source = write_raster(tmp_path / "large.tif", 400)
    return {"job": {"input": source, "output": str(tmp_path / "out" / "o.tif"), "model": "tiny", "steps": 900}}


def ask(client, method, params, on_progress=lambda _: None, is_cancelled=lambda: False):
    return client.request(method, params, on_progress, is_cancelled)


def at_work(folder):
    """Whether the backend has begun to compute."""
    return any(folder.glob("out/*.metaearth-job/plan.json"))


def kill_children():
    for pid in backend_children(os.getpid()):
        os.kill(pid, signal.SIGKILL)


def test_plan_then_generate_in_one_warm_child(client, scene, tmp_path):
    job = {"job": {"input": scene, "output": str(tmp_path / "o.tif"), "model": "tiny"}}
    assert ask(client, "plan", job)["windows"] == 1
    children = backend_children(os.getpid())
    seen = []
    result = ask(client, "generate", job, seen.append)
    assert result["outputs"] == [str(tmp_path / "o.tif")]
    assert [p.fraction for p in seen] == sorted(p.fraction for p in seen)
    assert backend_children(os.getpid()) == children and len(children) == 1


def test_child_works_in_the_data_root_and_writes_no_bytecode(client, home, scene, tmp_path):
    ask(client, "plan", {"job": {"input": scene, "output": str(tmp_path / "o.tif"), "model": "tiny"}})
    (child,) = backend_children(os.getpid())
    assert os.readlink(f"/proc/{child}/cwd") == str(home / "jobs")
    with open(f"/proc/{child}/environ", "rb") as stream:
        assert b"PYTHONDONTWRITEBYTECODE=1" in stream.read().split(b"\0")


def test_a_failed_request_raises_the_backends_sentence(client, backend, scene, tmp_path):
    with pytest.raises(backend.BackendError, match="There is no model 'unknown'") as failure:
        ask(client, "plan", {"job": {"input": scene, "output": str(tmp_path / "o.tif"), "model": "unknown"}})
    assert failure.value.condition == "model"


def test_cancel_ends_the_request_and_leaves_no_result(client, backend, long_job, tmp_path):
    with pytest.raises(backend.BackendCancelled, match="cancelled"):
        ask(client, "generate", long_job, is_cancelled=lambda: at_work(tmp_path))
    assert not list(tmp_path.glob("out/*.tif"))


def test_after_a_killed_child_its_log_is_told_and_another_starts(client, backend, long_job, home, tmp_path):
    with pytest.raises(backend.BackendError, match=r"stopped unexpectedly \(signal 9\)") as failure:
        ask(client, "generate", long_job, is_cancelled=lambda: at_work(tmp_path) and kill_children())
    assert f"Log: {home}" in str(failure.value)
    assert ask(client, "plan", long_job)["windows"] > 1


def test_close_ends_the_child(backend, home, long_job):
    client = backend.BackendClient(CHECKOUT, home)
    ask(client, "plan", long_job)
    (child,) = backend_children(os.getpid())
    client.close()
    assert wait_for(lambda: not is_running(child), 1)


def test_a_child_that_cannot_work_is_restarted_three_times_then_not_again(client, backend, home, monkeypatch, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho there is no torch >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("METAEARTH_PYTHON", str(broken))
    for _ in range(4):
        with pytest.raises(backend.BackendError, match=r"exit code 3") as failure:
            ask(client, "plan", {})
        assert "there is no torch" in str(failure.value)
    with pytest.raises(backend.BackendError, match="not started again") as failure:
        ask(client, "plan", {})
    assert "there is no torch" in str(failure.value)
    client.end_child()  # as the set-up does, before and after it has mended the environment
    with pytest.raises(backend.BackendError, match=r"exit code 3"):
        ask(client, "plan", {})


def test_a_missing_python_is_told(client, backend, monkeypatch, tmp_path):
    monkeypatch.setenv("METAEARTH_PYTHON", str(tmp_path / "gone"))
    with pytest.raises(backend.BackendError, match="METAEARTH_PYTHON"):
        ask(client, "plan", {})


def test_a_data_root_that_cannot_be_written_is_told(backend, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    client = backend.BackendClient(CHECKOUT, file / "home")
    with pytest.raises(backend.BackendError, match="cannot be written"):
        ask(client, "plan", {})
    client.close()


def test_a_request_after_the_end_is_told_so(backend, home):
    client = backend.BackendClient(CHECKOUT, home)
    client.close()
    with pytest.raises(backend.BackendError, match="closing"):
        ask(client, "models", {})


def test_what_is_cancelled_before_it_begins_starts_nothing(client, backend):
    with pytest.raises(backend.BackendCancelled):
        ask(client, "models", {}, is_cancelled=lambda: True)
    assert client.state.stage == "stopped"
