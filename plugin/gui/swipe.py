"""A map tool that shows the source left of the pointer and what lies on the map right of it."""

from __future__ import annotations

from typing import Optional

from qgis.core import QgsMapRendererParallelJob, QgsMapSettings, QgsRasterLayer
from qgis.gui import QgsMapCanvas, QgsMapCanvasItem, QgsMapMouseEvent, QgsMapTool
from qgis.PyQt import sip
from qgis.PyQt.QtCore import QPointF, QRectF, Qt
from qgis.PyQt.QtGui import QColor, QImage, QPainter, QPen
from qgis.PyQt.QtWidgets import QStyleOptionGraphicsItem, QWidget


class _Curtain(QgsMapCanvasItem):
    """A picture over the left part of the map, up to a line."""

    def __init__(self, canvas: QgsMapCanvas) -> None:
        super().__init__(canvas)
        self.canvas, self.image, self.column = canvas, QImage(), canvas.width() / 2

    def boundingRect(self) -> QRectF:
        """The whole map."""
        return QRectF(0, 0, self.canvas.width(), self.canvas.height())

    def paint(self, painter: QPainter, option: Optional[QStyleOptionGraphicsItem] = None,
              widget: Optional[QWidget] = None) -> None:
        """The picture's left part and the line."""
        if self.image.isNull():
            return
        height = self.canvas.height()
        painter.save()
        painter.setClipRect(QRectF(0, 0, self.column, height))
        painter.drawImage(self.boundingRect(), self.image)
        painter.restore()
        painter.setPen(QPen(QColor("white"), 3))
        painter.drawLine(QPointF(self.column, 0), QPointF(self.column, height))


class SwipeTool(QgsMapTool):
    """Active while the user compares; the picture follows the map's extent."""

    def __init__(self, canvas: QgsMapCanvas) -> None:
        super().__init__(canvas)
        self._canvas = canvas
        self._layer: Optional[QgsRasterLayer] = None
        self._curtain: Optional[_Curtain] = None
        self._job: Optional[QgsMapRendererParallelJob] = None
        self._before: Optional[QgsMapTool] = None
        self.setCursor(Qt.CursorShape.SplitHCursor)

    def set_layer(self, layer: QgsRasterLayer) -> None:
        """What is shown left of the pointer."""
        if self._layer:
            self._layer.willBeDeleted.disconnect(self._layer_gone)
        self._layer = layer
        layer.willBeDeleted.connect(self._layer_gone)
        if self._curtain:
            self._render()

    def begin(self) -> None:
        """Take the map."""
        if self._canvas.mapTool() is not self:
            self._before = self._canvas.mapTool()
        self._canvas.setMapTool(self)

    def end(self) -> None:
        """Give the map back to the tool that had it."""
        if self._canvas.mapTool() is not self:
            return
        if self._before is None or sip.isdeleted(self._before):
            self._canvas.unsetMapTool(self)
        else:
            self._canvas.setMapTool(self._before)

    def activate(self) -> None:
        """Called by the map when the tool is chosen."""
        super().activate()
        self._curtain = _Curtain(self._canvas)
        self._canvas.mapCanvasRefreshed.connect(self._render)
        self._render()

    def deactivate(self) -> None:
        """Called by the map when another tool is chosen."""
        if self._curtain:
            self._canvas.mapCanvasRefreshed.disconnect(self._render)
            self._canvas.scene().removeItem(self._curtain)
            self._curtain = None
        self._drop_job()
        super().deactivate()

    def canvasMoveEvent(self, event: QgsMapMouseEvent) -> None:
        """The line follows the mouse."""
        if self._curtain:
            self._curtain.column = event.pos().x()
            self._curtain.update()

    def _render(self) -> None:
        if self._layer is None:
            return
        self._drop_job()
        settings = QgsMapSettings(self._canvas.mapSettings())
        settings.setLayers([self._layer])
        self._job = QgsMapRendererParallelJob(settings)
        self._job.finished.connect(self._rendered)
        self._job.start()

    def _drop_job(self) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        job.finished.disconnect(self._rendered)
        if job.isActive():
            job.setParent(self)
            job.finished.connect(job.deleteLater)
            job.cancelWithoutBlocking()
        else:
            job.deleteLater()

    def _rendered(self) -> None:
        if self._curtain:
            self._curtain.image = self._job.renderedImage()
            self._curtain.update()

    def _layer_gone(self) -> None:
        self._layer = None
        self.end()
