"""Run, cancel, and how far the job is."""

from __future__ import annotations

from functools import partial
from typing import List, Optional

from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtWidgets import QHBoxLayout, QLabel, QMenu, QProgressBar, QPushButton, QToolButton, QVBoxLayout, QWidget

from ...backend.protocol import Progress
from ..core.cost import duration
from ..core.runs import Run
from ..core.translate import tr


class RunBox(QWidget):
    """Buttons and a progress bar; ``runs`` are those that `follow` was asked to show and that have not ended."""

    run_asked = pyqtSignal()

    def __init__(self, parent: QWidget, run_text: str) -> None:
        super().__init__(parent)
        self.runs: List[Run] = []
        self._current: Optional[Run] = None
        self._told = ""
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.bar = QProgressBar(self)
        self.bar.setRange(0, 1000)
        self.bar.setAccessibleName(tr("Progress"))
        self.label = QLabel(self)
        self.label.setWordWrap(True)
        self.run_button = QPushButton(run_text, self)
        self.run_button.setDefault(True)
        self.run_button.clicked.connect(self.run_asked)
        self.cancel_button = QToolButton(self)
        self.cancel_button.setText(tr("Cancel"))
        self.cancel_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self.cancel_button)
        self.keep_action = menu.addAction(tr("Stop, and keep what is finished to resume it"))
        self.keep_action.triggered.connect(lambda: self.stop(True))
        self.drop_action = menu.addAction(tr("Stop, and delete what is finished"))
        self.drop_action.triggered.connect(lambda: self.stop(False))
        self.cancel_button.setMenu(menu)
        self._buttons = QHBoxLayout()
        self._buttons.addWidget(self.run_button, 1)
        self._buttons.addWidget(self.cancel_button)
        for widget in (self.bar, self.label):
            layout.addWidget(widget)
        layout.addLayout(self._buttons)
        self.show_idle("")

    def add_button(self, text: str) -> QPushButton:
        """Another button that starts something, after the first."""
        button = QPushButton(text, self)
        self._buttons.insertWidget(self._buttons.count() - 1, button)
        self.setTabOrder(self.run_button, button)
        self.setTabOrder(button, self.cancel_button)
        return button

    def follow(self, run: Run) -> None:
        """Show a run, which is about to start, until it ends."""
        run.feedback.advanced.connect(partial(self._advanced, run))
        run.failed.connect(self.show_idle)
        run.cancelled.connect(lambda: self.show_idle(tr("Cancelled.")))
        run.ended.connect(partial(self._forget, run))
        self.runs.append(run)
        if len(self.runs) == 1:
            self._told = ""
            self._show_started()

    def stop(self, keep: bool) -> None:
        """Cancel the job that runs; ``keep`` what is finished of it, to be resumed, or delete it."""
        if self.runs:
            self.cancel_button.setEnabled(False)
            self._say(tr("Stopping…"))
            run = self._current if self._current in self.runs else self.runs[0]
            if run.live and not keep:
                run.live.remove()  # its blocks go next, and on Windows no file goes that is open
            run.stop(keep)

    def set_ready(self, ready: bool, reason: str) -> None:
        """Whether a job can be started, and else why not."""
        self.run_button.setEnabled(ready)
        self.run_button.setToolTip(reason)

    def show_idle(self, text: str) -> None:
        """No job runs, or another follows; ``text`` tells how the last one ended."""
        self.bar.setVisible(False)
        self.cancel_button.setEnabled(False)
        self._told = ""
        self._say(text)
        self._told = text

    def _say(self, text: str) -> None:
        """Show a sentence, below what was told of the job before."""
        self.label.setText("\n".join(part for part in (self._told, text) if part))
        self.label.setVisible(bool(self.label.text()))

    def _advanced(self, run: Run, progress: Progress) -> None:
        """Where the job is."""
        if run in self.runs and not run.feedback.isCanceled():
            self._current = run
            self.bar.setVisible(True)
            self.bar.setValue(int(1000 * progress.fraction))
            self._say(progress_text(progress))

    def _forget(self, run: Run) -> None:
        self.runs.remove(run)
        if self.runs:
            self._show_started()

    def _show_started(self) -> None:
        self.bar.setVisible(True)
        self.bar.setValue(0)
        self.cancel_button.setEnabled(True)
        self._say(tr("Starting…"))


def progress_text(progress: Progress) -> str:
    """ "Stage 1 of 2 · 12 of 48 windows · 35 s left"."""
    left: Optional[str] = None
    if progress.eta_seconds is not None:
        left = tr("{} left").format(duration(progress.eta_seconds))
    parts = [tr("Stage {} of {}").format(progress.stage, progress.stages),
             tr("{} of {} windows").format(progress.windows_done, progress.windows), left]
    return " · ".join(part for part in parts if part)
