"""One window of a job, made now, and the source of the same place: two pictures."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

from qgis.core import (
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsPointXY,
    QgsProcessingUtils,
    QgsRasterLayer,
    QgsRectangle,
)
from qgis.PyQt.QtCore import QObject, QSize, pyqtSignal
from qgis.PyQt.QtGui import QImage

from ...backend.protocol import JobSummary
from .extents import extent_text
from .planner import algorithm, ask_plan
from .runs import Run
from .styles import apply_style, result_renderer
from .translate import tr

NOT_IN_A_PREVIEW = ("EXTENT", "SAMPLES", "JOB_DIR")


class Preview(QObject):
    """Made by the algorithm itself on the extent of one window, so its pixels are those of a whole run.

    ``made`` gives the source's picture and the result's, ``failed`` a sentence.
    """

    made = pyqtSignal(QImage, QImage)
    failed = pyqtSignal(str)

    def __init__(self, layer: QgsRasterLayer, parameters: Dict[str, Any], bands: Optional[List[int]],
                 parent: QObject) -> None:
        super().__init__(parent)
        self._layer = layer
        self._renderer = result_renderer(layer, bands)
        self._parameters = _of_a_preview(parameters)
        self._folder = Path(tempfile.mkdtemp(prefix="metaearth-preview-", dir=QgsProcessingUtils.tempFolder()))
        self._crs = layer.crs()
        layer.willBeDeleted.connect(self._layer_gone)
        self._run: Optional[Run] = None
        self._jobs: List[QgsMapRendererParallelJob] = []

    def _layer_gone(self) -> None:
        self._stop_drawing()
        self._layer = None
        self.failed.emit(tr("The layer is gone."))

    def start(self, centre: QgsPointXY, pixel_size: float) -> None:
        """Begin, at a place in the layer's CRS; ``pixel_size`` in its units."""
        here = QgsRectangle.fromCenterAndSize(centre, pixel_size, pixel_size)
        parameters = {**self._parameters, "EXTENT": extent_text(here, self._crs)}
        ask_plan(parameters, self, self._generate, self.failed.emit)

    def differs_from(self, parameters: Dict[str, Any]) -> bool:
        """Whether these parameters make other pixels."""
        return self._parameters != _of_a_preview(parameters)

    def stop(self) -> None:
        """Make nothing any more."""
        if self._run:
            self._run.abandon(keep=False)
        self._stop_drawing()
        self.deleteLater()

    def _stop_drawing(self) -> None:
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.cancel()

    def _generate(self, summary: JobSummary, tiles: int) -> None:
        xmin, ymin, xmax, ymax = summary.preview_extent
        self._extent = QgsRectangle(xmin, ymin, xmax, ymax)
        self._output = str(self._folder / "preview.tif")
        parameters = {**self._parameters, "EXTENT": extent_text(self._extent, self._crs),
                      "OUTPUT": self._output}
        self._run = Run(algorithm(), parameters)
        self._run.feedback.keep = False
        self._run.finished.connect(self._draw)
        self._run.failed.connect(self.failed)
        self._run.start()

    def _draw(self) -> None:
        if self._layer is None:
            return
        self._result = QgsRasterLayer(self._output, "preview")
        if not self._result.isValid():
            self.failed.emit(tr("The preview cannot be read."))
            return
        if self._renderer:
            apply_style(self._result, self._renderer)
        # square on the map, whatever the pixels are: else the map would show more than the extent
        width = self._result.width()
        size = QSize(width, max(1, round(width * self._extent.height() / self._extent.width())))
        for layer in (self._layer, self._result):
            settings = QgsMapSettings()
            settings.setLayers([layer])
            settings.setDestinationCrs(self._crs)
            settings.setExtent(self._extent)
            settings.setOutputSize(size)
            job = QgsMapRendererParallelJob(settings)
            job.finished.connect(self._drawn)
            self._jobs.append(job)
        for job in self._jobs:
            job.start()

    def _drawn(self) -> None:
        if self._jobs and not any(job.isActive() for job in self._jobs):
            before, after = (job.renderedImage() for job in self._jobs)
            self._jobs = []
            self.made.emit(before, after)


def _of_a_preview(parameters: Dict[str, Any]) -> Dict[str, Any]:
    """One window is made here: the temporary folder need not be on a disk that a cluster sees."""
    return {**{name: value for name, value in parameters.items() if name not in NOT_IN_A_PREVIEW}, "EXECUTOR": "local"}
