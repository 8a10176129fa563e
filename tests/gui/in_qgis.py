"""Runs inside a QGIS window (``qgis --code``): looks at what the plugin added, and writes what it saw as JSON."""

import json
import os
import time
import traceback

from qgis.core import QgsApplication, QgsProject, QgsRasterLayer
from qgis.PyQt.QtCore import QTimer
from qgis.PyQt.QtWidgets import QApplication, QMenu
from qgis.utils import iface, plugins, unloadPlugin

TEXT = "Generate higher resolution…"


def texts(actions):
    return [action.text() for action in actions]


def context_menu():
    """Texts of the layer's context menu, as a right click would show it."""
    menu = iface.layerTreeView().menuProvider().createContextMenu()
    assert isinstance(menu, QMenu)
    return texts(menu.actions())


def dialogs():
    return [w for w in QApplication.topLevelWidgets() if type(w).__name__ == "AlgorithmDialog" and w.isVisible()]


def run(dialog):
    """Names of the layers and keywords of the new ones after the Run button did its work."""
    dialog.setParameters({**dialog.createProcessingParameters(), "MODEL": "tiny", "SEED": 7})
    dialog.runButton().click()
    end = time.monotonic() + 60
    while len(QgsProject.instance().mapLayers()) < 2 and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.02)
    layers = QgsProject.instance().mapLayers().values()
    return {layer.name(): layer.metadata().keywords().get("metaearth", [])[:1] for layer in layers}


def look():
    seen = {"provider": QgsApplication.processingRegistry().providerById("metaearth") is not None}
    layer = QgsRasterLayer(os.environ["METAEARTH_TEST_SCENE"], "scene")
    QgsProject.instance().addMapLayer(layer)
    iface.setActiveLayer(layer)
    submenus = [a.menu() for a in iface.rasterMenu().actions() if a.menu() and "MetaEarth" in a.text()]
    seen["menu"] = [text for menu in submenus for text in texts(menu.actions())]
    seen["toolbar"] = TEXT in texts(iface.rasterToolBar().actions())
    seen["context"] = TEXT in context_menu()
    plugins["metaearth"].action.trigger()
    (dialog,) = dialogs()
    seen["dialog"] = dialog.algorithm().id()
    seen["input"] = dialog.createProcessingParameters()["INPUT"] == layer.id()
    seen["layers"] = run(dialog)
    iface.mainWindow().screen().grabWindow(dialog.winId()).save(os.environ["METAEARTH_TEST_REPORT"] + ".png")
    seen["unloaded"] = unloadPlugin("metaearth")
    seen["left"] = {
        "provider": QgsApplication.processingRegistry().providerById("metaearth") is not None,
        "menu": [a.text() for a in iface.rasterMenu().actions() if "MetaEarth" in a.text()],
        "toolbar": TEXT in texts(iface.rasterToolBar().actions()),
        "context": TEXT in context_menu(),
    }
    return seen


def main():
    try:
        seen = look()
    except Exception:
        seen = {"error": traceback.format_exc()}
    with open(os.environ["METAEARTH_TEST_REPORT"], "w", encoding="utf-8") as report:
        json.dump(seen, report)
    # Asks nothing about layers that were not saved.
    QgsProject.instance().clear()
    iface.actionExit().trigger()


QTimer.singleShot(2000, main)
