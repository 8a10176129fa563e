import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import qgis_support


@pytest.fixture
def display():
    """The name of a display of our own."""
    read, write = os.pipe()
    server = subprocess.Popen(["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x900x24"], pass_fds=[write],
                              stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as stream:
        number = stream.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


def test_what_the_plugin_adds_to_the_window_it_takes_away_again(display, tmp_path):
    home = qgis_support.make_home(tmp_path / "home")
    variables = {**qgis_support.qgis_variables(tmp_path / "qgis", home), "DISPLAY": display, "QT_QPA_PLATFORM": "xcb",
                 "METAEARTH_TEST_REPORT": str(tmp_path / "report"),
                 "METAEARTH_TEST_SCENE": qgis_support.write_raster(tmp_path / "scene.tif", 48)}
    script = Path(__file__).with_name("in_qgis.py")
    subprocess.run(["/usr/bin/qgis", "--nologo", "--noversioncheck", "--code", str(script)], env=variables, timeout=180,
                   capture_output=True)
    seen = json.loads((tmp_path / "report").read_text(encoding="utf-8"))
    assert seen == {
        "provider": True, "menu": ["Generate higher resolution…"], "toolbar": True, "context": True,
        "dialog": "metaearth:generatehigherresolution", "input": True, "unloaded": True,
        "layers": {"scene": [], "scene – 2.5 m, tiny, seed 7 (synthetic)": ["synthetic"]},
        "left": {"provider": False, "menu": [], "toolbar": False, "context": False},
    }
