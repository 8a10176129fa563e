"""Sets the backend's Python environment up, with a log to follow."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

from qgis.core import QgsApplication, QgsTask
from qgis.gui import QgsFileWidget
from qgis.PyQt import sip
from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QLabel,
    QMessageBox,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ...backend.protocol import data_home
from ..core.accelerator import find_gpu, torch_build
from ..core.backend_client import PLUGIN_ROOT, session_client
from ..core.environment import backend_python, save_choice
from ..core.installation import CPU_BYTES, CUDA_BYTES, at_work_sentence, forget, is_at_work, remove
from ..core.setup_task import SetupTask
from ..core.translate import tr


class SetupDialog(QDialog):
    """Three ways: download everything, take wheels from a folder, or use a Python that is there.

    ``ready`` tells that the backend can be started.
    """

    ready = pyqtSignal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(tr("Set up MetaEarth's backend"))
        self.resize(640, 460)
        self._task: Optional[QgsTask] = None
        layout = QVBoxLayout(self)
        self.state_label = QLabel(self)
        self.state_label.setWordWrap(True)
        layout.addWidget(self.state_label)
        layout.addLayout(self._build_choices())
        self.bar = QProgressBar(self)
        self.bar.setRange(0, 0)
        self.bar.hide()
        layout.addWidget(self.bar)
        self.log = QPlainTextEdit(self)
        self.log.setReadOnly(True)
        self.log.setAccessibleName(tr("Log"))
        layout.addWidget(self.log, 1)
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close, self)
        self.start_button = self._button(tr("Set up"), self.start)
        self.use_button = self._button(tr("Use this Python"), self.use)
        self.remove_button = self._button(tr("Remove"), self.remove)
        self.stop_button = self._button(tr("Stop"), self.stop)
        self.buttons.rejected.connect(self.reject)
        layout.addWidget(self.buttons)
        self._show_state()

    def _build_choices(self) -> QFormLayout:
        form = QFormLayout()
        self.wheels_box = QgsFileWidget(self)
        self.wheels_box.setStorageMode(QgsFileWidget.StorageMode.GetDirectory)
        self.wheels_box.setToolTip(tr("For machines without a network: uv's wheel and those of all packages."))
        form.addRow(tr("Folder of wheels (optional)"), self.wheels_box)
        self.python_box = QgsFileWidget(self)
        self.python_box.setToolTip(tr("A Python 3.11 or newer that has torch, rasterio and the rest already."))
        form.addRow(tr("Your own Python (optional)"), self.python_box)
        return form

    def _button(self, text: str, slot) -> QPushButton:
        button = self.buttons.addButton(text, QDialogButtonBox.ButtonRole.ActionRole)
        button.clicked.connect(slot)
        return button

    def _is_free(self) -> bool:
        """Whether no job needs the backend that is about to end; else says so."""
        if session_client().state.jobs:
            self.log.appendPlainText(tr("A job is running; wait until it has ended, or cancel it."))
            return False
        if is_at_work(data_home()):
            self.log.appendPlainText(at_work_sentence(data_home()))
            return False
        return True

    def start(self) -> None:
        """Set up, or go on with a try that broke."""
        if not self._is_free():
            return
        session_client().end_child()  # a running backend would hold files that are replaced
        wheels = self.wheels_box.filePath()
        self._task = SetupTask(Path(wheels) if wheels else None)
        self._task.said.connect(self.log.appendPlainText)
        self._task.ended.connect(self._ended)
        self._show_state()
        QgsApplication.taskManager().addTask(self._task)

    def stop(self) -> None:
        """Cancel the set-up; what is downloaded stays."""
        if isinstance(self._task, SetupTask):
            self._task.cancel()

    def use(self) -> None:
        """Take a Python that the user has."""
        if not self._is_free():
            return
        try:
            save_choice(Path(self.python_box.filePath()), data_home())
        except (OSError, ValueError) as error:
            self.log.appendPlainText(str(error))
            return
        session_client().end_child()
        self._show_state()
        self.ready.emit()

    def remove(self) -> None:
        """Delete the environment, if the user means it."""
        if not self._is_free():
            return
        asked = QMessageBox.question(self, self.windowTitle(), tr(
            "Delete the backend's environment? Setting it up again takes a download of about 1 GB or more."))
        if asked != QMessageBox.StandardButton.Yes:
            return
        session_client().end_child()
        try:
            forget(data_home())  # at once: the panel may ask the backend for something
        except OSError as error:
            self.log.appendPlainText(str(error))
            return
        self._task = QgsTask.fromFunction(tr("Delete the backend's environment"), lambda task: remove(data_home()),
                                          on_finished=self._removed)
        _removing[:] = [self._task]  # the dialog may go before it has ended
        self._show_state()
        QgsApplication.taskManager().addTask(self._task)

    def _removed(self, error: Optional[Exception], _: object = None) -> None:
        if sip.isdeleted(self):
            return
        self._task = None
        if error:
            self.log.appendPlainText(tr("Not all of it could be deleted: {}").format(error))
        self._show_state()

    def _ended(self, problem: str) -> None:
        self._task = None
        if problem:
            self.log.appendPlainText(problem)
        self._show_state()
        if not problem:
            if not session_client().state.jobs:  # one that was asked for meanwhile may be of the earlier Python
                session_client().end_child()
            self.ready.emit()

    def _show_state(self) -> None:
        found, build = backend_python(PLUGIN_ROOT, data_home()), torch_build(find_gpu())
        size = CUDA_BYTES if (build.name or "").startswith("cu") else CPU_BYTES
        state = tr("The backend's Python: {}").format(found.sentence) if found.path else found.sentence
        self.state_label.setText("\n\n".join([state, tr(
            "Set up makes one in {} with uv, apart from QGIS: up to {:.0f} GB. {}").format(
                data_home(), size / 1e9, build.reason)]))
        busy = self._task is not None
        self.bar.setVisible(busy)
        self.stop_button.setEnabled(isinstance(self._task, SetupTask))
        for button in (self.start_button, self.use_button, self.remove_button):
            button.setEnabled(not busy)


_removing: List[QgsTask] = []
