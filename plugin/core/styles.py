"""The source's style for what was made of it."""

from __future__ import annotations

from typing import Any, List, Optional

from qgis.core import (
    QgsMultiBandColorRenderer,
    QgsPalettedRasterRenderer,
    QgsRaster,
    QgsRasterLayer,
    QgsRasterRenderer,
    QgsSingleBandGrayRenderer,
    QgsSingleBandPseudoColorRenderer,
)
from qgis.PyQt.QtGui import QColor

from .translate import tr


def result_renderer(source: QgsRasterLayer, bands: Optional[List[int]] = None) -> Optional[QgsRasterRenderer]:
    """A renderer that shows a result as ``source`` is shown, for the thread that calls; None if QGIS's own will do.

    A result's bands are the source's ``bands`` in that order (None: those that the source shows); only where they are
    what the source shows has its style a meaning for them.
    """
    renderer = source.renderer()
    if renderer is None or (bands and bands != _bands_of(renderer)):
        return None
    clone = renderer.clone()
    if isinstance(clone, QgsMultiBandColorRenderer):
        clone.setRedBand(1)
        clone.setGreenBand(2)
        clone.setBlueBand(3)
    elif isinstance(clone, QgsSingleBandGrayRenderer):
        clone.setGrayBand(1)
    elif isinstance(clone, QgsSingleBandPseudoColorRenderer):
        clone.setBand(1)
    else:
        return None
    return clone


def class_renderer(classes: List[List[Any]]) -> Optional[QgsRasterRenderer]:
    """A legend of classes, each [number, name, "#rrggbb"]; None where there are none."""
    if not classes:
        return None
    shown = [QgsPalettedRasterRenderer.Class(value, QColor(colour), tr(name)) for value, name, colour in classes]
    return QgsPalettedRasterRenderer(None, 1, shown)


def apply_style(layer: QgsRasterLayer, renderer: QgsRasterRenderer) -> None:
    """Show a layer by a copy of ``renderer``, transparent where its own alpha band says so."""
    clone, last = renderer.clone(), layer.bandCount()
    alpha = layer.dataProvider().colorInterpretation(last) == QgsRaster.ColorInterpretation.AlphaBand
    clone.setAlphaBand(last if alpha else -1)
    layer.setRenderer(clone)


def _bands_of(renderer: QgsRasterRenderer) -> List[int]:
    if isinstance(renderer, QgsMultiBandColorRenderer):
        return [renderer.redBand(), renderer.greenBand(), renderer.blueBand()]
    return renderer.usesBands()[:1]
