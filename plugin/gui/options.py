"""MetaEarth's page in QGIS's options."""

from __future__ import annotations

from typing import Callable, Dict, List, Optional

from qgis.core import QgsApplication, QgsTask
from qgis.gui import QgsOptionsPageWidget, QgsOptionsWidgetFactory
from qgis.PyQt import sip
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtGui import QIcon, QShowEvent
from qgis.PyQt.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QInputDialog,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QMessageBox,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ...backend.protocol import FIELDS, SCENE, ClusterInfo, ModelInfo, Models, data_home
from ..core import settings
from ..core.backend_client import session_client
from ..core.cost import size_text
from ..core.installation import at_work_sentence, is_at_work
from ..core.storage import clear, sizes
from ..core.translate import tr
from ..icons import ICON_PATH

_clearing: List[QgsTask] = []


class OptionsFactory(QgsOptionsWidgetFactory):
    """Makes the page; ``set_up`` opens the set-up of the backend's environment."""

    def __init__(self, set_up: Callable[[], None]) -> None:
        super().__init__("MetaEarth", QIcon(ICON_PATH))
        self._set_up = set_up

    def icon(self) -> QIcon:
        """The page's icon."""
        return QIcon(ICON_PATH)

    def createWidget(self, parent: QWidget) -> QgsOptionsPageWidget:
        """Called by QGIS whenever its options are opened."""
        return OptionsPage(parent, self._set_up)


class OptionsPage(QgsOptionsPageWidget):
    """Where things lie, what computes, what is too much, and which models there are."""

    def __init__(self, parent: QWidget, set_up: Callable[[], None]) -> None:
        super().__init__(parent)
        layout = QVBoxLayout(self)
        layout.addWidget(self._build_storage(set_up))
        layout.addWidget(self._build_device())
        layout.addWidget(self._build_models())
        layout.addStretch(1)

    def apply(self) -> None:
        """Keep the values; called by QGIS."""
        settings.write("device", self.device_box.currentText())
        settings.write("executor", self.executor_box.text().strip())
        settings.write("warn_minutes", self.minutes_box.value())
        settings.write("max_gigabytes", self.gigabytes_box.value())

    def _build_storage(self, set_up: Callable[[], None]) -> QGroupBox:
        box = QGroupBox(tr("Folders"), self)
        layout = QVBoxLayout(box)
        self.storage_label = QLabel(box)
        self.storage_label.setWordWrap(True)
        layout.addWidget(self.storage_label)
        row = QHBoxLayout()
        row.addWidget(_button(tr("Set up the backend…"), set_up))
        self.clear_button = _button(tr("Delete downloads, copies, worlds and logs"), self._clear)
        row.addWidget(self.clear_button)
        row.addStretch(1)
        layout.addLayout(row)
        return box

    def _build_device(self) -> QGroupBox:
        box = QGroupBox(tr("Computing"), self)
        form = QFormLayout(box)
        self.device_box = QComboBox(box)
        self.device_box.addItems(FIELDS["device"].choices)
        self.device_box.setCurrentText(settings.read("device", "auto"))
        form.addRow(tr("Device"), self.device_box)
        self.executor_box = QLineEdit(settings.read("executor", ""), box)
        self.executor_box.setPlaceholderText(tr("auto"))
        self.executor_box.setToolTip(tr(FIELDS["executor"].help))
        row = QHBoxLayout()
        row.addWidget(self.executor_box, 1)
        row.addWidget(_button(tr("Test"), self._test_executor))
        form.addRow(tr("Executor"), row)
        self.executor_label = QLabel(box)
        self.executor_label.setWordWrap(True)
        form.addRow("", self.executor_label)
        limits = settings.limits()
        self.minutes_box = self._number(limits.warn_minutes, tr(" min"))
        form.addRow(tr("Warn of jobs above"), self.minutes_box)
        self.gigabytes_box = self._number(limits.max_gigabytes, tr(" GB"))
        form.addRow(tr("Refuse jobs above"), self.gigabytes_box)
        return box

    def _build_models(self) -> QGroupBox:
        box = QGroupBox(tr("Models"), self)
        layout = QVBoxLayout(box)
        self.models_list = QListWidget(box)
        self.models_list.setAccessibleName(tr("Models"))
        self.models_list.setMaximumHeight(160)
        self.models_list.setWordWrap(True)
        self.models_list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        layout.addWidget(self.models_list)
        self.models_label = QLabel(box)
        self.models_label.setWordWrap(True)
        layout.addWidget(self.models_label)
        row = QHBoxLayout()
        row.addWidget(_button(tr("Add from a file…"), self._add_file))
        row.addWidget(_button(tr("Add from a folder…"), self._add_folder))
        row.addWidget(_button(tr("Add from a hub…"), self._add_from_hub))
        row.addWidget(_button(tr("Remove"), self._remove))
        row.addStretch(1)
        layout.addLayout(row)
        return box

    def showEvent(self, event: QShowEvent) -> None:
        """QGIS makes every page when its options are opened; only who looks at this one waits for its figures."""
        super().showEvent(event)
        if not self.models_list.count():
            self._show_storage()
            self.ask_models("models", {})

    def _number(self, value: float, suffix: str) -> QDoubleSpinBox:
        box = QDoubleSpinBox(self)
        box.setRange(0, 1e6)
        box.setDecimals(0)
        box.setSuffix(suffix)
        box.setValue(value)
        return box

    def _show_storage(self) -> None:
        self.storage_label.setText(str(data_home()))
        self._sizing = QgsTask.fromFunction(tr("Sizes of MetaEarth's folders"), lambda task: sizes(data_home()),
                                            on_finished=self._show_sizes)
        QgsApplication.taskManager().addTask(self._sizing)

    def _show_sizes(self, error: Optional[Exception], found: Optional[Dict[str, int]] = None) -> None:
        if sip.isdeleted(self) or error or not found:
            return
        names = {"environment": tr("environment"), "downloads": tr("downloads"), "models": tr("models"),
                 "snapshots": tr("copies of layers"), "worlds": tr("worlds"), "logs": tr("logs")}
        text = "; ".join(f"{names[kind]} {size_text(size)}" for kind, size in found.items())
        self.storage_label.setText(f"{data_home()}\n{text}")

    def _is_meant(self, question: str) -> bool:
        return QMessageBox.question(self, "MetaEarth", question) == QMessageBox.StandardButton.Yes

    def _clear(self) -> None:
        if session_client().state.jobs:
            self.storage_label.setText(tr("A job is running; wait until it has ended."))
            return
        if is_at_work(data_home()):
            self.storage_label.setText(at_work_sentence(data_home()))
            return
        if not self._is_meant(tr("Delete downloads, copies of layers, logs and all worlds? What worlds show would have "
                                 "to be generated again.")):
            return
        self.storage_label.setText(tr("Deleting…"))
        self.clear_button.setEnabled(False)
        task = QgsTask.fromFunction(tr("Delete what MetaEarth can make again"), lambda task: clear(data_home()),
                                    on_finished=self._cleared)
        _clearing[:] = [task]  # the page may be closed before it has begun
        QgsApplication.taskManager().addTask(task)

    def _cleared(self, error: Optional[Exception], _: object = None) -> None:
        if not sip.isdeleted(self):
            self.clear_button.setEnabled(True)
            self._show_storage()

    def _test_executor(self) -> None:
        address = self.executor_box.text().strip() or FIELDS["executor"].default
        self.executor_label.setText(tr("Asking {}…").format(address))
        asked = {"executor": address, "device": self.device_box.currentText()}
        question = session_client().ask("cluster", asked, self)
        question.answered.connect(self._show_cluster)
        question.failed.connect(self.executor_label.setText)

    def _show_cluster(self, answer: dict) -> None:
        found = ClusterInfo(**answer)
        if not found.address:
            self.executor_label.setText(tr("This machine computes, in one process.") if found.workers == 1 else
                                        tr("This machine computes, in {} processes.").format(found.workers))
            return
        self.executor_label.setText(tr("{} answers: {} workers with {} threads.").format(
            found.address, found.workers, found.threads))

    def _show_models(self, models: List[ModelInfo]) -> None:
        self.models_list.clear()
        for model in models:
            weights = "" if model.has_weights else tr(", no weights")
            kind = tr("modalities") if model.kind == SCENE else tr("higher resolution")
            item = QListWidgetItem(tr("{}: {} ({:g} to {:g} m/px, {}{})").format(
                model.id, kind, *model.ground_resolution_m, model.licence, weights), self.models_list)
            item.setData(256, model.id)
            item.setToolTip(model.folder)

    def _add_file(self) -> None:
        file, _ = QFileDialog.getOpenFileName(self, tr("The zip of a model"), "", tr("Models (*.zip)"))
        if file:
            self.ask_models("add_model", {"source": file})

    def _add_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, tr("The folder of a model bundle"))
        if folder:
            self.ask_models("add_model", {"source": folder})

    def _add_from_hub(self) -> None:
        source, wanted = QInputDialog.getText(self, tr("Add from a hub"), tr("hub:owner/name@COMMIT"))
        if wanted and source:
            digest, wanted = QInputDialog.getText(self, tr("Add from a hub"), tr("SHA-256 of its model.safetensors"))
            if wanted:
                self.ask_models("add_model", {"source": source.strip(), "sha256": digest.strip()})

    def _remove(self) -> None:
        item = self.models_list.currentItem()
        model = item.data(256) if item else ""
        if model and self._is_meant(tr("Delete the model {} and its files?").format(model)):
            self.ask_models("remove_model", {"id": model})

    def ask_models(self, method: str, params: dict) -> None:
        """Ask the backend to change its models, and show those that there are then."""
        self.models_label.setText(tr("Asking the backend…"))
        question = session_client().ask(method, params, self)
        question.answered.connect(self._models_changed)
        question.failed.connect(self.models_label.setText)

    def _models_changed(self, answer: dict) -> None:
        self.models_label.setText("")
        self._show_models(Models.from_dict(answer).models)


def _button(text: str, slot: Callable[[], None]) -> QPushButton:
    button = QPushButton(text)
    button.clicked.connect(lambda _=False: slot())
    return button
