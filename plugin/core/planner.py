"""What the job in the panel would cost, asked anew whenever the user changes something."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from qgis.core import QgsApplication, QgsProcessing, QgsProcessingContext, QgsProcessingUtils, QgsProject
from qgis.PyQt.QtCore import QObject, QTimer, pyqtSignal

from ...backend.protocol import FieldError, JobSummary
from .backend_client import session_client
from .layers import LayerError, tile_count

Parameters = Dict[str, Any]
PAUSE_MS = 300
ALGORITHM_ID = "metaearth:generatehigherresolution"


def algorithm():
    """A fresh algorithm that makes rasters finer."""
    return QgsApplication.processingRegistry().createAlgorithmById(ALGORITHM_ID)


def ask_plan(parameters: Parameters, parent: QObject, planned: Callable[[JobSummary, int], None],
             failed: Callable[[str], None]) -> None:
    """Ask the backend what the algorithm would do; ``planned`` gets its answer and how many tiles a service must give.

    Main thread.
    """
    folder = Path(tempfile.mkdtemp(prefix="metaearth-plan-", dir=QgsProcessingUtils.tempFolder()))
    made, context = algorithm(), QgsProcessingContext()
    context.setProject(QgsProject.instance())
    try:
        job = made.planned_job({**parameters, "OUTPUT": parameters.get("OUTPUT", QgsProcessing.TEMPORARY_OUTPUT)},
                               context, folder)
    except (FieldError, LayerError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        failed(str(error))
        return
    grid = made.snapshot_of_service()
    tiles = tile_count(grid) if grid else 0
    question = session_client().ask("plan", {"job": job.to_dict()}, parent)
    question.destroyed.connect(lambda: shutil.rmtree(folder, ignore_errors=True))
    question.answered.connect(lambda answer: planned(JobSummary.from_dict(answer), tiles))
    question.failed.connect(failed)


class Planner(QObject):
    """``planned`` gives the `JobSummary` and tiles of the parameters last given, ``refused`` why they make no job."""

    planned = pyqtSignal(object, int)
    refused = pyqtSignal(str)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._parameters: Optional[Parameters] = None
        self._number = 0
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._ask)

    def plan(self, parameters: Parameters) -> None:
        """Ask for these parameters, once the user pauses."""
        self._number += 1
        self._parameters = parameters
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

        ask_plan(self._parameters, self, planned, refused)
