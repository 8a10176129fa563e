"""Extents as text and in kilometres."""

from __future__ import annotations

from typing import Tuple

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransformContext,
    QgsCsException,
    QgsDistanceArea,
    QgsPointXY,
    QgsProject,
    QgsRectangle,
)

from .translate import tr


def extent_text(extent: QgsRectangle, crs: QgsCoordinateReferenceSystem) -> str:
    """xmin,xmax,ymin,ymax [EPSG:n], as Processing reads it; without a code it is in the source's CRS."""
    values = (extent.xMinimum(), extent.xMaximum(), extent.yMinimum(), extent.yMaximum())
    text = ",".join(f"{value:.15g}" for value in values)
    return f"{text} [{crs.authid()}]" if crs.authid() else text


def on_ellipsoid(crs: QgsCoordinateReferenceSystem, transforms: QgsCoordinateTransformContext) -> QgsDistanceArea:
    """Measures lines of a CRS on WGS 84, in metres."""
    measure = QgsDistanceArea()
    measure.setSourceCrs(crs, transforms)
    measure.setEllipsoid("EPSG:7030")
    return measure


def size_km(extent: QgsRectangle, crs: QgsCoordinateReferenceSystem) -> Tuple[float, float]:
    """Width and height on the ground through the middle, in kilometres."""
    measure = on_ellipsoid(crs, QgsProject.instance().transformContext())
    centre = extent.center()
    across = (QgsPointXY(extent.xMinimum(), centre.y()), centre, QgsPointXY(extent.xMaximum(), centre.y()))
    along = (QgsPointXY(centre.x(), extent.yMinimum()), centre, QgsPointXY(centre.x(), extent.yMaximum()))
    return measure.measureLine(list(across)) / 1000, measure.measureLine(list(along)) / 1000


def size_text_km(extent: QgsRectangle, crs: QgsCoordinateReferenceSystem) -> str:
    """ "3.2 km × 1.8 km"; empty without a CRS, for extents without end, and where the Earth ends."""
    if not crs.isValid() or not extent.isFinite() or extent.isEmpty():
        return ""
    try:
        width, height = size_km(extent, crs)
    except QgsCsException:  # an edge that lies off the Earth, as of a geostationary disk; older QGIS measures 0
        return ""
    return tr("{:.3g} km × {:.3g} km").format(width, height)
