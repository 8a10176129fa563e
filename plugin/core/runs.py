"""A run of one of our algorithms in QGIS's task manager, as the panel starts it."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Set

from qgis.core import (
    QgsApplication,
    QgsProcessingAlgorithm,
    QgsProcessingAlgRunnerTask,
    QgsProcessingContext,
    QgsProject,
)
from qgis.PyQt.QtCore import QObject, QTimer, pyqtSignal

from .jobs import JobFeedback
from .live import LiveLayer
from .translate import tr


class WatchedFeedback(JobFeedback):
    """Keeps what was said, and its last error.

    A cancel that comes from elsewhere, such as QGIS's task manager when QGIS is closed, keeps what is finished.
    """

    said = pyqtSignal(str)
    keep: Optional[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.errors: List[str] = []
        self.warnings: List[str] = []

    def reportError(self, error: str, fatalError: bool = False) -> None:
        """Called by QGIS with the sentence of a failed algorithm."""
        self.errors.append(error)
        self.said.emit(error)

    def pushWarning(self, warning: str) -> None:
        """A sentence for the user."""
        self.warnings.append(warning)
        self.said.emit(warning)

    def pushInfo(self, info: str) -> None:
        """A sentence for the log."""
        self.said.emit(info)


class Run(QObject):
    """One run: `start` it, follow ``feedback.advanced``, and wait for one of the signals.

    ``finished`` gives the algorithm's results, ``failed`` a sentence, ``cancelled`` nothing; then ``ended`` follows.
    """

    finished = pyqtSignal(dict)
    failed = pyqtSignal(str)
    cancelled = pyqtSignal()
    ended = pyqtSignal()

    def __init__(self, algorithm: QgsProcessingAlgorithm, parameters: Dict[str, Any]) -> None:
        super().__init__()
        self.algorithm, self.parameters = algorithm, parameters
        self.live: Optional[LiveLayer] = None
        self.writes: List[str] = []
        self.feedback = WatchedFeedback()
        self.context = QgsProcessingContext()
        self.context.setProject(QgsProject.instance())
        self.context.setFeedback(self.feedback)

    def start(self) -> None:
        """Hand the algorithm to the task manager."""
        # QGIS keeps the C++ halves only: algorithm, context and feedback must live as long as the task.
        _running.add(self)
        self._task = QgsProcessingAlgRunnerTask(self.algorithm, self.parameters, self.context, self.feedback)
        if self._task.isCanceled():  # the algorithm refused its parameters
            QTimer.singleShot(0, self._refused)
            return
        self._task.executed.connect(self._executed)
        QgsApplication.taskManager().addTask(self._task)

    def stop(self, keep: bool) -> None:
        """Cancel; ``keep`` what is finished, to be resumed, or delete it."""
        self.feedback.stop(keep)

    def abandon(self, keep: bool) -> None:
        """Cancel, and tell nobody how it ended."""
        self.blockSignals(True)
        self.stop(keep)

    def _refused(self) -> None:
        _running.discard(self)
        self.failed.emit(self._problem())
        self.ended.emit()

    def _problem(self) -> str:
        return self.feedback.errors[0] if self.feedback.errors else tr("The job failed.")

    def _executed(self, successful: bool, results: Dict[str, Any]) -> None:
        _running.discard(self)
        if successful:
            self.finished.emit(results)
        elif self.feedback.isCanceled():
            self.cancelled.emit()
        else:
            self.failed.emit(self._problem())
        self.ended.emit()


_running: Set[Run] = set()
