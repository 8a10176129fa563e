"""A run of an algorithm as text: for the Python console, for a terminal, and in Processing's history."""

from __future__ import annotations

import shlex
import subprocess  # nosec B404 - quotes words, starts nothing
import sys
from typing import Any, Dict

from qgis.core import (
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingOutputLayerDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingUtils,
    QgsProject,
)

from .translate import tr

Parameters = Dict[str, Any]


def plain(parameters: Parameters) -> Parameters:
    """The same values without what means something in this session only: layers become their sources."""
    found = {}
    for name, value in parameters.items():
        layer = QgsProject.instance().mapLayer(value) if isinstance(value, str) else None
        if layer:
            value = layer.source() if layer.providerType() == "gdal" else QgsProcessingUtils.encodeProviderKeyAndUri(
                layer.providerType(), layer.source())
        elif isinstance(value, QgsProcessingOutputLayerDefinition):
            value = value.sink.staticValue()
        found[name] = value
    return found


def python_command(algorithm: QgsProcessingAlgorithm, parameters: Parameters) -> str:
    """`processing.run(...)`."""
    return algorithm.asPythonCommand(plain(parameters), QgsProcessingContext())


def terminal_command(algorithm: QgsProcessingAlgorithm, parameters: Parameters) -> str:
    """`qgis_process run ...`."""
    values = [f"{name}={text}" for name, text in _texts(algorithm, parameters).items()]
    words = ["qgis_process", "run", algorithm.id(), "--", *values]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def _texts(algorithm: QgsProcessingAlgorithm, parameters: Parameters) -> Dict[str, str]:
    """The values as QGIS reads them from text: it splits an enum at commas, other lists at semicolons."""
    found = {}
    for name, value in plain(parameters).items():
        mark = "," if isinstance(algorithm.parameterDefinition(name), QgsProcessingParameterEnum) else ";"
        found[name] = mark.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return found


def add_to_history(algorithm: QgsProcessingAlgorithm, parameters: Parameters) -> None:
    """Note a run in Processing's history."""
    command = python_command(algorithm, parameters)
    try:
        from qgis.gui import QgsGui

        registry = QgsGui.historyProviderRegistry()
    except AttributeError:  # QGIS 3.22
        from processing.core.ProcessingLog import ProcessingLog

        ProcessingLog.addToLog(command)
        return
    entry = {"python_command": command, "process_command": terminal_command(algorithm, parameters),
             "algorithm_id": algorithm.id(), "parameters": {"inputs": _texts(algorithm, parameters)},
             "log": tr("Started from the MetaEarth panel.")}
    registry.addEntry("processing", entry)
