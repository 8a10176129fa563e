"""Finished rasters as layers: their names, and the metadata that tells them from photographs."""

from __future__ import annotations

from typing import Dict, List

from osgeo import gdal
from qgis.core import (
    QgsMapLayer,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
)
from qgis.PyQt import sip

from ...backend.protocol import JobResult
from .translate import tr

SCALE = 4
TAG_PREFIX = "METAEARTH_"
VOCABULARY = "metaearth"


def stage_resolutions(result: JobResult) -> List[float]:
    """Metres per pixel of every stage, first stage first."""
    stages = len(result.outputs)
    return [result.grid.pixel_size_m * SCALE ** (stages - 1 - k) for k in range(stages)]


def layer_name(source: str, resolution_m: float, model: str, seed: int) -> str:
    """A result's name in the layer tree."""
    return tr("{} – {:.3g} m, {}, seed {} (synthetic)").format(source, resolution_m, model, seed)


def layer_names(source: str, result: JobResult) -> List[str]:
    """The names of every stage's layer, first stage first, then those of mean and standard deviation, if any."""
    names = [layer_name(source, resolution, result.model, result.seed) for resolution in stage_resolutions(result)]
    kinds = (tr("mean of samples"), tr("standard deviation of samples"))
    return [*names, *(f"{names[-1]}, {kind}" for kind, _ in zip(kinds, result.statistics))]


def metaearth_tags(path: str) -> Dict[str, str]:
    """What the backend wrote about a raster into its TIFF tags, without their prefix."""
    dataset = gdal.Open(path)
    tags = dataset.GetMetadata() if dataset else {}
    return {key[len(TAG_PREFIX):].lower(): value for key, value in tags.items() if key.startswith(TAG_PREFIX)}


class SyntheticLayerMarker(QgsProcessingLayerPostProcessorInterface):
    """Writes the provenance in a result's tags into the layer's metadata."""

    def postProcessLayer(self, layer: QgsMapLayer, context: QgsProcessingContext,
                         feedback: QgsProcessingFeedback) -> None:
        """Called by QGIS for every stage's layer, on the main thread."""
        tags = metaearth_tags(layer.source())
        facts = [f"{key}: {value}" for key, value in sorted(tags.items())]
        metadata = layer.metadata()
        metadata.setTitle(layer.name())
        metadata.setType("dataset")
        metadata.setAbstract("\n".join([tr("Synthetic detail made by MetaEarth, not a measurement."), *facts]))
        metadata.addKeywords(VOCABULARY, ["synthetic", *facts])
        layer.setMetadata(metadata)


def marker() -> SyntheticLayerMarker:
    """A post-processor for one layer; it belongs to the QgsProcessingContext that gets it, which deletes it."""
    made = SyntheticLayerMarker()
    sip.transferto(made, None)
    # QGIS holds the C++ half only, and the Python half must live as long.
    _alive[:] = [other for other in _alive if not sip.isdeleted(other)] + [made]
    return made


_alive: List[SyntheticLayerMarker] = []
