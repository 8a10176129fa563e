"""The set-up of the backend's environment: what it chooses, what it refuses, and, slowly, that it works offline."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
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
