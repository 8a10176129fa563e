"""The set-up of the backend's environment: what it chooses, what it refuses, and, slowly, that it works offline."""

import base64
import json
import os
import platform
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from qgis.core import QgsSettings
from qgis_support import BACKEND_PYTHON, CHECKOUT, events_until

AMPERE = "NVIDIA RTX A2000, 8.6, 580.65.06\n"


@pytest.fixture
def accelerator(module):
    return module("plugin.core.accelerator")


@pytest.fixture
def installation(module):
    return module("plugin.core.installation")


@pytest.mark.parametrize("capability, driver, build", [
    ((8, 6), 580, "cu130"), ((7, 5), 580, "cu130"), ((7, 0), 580, "cu126"), ((8, 6), 570, "cu126"),
    ((10, 0), 570, "cpu"), ((12, 0), 590, "cu130"), ((8, 6), 550, "cpu"), ((3, 5), 470, "cpu"),
])
def test_the_build_of_torch_follows_gpu_and_driver(accelerator, capability, driver, build):
    found = accelerator.torch_build(accelerator.Gpu("a GPU", capability, driver), "linux", "x86_64")
    assert found.name == build and "a GPU" in found.reason


def test_nvidia_smi_is_understood(accelerator):
    assert accelerator.parse_gpu(AMPERE) == accelerator.Gpu("NVIDIA RTX A2000", (8, 6), 580)
    assert accelerator.parse_gpu("") is None and accelerator.parse_gpu("[N/A]") is None


def test_machines_without_a_gpu_and_macs(accelerator):
    assert accelerator.torch_build(None, "linux", "x86_64").name == "cpu"
    assert accelerator.torch_build(None, "darwin", "arm64").name == "cpu"
    intel = accelerator.torch_build(None, "darwin", "x86_64")
    assert intel.name is None and "Intel" in intel.reason


def test_the_pins_are_those_of_the_project(installation):
    project = (CHECKOUT / "pyproject.toml").read_text()
    assert f'"{installation.TORCH}"' in project and f'"uv=={installation.UV}"' in project


def test_a_folder_without_the_wheels_is_told(installation, tmp_path):
    lines = []
    setup = installation.Setup(CHECKOUT, tmp_path / "home", tmp_path, lines.append)
    with pytest.raises(installation.SetupError, match="missing or damaged"):
        setup.run("cpu")
    assert lines == ["torch build cpu: as asked"]
    assert "torch build cpu" in (tmp_path / "home" / "logs" / "setup.log").read_text()
    assert not (tmp_path / "home" / "setup.lock").exists()


def test_two_set_ups_do_not_meet(installation, tmp_path):
    (tmp_path / "setup.lock").touch()
    with pytest.raises(installation.SetupError, match="Another set-up is at work"):
        installation.Setup(CHECKOUT, tmp_path, tmp_path, lambda line: None).run("cpu")


def test_the_lock_of_a_set_up_that_is_gone_is_taken_over(installation, tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "setup.lock").write_text(f"{platform.node()} {gone.pid}")
    assert not installation.is_at_work(tmp_path)
    (tmp_path / "setup.lock").write_text(f"{platform.node()} {os.getpid()}")
    assert installation.is_at_work(tmp_path)


def test_a_set_up_that_breaks_leaves_what_worked(module, installation, tmp_path, monkeypatch):
    environment = module("plugin.core.environment")
    python, ready = environment.interpreter_in(tmp_path / "env"), tmp_path / "env" / environment.READY
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {BACKEND_PYTHON} "$@"\n')
    python.chmod(0o755)
    ready.write_text('{"lock": "old"}')
    setup = installation.Setup(CHECKOUT, tmp_path, tmp_path, lambda line: None)
    with pytest.raises(installation.SetupError, match="missing or damaged"):
        setup.run("cpu")
    assert ready.read_text() == '{"lock": "old"}'
    python.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(installation.SetupError, match="missing or damaged"):
        setup.run("cpu")
    assert not ready.exists()


def test_what_is_there_already_needs_no_space(installation, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "wheel").write_bytes(bytes(1000))
    os.link(tmp_path / "cache" / "wheel", tmp_path / "cache" / "twin")
    assert installation.folder_bytes(tmp_path / "cache") == 1000
    monkeypatch.setattr(installation, "SPARE_BYTES", 0)
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(installation.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    monkeypatch.setattr(installation, "CPU_BYTES", free + 900)
    installation.Setup(CHECKOUT, tmp_path)._check_space("cpu")
    monkeypatch.setattr(installation, "CPU_BYTES", free + 1100)
    with pytest.raises(installation.SetupError, match="METAEARTH_HOME"):
        installation.Setup(CHECKOUT, tmp_path)._check_space("cpu")


@pytest.fixture
def mirror():
    """A package index that wants a login; what it was asked for."""
    asked = []

    class Index(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            known = self.headers.get("Authorization") == f"Basic {base64.b64encode(b'me:s@cret').decode()}"
            self.send_response(200 if known else 401)
            self.end_headers()
            page = f'<a href="http://{self.headers["Host"]}/files/uv-1.whl#sha256=0">uv</a>'.encode()
            self.wfile.write(b"wheel" if self.path.endswith(".whl") else page)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_mirror_with_a_login_is_read(module, mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    index, (place, asked) = module("plugin.core.package_index"), mirror
    variables = {"UV_DEFAULT_INDEX": f"ours=http://me:s%40cret@{place}/simple/"}
    index.download("uv", "uv-1.whl", tmp_path / "uv-1.whl", variables, lambda: False)
    assert (tmp_path / "uv-1.whl").read_bytes() == b"wheel" and asked == ["/simple/uv/", "/files/uv-1.whl"]
    with pytest.raises(index.Stopped):
        index.download("uv", "uv-1.whl", tmp_path / "other.whl", variables, lambda: True)
    assert not (tmp_path / "other.whl").exists()
    with pytest.raises(index.PROBLEMS) as failure:
        index.download("uv", "uv-2.whl", tmp_path / "uv-2.whl", variables, lambda: False)
    assert "cret" not in str(failure.value)


def test_a_proxy_is_used_unless_the_environment_names_one(module):
    with_proxy = module("plugin.core.package_index").with_proxy
    assert with_proxy({"A": "b"}, "http://p:1") == {"A": "b", "HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:1"}
    assert with_proxy({"https_proxy": "q"}, "http://p:1") == {"https_proxy": "q", "HTTP_PROXY": "http://p:1"}
    assert with_proxy({"ALL_PROXY": "q"}, "http://p:1") == {"ALL_PROXY": "q"} == with_proxy({"ALL_PROXY": "q"}, "")


def test_qgis_has_a_proxy_of_its_own(module):
    told, settings = module("plugin.core.settings").qgis_proxy, QgsSettings()
    assert told() == ""
    values = {"Enabled": True, "Type": "HttpProxy", "Host": "proxy.example", "Port": "3128", "User": "me",
              "Password": "s@cret"}
    for name, value in values.items():
        settings.setValue(f"proxy/proxy{name}", value)
    try:
        assert told() == "http://me:s%40cret@proxy.example:3128"
        settings.setValue("proxy/proxyType", "Socks5Proxy")
        assert told() == ""
    finally:
        settings.remove("proxy")


def test_too_small_a_disk_is_told(installation, tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "CPU_BYTES", 10**18)
    with pytest.raises(installation.SetupError, match="METAEARTH_HOME"):
        installation.Setup(CHECKOUT, tmp_path, tmp_path, lambda line: None).run("cpu")


def test_the_log_keeps_no_credentials(installation, tmp_path):
    lines = []
    installation.Setup(CHECKOUT, tmp_path, None, lines.append).tell("from https://me:secret@mirror.example/simple")
    assert lines == ["from https://***@mirror.example/simple"]
    assert "secret" not in (tmp_path / "logs" / "setup.log").read_text()


def test_a_program_that_fails_or_is_stopped_is_told(installation, tmp_path):
    setup = installation.Setup(CHECKOUT, tmp_path, None, lambda line: None)
    with pytest.raises(installation.SetupError, match="no such luck"):
        setup._do(["sh", "-c", "echo no such luck; exit 3"])
    said = []
    setup.say, setup.cancelled = said.append, lambda: bool(said)
    with pytest.raises(installation.SetupCancelled):
        setup._do(["sh", "-c", "sleep 600 & echo $!; wait"])
    # what the program has started ends with it; else its output would stay open for ten minutes
    state = subprocess.run(["ps", "-o", "stat=", "-p", said[0]], capture_output=True, text=True, check=False).stdout
    assert state.strip()[:1] in ("", "Z")


def test_an_unfinished_or_old_environment_is_known(module, installation, tmp_path):
    environment = module("plugin.core.environment")
    python = environment.interpreter_in(tmp_path / "env")
    python.parent.mkdir(parents=True)
    os.symlink(BACKEND_PYTHON, python)
    assert environment.backend_python(tmp_path, tmp_path).path is None
    (tmp_path / "env" / environment.READY).write_text(json.dumps({"lock": "old"}))
    assert environment.backend_python(tmp_path, tmp_path).path == python
    assert installation.needs_update(CHECKOUT, tmp_path)
    installation.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_dialog_takes_a_python_and_says_what_is_wrong(module, tmp_path, monkeypatch):
    monkeypatch.setenv("METAEARTH_HOME", str(tmp_path / "home of one"))
    dialog = module("plugin.gui.setup_dialog").SetupDialog(None)
    ready = []
    dialog.ready.connect(lambda: ready.append(True))
    dialog.python_box.setFilePath(str(tmp_path / "none"))
    dialog.use_button.click()
    assert "not a Python" in dialog.log.toPlainText() and not ready
    dialog.python_box.setFilePath(str(BACKEND_PYTHON))
    dialog.use_button.click()
    assert ready and str(BACKEND_PYTHON) in dialog.state_label.text()
    dialog.wheels_box.setFilePath(str(tmp_path))
    dialog.start_button.click()
    assert not dialog.start_button.isEnabled()
    events_until(lambda: "missing or damaged" in dialog.log.toPlainText())
    assert dialog.start_button.isEnabled()


@pytest.mark.slow
def test_an_environment_is_made_from_wheels_alone(tmp_path):
    """Collects the wheels with pip, then sets up without a network, by the terminal's command; spaces in every path."""
    wheels, home = tmp_path / "the wheels", tmp_path / "a home"
    pip = [str(BACKEND_PYTHON), "-m", "pip", "download", "--quiet", "--dest", str(wheels)]
    installation = (CHECKOUT / "plugin" / "core" / "installation.py").read_text()
    uv, torch = (installation.split(f"\n{name} = \"")[1].split('"')[0] for name in ("UV", "TORCH"))
    subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", str(CHECKOUT / "resources/backend.lock")], check=True)
    subprocess.run([*pip, "--no-deps", f"uv=={uv}"], check=True)
    subprocess.run([*pip, torch], check=True)
    variables = {**os.environ, "METAEARTH_HOME": str(home), "https_proxy": "http://127.0.0.1:9", "PYTHONPATH": ""}
    command = [shutil.which("python3"), "-m", "plugin.core.environment"]
    made = subprocess.run([*command, "--set-up", "--torch", "cpu", "--wheels", str(wheels)], cwd=CHECKOUT,
                          env=variables, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    python = Path(made.stdout.splitlines()[-1].split(" (")[0])
    assert python == home / "env" / "bin" / "python"
    models = subprocess.run([str(python), "-m", "backend", "models"], cwd=CHECKOUT, env=variables, capture_output=True,
                            text=True)
    assert "metaearth-lite" in models.stdout
    removed = subprocess.run([*command, "--remove"], cwd=CHECKOUT, env=variables, capture_output=True, text=True)
    assert removed.returncode == 0 and not (home / "env").exists()
