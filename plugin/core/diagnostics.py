"""A report on QGIS, the system and the backend for those who are asked for help; without the user's names."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import Dict, List

from osgeo import gdal
from qgis.core import Qgis, QgsSettings
from qgis.PyQt.QtCore import PYQT_VERSION_STR, QT_VERSION_STR, QSysInfo

from ...backend.protocol import ENGINE_VERSION, PROTOCOL_VERSION, data_home
from .accelerator import find_gpu
from .backend_client import PLUGIN_ROOT, BackendClient
from .environment import backend_python
from .package_index import without_credentials
from .settings import PREFIX

LOG_LINES = 60
SECRET = re.compile(r"(?i)((?:api[_-]?key|token|password|passwd|secret|authorization)\s*[=:]\s*)\S+")


def report(client: BackendClient, facts: Dict[str, str]) -> str:
    """The report as text; ``facts`` are the backend's `Diagnosis`, or why it gives none."""
    shake, gpu = client.state.handshake, find_gpu()
    lines = [
        ("MetaEarth", f"{ENGINE_VERSION}, protocol {PROTOCOL_VERSION}"),
        ("QGIS", Qgis.QGIS_VERSION),
        ("Qt", f"{QT_VERSION_STR}, PyQt {PYQT_VERSION_STR}"),
        ("GDAL", gdal.__version__),
        ("Python", sys.version.split()[0]),
        ("System", f"{QSysInfo.prettyProductName()}, {platform.machine()}, {os.cpu_count()} cores"),
        ("Backend's Python", backend_python(PLUGIN_ROOT, data_home()).sentence),
        ("Backend", client.state.stage),
        ("Device", f"{shake.device_name}, {shake.memory_bytes / 1e9:.1f} GB" if shake else "not known yet"),
        ("NVIDIA driver", f"{gpu.driver} ({gpu.name})" if gpu else "none"),
        *facts.items(),
    ]
    text = [f"{name}: {value}" for name, value in lines]
    text += ["", "Settings:", *_settings(), "", "Last lines of the log:", *_log_lines()]
    return redacted("\n".join(text))


def redacted(text: str) -> str:
    """``text`` without the user's home, name, keys and passwords."""
    text = without_credentials(SECRET.sub(r"\1***", text))
    home = str(Path.home())
    if len(home) > 1:
        text = text.replace(home, "~")
    user = os.environ.get("USER") or os.environ.get("USERNAME") or ""
    return re.sub(rf"\b{re.escape(user)}\b", "<user>", text) if len(user) > 2 and user != "root" else text


def _settings() -> List[str]:
    settings = QgsSettings()
    settings.beginGroup(PREFIX.rstrip("/"))
    return [f"  {key}: {settings.value(key)}" for key in settings.allKeys()]


def _log_lines() -> List[str]:
    logs = sorted((data_home() / "logs").glob("backend-*.log"), key=os.path.getmtime)
    return logs[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:] if logs else []
