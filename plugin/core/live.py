"""A layer that shows what is finished of a running job."""

from __future__ import annotations

from typing import Optional

from qgis.core import QgsProject, QgsRasterLayer, QgsRasterRenderer

from .styles import apply_style
from .translate import tr


class LiveLayer:
    """On top of the project while the job runs."""

    def __init__(self, source: str, renderer: Optional[QgsRasterRenderer]) -> None:
        self._name = tr("{} – being made (synthetic)").format(source)
        self._renderer = renderer
        self._id = ""
        self._path = ""

    def show(self, path: Optional[str]) -> None:
        """Show another mosaic."""
        if not path or path == self._path:
            return
        self._path = path
        layer = QgsProject.instance().mapLayer(self._id)
        if layer is None and self._id:  # somebody took it away, or opened another project
            return
        if layer is None:
            layer = QgsRasterLayer(path, self._name)
            if not layer.isValid():  # the next mosaic is there already
                return
            if self._renderer:
                apply_style(layer, self._renderer)
            self._id = layer.id()
            QgsProject.instance().addMapLayer(layer, False)
            QgsProject.instance().layerTreeRoot().insertLayer(0, layer)
        else:
            layer.setDataSource(path, self._name, "gdal", False)
            layer.triggerRepaint()

    def remove(self) -> None:
        """Take it away."""
        if QgsProject.instance().mapLayer(self._id):
            QgsProject.instance().removeMapLayer(self._id)
