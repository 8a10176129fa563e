"""The set-up of the backend's environment as a task of QGIS."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from qgis.core import QgsTask
from qgis.PyQt.QtCore import pyqtSignal

from ...backend.protocol import data_home
from .backend_client import PLUGIN_ROOT
from .installation import Setup, SetupError
from .package_index import without_credentials
from .settings import qgis_proxy
from .translate import tr


class SetupTask(QgsTask):
    """``said`` gives every line, ``ended`` an empty text or why it failed."""

    said = pyqtSignal(str)
    ended = pyqtSignal(str)

    def __init__(self, wheels: Optional[Path]) -> None:
        super().__init__(tr("Setting up MetaEarth's backend"), QgsTask.Flag.CanCancel)
        self._setup = Setup(PLUGIN_ROOT, data_home(), wheels, self.said.emit, self.isCanceled, qgis_proxy())
        self._problem = ""

    def run(self) -> bool:
        """Called by QGIS in a thread of its own."""
        try:
            self._setup.run()
        except SetupError as error:
            self._problem = str(error)
        except Exception as error:  # whatever a network, a disk or an archive has to say
            self._problem = without_credentials(f"{type(error).__name__}: {error}")
        return not self._problem

    def finished(self, result: bool) -> None:
        """Called by QGIS in the main thread."""
        self.ended.emit("" if result else self._problem or tr("The set-up was stopped."))
