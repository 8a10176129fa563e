"""Widgets that are pure Qt, on real Qt6, which QGIS 4 uses."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import qgis_support

SHIM = "from PyQt6.{0} import *\n"
USE = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from PyQt6.QtWidgets import QApplication
from PyQt6.QtGui import QColor, QImage
from PyQt6.QtCore import QPoint, Qt
from PyQt6.QtTest import QTest
application = QApplication([])
from metaearth.plugin.gui.before_after import BeforeAfter
before, after = QImage(64, 64, QImage.Format.Format_RGB32), QImage(64, 64, QImage.Format.Format_RGB32)
before.fill(QColor("red"))
after.fill(QColor("blue"))
widget = BeforeAfter()
widget.resize(200, 200)
widget.show()
widget.show_pair(before, after)
QTest.keyClick(widget, Qt.Key.Key_Right)
QTest.mouseClick(widget, Qt.MouseButton.LeftButton, pos=QPoint(50, 100))
picture = widget.grab().toImage()
colours = [picture.pixelColor(x, 100).name() for x in (10, 150)]
print(widget.share, *colours)
"""


@pytest.mark.slow
def test_the_preview_is_drawn_and_moved_on_qt6(tmp_path):
    python = tmp_path / "env" / "bin" / "python"
    venv.create(tmp_path / "env", with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "PyQt6"], check=True)
    for name in ("QtCore", "QtGui", "QtWidgets"):
        shim = tmp_path / "shim" / "qgis" / "PyQt" / f"{name}.py"
        shim.parent.mkdir(parents=True, exist_ok=True)
        shim.write_text(SHIM.format(name) + ("from PyQt6.QtGui import QAction\n" if name == "QtWidgets" else ""))
    qgis_support.script("qgis_profile").link_plugin(tmp_path / "plugins")
    told = subprocess.run([python, "-c", USE, tmp_path / "shim", tmp_path / "plugins"], capture_output=True, text=True,
                          env={"QT_QPA_PLATFORM": "offscreen", "PATH": "/usr/bin:/bin"})
    assert told.stdout.split() == ["0.25", "#ff0000", "#0000ff"], told.stderr
