import gc
import importlib
import sys
from pathlib import Path

import pytest
from osgeo import gdal
from qgis.core import QgsProject, QgsRasterLayer
from qgis.gui import QgsMapCanvas, QgsMessageBar
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtWidgets import QMainWindow

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import qgis_support

PLUGINS = qgis_support.CHECKOUT / "build" / "plugins"


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    folder = qgis_support.make_home(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAEARTH_HOME", str(folder))
        patch.delenv("METAEARTH_PYTHON", raising=False)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def metaearth(home, qgis_app):
    """The plugin's package under the name that it has in QGIS, its provider registered as under qgis_process."""
    qgis_support.script("qgis_profile").link_plugin(PLUGINS)
    sys.path.insert(0, str(PLUGINS))
    plugin = importlib.import_module("metaearth").classFactory(None)
    plugin.initProcessing()
    yield sys.modules["metaearth"]
    qgis_app.processingRegistry().removeProvider(plugin.provider)
    importlib.import_module("metaearth.plugin.core.backend_client").close_session_client()


@pytest.fixture
def module(metaearth):
    """Gives a module of the plugin by its dotted name below the package."""
    return lambda name: importlib.import_module(f"metaearth.{name}")


@pytest.fixture
def scene(tmp_path):
    """48 x 48 pixels of 10 m, three bands: one window of the tiny model."""
    return qgis_support.write_raster(tmp_path / "scene.tif", 48)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """QGIS's working directory; what is open in it by a relative name is closed before it is left."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    QgsProject.instance().clear()
    gc.collect()


def xyz_layer(folder):
    layer = QgsRasterLayer(f"type=xyz&zmin=0&zmax=3&url=file://{folder}/{{z}}/{{x}}/{{y}}.png", folder.name, "wms")
    assert layer.isValid()
    return layer


@pytest.fixture
def unreachable_tiles(tmp_path):
    """An XYZ layer whose tiles are not there."""
    return xyz_layer(tmp_path / "nowhere")


@pytest.fixture
def tiles(tmp_path):
    """An XYZ layer over local files: every tile of zoom 0 to 3 has a colour of its own."""
    for zoom in range(4):
        for x in range(2**zoom):
            for y in range(2**zoom):
                path = tmp_path / "tiles" / str(zoom) / str(x) / f"{y}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                tile = gdal.GetDriverByName("MEM").Create("", 256, 256, 3)
                for band, value in enumerate((20 * x + 20, 20 * y + 20, 60 * zoom), start=1):
                    tile.GetRasterBand(band).Fill(value)
                gdal.GetDriverByName("PNG").CreateCopy(str(path), tile).FlushCache()
    return xyz_layer(tmp_path / "tiles")


@pytest.fixture
def window():
    window = QMainWindow()
    window.canvas = QgsMapCanvas(window)
    window.messages = QgsMessageBar(window)
    window.setCentralWidget(window.canvas)
    window.resize(1000, 900)
    window.show()
    yield window
    QgsProject.instance().clear()


@pytest.fixture
def layer(window, scene):
    return qgis_support.show(window, scene)


@pytest.fixture
def dock(module, window, layer):
    dock = module("plugin.gui.dock").GenerateDock(window, window.canvas, window.messages)
    window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, dock)
    dock.form.show_values({"MODEL": "tiny", "STAGES": 1, "SEED": 0})
    yield dock
    dock.close_for_good()
    qgis_support.events_until(lambda: not module("plugin.core.runs")._running)
    window.removeDockWidget(dock)
    dock.deleteLater()
