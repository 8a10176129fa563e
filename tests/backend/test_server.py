"""A real backend child: handshake, progress, cancel, errors as sentences, and its end."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from backend.progress import Pace, in_lines
from backend.protocol import Models, data_home
from backend.server import Server

TIMEOUT = 120


class Child:
    """``python -m backend serve`` as a client sees it."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backend", "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        # the pipe would fill up, and the child stop, if nobody read it
        self.log = []
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()

    def send(self, method, params, id_=None):
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        if id_ is not None:
            message["id"] = id_
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, line):
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def read(self):
        return json.loads(self.process.stdout.readline())

    def answer(self, id_):
        """(the answer to a request, the notifications that came before it)."""
        notifications = []
        while (message := self.read()).get("id") != id_:
            notifications.append(message)
        return message, notifications


@pytest.fixture
def child():
    child = Child()
    yield child
    child.process.kill()
    child.process.wait()


def job(small_model, source, output, **fields):
    return {
        "job": {"input": source, "output": str(output), "model": str(small_model.folder), "device": "cpu", **fields}
    }


def test_a_session_from_handshake_to_shutdown(child, small_model, make_raster, tmp_path):
    child.send("initialize", {"protocol": 1, "parent_pid": os.getpid()}, 1)
    hello, _ = child.answer(1)
    assert hello["result"]["pid"] == child.process.pid
    assert "metaearth-lite" in {m["id"] for m in hello["result"]["models"]}

    child.send("plan", job(small_model, make_raster(), tmp_path / "out.tif"), 2)
    plan, _ = child.answer(2)
    assert plan["result"]["stages"][0]["width"] == 96

    child.send("generate", job(small_model, make_raster(), tmp_path / "out.tif"), 3)
    done, progress = child.answer(3)
    assert done["result"]["outputs"] == [str(tmp_path / "out.tif")]
    fractions = [p["params"]["fraction"] for p in progress if p["method"] == "progress"]
    assert fractions == sorted(fractions) and 0 <= fractions[0] < 0.9 < fractions[-1] <= 1
    assert {p["params"]["id"] for p in progress} == {3}
    assert (tmp_path / "out.tif").exists()

    child.send("shutdown", {}, 4)
    assert child.answer(4)[0]["result"] == {}
    assert child.process.wait(TIMEOUT) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_processes_that_it_starts_do_not_get_its_pipe(child):
    child.send("models", {}, 1)
    child.answer(1)
    assert os.readlink(f"/proc/{child.process.pid}/fd/0") == os.devnull


ERRORS_OF_CUDA = [
    ("unspecified launch failure", "The GPU stopped answering (CUDA error: unspec", True),
    ("out of memory", "The GPU's memory is too small for this work", False),
]


@pytest.mark.parametrize(("error", "told", "ends"), ERRORS_OF_CUDA)
def test_a_gpu_that_is_lost_ends_the_process_after_the_answer(error, told, ends):
    """CUDA's errors, but for a lack of memory, last as long as the process. Stands in for a GPU: there is none."""
    script = (
        "import torch; from backend import server\n"
        f"def known_models(): raise torch.AcceleratorError('CUDA error: {error}\\nmore')\n"
        "server.known_models = known_models; server.serve_stdio()"
    )
    asked = b'{"jsonrpc": "2.0", "method": "models", "params": {}, "id": 7}\n'
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(asked)  # and the pipe stays open
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    assert answer["id"] == 7 and answer["error"]["message"].startswith(told)
    if not ends:
        process.stdin.write(asked)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 7
        process.stdin.close()
    assert process.wait(TIMEOUT) == int(ends)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")],
)
def test_too_little_memory_of_the_machine_is_told(error):
    _, sentence, kind = Server(io.BytesIO(), io.BytesIO())._unexpected(error)
    assert kind == "device" and "This machine's memory is too small" in sentence and "GPU" not in sentence


def test_an_interrupt_of_the_terminal_is_the_clients(child):
    """Ctrl-C reaches every program of the terminal; the one that was started by the user asks for the cancel."""
    child.send("models", {}, 1)
    child.answer(1)
    child.process.send_signal(signal.SIGINT)
    child.send("models", {}, 2)
    assert child.answer(2)


def test_cancel_ends_a_job_and_leaves_nothing(child, small_model, make_raster, tmp_path):
    source = make_raster(height=400, width=400)
    child.send("generate", job(small_model, source, tmp_path / "out.tif"), 1)
    assert child.read()["method"] == "progress"
    child.send("cancel", {"id": 1})
    answer, _ = child.answer(1)
    assert answer["error"]["code"] == -32800
    assert answer["error"]["data"]["condition"] == "cancelled"
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]


@pytest.mark.parametrize(
    ("fields", "condition", "sentence"),
    [
        ({"input": "missing.tif"}, "input", "There is no file missing.tif."),
        ({"seed": -1}, "field", "Seed: -1 is outside 0 to 2147483647."),
        ({"model": "nonsense"}, "model", "There is no model 'nonsense'"),
    ],
)
def test_errors_are_sentences(child, small_model, make_raster, tmp_path, fields, condition, sentence):
    params = job(small_model, make_raster(), tmp_path / "out.tif")
    params["job"].update(fields)
    child.send("generate", params, 1)
    error = child.answer(1)[0]["error"]
    assert error["data"]["condition"] == condition
    assert error["message"].startswith(sentence)
    child.send("initialize", {"protocol": 1}, 2)
    assert "result" in child.answer(2)[0]


def test_nonsense_is_answered_and_survived(child):
    child.write(b"this is no json\n")
    assert child.read()["error"]["code"] == -32600
    for method, params in ((["models"], {}), ("models", [1])):
        child.send(method, params, 7)
        assert child.read()["error"]["code"] == -32600
    child.send("cancel", {"id": [1]}, 8)
    child.send("nonsense", {}, 1)
    assert child.answer(1)[0]["error"]["message"] == "There is no method 'nonsense'."
    child.send("initialize", {"protocol": 99}, 2)
    assert "differ in version" in child.answer(2)[0]["error"]["message"]


def test_the_child_ends_with_its_stdin_and_cleans_up(child, small_model, make_raster, tmp_path):
    child.send("generate", job(small_model, make_raster(height=400, width=400), tmp_path / "out.tif"), 1)
    assert child.read()["method"] == "progress"
    child.process.stdin.close()
    assert child.process.wait(TIMEOUT) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]


@pytest.mark.skipif(os.name != "posix", reason="needs process groups")
def test_the_child_ends_when_its_parent_is_killed(tmp_path):
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-m', 'backend', 'serve'], stdin=0, stdout=subprocess.PIPE)\n"
            "child.stdout.readline()\nprint(child.pid, flush=True)\nchild.wait()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    # the pipe stays open in this process, so that only the parent's death can tell the child
    parent.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocol": 1}}\n')
    parent.stdin.flush()
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        with open(f"/proc/{pid}/stat") as stream:
            if stream.read().rsplit(")", 1)[1].split()[0] == "Z":
                return
        time.sleep(0.1)
    pytest.fail("the backend outlived its parent")


def test_a_cancel_says_what_becomes_of_finished_blocks(child, small_model, make_raster, tmp_path):
    """Questions are answered while the job runs; what is kept is listed, and deleted when asked."""
    source, folder = make_raster(height=60, width=60), tmp_path / "out.tif.metaearth-job"
    long_job = job(small_model, source, tmp_path / "out.tif", steps=200, stages=2)
    child.send("generate", long_job, 1)
    end = time.monotonic() + TIMEOUT
    while not list(folder.glob("blocks/1/s1/*.tif")):
        assert time.monotonic() < end
        time.sleep(0.05)
    child.send("plan", long_job, 2)
    assert child.answer(2)[0]["result"]["windows"] > 0
    (data_home() / "calibration.json").unlink()  # the job lets go of the device to have another format measured
    child.send("plan", {"job": {**long_job["job"], "precision": "bfloat16"}}, 20)
    answer, progress = child.answer(20)
    assert answer["result"]["seconds"] > 0 and all(told["method"] == "progress" for told in progress)
    child.send("unfinished", {}, 3)
    assert str(folder) not in [j["folder"] for j in child.answer(3)[0]["result"]["jobs"]]
    child.send("discard", {"folder": str(folder)}, 4)
    assert child.answer(4)[0]["error"]["data"]["condition"] == "busy"
    child.send("cancel", {"id": 1, "keep": True})
    assert child.answer(1)[0]["error"]["data"]["condition"] == "cancelled"
    child.send("unfinished", {}, 5)
    (kept,) = [j for j in child.answer(5)[0]["result"]["jobs"] if j["folder"] == str(folder)]
    assert kept["input"] == source and kept["output"] == str(tmp_path / "out.tif")
    child.send("resume", {"folder": str(folder)}, 6)
    while child.read().get("params", {}).get("id") != 6:
        pass
    child.send("cancel", {"id": 6, "keep": False})
    assert child.answer(6)[0]["error"]["data"]["condition"] == "cancelled"
    assert not folder.exists()
    child.send("discard", {"folder": str(folder)}, 7)
    assert "holds no unfinished job" in child.answer(7)[0]["error"]["message"]


def test_models_and_clusters_are_told(child, small_model, tmp_path):
    child.send("models", {}, 1)
    told = child.answer(1)[0]["result"]
    models = {model.id: model for model in Models.from_dict(told).models}
    assert (models["metaearth-lite"].kind, models["metaearth-lite"].modalities) == ("cascade", [])
    assert models["metaearth-mm-lite"].kind == "scene" and "rgb" in models["metaearth-mm-lite"].modalities
    earlier = [{k: v for k, v in model.items() if k not in ("kind", "modalities")} for model in told["models"]]
    assert {model.kind for model in Models.from_dict({"models": earlier}).models} == {"cascade"}
    child.send("add_model", {"source": str(tmp_path)}, 2)
    assert "no model bundle" in child.answer(2)[0]["error"]["message"]
    child.send("cluster", {"executor": str(tmp_path / "none.json")}, 3)
    assert "No Dask scheduler answers" in child.answer(3)[0]["error"]["message"]


def test_a_verb_runs_with_progress_and_tells_its_outcome(child, make_raster, tmp_path):
    values = {"sources": [make_raster(height=64, width=64)], "output": str(tmp_path / "set"), "chip": 32,
              "halvings": 0, "cell_km": 1000, "workers": 1}
    child.send("run", {"verb": "prepare", "values": values}, 1)
    answer, progress = child.answer(1)
    told = answer["result"]
    assert told["train"] + told["validation"] + told["test"] == 4 and "| split | chips |" in told["text"]
    assert progress[-1]["params"]["windows_done"] == 4 and progress[-1]["params"]["fraction"] == 1


def test_the_time_left_is_that_of_the_work_since_the_first_report():
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert pace.seconds_left(50, 100, "cutting") is None
    now[0] = 5.0
    assert pace.seconds_left(60, 100, "cutting") == pytest.approx(20)
    assert pace.seconds_left(60, 100, "writing") is None
    now[0] = 6.0
    assert pace.seconds_left(100, 100, "writing") == 0


def test_a_log_gets_a_line_of_long_work_and_none_of_short():
    now, lines = [0.0], []
    report = in_lines(lines.append, lambda: now[0])
    for step in range(1, 121):
        report(step - 1, 120, "tiling")
        now[0] += 10
    assert lines == [f"tiling: {done} of 120, {left} min left" for done, left in ((30, 15), (60, 10), (90, 5))]


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"verb": "dance"}, "There is no verb 'dance'"),
        ({"verb": "train", "values": {"colour": 1}}, "There is no field named colour."),
        ({"verb": "prepare", "values": {"output": "x"}}, "Imagery is missing."),
        ({"verb": "augment", "values": {"data": "nowhere", "output": "x"}}, "There is no chip in nowhere"),
    ],
)
def test_a_verb_that_cannot_run_says_why(child, params, sentence):
    child.send("run", params, 1)
    answer, _ = child.answer(1)
    assert answer["error"]["message"].startswith(sentence)


def test_a_cancelled_verb_ends(child, small_model, tmp_path, make_raster):
    for number in range(3):
        (tmp_path / "chips" / "a").mkdir(parents=True, exist_ok=True)
        make_raster(f"chips/a/{number}.tif", height=200, width=200)
    values = {"data": str(tmp_path / "chips"), "output": str(tmp_path / "more"), "variants": 50, "device": "cpu",
              "model": str(small_model.folder), "precision": "float32"}
    child.send("run", {"verb": "augment", "values": values}, 1)
    assert child.read()["method"] == "progress"
    child.send("cancel", {"id": 1})
    answer, _ = child.answer(1)
    assert answer["error"]["data"]["condition"] == "cancelled"
    assert not (tmp_path / "more" / "manifest.csv").exists()
