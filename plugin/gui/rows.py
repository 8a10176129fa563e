"""Rows that the panel's forms have in common: labels, buttons, the seed and the model."""

from __future__ import annotations

import random
from typing import List

from qgis.gui import QgsSpinBox
from qgis.PyQt.QtCore import QSignalBlocker, Qt, pyqtSignal
from qgis.PyQt.QtWidgets import (
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from ...backend.protocol import MAX_SEED, ModelInfo
from ..core.cost import REFUSED, WARNING
from ..core.translate import tr
from .icons import icon

MARGIN = 9
COLOURS = {WARNING: ("#8f5600", "#ffb84d"), REFUSED: ("#c00000", "#ff9d94")}
"""On light windows, and on dark ones."""
DARK = 128


class CostLabel(QLabel):
    """What a job costs or why there can be none, in the colour of how grave that is; hidden while there is nothing."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setVisible(False)

    def tell(self, text: str, level: str) -> None:
        """Show a text."""
        is_dark = self.palette().window().color().lightness() < DARK
        self.setStyleSheet(f"color: {COLOURS[level][is_dark]}" if level in COLOURS else "")
        self.setText(text)
        self.setAccessibleName(tr("Cost: {}").format(text))
        self.setVisible(bool(text))


def add_row(layout: QFormLayout, text: str, widget: QWidget, help_text: str) -> QLabel:
    """The label of a new row; keyboard focus, tool tip and accessible name are the widget's too."""
    label = QLabel(text, layout.parentWidget())
    label.setBuddy(widget)
    label.setToolTip(help_text)
    widget.setToolTip(help_text)
    widget.setAccessibleName(text)
    layout.addRow(label, widget)
    return label


def side_by_side(parent: QWidget, *widgets: QWidget) -> QWidget:
    """One widget that holds several, the first as wide as there is room."""
    row = QWidget(parent)
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for number, widget in enumerate(widgets):
        layout.addWidget(widget, 1 if number == 0 else 0)
    row.setFocusProxy(widgets[0])
    return row


def icon_button(parent: QWidget, name: str, text: str) -> QToolButton:
    """A flat button with one of QGIS's own icons."""
    button = QToolButton(parent)
    button.setIcon(icon(name))
    button.setToolTip(text)
    button.setAccessibleName(text)
    button.setAutoRaise(True)
    return button


def scrolling(inside: QWidget, parent: QWidget) -> QScrollArea:
    """An area that scrolls downwards only, at least as wide as what it shows."""
    area = QScrollArea(parent)
    area.setWidgetResizable(True)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(inside)
    area.setMinimumWidth(inside.minimumSizeHint().width() + area.verticalScrollBar().sizeHint().width())
    return area


def above(area: QScrollArea, *widgets: QWidget) -> QVBoxLayout:
    """The layout of a page: an area that takes the room there is, and widgets that stay in sight below it."""
    layout, below = QVBoxLayout(), QVBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    below.setContentsMargins(MARGIN, 0, MARGIN, 0)
    layout.addWidget(area, 1)
    for widget in widgets:
        below.addWidget(widget)
    layout.addLayout(below)
    return layout


class SeedRow(QWidget):
    """A seed, a button for another one, and whether it stays for the next run."""

    changed = pyqtSignal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.box = QgsSpinBox(self)
        self.box.setRange(0, MAX_SEED)
        self.box.setShowClearButton(False)
        self.box.setAccessibleName(tr("Seed"))
        self.box.valueChanged.connect(self.changed)
        self.dice = icon_button(self, "mActionRefresh.svg", tr("Another seed"))
        self.dice.clicked.connect(self.roll)
        self.lock_button = icon_button(self, "locked.svg", tr("Keep this seed for the next run"))
        self.lock_button.setCheckable(True)
        self.lock_button.setChecked(True)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.box, 1)
        layout.addWidget(self.dice)
        layout.addWidget(self.lock_button)
        self.setFocusProxy(self.box)

    def roll(self) -> None:
        """Take another seed."""
        self.box.setValue(random.randrange(MAX_SEED))  # nosec B311 - no secret

    def next(self) -> None:
        """After a run: another seed, unless this one is locked."""
        if not self.lock_button.isChecked():
            self.roll()


class ModelRow(QWidget):
    """The models of one kind that have weights, and a button for the card of the chosen one."""

    changed = pyqtSignal()
    card_wanted = pyqtSignal(str)

    def __init__(self, kind: str, default: str, parent: QWidget) -> None:
        super().__init__(parent)
        self._kind = kind
        self.box = QComboBox(self)
        self.box.setAccessibleName(tr("Model"))
        self.box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.box.setMinimumContentsLength(12)
        self.box.addItem(default, default)
        self.box.currentIndexChanged.connect(self.changed)
        self.card_button = icon_button(self, "mActionHelpContents.svg", tr("Show the model's card"))
        self.card_button.clicked.connect(lambda: self.card_wanted.emit(self.model()))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.box, 1)
        layout.addWidget(self.card_button)
        self.setFocusProxy(self.box)

    def model(self) -> str:
        """The chosen model's id; empty if there is none."""
        return self.box.currentData() or ""

    def choose(self, model: str) -> None:
        """Choose a model, even if nobody has told of it yet."""
        if self.box.findData(model) < 0:
            self.box.addItem(model, model)
        self.box.setCurrentIndex(self.box.findData(model))

    def show_models(self, models: List[ModelInfo]) -> None:
        """Offer those of the kind that have weights; the chosen one stays chosen."""
        chosen = self.model()
        with QSignalBlocker(self.box):
            self.box.clear()
            for model in models:
                if model.has_weights and model.kind == self._kind:
                    self.box.addItem(model.title, model.id)
                    self.box.setItemData(self.box.count() - 1, tr("{}, {:g} to {:g} m/px, {}").format(
                        model.id, *model.ground_resolution_m, model.licence), 3)
            self.box.setCurrentIndex(max(self.box.findData(chosen), 0))
        self.card_button.setEnabled(bool(self.model()))
        if self.model() != chosen:
            self.changed.emit()
