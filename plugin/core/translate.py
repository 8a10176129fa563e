"""Translation of what users read; in a terminal, outside QGIS, everything stays as it is."""

from __future__ import annotations

import sys


def tr(text: str) -> str:
    """``text`` in the user's language."""
    qt = sys.modules.get("qgis.PyQt.QtCore")  # not imported: the set-up runs with the standard library alone
    return qt.QCoreApplication.translate("MetaEarth", text) if qt else text
