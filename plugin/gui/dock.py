"""The panel: a front end of the algorithm "Generate higher resolution", and beside it the tab of the modalities."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, Dict, List, Optional

from qgis.core import (
    QgsApplication,
    QgsCoordinateTransform,
    QgsCsException,
    QgsProcessingOutputLayerDefinition,
    QgsProject,
    QgsRasterLayer,
)
from qgis.gui import QgsCollapsibleGroupBox, QgsDockWidget, QgsMapCanvas, QgsMessageBar
from qgis.PyQt.QtCore import QTimer, pyqtSignal
from qgis.PyQt.QtGui import QHideEvent, QShowEvent
from qgis.PyQt.QtWidgets import QAction, QDialog, QPushButton, QTabWidget, QTextBrowser, QVBoxLayout, QWidget

from ...backend.protocol import WRITING, JobSummary, Progress
from ..core import settings
from ..core.backend_client import session_client
from ..core.backend_process import BackendState
from ..core.cost import REFUSED, cost_of
from ..core.history import add_to_history, plain
from ..core.layers import in_units_of, own_pixel_size
from ..core.live import LiveLayer
from ..core.models import card_of
from ..core.output_names import in_the_way, written_by
from ..core.planner import Planner, algorithm, ask_plan
from ..core.preview import Preview
from ..core.results import add_results
from ..core.runs import Run
from ..core.styles import result_renderer
from ..core.target import sizes_through
from ..core.translate import tr
from .backend_box import BackendBox
from .before_after import BeforeAfter
from .extent_band import ExtentBand
from .job_form import OF_ONE_LAYER, JobForm
from .modalities_tab import ModalitiesTab
from .rows import MARGIN, CostLabel, above, scrolling
from .run_box import RunBox
from .tools_row import Job, ToolsRow

STATE = "dock"
PREVIEW_PAUSE_MS = 500


class GenerateDock(QgsDockWidget):
    """The panel; ``results_added`` gives the layers of a finished run and their source.

    ``left_unfinished``: a run ended early, and may have left what can be resumed.
    """

    results_added = pyqtSignal(list, object)
    left_unfinished = pyqtSignal()

    def __init__(self, window: QWidget, canvas: QgsMapCanvas, messages: QgsMessageBar) -> None:
        super().__init__("MetaEarth", window)
        self.setObjectName("MetaEarthGenerate")
        self.canvas, self.messages = canvas, messages
        self._algorithm = algorithm()
        self._preview: Optional[Preview] = None
        self._last: Optional[Dict[str, Any]] = None
        self._planner = Planner(self)
        self._planner.planned.connect(self._planned)
        self._planner.refused.connect(self._refused)
        self._preview_timer = QTimer(self)
        self._preview_timer.setSingleShot(True)
        self._preview_timer.timeout.connect(self.make_preview)
        self._build()
        self._band = ExtentBand(self.canvas)
        self.form.show_values(json.loads(settings.read(STATE, "{}")))
        client = session_client()
        client.state_changed.connect(self._backend_changed)
        client.logged.connect(self.backend_box.add_line)
        self._backend_changed(client.state)

    @property
    def runs(self) -> List[Run]:
        """The jobs of the first tab that run or wait."""
        return self.run_box.runs

    def _build(self) -> None:
        self.backend_box = BackendBox(self)
        self.tabs = QTabWidget(self)
        self.tabs.setDocumentMode(True)
        self.modalities = ModalitiesTab(self.canvas, self.tabs)
        self.modalities.results_added.connect(self.results_added)
        self.modalities.left_unfinished.connect(self.left_unfinished)
        self.modalities.failed.connect(self._warn)
        self.modalities.said.connect(self.backend_box.add_line)
        self.modalities.card_wanted.connect(self.show_card)
        self._page = self._build_page()
        self.tabs.addTab(self._page, tr("Higher resolution"))
        self.tabs.setTabToolTip(0, tr("Make a raster finer"))
        self.tabs.addTab(self.modalities, tr("Modalities"))
        self.tabs.setTabToolTip(1, tr("Translate a scene between RGB, near infrared, SAR, panchromatic and map"))
        self.tabs.currentChanged.connect(self.refresh)
        whole = QWidget(self)
        layout = QVBoxLayout(whole)
        layout.setContentsMargins(0, 0, 0, 6)
        layout.addWidget(self.tabs, 1)
        self.backend_box.layout().setContentsMargins(MARGIN, 0, MARGIN, 0)
        layout.addWidget(self.backend_box)
        self.setWidget(whole)

    def _build_page(self) -> QWidget:
        page, inside = QWidget(self.tabs), QWidget()
        layout = QVBoxLayout(inside)
        self.form = JobForm(self._algorithm, self.canvas, inside)
        self.form.changed.connect(self.refresh)
        self.form.card_wanted.connect(self.show_card)
        self.cost_label = CostLabel(page)
        self.run_box = RunBox(page, tr("Run"))
        self.run_box.run_asked.connect(self.run)
        self.tools = ToolsRow(self._job, page)
        self.copy_python, self.copy_terminal = self.tools.python_action, self.tools.terminal_action
        for widget in (self.form, self._build_preview(inside)):
            layout.addWidget(widget)
        layout.addStretch(1)
        page.setLayout(above(scrolling(inside, page), self.cost_label, self.tools, self.run_box))
        return page

    def _build_preview(self, parent: QWidget) -> QWidget:
        box = QgsCollapsibleGroupBox(tr("Preview at the middle of the map"), parent)
        layout = QVBoxLayout(box)
        self.picture = BeforeAfter(box)
        self.preview_button = QPushButton(tr("Preview"), box)
        self.preview_button.setToolTip(tr("Make one window of the result now; another seed or model renews it."))
        self.preview_button.clicked.connect(self.make_preview)
        layout.addWidget(self.picture)
        layout.addWidget(self.preview_button)
        return box

    def add_tool(self, action: QAction) -> None:
        """A button for an action that concerns results."""
        self.tools.add(action)
        self.modalities.tools.add(action)

    def show_layer(self, layer: Optional[QgsRasterLayer]) -> None:
        """Choose the source, and what is known of a scene."""
        if isinstance(layer, QgsRasterLayer):
            self.form.layer_box.setLayer(layer)
            self.modalities.form.show_layer(layer)

    def source(self) -> Optional[QgsRasterLayer]:
        """The layer that results of the tab in front are made of."""
        return self.form.layer() if self.tabs.currentWidget() is self._page else self.modalities.form.lead()

    def parameters(self) -> Dict[str, Any]:
        """The algorithm's parameters without OUTPUT."""
        return self.form.parameters()

    # Cost

    def refresh(self) -> None:
        """Show the extent, and work the cost out anew; a preview of other parameters is made anew too."""
        self._show_extent()
        if self._page.isVisible() and self.form.layer():
            self.run_box.set_ready(False, tr("The cost is being worked out."))
            self._planner.plan(partial(ask_plan, {**self.parameters(), "OUTPUT": self.form.output_path()}))
            if self._preview and not self.runs and self._preview.differs_from(self.parameters()):
                self._preview_timer.start(PREVIEW_PAUSE_MS)
        elif not self.form.layer():
            self._planner.drop()
            self._refused(tr("Load a raster layer first."))

    def _planned(self, summary: JobSummary, tiles: int) -> None:
        cost = cost_of(summary, settings.limits())
        text = cost.text
        if tiles:
            text = tr("About {} tiles are read from the service first.").format(tiles) + "\n" + text
        native = self.form.pixel_size_m()
        if native:
            self.form.show_resolutions(sizes_through(native, [stage.pixel_size_m for stage in summary.stages]))
        if cost.level == REFUSED:
            self._refused(text)
            return
        self.cost_label.tell(text, cost.level)
        self.run_box.set_ready(True, "")

    def _refused(self, sentence: str) -> None:
        self.cost_label.tell(sentence, REFUSED)
        self.run_box.set_ready(False, sentence)

    def _show_extent(self) -> None:
        """The extent on the map."""
        layer = self.form.layer()
        if layer and self._page.isVisible():
            self._band.show(self.form.extent(), layer.crs())
        else:
            self._band.clear()

    # Preview

    def make_preview(self) -> None:
        """One window of the job at the middle of the map."""
        layer = self.form.layer()
        if layer is None:
            return
        if self._preview:
            self._preview.stop()
        self.preview_button.setText(tr("Preview waits for the job…") if self.runs else tr("Preview is being made…"))
        self._preview = Preview(layer, self.parameters(), self.form.bands() or None, self)
        self._preview.made.connect(self._show_preview)
        self._preview.failed.connect(self._preview_failed)
        transform = QgsCoordinateTransform(self.canvas.mapSettings().destinationCrs(), layer.crs(),
                                           QgsProject.instance())
        try:
            centre = transform.transform(self.canvas.center())
        except QgsCsException:
            centre = layer.extent().center()
        if not (self.form.extent() or layer.extent()).contains(centre):
            centre = (self.form.extent() or layer.extent()).center()
        size = own_pixel_size(layer) or in_units_of(layer.crs(), self.form.pixel_size_m() or 1.0)
        self._preview.start(centre, size[0])

    def _show_preview(self, before: Any, after: Any) -> None:
        self.preview_button.setText(tr("Preview"))
        self.picture.show_pair(before, after)

    def _preview_failed(self, sentence: str) -> None:
        self.preview_button.setText(tr("Preview"))
        self.picture.clear(sentence)

    # Runs

    def run(self) -> None:
        """Start the job, or let it wait behind those that run."""
        layer, taken = self.form.layer(), [path for run in self.runs for path in run.writes]
        if layer is None:
            return
        path, stages = self.form.output_path(taken), self.form.stages()
        there = in_the_way(path, stages, taken)
        if there:
            self._refused(tr("{} exists already; choose another name for the result.").format(there[0]))
            return
        output = QgsProcessingOutputLayerDefinition(path, QgsProject.instance())
        parameters = {**self.parameters(), "OUTPUT": output}
        self._last = plain(parameters)  # the layer may be gone when it is copied
        add_to_history(self._algorithm, self._last)
        live = LiveLayer(layer.name(), result_renderer(layer, self.form.bands() or None))
        self._start(algorithm(), parameters, layer.name(), live, written_by(path, stages))
        self.form.next_seed()

    def resume(self, folder: str, name: str) -> None:
        """Finish an interrupted job; its progress is in the first tab, whichever tab it was begun in."""
        self.tabs.setCurrentWidget(self._page)
        made = QgsApplication.processingRegistry().createAlgorithmById("metaearth:resumejob")
        self._start(made, {"FOLDER": folder}, name, LiveLayer(name, None), [])

    def _start(self, made: Any, parameters: Dict[str, Any], name: str, live: LiveLayer, writes: List[str]) -> None:
        run = Run(made, parameters)
        run.live, run.writes = live, writes
        run.feedback.said.connect(self.backend_box.add_line)
        run.feedback.advanced.connect(partial(self._show_live, run))
        self.run_box.follow(run)
        run.finished.connect(partial(self._finished, run, name, self.form.last_only(), self.form.layer()))
        run.failed.connect(self._failed)
        run.cancelled.connect(self.left_unfinished)
        run.ended.connect(partial(self._ended, run))
        run.start()

    def _show_live(self, run: Run, progress: Progress) -> None:
        if progress.message == WRITING:
            run.live.remove()  # its blocks go next, and on Windows no file goes that is open
        elif run in self.runs and not run.feedback.isCanceled():
            run.live.show(progress.mosaic)

    def _finished(self, run: Run, name: str, last_only: bool, source: Optional[QgsRasterLayer],
                  results: Dict[str, Any]) -> None:
        layers = add_results(run.context, tr("{} – MetaEarth").format(name), last_only)
        psnr = results.get("CONSISTENCY")
        text = tr("Done: {:.3g} m/px, seed {}.").format(results["GROUND_RESOLUTION"], results["SEED"])
        if psnr is not None:
            text += " " + tr("Averaged down it equals the source to {:.1f} dB.").format(psnr)
        self.run_box.show_idle("\n".join([text, *run.feedback.warnings]))
        self.results_added.emit(layers, source)

    def _failed(self, sentence: str) -> None:
        self.left_unfinished.emit()
        self._warn(sentence)

    def _warn(self, sentence: str) -> None:
        self.messages.pushCritical("MetaEarth", sentence.splitlines()[0])

    def _ended(self, run: Run) -> None:
        run.live.remove()
        self.refresh()

    def _job(self) -> Job:
        """What is copied: the last run, else what the form says."""
        if not self._last and not self.form.layer():
            return None
        return self._algorithm, self._last or {**self.parameters(), "OUTPUT": self.form.output_path()}

    # The rest

    def show_card(self, model: str) -> None:
        """The model's card in a window."""
        dialog = QDialog(self)
        dialog.setWindowTitle(tr("Model card: {}").format(model))
        dialog.resize(720, 600)
        browser = QTextBrowser(dialog)
        browser.setOpenExternalLinks(True)
        show = getattr(browser, "setMarkdown", browser.setPlainText)  # which Qt before 5.14 lacks
        show(card_of(model, session_client().state.handshake))
        QVBoxLayout(dialog).addWidget(browser)
        dialog.show()

    def _backend_changed(self, state: BackendState) -> None:
        self.backend_box.show_state(state)
        if state.handshake:
            self.form.show_models(state.handshake.models)
            self.modalities.show_models(state.handshake.models)

    def showEvent(self, event: QShowEvent) -> None:
        """Work the cost out."""
        super().showEvent(event)
        self.refresh()

    def hideEvent(self, event: QHideEvent) -> None:
        """Take the extent off the map."""
        super().hideEvent(event)
        self._band.clear()  # the form within is still visible here

    def save_state(self) -> None:
        """Keep what the form shows for the next session."""
        of_this_session = ("INPUT", "EXTENT", "BANDS", *OF_ONE_LAYER)
        values = {k: v for k, v in self.form.own_parameters().items() if k not in of_this_session}
        settings.write(STATE, json.dumps(values))
        self.modalities.save_state()

    def close_for_good(self) -> None:
        """Stop previews and runs (what is finished stays) and take everything off the map."""
        self.save_state()
        self._planner.drop()
        self._preview_timer.stop()
        if self._preview:
            self._preview.stop()
        for run in self.runs:
            run.abandon(keep=True)
            run.live.remove()
        self.modalities.close_for_good()
        self._band.remove()
