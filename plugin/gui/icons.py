"""QGIS's own icons, which follow its theme."""

from __future__ import annotations

from qgis.core import QgsApplication
from qgis.PyQt.QtGui import QIcon


def icon(name: str) -> QIcon:
    """The theme's icon, for example mActionRefresh.svg."""
    return QgsApplication.getThemeIcon(f"/{name}")
