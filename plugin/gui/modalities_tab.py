"""The panel's second tab: scenes in several modalities, by the algorithms of MetaEarth-MM."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
from ..core.cost import GOOD, REFUSED, Cost, cost_of
from ..core.history import add_to_history, plain
from ..core.planner import Planner, ask_scene_plan
from ..core.results import add_results
from ..core.runs import Run
from ..core.scenes import in_the_way, is_begun, note_begun, scene_algorithm, wanted, why_not, written_by
from ..core.translate import tr
from .extent_band import ExtentBand
from .rows import CostLabel, above, scrolling
from .run_box import RunBox
from .scene_form import SceneForm
from .tools_row import Job, ToolsRow

STATE = "modalities"


@dataclass
class Prospect:
    """What is known of a job before its start: why there is none, or its cost (the last one while another is asked)."""

    planner: Planner
    reason: str = ""
    cost: Optional[Cost] = None
    pending: bool = True

    @property
    def is_ready(self) -> bool:
        """Whether the job can be started."""
        return not self.hindrance

    @property
    def hindrance(self) -> str:
        """Why it cannot, in a sentence; empty if it can."""
        if self.reason:
            return self.reason
        if self.pending:
            return tr("The cost is being worked out.")
        return self.cost.text if self.cost and self.cost.level == REFUSED else ""


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
        self._algorithms = {verb.name: scene_algorithm(verb) for verb in (TRANSLATE, GENERATE_PAIR)}
        self._prospects = {verb.name: self._prospect(verb) for verb in (TRANSLATE, GENERATE_PAIR)}
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

    def _prospect(self, verb: Verb) -> Prospect:
        planner = Planner(self)
        planner.planned.connect(partial(self._planned, verb))
        planner.refused.connect(partial(self._refused, verb))
        return Prospect(planner)

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
        """Show the extent on the map, and what can be started at which cost; that is asked anew."""
        lead = self.form.lead()
        if lead and self.isVisible():
            self._band.show(self.form.extent(), lead.crs())
        else:
            self._band.clear()
        for verb in (TRANSLATE, GENERATE_PAIR):
            self._look_at(verb)
        self._show_prospects()

    def _parameters(self, verb: Verb) -> Dict[str, Any]:
        """What the form says to an algorithm."""
        found = self.form.translate_parameters() if verb is TRANSLATE else self.form.generate_parameters()
        return {**found, "OUTPUT": self.form.output_folder()}

    def _look_at(self, verb: Verb) -> None:
        """Learn whether a job can be started; if so, its last cost stays until there is another."""
        prospect, parameters = self._prospects[verb.name], self._parameters(verb)
        prospect.reason = self._why_not(verb, parameters)
        prospect.pending = not prospect.reason
        if prospect.reason or not self.isVisible():
            prospect.planner.drop()
        else:
            prospect.planner.plan(partial(ask_scene_plan, verb, parameters))
        if prospect.reason:
            prospect.cost = None

    def _planned(self, verb: Verb, summary: JobSummary, tiles: int) -> None:
        self._learnt(verb, cost_of(summary, settings.limits()))

    def _refused(self, verb: Verb, sentence: str) -> None:
        self._learnt(verb, Cost(sentence, REFUSED))

    def _learnt(self, verb: Verb, cost: Cost) -> None:
        prospect = self._prospects[verb.name]
        prospect.cost, prospect.pending = cost, False
        self._show_prospects()

    def _show_prospects(self) -> None:
        """The buttons of both jobs, and the cost of that which the form says most likely."""
        known, nothing = self._prospects[TRANSLATE.name], self._prospects[GENERATE_PAIR.name]
        self.run_box.set_ready(known.is_ready, known.hindrance or tr("Make the ticked modalities from what is known."))
        self.generate_button.setEnabled(nothing.is_ready)
        self.generate_button.setToolTip(
            nothing.hindrance or tr("Make an invented scene of {} × {} px in the ticked modalities, at the middle of "
                                    "the map.").format(self.form.width_box.value(), self.form.height_box.value()))
        cost = known.cost if self.form.lead() else nothing.cost
        if self.form.lead():
            text = known.reason or (cost.text if cost else "")
        else:
            told = [tr("From nothing: {}").format(cost.text)] if cost else []
            text = "\n".join([known.reason, *told])
        self.cost_label.tell(text, cost.level if cost else GOOD)

    def _why_not(self, verb: Verb, parameters: Dict[str, Any]) -> str:
        if self._problem and self._models is None:
            return self._problem
        reason = why_not(self._algorithms[verb.name], parameters, self._models)
        taken = [path for run in self.runs for path in run.writes]
        there = in_the_way(parameters["OUTPUT"], wanted(parameters), taken)
        if is_begun(verb, parameters):  # the same once more: the backend goes on with what is there
            there = [path for path in there if path in taken]
        if not reason and there:
            return tr("{} is there already, or is being made; choose another folder for the results.").format(there[0])
        return reason

    def translate(self) -> None:
        """Make modalities of what is known."""
        lead = self.form.lead()
        if lead:
            name = tr("{} – modalities, seed {}").format(lead.name(), self.form.seed())
            self._start(TRANSLATE, name, lead)

    def generate(self) -> None:
        """Make a scene from nothing."""
        name = tr("Scene from nothing, seed {}").format(self.form.seed())
        self._start(GENERATE_PAIR, name, None)

    def _start(self, verb: Verb, name: str, lead: Optional[QgsRasterLayer]) -> None:
        parameters = self._parameters(verb)
        if self._why_not(verb, parameters):
            self.refresh()
            return
        self._last = scene_algorithm(verb), plain(parameters)  # layers may be gone when it is copied
        add_to_history(*self._last)
        run = Run(scene_algorithm(verb), parameters)
        run.writes = written_by(parameters["OUTPUT"], wanted(parameters))
        run.feedback.said.connect(self.said)
        self.run_box.follow(run)
        note_begun(verb, parameters)
        run.finished.connect(lambda *_: note_begun(verb, parameters, ended_well=True))
        run.finished.connect(partial(self._finished, run, name, lead))
        run.failed.connect(self._failed)
        run.cancelled.connect(self.left_unfinished)
        run.ended.connect(self.refresh)
        run.start()
        self.form.seed_row.next()
        self.refresh()

    def _finished(self, run: Run, name: str, lead: Optional[QgsRasterLayer], results: Dict[str, Any]) -> None:
        made = [*results["RESULTS"], *results.get("STATISTICS", [])]
        layers = add_results(run.context, name, order=made)
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
        verb = TRANSLATE if self.form.lead() else GENERATE_PAIR
        return self._algorithms[verb.name], self._parameters(verb)

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
        for prospect in self._prospects.values():
            prospect.planner.drop()

    def _models_unknown(self, sentence: str) -> None:
        self._problem = sentence
        self.refresh()

    def save_state(self) -> None:
        """Keep what the form shows for the next session."""
        settings.write(STATE, json.dumps(self.form.own_values()))

    def close_for_good(self) -> None:
        """Stop runs (what is finished stays) and take everything off the map."""
        for prospect in self._prospects.values():
            prospect.planner.drop()
        for run in self.runs:
            run.abandon(keep=True)
        self._band.remove()
