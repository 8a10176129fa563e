"""Two pictures of one place, one over the other, and a line between them that the user moves."""

from __future__ import annotations

from typing import Optional

from qgis.PyQt.QtCore import QPointF, QRectF, QSize, Qt
from qgis.PyQt.QtGui import QColor, QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qgis.PyQt.QtWidgets import QSizePolicy, QWidget

from ..core.translate import tr

STEP = 0.05


class BeforeAfter(QWidget):
    """Left of the line the first picture, right of it the second; mouse and arrow keys move the line."""

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self._before: Optional[QImage] = None
        self._after: Optional[QImage] = None
        self._share = 0.5
        self.hint = tr("The preview appears here.")
        self.setMinimumHeight(120)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName(tr("Preview, before and after"))
        self.setToolTip(tr("Left: the source. Right: the preview. Drag the line, or use the arrow keys."))

    def sizeHint(self) -> QSize:
        """A square that fits a panel."""
        return QSize(260, 260)

    @property
    def share(self) -> float:
        """Where the line is, 0 to 1 from the left."""
        return self._share

    def show_pair(self, before: QImage, after: QImage) -> None:
        """Show two pictures of one extent; the line stays where it is."""
        self._before, self._after = before, after
        self.update()

    def clear(self, hint: str) -> None:
        """Show a sentence instead."""
        self._before = self._after = None
        self.hint = hint
        self.update()

    def set_share(self, share: float) -> None:
        """Move the line."""
        self._share = min(1.0, max(0.0, share))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Both pictures, the line, and what is what."""
        painter = QPainter(self)
        palette = self.palette()
        painter.fillRect(self.rect(), palette.base())
        if self._before is None or self._after is None:
            painter.setPen(palette.color(palette.ColorRole.PlaceholderText))
            painter.drawText(self.rect().adjusted(8, 8, -8, -8),
                             int(Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap), self.hint)
            return
        place = self._place()
        line = place.left() + self._share * place.width()
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.drawImage(place, self._before)
        painter.setClipRect(QRectF(line, place.top(), place.right() - line, place.height()))
        painter.drawImage(place, self._after)
        painter.setClipping(False)
        painter.setPen(QPen(QColor("white"), 2))
        painter.drawLine(QPointF(line, place.top()), QPointF(line, place.bottom()))
        self._label(painter, place, tr("source"), Qt.AlignmentFlag.AlignLeft)
        self._label(painter, place, tr("synthetic"), Qt.AlignmentFlag.AlignRight)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Jump to the mouse."""
        self.mouseMoveEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Follow the mouse."""
        place = self._place()
        if place.width():
            position = event.position() if hasattr(event, "position") else event.localPos()
            self.set_share((position.x() - place.left()) / place.width())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Left and right move the line."""
        steps = {Qt.Key.Key_Left: -STEP, Qt.Key.Key_Right: STEP}
        if event.key() in steps:
            self.set_share(self._share + steps[event.key()])
        else:
            super().keyPressEvent(event)

    def _place(self) -> QRectF:
        """Where the pictures lie: as large as fits, sides in proportion."""
        size = QSize(1, 1) if self._after is None else self._after.size()
        size = size.scaled(self.size(), Qt.AspectRatioMode.KeepAspectRatio)
        return QRectF((self.width() - size.width()) / 2, (self.height() - size.height()) / 2,
                      size.width(), size.height())

    def _label(self, painter: QPainter, place: QRectF, text: str, side: Qt.AlignmentFlag) -> None:
        flags = int(side | Qt.AlignmentFlag.AlignBottom)
        box = painter.boundingRect(place.adjusted(4, 0, -4, -3), flags, text)
        painter.fillRect(box.adjusted(-3, -1, 3, 1), QColor(0, 0, 0, 140))
        painter.drawText(box, flags, text)
