"""Runs inside a QGIS window (``qgis --code``): uses the plugin with mouse and keys, and writes what it saw as JSON.

METAEARTH_TEST_STEPS names the functions below that are called, in order.
"""

import json
import os
import signal
import time
import traceback
from pathlib import Path

from qgis.core import QgsApplication, QgsProject, QgsRasterLayer, QgsRectangle
from qgis.PyQt.QtCore import QElapsedTimer, QPoint, Qt, QTimer
from qgis.PyQt.QtTest import QTest
from qgis.PyQt.QtWidgets import QAction, QMenu, QPushButton
from qgis.utils import iface, plugins, unloadPlugin

TEXT = "Generate higher resolution…"
SCREENS = Path(os.environ["METAEARTH_TEST_SCREENS"])
FOLDER = Path(os.environ["METAEARTH_TEST_FOLDER"])
LEFT = Qt.MouseButton.LeftButton
seen = {}


class Stall:
    """The longest time that the event loop was busy, in milliseconds."""

    def __init__(self):
        self.worst, self.clock, self.timer = 0, QElapsedTimer(), QTimer()
        self.clock.start()
        self.timer.timeout.connect(self.tick)
        self.timer.start(0)

    def tick(self):
        self.worst = max(self.worst, self.clock.restart())

    def read(self):
        worst, self.worst = self.worst, 0
        return worst


def until(condition, seconds=120):
    """What ``condition`` returns once it is true; the event loop runs freely meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        QTest.qWait(10)
    raise TimeoutError(f"{condition.__code__.co_filename}:{condition.__code__.co_firstlineno}")


def shot(name):
    QTest.qWait(300)
    SCREENS.mkdir(parents=True, exist_ok=True)
    iface.mainWindow().screen().grabWindow(0).save(str(SCREENS / f"{name}.png"))


def timed(action, condition, seconds=120):
    began = time.monotonic()
    action()
    until(condition, seconds)
    return round(time.monotonic() - began, 2)


def click(widget):
    QTest.mouseClick(widget, LEFT)


def dock():
    return plugins["metaearth"].dock


def planned():
    return until(lambda: "px of" in dock().cost_label.text() and dock().run_box.run_button.isEnabled())


def names():
    return sorted(layer.name() for layer in QgsProject.instance().mapLayers().values())


def texts(actions):
    return [action.text() for action in actions]


def menus():
    submenus = [a.menu() for a in iface.rasterMenu().actions() if a.menu() and "MetaEarth" in a.text()]
    context = iface.layerTreeView().menuProvider().createContextMenu()
    assert isinstance(context, QMenu)
    return {"provider": QgsApplication.processingRegistry().providerById("metaearth") is not None,
            "menu": [text for menu in submenus for text in texts(menu.actions())],
            "toolbar": TEXT in texts(iface.rasterToolBar().actions()), "context": TEXT in texts(context.actions())}


def backend():
    from metaearth.plugin.core.backend_client import session_client

    return session_client().state


def open_the_sample():
    plugins["metaearth"].sample_action.trigger()
    QTest.qWait(1500)
    seen["before"] = menus()
    planned()
    dock().form.output_box.setFilePath(str(FOLDER / "sample.tif"))
    shot("1-dock")


def draw_an_extent():
    menu_button = dock().form.extent_box.findChildren(QAction)
    (draw,) = [action for action in menu_button if "Draw" in action.text()]
    draw.trigger()
    canvas = iface.mapCanvas().viewport()
    middle = canvas.rect().center()
    QTest.mousePress(canvas, LEFT, pos=middle - QPoint(60, 60))
    QTest.mouseMove(canvas, middle)
    QTest.mouseMove(canvas, middle + QPoint(60, 60))
    QTest.mouseRelease(canvas, LEFT, pos=middle + QPoint(60, 60))
    until(lambda: dock().form.extent() is not None)
    seen["drawn"] = dock().form.layer().extent().contains(dock().form.extent())
    planned()
    shot("2-extent")


def preview():
    stall = Stall()
    seen["preview_s"] = timed(lambda: click(dock().preview_button), lambda: dock().picture._after is not None)
    seen["preview_stall_ms"] = stall.read()
    shot("3-preview")


def small_extent(layer, pixels):
    size, centre = layer.rasterUnitsPerPixelX() * pixels, layer.extent().center()
    return QgsRectangle.fromCenterAndSize(centre, size, size)


def run():
    layer = dock().form.layer()
    dock().form.extent_box.setOutputExtentFromUser(small_extent(layer, 48), layer.crs())
    iface.mapCanvas().setExtent(small_extent(layer, 54))
    planned()
    stall = Stall()
    seen["warm_s"] = timed(lambda: click(dock().run_box.run_button), lambda: "windows" in dock().run_box.label.text())
    until(lambda: not dock().runs)
    seen["run_stall_ms"] = stall.read()
    seen["result"] = dock().run_box.label.text()
    seen["layers"] = names()
    shot("4-result")


def translate():
    tab, bar = dock().modalities, dock().tabs.tabBar()
    QTest.mouseClick(bar, LEFT, pos=bar.tabRect(1).center())
    until(tab.form.model_row.model)
    layer = tab.form.lead()
    tab.form.show_values({"MODEL": "tiny-mm", "TARGETS": ["nir", "osm"], "SEED": 1})
    tab.form.extent_box.setOutputExtentFromUser(small_extent(layer, 80), layer.crs())
    until(tab.run_box.run_button.isEnabled)
    click(tab.run_box.run_button)
    until(lambda: not tab.runs)
    seen["translated"] = tab.run_box.label.text()
    shot("11-modalities")
    QTest.mouseClick(bar, LEFT, pos=bar.tabRect(0).center())


def compare():
    plugins["metaearth"].swipe_action.trigger()
    canvas = iface.mapCanvas().viewport()
    QTest.qWait(1500)
    QTest.mouseMove(canvas, canvas.rect().center() + QPoint(-30, 0))
    QTest.qWait(200)
    QTest.mouseMove(canvas, canvas.rect().center())
    shot("5-compare")
    seen["comparing"] = iface.mapCanvas().mapTool() is plugins["metaearth"].swipe_tool
    plugins["metaearth"].swipe_action.trigger()
    seen["compared"] = iface.mapCanvas().mapTool() is plugins["metaearth"].swipe_tool


def begin_long():
    """A job of several minutes, some of it finished."""
    layer = dock().form.layer()
    dock().form.extent_box.setOutputExtentFromUser(small_extent(layer, 200), layer.crs())
    iface.mapCanvas().setExtent(small_extent(layer, 220))
    dock().form.output_box.setFilePath(str(FOLDER / f"long{time.monotonic_ns()}.tif"))
    dock().form.stages_box.setValue(2)
    planned()
    click(dock().run_box.run_button)
    until(lambda: any("being made" in name for name in names()))


def cancel():
    stall = Stall()
    begin_long()
    click(dock().preview_button)  # waits behind the job, and takes another of QGIS's threads
    QTest.qWait(8000)
    until(lambda: not iface.mapCanvas().isDrawing(), 30)
    shot("6-filling")
    seen["filling_stall_ms"] = stall.read()
    seen["cancel_s"] = timed(dock().run_box.drop_action.trigger, lambda: not dock().runs)
    seen["left_by_cancel"] = [path.name for path in FOLDER.glob("*.metaearth-job")]


def kill_the_backend():
    begin_long()
    os.kill(backend().handshake.pid, signal.SIGKILL)
    until(lambda: not dock().runs)
    seen["killed"] = dock().run_box.label.text().splitlines()[0]
    shot("7-killed")


def cold_start():
    """The backend is dead now: from the click to the first progress."""
    layer = dock().form.layer()
    dock().form.extent_box.setOutputExtentFromUser(small_extent(layer, 40), layer.crs())
    dock().form.stages_box.setValue(1)
    dock().form.output_box.setFilePath(str(FOLDER / "cold.tif"))
    planned()
    killed = set()

    def is_down():
        """A question that was still on its way starts another child; that one goes too."""
        now = backend().handshake
        if now and now.pid not in killed:
            killed.add(now.pid)
            os.kill(now.pid, signal.SIGKILL)
        return backend().stage == "stopped"

    until(is_down)
    seen["cold_s"] = timed(lambda: click(dock().run_box.run_button), lambda: "windows" in dock().run_box.label.text())
    until(lambda: not dock().runs)


def resume_after_reopening():
    """QGIS was opened again: it offers what the kill interrupted."""
    button = until(lambda: [b for b in iface.messageBar().findChildren(QPushButton) if b.text() == "Resume"])[0]
    shot("8-offer")
    click(button)
    until(lambda: "windows" in dock().run_box.label.text())
    shot("9-resumed")
    dock().run_box.stop(keep=False)
    until(lambda: not dock().runs)
    seen["left_by_resume"] = [path.name for path in FOLDER.glob("*.metaearth-job")]


def work_until_killed():
    """For a test that kills QGIS itself."""
    begin_long()
    (FOLDER / "working").write_text(str(backend().handshake.pid))
    QTest.qWait(120000)


def without_plugin():
    """The same things done to the map without us: what QGIS itself stalls."""
    stall = Stall()
    layer = QgsRasterLayer(os.environ["METAEARTH_TEST_SCENE"], "plain")
    QgsProject.instance().addMapLayer(layer)
    QTest.qWait(2000)
    seen["plain_stall_ms"] = stall.read()


def look_at_dialogs():
    plugin = plugins["metaearth"]
    plugin.setup_action.trigger()
    page = plugin.options_factory.createWidget(None)
    page.resize(620, 520)
    page.move(20, 200)
    page.show()
    until(lambda: page.models_list.count())
    shot("10-dialogs")
    seen["dialogs"] = plugin.setup_dialog.isVisible() and page.isVisible()
    plugin.setup_dialog.close()
    page.close()


def unload():
    seen["unloaded"] = unloadPlugin("metaearth")
    seen["after"] = menus()


def main():
    iface.mainWindow().setGeometry(0, 0, 1400, 900)
    try:
        for step in os.environ["METAEARTH_TEST_STEPS"].split():
            globals()[step]()
    except Exception:
        seen["error"] = traceback.format_exc()
        shot("error")
    with open(os.environ["METAEARTH_TEST_REPORT"], "w", encoding="utf-8") as report:
        json.dump(seen, report)
    # QGIS asks about tasks that still run and about layers that were not saved.
    until(lambda: not QgsApplication.taskManager().countActiveTasks(), 30)
    QgsProject.instance().clear()
    iface.actionExit().trigger()


QTimer.singleShot(2000, main)
