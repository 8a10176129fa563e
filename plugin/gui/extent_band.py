"""The extent of a job, drawn on the map."""

from __future__ import annotations

from typing import Optional

from qgis.core import QgsCoordinateReferenceSystem, QgsGeometry, QgsRectangle, QgsWkbTypes
from qgis.gui import QgsMapCanvas, QgsRubberBand
from qgis.PyQt.QtGui import QColor


class ExtentBand:
    """A frame on the map; `remove` it before the map is gone."""

    def __init__(self, canvas: QgsMapCanvas) -> None:
        self._canvas = canvas
        self._band = QgsRubberBand(canvas, QgsWkbTypes.GeometryType.PolygonGeometry)
        self._band.setStrokeColor(QColor(230, 90, 0))
        self._band.setFillColor(QColor(230, 90, 0, 30))
        self._band.setWidth(2)

    def clear(self) -> None:
        """Frame nothing."""
        self._band.reset(QgsWkbTypes.GeometryType.PolygonGeometry)

    def show(self, extent: Optional[QgsRectangle], crs: QgsCoordinateReferenceSystem) -> None:
        """Frame an extent; None frames nothing."""
        self.clear()
        if extent:
            self._band.setToGeometry(QgsGeometry.fromRect(extent).densifyByCount(10), crs)

    def remove(self) -> None:
        """Take it off the map for good."""
        self._canvas.scene().removeItem(self._band)
