"""What the job in the panel would cost, asked anew whenever the user changes something."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from qgis.core import QgsApplication, QgsProcessing, QgsProcessingUtils
from qgis.PyQt.QtCore import QObject, QTimer, pyqtSignal

from ...backend.protocol import FieldError, JobSummary, Verb
from .backend_client import session_client
from .layers import LayerError, tile_count
from .paths import absolute
from .scenes import project_context, scene_algorithm

Parameters = Dict[str, Any]
Planned = Callable[[JobSummary, int], None]
Failed = Callable[[str], None]
Ask = Callable[[QObject, Planned, Failed], None]
"""Asks the backend, with an owner of the question, and gives its answer to one of the two."""
PAUSE_MS = 300
ALGORITHM_ID = "metaearth:generatehigherresolution"


def algorithm():
    """A fresh algorithm that makes rasters finer."""
    return QgsApplication.processingRegistry().createAlgorithmById(ALGORITHM_ID)


def ask_plan(parameters: Parameters, parent: QObject, planned: Planned, failed: Failed) -> None:
    """Ask the backend what `algorithm` would do; ``planned`` also gets how many tiles a service must give.

    Main thread.
    """
    made, folder = algorithm(), None
    try:
        folder = Path(tempfile.mkdtemp(prefix="metaearth-plan-", dir=QgsProcessingUtils.tempFolder()))
        job = made.planned_job({**parameters, "OUTPUT": parameters.get("OUTPUT", QgsProcessing.TEMPORARY_OUTPUT)},
                               project_context(), folder)
    except (FieldError, LayerError, OSError) as error:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        failed(str(error))
        return
    grid = made.snapshot_of_service()
    tiles = tile_count(grid) if grid else 0
    question = session_client().ask("plan", {"job": job.to_dict()}, parent)
    question.destroyed.connect(lambda: shutil.rmtree(folder, ignore_errors=True))
    question.answered.connect(lambda answer: planned(JobSummary.from_dict(answer), tiles))
    question.failed.connect(failed)


def ask_scene_plan(verb: Verb, parameters: Parameters, parent: QObject, planned: Planned, failed: Failed) -> None:
    """Ask the backend what one of MetaEarth-MM's algorithms would do; main thread."""
    folder = parameters["OUTPUT"]
    if folder == QgsProcessing.TEMPORARY_OUTPUT:
        folder = str(Path(QgsProcessingUtils.tempFolder()) / "metaearth-scene")
    try:
        values = scene_algorithm(verb).values(parameters, project_context())
    except FieldError as error:
        failed(str(error))
        return
    wanted = {"verb": verb.name, "values": {**values, "output": absolute(folder)}}
    question = session_client().ask("plan", wanted, parent)
    question.answered.connect(lambda answer: planned(JobSummary.from_dict(answer), 0))
    question.failed.connect(failed)


class Planner(QObject):
    """``planned`` gives the `JobSummary` and tiles of the job last asked about, ``refused`` why there can be none."""

    planned = pyqtSignal(object, int)
    refused = pyqtSignal(str)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._question: Optional[Ask] = None
        self._number = 0
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._ask)

    def plan(self, question: Ask) -> None:
        """Ask, once the user pauses."""
        self._number += 1
        self._question = question
        self._timer.start(PAUSE_MS)

    def drop(self) -> None:
        """Want no answer any more."""
        self._number += 1
        self._timer.stop()

    def _ask(self) -> None:
        number = self._number

        def planned(summary: JobSummary, tiles: int) -> None:
            if number == self._number:
                self.planned.emit(summary, tiles)

        def refused(sentence: str) -> None:
            if number == self._number:
                self.refused.emit(sentence)

        self._question(self, planned, refused)
