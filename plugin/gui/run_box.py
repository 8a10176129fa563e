"""Run, cancel, and how far the job is."""

from __future__ import annotations

from typing import Optional

from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtWidgets import QHBoxLayout, QLabel, QMenu, QProgressBar, QPushButton, QToolButton, QVBoxLayout, QWidget

from ...backend.protocol import Progress
from ..core.cost import duration
from ..core.translate import tr


class RunBox(QWidget):
    """Buttons and a progress bar; ``stop_asked`` says whether what is finished is to be kept."""

    run_asked = pyqtSignal()
    stop_asked = pyqtSignal(bool)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.bar = QProgressBar(self)
        self.bar.setRange(0, 1000)
        self.bar.setAccessibleName(tr("Progress"))
        self.label = QLabel(self)
        self.label.setWordWrap(True)
        self.run_button = QPushButton(tr("Run"), self)
        self.run_button.setDefault(True)
        self.run_button.clicked.connect(self.run_asked)
        self.cancel_button = QToolButton(self)
        self.cancel_button.setText(tr("Cancel"))
        self.cancel_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self.cancel_button)
        self.keep_action = menu.addAction(tr("Stop, and keep what is finished to resume it"))
        self.keep_action.triggered.connect(lambda: self.stop_asked.emit(True))
        self.drop_action = menu.addAction(tr("Stop, and delete what is finished"))
        self.drop_action.triggered.connect(lambda: self.stop_asked.emit(False))
        self.cancel_button.setMenu(menu)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button, 1)
        buttons.addWidget(self.cancel_button)
        for widget in (self.bar, self.label):
            layout.addWidget(widget)
        layout.addLayout(buttons)
        self.show_idle("")

    def set_ready(self, ready: bool, reason: str) -> None:
        """Whether a job can be started, and else why not."""
        self.run_button.setEnabled(ready)
        self.run_button.setToolTip(reason)

    def show_idle(self, text: str) -> None:
        """No job runs; ``text`` tells how the last one ended."""
        self.bar.setVisible(False)
        self.cancel_button.setEnabled(False)
        self.label.setText(text)
        self.label.setVisible(bool(text))

    def show_started(self) -> None:
        """A job has begun."""
        self.bar.setVisible(True)
        self.bar.setValue(0)
        self.cancel_button.setEnabled(True)
        self.label.setVisible(True)
        self.label.setText(tr("Starting…"))

    def show_progress(self, progress: Progress) -> None:
        """Where the job is."""
        self.bar.setVisible(True)
        self.bar.setValue(int(1000 * progress.fraction))
        self.label.setText(progress_text(progress))

    def show_stopping(self) -> None:
        """The user has cancelled."""
        self.cancel_button.setEnabled(False)
        self.label.setText(tr("Stopping…"))


def progress_text(progress: Progress) -> str:
    """ "Stage 1 of 2 · 12 of 48 windows · 35 s left"."""
    left: Optional[str] = None
    if progress.eta_seconds is not None:
        left = tr("{} left").format(duration(progress.eta_seconds))
    parts = [tr("Stage {} of {}").format(progress.stage, progress.stages),
             tr("{} of {} windows").format(progress.windows_done, progress.windows), left]
    return " · ".join(part for part in parts if part)
