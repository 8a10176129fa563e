"""Processing's own widgets for some parameters of an algorithm, in a form."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List

from qgis.core import QgsProcessingAlgorithm, QgsProcessingContext, QgsProcessingParameterDefinition, QgsProject
from qgis.gui import (
    QgsAbstractProcessingParameterWidgetWrapper,
    QgsGui,
    QgsMapCanvas,
    QgsProcessingContextGenerator,
    QgsProcessingGui,
    QgsProcessingParameterWidgetContext,
)
from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtWidgets import QFormLayout, QWidget

EMPTY = (None, "", [], "None,None", "nan,nan")


class _Context(QgsProcessingContextGenerator):
    """Gives the widgets the project."""

    def __init__(self) -> None:
        super().__init__()
        self._context = QgsProcessingContext()
        self._context.setProject(QgsProject.instance())

    def processingContext(self) -> QgsProcessingContext:
        """Called by the widgets."""
        return self._context


class ParameterForm(QWidget):
    """Widgets for ``names``, made by QGIS as in the algorithm's dialog; ``changed`` tells that one has another value.

    Only values that differ from the defaults are given to the algorithm.
    """

    changed = pyqtSignal()

    def __init__(self, algorithm: QgsProcessingAlgorithm, names: Iterable[str], canvas: QgsMapCanvas,
                 parent: QWidget) -> None:
        super().__init__(parent)
        self._generator = _Context()
        self._wrappers: Dict[str, QgsAbstractProcessingParameterWidgetWrapper] = {}
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        context = QgsProcessingParameterWidgetContext()
        context.setProject(QgsProject.instance())
        context.setMapCanvas(canvas)
        for name in names:
            self._add(algorithm.parameterDefinition(name), context, layout)
        for wrapper in self._wrappers.values():
            wrapper.postInitialize(list(self._wrappers.values()))
            wrapper.widgetValueHasChanged.connect(self.changed)

    def _add(self, parameter: QgsProcessingParameterDefinition, context: QgsProcessingParameterWidgetContext,
             layout: QFormLayout) -> None:
        wrapper = QgsGui.processingGuiRegistry().createParameterWidgetWrapper(
            parameter, QgsProcessingGui.WidgetType.Standard)
        wrapper.setWidgetContext(context)
        wrapper.registerProcessingContextGenerator(self._generator)
        widget = wrapper.createWrappedWidget(self._generator.processingContext())
        widget.setToolTip(parameter.help())
        widget.setAccessibleName(parameter.description())
        label = wrapper.createWrappedLabel()
        label.setToolTip(parameter.help())
        layout.addRow(label, widget)
        self._wrappers[parameter.name()] = wrapper

    def names(self) -> List[str]:
        """The parameters that have a widget here."""
        return list(self._wrappers)

    def values(self) -> Dict[str, Any]:
        """The values that differ from their defaults."""
        found = {}
        for name, wrapper in self._wrappers.items():
            value = wrapper.parameterValue()
            if value not in (*EMPTY, wrapper.parameterDefinition().defaultValue()):
                found[name] = value
        return found

    def set_values(self, values: Dict[str, Any]) -> None:
        """Show ``values``, and the defaults for all others."""
        for name, wrapper in self._wrappers.items():
            value = values.get(name, wrapper.parameterDefinition().defaultValue())
            wrapper.setParameterValue(value, self._generator.processingContext())
