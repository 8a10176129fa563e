"""The plugin object: wires the provider, the panel and the actions into QGIS."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Optional

from qgis.core import QgsApplication, QgsMapLayerType, QgsProject, QgsRasterLayer
from qgis.gui import QgisInterface
from qgis.PyQt import sip
from qgis.PyQt.QtCore import QObject, Qt, QTimer
from qgis.PyQt.QtGui import QIcon
from qgis.PyQt.QtWidgets import QAction, QApplication, QPushButton, QWidget

from ..backend.protocol import UnfinishedJob, data_home
from .core.backend_client import PLUGIN_ROOT, close_session_client, session_client
from .core.diagnostics import report
from .core.environment import backend_python
from .core.installation import needs_update
from .core.translate import tr
from .core.unfinished import ask_unfinished, discard
from .gui.options import OptionsFactory
from .icons import ICON_PATH
from .processing.provider import MetaEarthProvider

MENU = "&MetaEarth"
SAMPLE = PLUGIN_ROOT / "resources" / "sample" / "sentinel2_redclover_rgb_10m.tif"
LATER_MS = 3000


class MetaEarthPlugin(QObject):
    """What QGIS loads; ``interface`` is None under qgis_process."""

    def __init__(self, interface: Optional[QgisInterface]) -> None:
        super().__init__()
        self.iface = interface
        self.provider: Optional[MetaEarthProvider] = None
        self.dock = None
        self.swipe_tool = None
        self.setup_dialog = None
        self._offer: Optional[QWidget] = None
        self.actions: List[QAction] = []

    def initProcessing(self) -> None:
        """Register the provider."""
        self.provider = MetaEarthProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Register the provider, the menu, the toolbar button, the layers' context menu and the panel."""
        self.initProcessing()
        self.action = self._action(tr("Generate higher resolution…"), self.open_dock)
        self.layer_action = self._action(tr("Generate higher resolution…"), self.open_dock)
        self.swipe_action = self._action(tr("Compare with the source"), self.compare)
        self.swipe_action.setCheckable(True)
        self.sample_action = self._action(tr("Open the sample scene"), self.open_sample)
        self.report_action = self._action(tr("Copy a diagnostic report"), self.copy_report)
        self.setup_action = self._action(tr("Set up the backend…"), self.set_up)
        self.actions = [self.action, self.swipe_action, self.sample_action, self.setup_action, self.report_action]
        for action in self.actions:
            self.iface.addPluginToRasterMenu(MENU, action)
        self.iface.addRasterToolBarIcon(self.action)
        self.iface.addCustomActionForLayerType(self.layer_action, "", QgsMapLayerType.RasterLayer, True)
        self.options_factory = OptionsFactory(self.set_up)
        self.iface.registerOptionsWidgetFactory(self.options_factory)
        QTimer.singleShot(LATER_MS, self._look_around)

    def unload(self) -> None:
        """Undo initGui and end the backend."""
        self._withdraw_offer()
        if self.swipe_tool:
            self.swipe_tool.end()
            self.swipe_tool.deleteLater()
            self.swipe_tool = None
        if self.dock:
            self.dock.close_for_good()
            self.iface.removeDockWidget(self.dock)
            self.dock.deleteLater()
            self.dock = None
        if self.setup_dialog:
            self.setup_dialog.ready.disconnect()
            self.setup_dialog.stop()
            self.setup_dialog.close()
            self.setup_dialog.deleteLater()
            self.setup_dialog = None
        self.iface.unregisterOptionsWidgetFactory(self.options_factory)
        self.iface.removeCustomActionForLayerType(self.layer_action)
        self.iface.removeRasterToolBarIcon(self.action)
        for action in self.actions:
            self.iface.removePluginRasterMenu(MENU, action)
        for action in (*self.actions, self.layer_action):
            action.deleteLater()
        self.actions = []
        QgsApplication.processingRegistry().removeProvider(self.provider)
        self.provider = None
        close_session_client()

    def open_dock(self) -> None:
        """Show the panel for the layer that is selected in the layer tree."""
        if not backend_python(PLUGIN_ROOT, data_home()).path:
            self.set_up()
            return
        if self.dock is None:
            from .gui.dock import GenerateDock

            self.dock = GenerateDock(self.iface.mainWindow(), self.iface.mapCanvas(), self.iface.messageBar())
            self.dock.add_tool(self.swipe_action)
            self.dock.results_added.connect(self._results_added)
            self.dock.left_unfinished.connect(lambda: ask_unfinished(self, self._show_unfinished))
            self.iface.addTabifiedDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, self.dock, raiseTab=True)
        self.dock.show_layer(self.iface.activeLayer())
        self.dock.setUserVisible(True)
        self.dock.refresh()

    def set_up(self) -> None:
        """Show the set-up of the backend's environment."""
        if self.setup_dialog is None:
            from .gui.setup_dialog import SetupDialog

            self.setup_dialog = SetupDialog(self.iface.mainWindow())
            self.setup_dialog.ready.connect(self.open_dock)
        # QGIS's options block every window that is not modal and newer
        modal = QApplication.activeModalWidget() is not None
        if self.setup_dialog.isModal() != modal:
            self.setup_dialog.hide()  # it counts for what is shown from then on
        self.setup_dialog.setWindowModality(
            Qt.WindowModality.ApplicationModal if modal else Qt.WindowModality.NonModal)
        self.setup_dialog.show()
        self.setup_dialog.raise_()

    def compare(self, wanted: bool) -> None:
        """Show the source left of the pointer, or stop doing so."""
        canvas = self.iface.mapCanvas()
        source = self.dock.source() if self.dock else self.iface.activeLayer()
        if not wanted or not isinstance(source, QgsRasterLayer):
            if self.swipe_tool:
                self.swipe_tool.end()
            self.swipe_action.setChecked(False)
            return
        if self.swipe_tool is None:
            from .gui.swipe import SwipeTool

            self.swipe_tool = SwipeTool(canvas)
            self.swipe_tool.setAction(self.swipe_action)
        self.swipe_tool.set_layer(source)
        self.swipe_tool.begin()

    def open_sample(self) -> None:
        """Load the sample scene and open the panel for it."""
        layer = QgsRasterLayer(str(SAMPLE), tr("MetaEarth sample scene"))
        QgsProject.instance().addMapLayer(layer)
        self.iface.setActiveLayer(layer)
        self.iface.zoomToActiveLayer()
        self.open_dock()

    def copy_report(self) -> None:
        """Put a diagnostic report on the clipboard, with what the backend tells of itself if it can be started."""
        question = session_client().ask("diagnose", {}, self)
        question.answered.connect(lambda answer: self._report(answer["facts"]))
        question.failed.connect(lambda sentence: self._report({"Backend": sentence}))

    def _report(self, facts: Dict[str, str]) -> None:
        QgsApplication.clipboard().setText(report(session_client(), facts))
        self.iface.messageBar().pushInfo("MetaEarth", tr("The diagnostic report is on the clipboard."))

    def _results_added(self, layers: list, source: Optional[QgsRasterLayer]) -> None:
        """Make the last result the active layer, unless the user has gone on to another one than the source."""
        if layers and self.iface.activeLayer() in (None, source):
            self.iface.setActiveLayer(layers[-1])

    def _look_around(self) -> None:
        """What the user should hear of, once QGIS is there."""
        if self.provider is None:
            return
        if needs_update(PLUGIN_ROOT, data_home()):
            self.iface.messageBar().pushWarning("MetaEarth", tr(
                "The backend's environment is of an earlier version: set it up again (Raster > MetaEarth)."))
        ask_unfinished(self, self._show_unfinished)

    def _show_unfinished(self, jobs: List[UnfinishedJob]) -> None:
        """Offer the last interrupted job in the message bar; after the user's choice, the one before."""
        self._withdraw_offer()
        if self.provider is None or not jobs:
            return
        bar, job = self.iface.messageBar(), jobs[0]
        text = tr("A job was interrupted ({}): {}.").format(job.since, job.output)
        message = bar.createMessage("MetaEarth", text)
        choices: List[Callable[[], None]] = [partial(self._resume, job), partial(self._discard, job)]
        for label, act in zip((tr("Resume"), tr("Delete what is finished")), choices):
            button = QPushButton(label, message)
            button.clicked.connect(lambda _=False, act=act: (
                self._withdraw_offer(), act(), self._show_unfinished(jobs[1:])))
            message.layout().addWidget(button)
        bar.pushWidget(message)
        self._offer = message

    def _withdraw_offer(self) -> None:
        """Take the message about an interrupted job away, if it is still there: what it says may be no longer so."""
        if self._offer is not None and not sip.isdeleted(self._offer):
            self.iface.messageBar().popWidget(self._offer)
        self._offer = None

    def _discard(self, job: UnfinishedJob) -> None:
        discard(job, self).failed.connect(
            lambda sentence: self.iface.messageBar().pushWarning("MetaEarth", sentence.splitlines()[0]))

    def _resume(self, job: UnfinishedJob) -> None:
        if self.dock is None:
            self.open_dock()
        if self.dock:
            self.dock.setUserVisible(True)
            self.dock.resume(job.folder, Path(job.input or job.output).stem)

    def _action(self, text: str, slot: Callable) -> QAction:
        action = QAction(QIcon(ICON_PATH), text, self.iface.mainWindow())
        action.triggered.connect(slot)
        return action
