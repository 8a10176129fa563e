"""What the backend is doing, and its log."""

from __future__ import annotations

from qgis.PyQt.QtWidgets import QHBoxLayout, QLabel, QPlainTextEdit, QToolButton, QVBoxLayout, QWidget

from ..core.backend_process import BackendState
from ..core.translate import tr
from .icons import icon

KEPT_LINES = 2000


class BackendBox(QWidget):
    """One line of status; a button opens the log below it."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.label = QLabel(self)
        self.label.setWordWrap(True)
        self.log = QPlainTextEdit(self)
        self.log.setReadOnly(True)
        self.log.setMaximumBlockCount(KEPT_LINES)
        self.log.setAccessibleName(tr("Log"))
        self.log.setMinimumHeight(90)
        self.log.hide()
        self.log_button = QToolButton(self)
        self.log_button.setIcon(icon("mMessageLog.svg"))
        self.log_button.setCheckable(True)
        self.log_button.setAutoRaise(True)
        self.log_button.setToolTip(tr("Show the log"))
        self.log_button.setAccessibleName(tr("Show the log"))
        self.log_button.toggled.connect(self.log.setVisible)
        row = QHBoxLayout()
        row.addWidget(self.label, 1)
        row.addWidget(self.log_button)
        layout.addLayout(row)
        layout.addWidget(self.log)
        self.show_state(BackendState())

    def show_state(self, state: BackendState) -> None:
        """Device, memory, and jobs that run or wait."""
        self.label.setText(state_text(state))

    def add_line(self, text: str) -> None:
        """Something that the backend or an algorithm has said."""
        self.log.appendPlainText(text)


def state_text(state: BackendState) -> str:
    """ "Ready on NVIDIA H100, 80 GB · 2 jobs"."""
    if state.stage == "stopped":
        return tr("The backend starts when it is needed.")
    if state.stage == "starting" or state.handshake is None:
        return tr("The backend is starting…")
    shake = state.handshake
    text = tr("Ready on {}, {:.0f} GB").format(shake.device_name, shake.memory_bytes / 1e9)
    return text + (" · " + tr("jobs: {}").format(state.jobs) if state.jobs else "")
