"""A real QGIS window under Xvfb, used with mouse and keys; screenshots in build/screens."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import qgis_support

ENTRIES = ["Generate higher resolution…", "Compare with the source", "Open the sample scene", "Set up the backend…",
           "Copy a diagnostic report"]
SCREENS = qgis_support.CHECKOUT / "build" / "screens"
USE = ("without_plugin open_the_sample draw_an_extent preview run compare translate cancel cold_start look_at_dialogs "
       "kill_the_backend")


@pytest.fixture(scope="module")
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


class Window:
    """QGIS with a private profile and data root, which keep what one window leaves for the next."""

    def __init__(self, folder, display):
        self.folder, self.report = folder, folder / "report"
        home = qgis_support.make_home(folder / "home")
        self.variables = {
            **qgis_support.qgis_variables(folder / "qgis", home), "DISPLAY": display, "QT_QPA_PLATFORM": "xcb",
            "METAEARTH_TEST_REPORT": str(self.report), "METAEARTH_TEST_SCREENS": str(SCREENS),
            "METAEARTH_TEST_FOLDER": str(folder),
            "METAEARTH_TEST_SCENE": qgis_support.write_raster(folder / "scene.tif", 400)}

    def start(self, steps):
        script = Path(__file__).with_name("in_qgis.py")
        return subprocess.Popen(["/usr/bin/qgis.bin", "--nologo", "--noversioncheck", "--code", str(script)],
                                env={**self.variables, "METAEARTH_TEST_STEPS": steps}, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, start_new_session=True)

    def use(self, steps):
        """What the steps saw."""
        self.report.unlink(missing_ok=True)
        process = self.start(steps)
        try:
            process.wait(400)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return json.loads(self.report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def window(display, tmp_path_factory):
    return Window(tmp_path_factory.mktemp("window"), display)


def test_an_analyst_uses_the_panel_with_the_lite_model(window):
    seen = window.use(f"{USE} unload")
    print(json.dumps({k: v for k, v in seen.items() if k.endswith(("_s", "_ms"))}))
    assert "error" not in seen, seen["error"]
    assert seen["before"] == {"provider": True, "menu": ENTRIES, "toolbar": True, "context": True}
    assert seen["drawn"] and seen["comparing"] and not seen["compared"]
    assert seen["result"].startswith("Done: 2.5 m/px, seed ")
    assert any(name.startswith("MetaEarth sample scene – 2.5 m") for name in seen["layers"])
    assert seen["translated"].startswith("Done: 2 layers in the group MetaEarth sample scene – modalities, seed 1.")
    assert seen["left_by_cancel"] == []
    assert "stopped unexpectedly" in seen["killed"]
    assert seen["dialogs"]
    assert seen["unloaded"]
    assert seen["after"] == {"provider": False, "menu": [], "toolbar": False, "context": False}
    again = window.use("resume_after_reopening")
    assert "error" not in again, again["error"]
    assert again["left_by_resume"] == []


def test_a_killed_qgis_leaves_no_backend(window):
    process = window.start("open_the_sample work_until_killed")
    try:
        working = qgis_support.wait_for((window.folder / "working").exists, 120)
        assert working
        backend = int((window.folder / "working").read_text())
    finally:
        process.kill()  # QGIS alone: its children see their input end
        process.wait()
    qgis_support.wait_for(lambda: not qgis_support.is_running(backend), 60)
