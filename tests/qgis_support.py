"""Small rasters, a small model and private folders for tests that run QGIS and the backend together."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from pathlib import Path

import numpy as np
from osgeo import gdal, osr

gdal.UseExceptions()

CHECKOUT = Path(__file__).resolve().parents[1]
BACKEND_PYTHON = CHECKOUT / ".venv" / "bin" / "python"
PIXEL = 10.0
LEFT, TOP = 500000.0, 4500000.0

TINY_MODEL = """
import sys
from pathlib import Path
import torch
from backend.diffusion.schedules import NoiseSchedule
from backend.models.bundle import ModelConfig, Profile, save_bundle
from backend.models.cascade_network import CascadeNetwork
from backend.models.config import EncoderConfig, NetworkConfig
torch.manual_seed(0)
network = NetworkConfig(base_channels=16, multipliers=(1, 1), blocks_per_level=1, embedding_channels=16, unshuffle=4,
                        residual=True, head_channels=16, encoder=EncoderConfig(8, 1, 8))
config = ModelConfig("tiny", "Tiny", network, NoiseSchedule("linear", 0.0015, 0.0155, 1000), "v", (0.1, 500.0),
                     Profile(steps=2, margin=20), "GPL-2.0-or-later", {})
save_bundle(Path(sys.argv[1]), config, CascadeNetwork(network).state_dict())

from backend.models.bundle import SceneModelConfig
from backend.models.scene_config import SceneNetworkConfig, VaeConfig
scene = SceneNetworkConfig(tile=64, width=32, heads=2, inference_blocks=1, generator_blocks=1, encoding_channels=16,
                           vae=VaeConfig(4, 6, (16,), 1))
config = SceneModelConfig("tiny-mm", "Tiny MM", scene, (0.1, 500.0), Profile(margin=16, ramp=8, steps=2), "", {})
save_bundle(Path(sys.argv[1]).with_name("tiny-mm"), config, config.build().state_dict())
"""


def script(name: str):
    """A module of the folder scripts/."""
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def qgis_variables(folder: Path, home: Path) -> dict[str, str]:
    """The environment of a QGIS with a private profile in ``folder`` that has the plugin enabled."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("QGIS_")}
    # Another Python before QGIS's own on PATH makes its embedded one lose PyQGIS.
    return {**ours, **script("qgis_profile").private_profile(folder), "METAEARTH_HOME": str(home),
            "QT_QPA_PLATFORM": "offscreen", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def make_home(home: Path) -> Path:
    """A data root whose only models, `tiny` and `tiny-mm`, have random weights and run in a moment."""
    subprocess.run([str(BACKEND_PYTHON), "-c", TINY_MODEL, str(home / "models" / "tiny")], check=True,
                   env={**os.environ, "PYTHONPATH": str(CHECKOUT)})
    return home


def write_raster(path: Path, side: int, bands: int = 3, epsg: int | None = 32611, dtype: int = gdal.GDT_Byte) -> str:
    """A GeoTIFF of smooth noise, ``side`` pixels wide and high, 10 units a pixel."""
    values = np.random.default_rng(1).integers(40, 200, (bands, side // 4 + 2, side // 4 + 2))
    values = values.repeat(4, axis=1).repeat(4, axis=2)[:, :side, :side]
    dataset = gdal.GetDriverByName("GTiff").Create(str(path), side, side, bands, dtype)
    dataset.SetGeoTransform((LEFT, PIXEL, 0, TOP, 0, -PIXEL))
    if epsg:
        reference = osr.SpatialReference()
        reference.ImportFromEPSG(epsg)
        dataset.SetProjection(reference.ExportToWkt())
    for band, plane in enumerate(values, start=1):
        dataset.GetRasterBand(band).WriteArray(plane)
    dataset.FlushCache()
    return str(path)


def backend_children(parent: int) -> list[int]:
    """Process ids of the backends that ``parent`` started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if int(status[1]) == parent and status[0] != "Z" and b"backend" in command and b"serve" in command:
                found.append(int(entry.name))
    return found


def is_running(pid: int) -> bool:
    """Whether a process with that id lives; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float):
    """What ``condition`` returns as soon as it is true; an error after ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError(f"Waited {seconds} s in vain.")


def events_until(condition, seconds: float = 60):
    """What ``condition`` returns as soon as it is true, with Qt's events handled meanwhile."""
    from qgis.PyQt.QtWidgets import QApplication

    def look():
        QApplication.processEvents()
        return condition()

    return wait_for(look, seconds)


def show(window, path: str, name: str = "scene"):
    """A layer of a raster, in the project and on the map of ``window``."""
    from qgis.core import QgsProject, QgsRasterLayer

    layer = QgsRasterLayer(path, name)
    QgsProject.instance().addMapLayer(layer)
    window.canvas.setDestinationCrs(layer.crs())
    window.canvas.setLayers([layer])
    window.canvas.setExtent(layer.extent())
    return layer
