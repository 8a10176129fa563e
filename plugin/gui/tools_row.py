"""A row of buttons for jobs and their results, the first of which copies a job as a command."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, Optional, Tuple

from qgis.core import QgsApplication, QgsProcessingAlgorithm
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtWidgets import QAction, QHBoxLayout, QMenu, QToolButton, QWidget

from ..core.history import python_command, terminal_command
from ..core.translate import tr
from .icons import icon

Job = Optional[Tuple[QgsProcessingAlgorithm, Dict[str, Any]]]


class ToolsRow(QWidget):
    """``job`` gives the algorithm and its parameters, or None if there is nothing to copy."""

    def __init__(self, job: Callable[[], Job], parent: QWidget) -> None:
        super().__init__(parent)
        self._job = job
        copy = QToolButton(self)
        copy.setText(tr("Copy as"))
        copy.setIcon(icon("mActionEditCopy.svg"))
        copy.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        copy.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        copy.setToolTip(tr("Copy this job, or the last run, as a command."))
        menu = QMenu(copy)
        self.python_action = menu.addAction(tr("Python command"))
        self.python_action.triggered.connect(partial(self._copy, python_command))
        self.terminal_action = menu.addAction(tr("qgis_process command"))
        self.terminal_action.triggered.connect(partial(self._copy, terminal_command))
        copy.setMenu(menu)
        self._layout = QHBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.addWidget(copy)
        self._layout.addStretch(1)

    def add(self, action: QAction) -> None:
        """A button for another action."""
        button = QToolButton(self)
        button.setDefaultAction(action)
        button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._layout.addWidget(button)

    def _copy(self, as_text: Any) -> None:
        job = self._job()
        if job:
            QgsApplication.clipboard().setText(as_text(*job))
