"""The panel's second tab: scenes in several modalities, by the algorithms of MetaEarth-MM."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

from qgis.core import QgsProcessingAlgorithm, QgsRasterLayer
from qgis.gui import QgsMapCanvas
from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtGui import QHideEvent, QShowEvent
from qgis.PyQt.QtWidgets import QVBoxLayout, QWidget

from ...backend.protocol import GENERATE_PAIR, TRANSLATE, JobSummary, ModelInfo, Verb
from ..core import settings
from ..core.backend_client import session_client
from ..core.cost import GOOD, REFUSED, cost_of
from ..core.history import add_to_history
from ..core.planner import Planner, ask_scene_plan
from ..core.results import add_results
from ..core.runs import Run
from ..core.scenes import in_the_way, scene_algorithm, why_not, written_by
from ..core.translate import tr
from .extent_band import ExtentBand
from .rows import CostLabel, above, scrolling
from .run_box import RunBox
from .scene_form import SceneForm
from .tools_row import Job, ToolsRow

STATE = "modalities"


class ModalitiesTab(QWidget):
    """The tab; ``results_added`` gives the layers of a finished run and the one that they were made of, or None.

    ``left_unfinished``: a run ended early, and may have left what can be resumed; ``failed`` says why one did;
    ``said``: a line for the log.
    """

    results_added = pyqtSignal(list, object)
    left_unfinished = pyqtSignal()
    failed = pyqtSignal(str)
    said = pyqtSignal(str)
    card_wanted = pyqtSignal(str)

    def __init__(self, canvas: QgsMapCanvas, parent: QWidget) -> None:
        super().__init__(parent)
        self._models: Optional[List[ModelInfo]] = None
        self._problem = ""
        self._last: Job = None
        self._costed: Optional[Verb] = None
        self._algorithms = {verb.name: scene_algorithm(verb) for verb in (TRANSLATE, GENERATE_PAIR)}
        self._planner = Planner(self)
        self._planner.planned.connect(self._planned)
        self._planner.refused.connect(self._tell)
        self._build(canvas)
        self._band = ExtentBand(canvas)
        self.form.show_values(json.loads(settings.read(STATE, "{}")))
        self.form.changed.connect(self.refresh)
        self.refresh()

    def _build(self, canvas: QgsMapCanvas) -> None:
        inside = QWidget()
        self.form = SceneForm(self._algorithms[TRANSLATE.name], canvas, inside)
        self.form.card_wanted.connect(self.card_wanted)
        layout = QVBoxLayout(inside)
        layout.addWidget(self.form)
        layout.addStretch(1)
        area = scrolling(inside, self)
        self.cost_label = CostLabel(self)
        self.tools = ToolsRow(self._job, self)
        self.run_box = RunBox(self, tr("Translate"))
        self.run_box.run_asked.connect(self.translate)
        self.generate_button = self.run_box.add_button(tr("Generate from nothing"))
        self.generate_button.clicked.connect(self.generate)
        self.setLayout(above(area, self.cost_label, self.tools, self.run_box))

    @property
    def runs(self) -> List[Run]:
        """The jobs of this tab that run or wait."""
        return self.run_box.runs

    def show_models(self, models: List[ModelInfo]) -> None:
        """Offer the models that know modalities."""
        self._models = models
        self.form.show_models(models)
        self.refresh()

    def refresh(self) -> None:
        """Show the extent on the map, whether a job can be started, what it costs, and else why not."""
        lead = self.form.lead()
        if lead and self.isVisible():
            self._band.show(self.form.extent(), lead.crs())
        else:
            self._band.clear()
        reason = self._why_not(TRANSLATE, self.form.translate_parameters())
        nothing = self._why_not(GENERATE_PAIR, self.form.generate_parameters())
        self.run_box.set_ready(not reason, reason or tr("Make the ticked modalities from what is known."))
        self.generate_button.setEnabled(not nothing)
        self.generate_button.setToolTip(nothing or tr("Make an invented scene of {} × {} px in the ticked modalities, "
                                                      "at the middle of the map.").format(
            self.form.width_box.value(), self.form.height_box.value()))
        verb, parameters = self._shown()
        if self.isVisible() and not (reason if verb is TRANSLATE else nothing):
            self._planner.plan(partial(ask_scene_plan, verb, parameters))
        else:
            self._planner.drop()
            self._costed = None
        if self._costed is not verb:  # else the last cost stays until there is another
            self.cost_label.tell(reason, GOOD)

    def _shown(self) -> Tuple[Verb, Dict[str, Any]]:
        """What the form says most likely: a translation of what is known, else a scene from nothing."""
        verb = TRANSLATE if self.form.lead() else GENERATE_PAIR
        parameters = self.form.translate_parameters() if self.form.lead() else self.form.generate_parameters()
        return verb, {**parameters, "OUTPUT": self.form.output_folder()}

    def _planned(self, summary: JobSummary, tiles: int) -> None:
        cost = cost_of(summary, settings.limits())
        self._tell(cost.text, cost.level)

    def _tell(self, text: str, level: str = REFUSED) -> None:
        """The cost of what the form shows, or why it cannot be done."""
        self._costed = self._shown()[0]
        if self._costed is TRANSLATE:
            self.cost_label.tell(text, level)
            if level == REFUSED:
                self.run_box.set_ready(False, text)
            return
        reason = self._why_not(TRANSLATE, self.form.translate_parameters())
        self.cost_label.tell("\n".join([reason, tr("From nothing: {}").format(text)]), level)
        if level == REFUSED:
            self.generate_button.setEnabled(False)
            self.generate_button.setToolTip(text)

    def _why_not(self, verb: Verb, parameters: Dict[str, Any]) -> str:
        if self._problem and self._models is None:
            return self._problem
        folder = self.form.output_folder()
        reason = why_not(self._algorithms[verb.name], {**parameters, "OUTPUT": folder}, self._models)
        there = in_the_way(folder, parameters["TARGETS"], [path for run in self.runs for path in run.writes])
        if not reason and there:
            return tr("{} is there already, or is being made; choose another folder for the results.").format(there[0])
        return reason

    def translate(self) -> None:
        """Make modalities of what is known."""
        lead = self.form.lead()
        if lead:
            name = tr("{} – modalities, seed {}").format(lead.name(), self.form.seed())
            self._start(TRANSLATE, self.form.translate_parameters(), name, lead)

    def generate(self) -> None:
        """Make a scene from nothing."""
        name = tr("Scene from nothing, seed {}").format(self.form.seed())
        self._start(GENERATE_PAIR, self.form.generate_parameters(), name, None)

    def _start(self, verb: Verb, parameters: Dict[str, Any], name: str, lead: Optional[QgsRasterLayer]) -> None:
        if self._why_not(verb, parameters):
            self.refresh()
            return
        self._last = scene_algorithm(verb), {**parameters, "OUTPUT": self.form.output_folder()}
        add_to_history(*self._last)
        run = Run(scene_algorithm(verb), self._last[1])
        run.writes = written_by(self.form.output_folder(), parameters["TARGETS"])
        run.feedback.said.connect(self.said)
        self.run_box.follow(run)
        run.finished.connect(partial(self._finished, run, name, lead))
        run.failed.connect(self._failed)
        run.cancelled.connect(self.left_unfinished)
        run.ended.connect(self.refresh)
        run.start()
        self.form.seed_row.next()
        self.refresh()

    def stop(self, keep: bool) -> None:
        """Cancel the job that runs."""
        self.run_box.stop(keep)

    def _finished(self, run: Run, name: str, lead: Optional[QgsRasterLayer], results: Dict[str, Any]) -> None:
        layers = add_results(run.context, name, order=results["RESULTS"].splitlines())
        text = tr("Done: {} layers in the group {}.").format(len(layers), name)
        self.run_box.show_idle("\n".join([text, *run.feedback.warnings]))
        self.results_added.emit(layers, lead)

    def _failed(self, sentence: str) -> None:
        self.left_unfinished.emit()
        self.failed.emit(sentence)

    def _job(self) -> Optional[Tuple[QgsProcessingAlgorithm, Dict[str, Any]]]:
        """What is copied: the last run, else what the form says."""
        if self._last:
            return self._last
        verb, parameters = self._shown()
        return self._algorithms[verb.name], parameters

    def showEvent(self, event: QShowEvent) -> None:
        """Learn which models there are."""
        super().showEvent(event)
        if self._models is None:
            self._problem = ""
            session_client().ask("models", {}, self).failed.connect(self._models_unknown)
        self.refresh()

    def hideEvent(self, event: QHideEvent) -> None:
        """Take the extent off the map; nobody sees what a job would cost."""
        super().hideEvent(event)
        self._band.clear()
        self._planner.drop()

    def _models_unknown(self, sentence: str) -> None:
        self._problem = sentence
        self.refresh()

    def save_state(self) -> None:
        """Keep what the form shows for the next session."""
        settings.write(STATE, json.dumps(self.form.own_values()))

    def close_for_good(self) -> None:
        """Stop runs (what is finished stays) and take everything off the map."""
        self._planner.drop()
        for run in self.runs:
            run.abandon(keep=True)
        self._band.remove()
