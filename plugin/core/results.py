"""Finished rasters as layers: their names, and the metadata that tells them from photographs."""

from __future__ import annotations

import html
from typing import Dict, List, Optional, Sequence

from osgeo import gdal
from qgis.core import (
    QgsLayerNotesUtils,
    QgsMapLayer,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsRasterLayer,
    QgsRasterRenderer,
)
from qgis.PyQt import sip

from ...backend.protocol import MODALITY_TITLES, JobResult
from .styles import apply_style
from .translate import tr

TAG_PREFIX = "METAEARTH_"
VOCABULARY = "metaearth"


def stage_resolutions(result: JobResult) -> List[float]:
    """Metres per pixel of every stage, first stage first."""
    return [float(metaearth_tags(path)["pixel_size_m"]) for path in result.outputs]


def layer_name(source: str, resolution_m: float, model: str, seed: int) -> str:
    """A result's name in the layer tree."""
    return tr("{} – {:.3g} m, {}, seed {} (synthetic)").format(source, resolution_m, model, seed)


def layer_names(source: str, result: JobResult) -> List[str]:
    """The names of every stage's layer, first stage first, then those of mean and standard deviation, if any.

    Those of a scene's modalities, if the job made these, and of mean and deviation of each.
    """
    modalities = [metaearth_tags(path).get("modality") for path in result.outputs]
    kinds = (tr("mean of samples"), tr("standard deviation of samples"))
    if all(modalities):
        names = [tr("{} – {}, {}, seed {} (synthetic)").format(
            source, tr(MODALITY_TITLES.get(name, name)), result.model, result.seed) for name in modalities]
        of_samples = names
    else:
        names = [layer_name(source, resolution, result.model, result.seed) for resolution in stage_resolutions(result)]
        of_samples = names[-1:]
    told = [f"{name}, {kind}" for name in of_samples for kind in kinds]
    return [*names, *told[:len(result.statistics)]]


def metaearth_tags(path: str) -> Dict[str, str]:
    """What the backend wrote about a raster into its TIFF tags, without their prefix."""
    dataset = gdal.Open(path)
    tags = dataset.GetMetadata() if dataset else {}
    return {key[len(TAG_PREFIX):].lower(): value for key, value in tags.items() if key.startswith(TAG_PREFIX)}


def dress(layer: QgsRasterLayer, renderer: Optional[QgsRasterRenderer]) -> None:
    """Write the provenance in a result's tags into its layer's metadata and notes, and give it a style."""
    tags = metaearth_tags(layer.source())
    facts = [f"{key}: {value}" for key, value in sorted(tags.items())]
    warning = tr("Synthetic detail made by MetaEarth, not a measurement.")
    metadata = layer.metadata()
    metadata.setTitle(layer.name())
    metadata.setType("dataset")
    metadata.setAbstract("\n".join([warning, *facts]))
    metadata.addKeywords(VOCABULARY, ["synthetic", *facts])
    layer.setMetadata(metadata)
    rows = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
    QgsLayerNotesUtils.setLayerNotes(layer, f"<p><b>{html.escape(warning)}</b></p><ul>{rows}</ul>")
    if renderer:
        apply_style(layer, renderer)


class LayerDresser(QgsProcessingLayerPostProcessorInterface):
    """Dresses a result that Processing loads."""

    def __init__(self, renderer: Optional[QgsRasterRenderer]) -> None:
        super().__init__()
        self._renderer = renderer

    def postProcessLayer(self, layer: QgsMapLayer, context: QgsProcessingContext,
                         feedback: QgsProcessingFeedback) -> None:
        """Called by QGIS for every stage's layer, on the main thread."""
        dress(layer, self._renderer)


def dresser(renderer: Optional[QgsRasterRenderer] = None) -> LayerDresser:
    """A post-processor for one layer; it belongs to the QgsProcessingContext that gets it, which deletes it."""
    made = LayerDresser(renderer)
    sip.transferto(made, None)
    # QGIS holds the C++ half only, and the Python half must live as long.
    _alive[:] = [other for other in _alive if not sip.isdeleted(other)] + [made]
    return made


_alive: List[LayerDresser] = []


def add_results(context: QgsProcessingContext, group_name: str, last_only: bool = False,
                order: Sequence[str] = ()) -> List[QgsRasterLayer]:
    """The layers that a run left to be loaded, in a group at the top of the project, the last of them on top.

    That is the finest; of equally fine ones, the file that comes first in ``order``.
    """
    found = []
    project = context.project()
    for path, details in context.layersToLoadOnCompletion().items():
        layer = QgsRasterLayer(path, details.name)
        if layer.isValid():
            details.postProcessor().postProcessLayer(layer, context, context.feedback())
            found.append(layer)
    places = {path: number for number, path in enumerate(order)}
    found.sort(key=lambda layer: (-layer.rasterUnitsPerPixelX(), -places.get(layer.source(), 0)))
    if last_only:
        found = [layer for layer in found if layer.rasterUnitsPerPixelX() == found[-1].rasterUnitsPerPixelX()]
    root = project.layerTreeRoot()
    group = root.findGroup(group_name) or root.insertGroup(0, group_name)
    for layer in found:
        project.addMapLayer(layer, False)
        group.insertLayer(0, layer)
    return found
