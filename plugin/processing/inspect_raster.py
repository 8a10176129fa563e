"""The algorithm `metaearth:inspectraster`."""

from __future__ import annotations

import dataclasses
import html
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterRasterLayer,
)

from ...backend.protocol import FIELDS, FieldError, RasterInfo
from ..core.backend_client import BackendError
from ..core.jobs import inspect_raster
from ..core.layers import layer_source
from ..core.translate import tr
from .algorithm import GROUND_RESOLUTION, MetaEarthAlgorithm
from .parameters import parameter_of, scalar_values

INPUT, OUTPUT, REPORT, MODELS = "INPUT", "OUTPUT", "REPORT", "MODELS"
SOURCE_RESOLUTION = FIELDS["source_resolution"]


class InspectRaster(MetaEarthAlgorithm):
    """Tells what the backend sees in a raster layer before anything is generated."""

    def name(self) -> str:
        """The id without the provider's."""
        return "inspectraster"

    def displayName(self) -> str:
        """The name in the toolbox."""
        return tr("Inspect a raster")

    def shortDescription(self) -> str:
        """One sentence for the tool tip."""
        return tr("Tells a raster's metres per pixel, bands, stretch and fitting models, as the backend sees them.")

    def shortHelpString(self) -> str:
        """What the algorithm does."""
        return tr(
            "Tells what the backend sees in a raster: metres per pixel on the ground, which bands it takes, what is "
            "nodata, how values are stretched for the network, and which installed models fit the resolution.\n\n"
            "<h3>Source raster</h3>\nA raster file.\n<h3>Source resolution</h3>\nMetres per pixel, of a raster without "
            "coordinate reference system.\n<h3>Report</h3>\nAn HTML page with the same facts.")

    def initAlgorithm(self, configuration: Optional[Dict[str, Any]] = None) -> None:
        """Declare parameters and outputs."""
        self.addParameter(QgsProcessingParameterRasterLayer(INPUT, tr("Source raster")))
        self.addParameter(parameter_of(SOURCE_RESOLUTION, INPUT))
        self.addParameter(QgsProcessingParameterFileDestination(OUTPUT, tr("Report"), tr("HTML files (*.html)"),
                                                                optional=True, createByDefault=False))
        self.addOutput(QgsProcessingOutputNumber(GROUND_RESOLUTION, tr("Ground resolution (m/px)")))
        self.addOutput(QgsProcessingOutputString(MODELS, tr("Fitting models, separated by commas")))
        self.addOutput(QgsProcessingOutputString(REPORT, tr("All facts as JSON")))

    def prepareAlgorithm(self, parameters: Dict[str, Any], context: QgsProcessingContext,
                         feedback: QgsProcessingFeedback) -> bool:
        """Reads what belongs to the main thread."""
        layer = self.parameterAsRasterLayer(parameters, INPUT, context)
        if layer is None or not layer.isValid():
            raise QgsProcessingException(tr("The source raster cannot be opened."))
        self._path = layer_source(layer).path
        if self._path is None:
            raise QgsProcessingException(tr("The layer {} is no file that the backend reads as QGIS shows it; jobs "
                                            "copy it first.").format(layer.name()))
        return True

    def processAlgorithm(self, parameters: Dict[str, Any], context: QgsProcessingContext,
                         feedback: QgsProcessingFeedback) -> Dict[str, Any]:
        """Ask the backend; its sentence leaves as a QgsProcessingException."""
        try:
            given = scalar_values(self, (SOURCE_RESOLUTION,), parameters, context)
            found = inspect_raster(self._path, given, feedback)
        except (BackendError, FieldError) as error:
            raise QgsProcessingException(str(error)) from error
        lines = facts(found)
        for name, value in lines:
            feedback.pushInfo(f"{name}: {value}")
        values = {GROUND_RESOLUTION: found.grid.pixel_size_m, MODELS: ",".join(found.models),
                  REPORT: json.dumps(dataclasses.asdict(found))}
        page = self.parameterAsFileOutput(parameters, OUTPUT, context)
        if page:
            Path(page).write_text(as_html(found.path, lines), encoding="utf-8")
            values[OUTPUT] = page
        return values


def facts(found: RasterInfo) -> List[Tuple[str, str]]:
    """What to show of a raster, in words."""
    stretch = ", ".join(f"{low:g} … {high:g}" for low, high in zip(found.stretch_low, found.stretch_high))
    bands = ", ".join(map(str, found.shown_bands))
    return [
        (tr("Format"), found.driver),
        (tr("Pixels"), f"{found.grid.width} × {found.grid.height}"),
        (tr("Coordinate reference system"), found.grid.crs or tr("none")),
        (tr("Ground resolution"), tr("{:.4g} m/px ({:.4g} m wide, {:.4g} m high)").format(
            found.grid.pixel_size_m, found.pixel_width_m, found.pixel_height_m)),
        (tr("Bands"), tr("{} of type {}; taken: {}").format(found.bands, found.dtype, bands)),
        (tr("Nodata"), found.nodata or tr("none")),
        (tr("Mask"), found.mask),
        (tr("Black and white for the network"), stretch),
        (tr("Models that fit one stage"), ", ".join(found.models) or tr("none")),
    ]


def as_html(title: str, lines: List[Tuple[str, str]]) -> str:
    """A small page with a table."""
    rows = "".join(f"<tr><th align=left>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in lines)
    head = "<head><meta charset=utf-8></head>"
    return f"<html>{head}<body><h3>{html.escape(title)}</h3><table>{rows}</table></body></html>"
