"""The plugin object: wires the provider and the actions into QGIS."""

from __future__ import annotations

from typing import List, Optional

from qgis.core import QgsApplication, QgsMapLayerType, QgsRasterLayer
from qgis.gui import QgisInterface
from qgis.PyQt import sip
from qgis.PyQt.QtGui import QIcon
from qgis.PyQt.QtWidgets import QAction, QDialog

from .core.backend_client import close_session_client
from .core.translate import tr
from .icons import ICON_PATH
from .processing.provider import PROVIDER_ID, MetaEarthProvider

MENU = "&MetaEarth"


class MetaEarthPlugin:
    """What QGIS loads; ``interface`` is None under qgis_process."""

    def __init__(self, interface: Optional[QgisInterface]) -> None:
        self.iface = interface
        self.provider: Optional[MetaEarthProvider] = None
        self.action: Optional[QAction] = None
        self.layer_action: Optional[QAction] = None
        self.dialogs: List[QDialog] = []

    def initProcessing(self) -> None:
        """Register the provider."""
        self.provider = MetaEarthProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Register the provider, the menu and toolbar entry, and the layers' context menu."""
        self.initProcessing()
        self.action = self._action(tr("Generate higher resolution…"))
        self.iface.addPluginToRasterMenu(MENU, self.action)
        self.iface.addRasterToolBarIcon(self.action)
        self.layer_action = self._action(tr("Generate higher resolution…"))
        self.iface.addCustomActionForLayerType(self.layer_action, "", QgsMapLayerType.RasterLayer, True)

    def unload(self) -> None:
        """Undo initGui, close the dialogs and end the backend."""
        for dialog in self._open_dialogs():
            dialog.close()
        self.dialogs = []
        self.iface.removeCustomActionForLayerType(self.layer_action)
        self.iface.removeRasterToolBarIcon(self.action)
        self.iface.removePluginRasterMenu(MENU, self.action)
        self.layer_action = self.action = None
        QgsApplication.processingRegistry().removeProvider(self.provider)
        self.provider = None
        close_session_client()

    def open_dialog(self) -> None:
        """Show the algorithm's dialog for the layer that is selected in the layer tree."""
        # Processing is a plugin of its own, and it may be loaded after this one.
        from qgis import processing

        algorithm = QgsApplication.processingRegistry().algorithmById(f"{PROVIDER_ID}:generatehigherresolution")
        ready, reason = algorithm.canExecute()
        if not ready:
            self.iface.messageBar().pushWarning("MetaEarth", reason)
            return
        layer = self.iface.activeLayer()
        parameters = {"INPUT": layer.id()} if isinstance(layer, QgsRasterLayer) else {}
        dialog = processing.createAlgorithmDialog(algorithm.id(), parameters)
        # The Python half of a dialog dies with its last reference, and QGIS deletes the other half when it is closed.
        self.dialogs = [*self._open_dialogs(), dialog]
        dialog.show()

    def _open_dialogs(self) -> List[QDialog]:
        return [dialog for dialog in self.dialogs if not sip.isdeleted(dialog)]

    def _action(self, text: str) -> QAction:
        action = QAction(QIcon(ICON_PATH), text, self.iface.mainWindow())
        action.triggered.connect(self.open_dialog)
        return action
