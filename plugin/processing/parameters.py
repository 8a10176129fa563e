"""Job fields as Processing parameters, and parameter values as job fields."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingParameterBand,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterCrs,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterMultipleLayers,
    QgsProcessingParameterNumber,
    QgsProcessingParameterPoint,
    QgsProcessingParameterRange,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsRectangle,
)

from ...backend.protocol import FieldError, JobField
from ..core.paths import absolute
from ..core.translate import tr

Values = Dict[str, Any]
SCALAR_KINDS = ("integer", "number", "numbers", "choice", "text", "words", "folder", "range")


def parameter_of(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    """The Processing parameter of a job field; ``parent`` names the raster that bands belong to."""
    parameter = _MAKERS[field.kind](field, parent)
    parameter.setHelp(help_of(field))
    if field.advanced:
        parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.Flag.FlagAdvanced)
    return parameter


def help_of(field: JobField, text: Optional[str] = None) -> str:
    """What a field means, or another ``text`` that says so, and what may be chosen."""
    text = text or tr(field.help)
    return tr("{} One of: {}.").format(text, ", ".join(field.choices)) if field.choices else text


def _raster(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    return QgsProcessingParameterRasterLayer(field.parameter, tr(field.label), optional=not field.required)


def _destination(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    return QgsProcessingParameterRasterDestination(field.parameter, tr(field.label))


def _folder(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    return QgsProcessingParameterFile(field.parameter, tr(field.label), optional=not field.required,
                                      behavior=QgsProcessingParameterFile.Behavior.Folder)


def _extent(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    return QgsProcessingParameterExtent(field.parameter, tr(field.label), optional=not field.required)


def _bands(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    return QgsProcessingParameterBand(field.parameter, tr(field.label), parentLayerParameterName=parent,
                                      optional=not field.required, allowMultiple=True)


def _number(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    kinds = QgsProcessingParameterNumber.Type
    kind = kinds.Integer if field.kind == "integer" else kinds.Double
    parameter = QgsProcessingParameterNumber(field.parameter, tr(field.label), kind, field.default,
                                             optional=not field.required and field.default is None)
    if field.minimum is not None:
        parameter.setMinimum(field.minimum)
    if field.maximum is not None:
        parameter.setMaximum(field.maximum)
    return parameter


def _range(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    return QgsProcessingParameterRange(field.parameter, tr(field.label), QgsProcessingParameterNumber.Type.Double,
                                       optional=not field.required)


def _choice(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    return QgsProcessingParameterEnum(field.parameter, tr(field.label), options=list(field.choices),
                                      defaultValue=field.default, usesStaticStrings=True)


def _choices(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    return QgsProcessingParameterEnum(field.parameter, tr(field.label), options=list(field.choices), allowMultiple=True,
                                      defaultValue=field.default, optional=not field.required, usesStaticStrings=True)


def _text(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    return QgsProcessingParameterString(field.parameter, tr(field.label), field.default,
                                        optional=not field.required and not field.default)


def _rasters(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    return QgsProcessingParameterMultipleLayers(field.parameter, tr(field.label), _raster_type(),
                                                optional=not field.required)


def _raster_type() -> Any:
    """The kind of layer, by the name that QGIS 3.22 knows or by the later one."""
    later = getattr(QgsProcessing, "SourceType", None)
    return later.TypeRaster if hasattr(later, "TypeRaster") else QgsProcessing.TypeRaster


def _new_folder(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    return QgsProcessingParameterFolderDestination(field.parameter, tr(field.label))


def _file(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    endings = " ".join(f"*.{suffix}" for suffix in field.suffixes)
    return QgsProcessingParameterFileDestination(field.parameter, tr(field.label), f"{tr(field.label)} ({endings})")


def _flag(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    return QgsProcessingParameterBoolean(field.parameter, tr(field.label), bool(field.default))


def _crs(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    # qgis_process asks for a CRS that is not optional even where it has a default
    return QgsProcessingParameterCrs(field.parameter, tr(field.label), field.default, optional=not field.required)


def _point(field: JobField, parent: str) -> QgsProcessingParameterDefinition:
    return QgsProcessingParameterPoint(field.parameter, tr(field.label), optional=not field.required)


_MAKERS: Dict[str, Callable[[JobField, str], QgsProcessingParameterDefinition]] = {
    "raster": _raster, "destination": _destination, "folder": _folder, "extent": _extent, "bands": _bands,
    "range": _range, "integer": _number, "number": _number, "choice": _choice, "text": _text, "rasters": _rasters,
    "new_folder": _new_folder, "file": _file, "flag": _flag, "crs": _crs, "point": _point, "numbers": _text,
    "words": _text, "choices": _choices,
}


def scalar_values(algorithm: QgsProcessingAlgorithm, fields: Tuple[JobField, ...], parameters: Values,
                  context: QgsProcessingContext) -> Values:
    """The checked values of all fields that are numbers, choices or texts; `FieldError` with a sentence.

    What names a folder or a file is told from the root: the backend's working directory is another.
    """
    found = {}
    for field in fields:
        if field.kind in SCALAR_KINDS:
            value = parameters.get(field.parameter)
            if not isinstance(value, (list, tuple)):  # of which parameterAsString knows nothing
                value = algorithm.parameterAsString(parameters, field.parameter, context)
            found[field.name] = from_root(field.kind, field.check(value))
    return found


def from_root(kind: str, value: Any) -> Any:
    """A field's value with absolute paths: of folders, of texts that are the path of something there, and of words."""
    if value and kind == "folder":
        return absolute(value)
    if value and kind == "text":
        return absolute(value) if names_a_file(value) else value
    if value and kind == "words":
        parts = [word.partition("=") for word in value]
        return [f"{name}{equals}{from_root('text', text)}" for name, equals, text in parts]
    return value


def names_a_file(text: str) -> bool:
    """Whether a text that may be a name or a path is the path of something that is there."""
    return ("/" in text or os.sep in text or bool(Path(text).suffix)) and os.path.exists(text)


def band_values(algorithm: QgsProcessingAlgorithm, field: JobField, parameters: Values, context: QgsProcessingContext,
                available: int) -> Optional[List[int]]:
    """The chosen bands, None if none are; `FieldError` unless they are one or three bands of the layer."""
    if parameters.get(field.parameter) in (None, ""):
        return None
    bands = field.check(algorithm.parameterAsInts(parameters, field.parameter, context))
    if bands and max(bands) > available:
        raise FieldError(tr("{}: the layer has {} bands, and band {} is chosen.").format(
            tr(field.label), available, max(bands)))
    return bands


def extent_value(algorithm: QgsProcessingAlgorithm, field: JobField, parameters: Values,
                 context: QgsProcessingContext, crs: QgsCoordinateReferenceSystem) -> Optional[QgsRectangle]:
    """The extent in ``crs``, None if none is given; `FieldError` if it has no area."""
    if parameters.get(field.parameter) in (None, ""):
        return None
    extent = algorithm.parameterAsExtent(parameters, field.parameter, context, crs)
    if not extent.isFinite() or extent.width() <= 0 or extent.height() <= 0:
        raise FieldError(tr("The extent is empty: its width and height must be above zero."))
    return extent
