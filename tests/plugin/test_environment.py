import os
import subprocess
import sys

import pytest
from qgis_support import CHECKOUT


@pytest.fixture
def environment(module, monkeypatch):
    monkeypatch.delenv("METAEARTH_PYTHON", raising=False)
    return module("plugin.core.environment")


def python_in(folder):
    path = folder / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.symlink_to(sys.executable)
    return path


def test_order_of_precedence(environment, tmp_path, monkeypatch):
    root, home = tmp_path / "root", tmp_path / "home"
    assert environment.backend_python(root, home).path is None
    checkout = python_in(root / ".venv")
    assert environment.backend_python(root, home).path == checkout
    own = python_in(home / "env")
    (home / "env" / environment.READY).touch()
    assert environment.backend_python(root, home).path == own
    saved = python_in(tmp_path / "saved")
    environment.save_choice(saved, home)
    assert environment.backend_python(root, home).path == saved
    named = python_in(tmp_path / "named")
    monkeypatch.setenv("METAEARTH_PYTHON", str(named))
    assert environment.backend_python(root, home).path == named


def test_without_any_the_sentence_says_what_to_do(environment, tmp_path):
    assert "make setup" in environment.backend_python(tmp_path, tmp_path).sentence


def test_a_named_python_that_is_gone_is_not_replaced_in_silence(environment, tmp_path, monkeypatch):
    python_in(tmp_path / ".venv")
    monkeypatch.setenv("METAEARTH_PYTHON", str(tmp_path / "gone"))
    found = environment.backend_python(tmp_path, tmp_path)
    assert found.path is None and "METAEARTH_PYTHON" in found.sentence


def test_a_file_that_cannot_be_started_is_not_saved(environment, tmp_path):
    text = tmp_path / "text"
    text.write_text("no program")
    with pytest.raises(ValueError, match="not a Python"):
        environment.save_choice(text, tmp_path)
    assert not (tmp_path / "python.txt").exists()


def test_command_line_saves_and_finds_from_a_checkout(tmp_path):
    command = [sys.executable, "-m", "plugin.core.environment"]
    variables = {**os.environ, "METAEARTH_HOME": str(tmp_path)}
    chosen = python_in(tmp_path / "mine")
    subprocess.run([*command, "--use", str(chosen)], cwd=CHECKOUT, env=variables, check=True)
    found = subprocess.run(command, cwd=CHECKOUT, env=variables, check=True, capture_output=True, text=True)
    assert found.stdout.startswith(str(chosen))
    wrong = subprocess.run([*command, "--use", str(tmp_path)], cwd=CHECKOUT, env=variables, capture_output=True)
    assert wrong.returncode == 1


def test_child_gets_none_of_qgis_variables(module):
    child_environment = module("plugin.core.backend_process").child_environment
    parent = {"PYTHONHOME": "/q", "PYTHONPATH": "/q", "VIRTUAL_ENV": "/v", "PIP_INDEX_URL": "u",
              "QGIS_PREFIX_PATH": "/q", "PROJ_LIB": "/q", "GDAL_DATA": "/q", "LD_LIBRARY_PATH": "/q",
              "LD_PRELOAD": "/q", "DYLD_INSERT": "/q", "QT_QPA_PLATFORM": "offscreen",
              "CUDA_VISIBLE_DEVICES": "1", "HOME": "/h",
              "PATH": os.pathsep.join(["/usr/bin", "/opt/QGIS 3.34/bin", "/OSGeo4W/bin"])}
    child = child_environment(parent, "/root")
    assert child == {"CUDA_VISIBLE_DEVICES": "1", "HOME": "/h", "PATH": "/usr/bin", "PYTHONPATH": "/root",
                     "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
