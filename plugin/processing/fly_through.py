"""The algorithm `metaearth:flythrough`: the path is a line layer with an altitude profile."""

from __future__ import annotations

from typing import Any, List, Tuple

from qgis.core import (
    QgsCoordinateTransform,
    QgsCsException,
    QgsGeometry,
    QgsPointXY,
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterString,
    QgsWkbTypes,
)

from ...backend.protocol import FieldError, JobField
from ..core.extents import on_ellipsoid
from ..core.translate import tr
from .parameters import Values
from .verb_algorithm import VerbAlgorithm

ALTITUDES = "ALTITUDES"


class FlyThrough(VerbAlgorithm):
    """A flight along the first line of a layer."""

    def declare(self, field: JobField) -> None:
        """Add a field's parameter; the path is a line and a profile."""
        if field.kind != "points":
            super().declare(field)
            return
        line = QgsProcessingParameterFeatureSource(field.parameter, tr("Path"), [_line_type()])
        line.setHelp(self.help_of(field))
        self.addParameter(line)
        profile = QgsProcessingParameterString(ALTITUDES, tr("Altitudes (m)"), optional=True)
        profile.setHelp(tr("Metres above the ground, evenly spaced along the path, such as: 5000 400 5000. One for a "
                           "level flight. Empty: the line's own Z values."))
        self.addParameter(profile)

    def help_of(self, field: JobField) -> str:
        """What a field means in QGIS."""
        if field.kind == "points":
            return tr("The first line of the layer is flown along, from its first point to its last. A closed line "
                      "makes a loop.")
        return super().help_of(field)

    def value(self, field: JobField, parameters: Values, context: QgsProcessingContext) -> Any:
        """The value of a field."""
        if field.kind != "points":
            return super().value(field, parameters, context)
        source = self.parameterAsSource(parameters, field.parameter, context)
        geometries = (feature.geometry() for feature in source.getFeatures()) if source else iter(())
        line = next((geometry for geometry in geometries if not geometry.isEmpty()), None)
        if line is None:
            raise FieldError(tr("The path layer has no line to fly along."))
        text = self.parameterAsString(parameters, ALTITUDES, context)
        crs = self.place_crs(parameters, context)
        places = [(v.x(), v.y(), v.z()) for v in line.vertices()]
        if not text.strip() and not QgsWkbTypes.hasZ(line.wkbType()):
            raise FieldError(tr("The path has no Z values; give the altitudes."))
        try:
            if text.strip():
                measure = on_ellipsoid(source.sourceCrs(), context.transformContext())
                places = with_altitudes(places, altitudes_of(text), measure.measureLine)
            return transformed(places, QgsCoordinateTransform(source.sourceCrs(), crs, context.transformContext()))
        except QgsCsException:
            raise FieldError(tr("The path cannot be laid onto the raster: a part of it lies where the raster's "
                                "coordinate reference system does not reach.")) from None


def _line_type() -> Any:
    later = getattr(QgsProcessing, "SourceType", None)
    return later.TypeVectorLine if hasattr(later, "TypeVectorLine") else QgsProcessing.TypeVectorLine


def altitudes_of(text: str) -> List[float]:
    """The numbers of a profile; `FieldError` if it has others."""
    try:
        found = [float(part) for part in text.replace(",", " ").replace(";", " ").split()]
    except ValueError:
        found = []
    if not found or min(found) <= 0:
        raise FieldError(tr("Altitudes: give metres above the ground, such as: 5000 400 5000."))
    return found


def with_altitudes(places: List[Tuple[float, float, float]], altitudes: List[float],
                   length: Any) -> List[Tuple[float, float, float]]:
    """The vertices, and the places between them where an altitude is given, each with its altitude.

    Altitudes are evenly spaced by ``length`` (of two points); between them they follow a geometric series.
    """
    points = [QgsPointXY(x, y) for x, y, _ in places]
    along = [0.0]
    for leg in range(len(points) - 1):
        along.append(along[-1] + length(points[leg], points[leg + 1]))
    given = [along[-1] * k / max(1, len(altitudes) - 1) for k in range(len(altitudes))]
    found = []
    for way in sorted({*along, *(given if len(altitudes) > 1 else [])}):
        leg, share = _leg_at(way, along)
        x = points[leg].x() + share * (points[leg + 1].x() - points[leg].x())
        y = points[leg].y() + share * (points[leg + 1].y() - points[leg].y())
        found.append((x, y, _altitude(way, given, altitudes)))
    return found


def _altitude(way: float, given: List[float], altitudes: List[float]) -> float:
    if len(altitudes) == 1:
        return altitudes[0]
    leg, share = _leg_at(way, given)
    return altitudes[leg] ** (1 - share) * altitudes[leg + 1] ** share


def _leg_at(way: float, marks: List[float]) -> Tuple[int, float]:
    """The leg between two of the marks that ``way`` lies on, and how much of that leg lies behind it, from 0 to 1."""
    leg = min(max(k for k, mark in enumerate(marks) if mark <= way), len(marks) - 2)
    span = marks[leg + 1] - marks[leg]
    return leg, (way - marks[leg]) / span if span else 0.0


def transformed(places: List[Tuple[float, float, float]], to_source: QgsCoordinateTransform) -> List[List[float]]:
    """The places in the raster's coordinates, altitudes as they are."""
    line = QgsGeometry.fromPolylineXY([QgsPointXY(x, y) for x, y, _ in places])
    line.transform(to_source)
    return [[v.x(), v.y(), altitude] for v, (_, _, altitude) in zip(line.vertices(), places)]
