"""What all MetaEarth algorithms have in common."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional, Tuple

from qgis.core import (
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingOutputMultipleLayers,
    QgsProcessingOutputNumber,
    QgsProcessingParameterBoolean,
    QgsRasterRenderer,
)
from qgis.PyQt.QtGui import QIcon

from ...backend.protocol import JobResult, data_home
from ..core.backend_client import PLUGIN_ROOT
from ..core.environment import backend_python
from ..core.results import dresser, layer_names
from ..core.translate import tr
from ..icons import ICON_PATH

SEED, SECONDS, GROUND_RESOLUTION = "SEED", "SECONDS", "GROUND_RESOLUTION"
LOAD = "LOAD"
EVALUATIONS_PER_PIXEL, CONSISTENCY, STAGE_OUTPUTS = "EVALUATIONS_PER_PIXEL", "CONSISTENCY", "STAGE_OUTPUTS"


def load_parameter() -> QgsProcessingParameterBoolean:
    """Whether an algorithm whose results are not single layers loads them."""
    parameter = QgsProcessingParameterBoolean(LOAD, tr("Load the results"), True)
    parameter.setHelp(tr("Whether the results become layers; in a model, only the last step's may be wanted."))
    return parameter


class MetaEarthAlgorithm(QgsProcessingAlgorithm):
    """An algorithm that asks the backend."""

    def createInstance(self) -> QgsProcessingAlgorithm:
        """A fresh algorithm."""
        return type(self)()

    def group(self) -> str:
        """The group's name in the toolbox."""
        return tr("Generate")

    def groupId(self) -> str:
        """The group's id."""
        return "generate"

    def icon(self) -> QIcon:
        """The plugin's icon."""
        return QIcon(ICON_PATH)

    def canExecute(self) -> Tuple[bool, str]:
        """Whether the backend's Python is there, and else what to do."""
        python = backend_python(PLUGIN_ROOT, data_home())
        return python.path is not None, "" if python.path else python.sentence

    def add_job_outputs(self) -> None:
        """Declare what a finished job says of itself."""
        for name, text in job_output_texts():
            kind = QgsProcessingOutputMultipleLayers if name == STAGE_OUTPUTS else QgsProcessingOutputNumber
            self.addOutput(kind(name, text))


def job_output_texts() -> List[Tuple[str, str]]:
    """Name and text of every output of a job but the raster itself."""
    return [
        (STAGE_OUTPUTS, tr("Rasters of all stages, first stage first; after several samples, mean and standard "
                           "deviation too")),
        (SEED, tr("Seed")),
        (SECONDS, tr("Seconds the job took")),
        (GROUND_RESOLUTION, tr("Ground resolution of the result (m/px)")),
        (EVALUATIONS_PER_PIXEL, tr("Network evaluations per pixel")),
        (CONSISTENCY, tr("Consistency: peak signal-to-noise ratio of the result, averaged down, to the source (dB)")),
    ]


def job_outputs(result: JobResult) -> Dict[str, Any]:
    """The values of those outputs."""
    return {
        STAGE_OUTPUTS: [*result.outputs, *result.statistics], SEED: result.seed, SECONDS: result.seconds_total,
        GROUND_RESOLUTION: result.grid.pixel_size_m, EVALUATIONS_PER_PIXEL: result.evaluations_per_pixel,
        CONSISTENCY: result.consistency_psnr,
    }


def load_results(source: str, result: JobResult, project: Any, context: QgsProcessingContext,
                 renderer: Optional[QgsRasterRenderer] = None) -> None:
    """Have QGIS load every raster of a job on completion, named and styled after its source, marked as synthetic.

    A result that Processing loads already keeps the name that it was asked for by, which may be relative.
    """
    asked = {os.path.abspath(name): name for name in context.layersToLoadOnCompletion()}
    for written, name in zip([*result.outputs, *result.statistics], layer_names(source, result)):
        path = asked.get(os.path.abspath(written), written)
        if not context.willLoadLayerOnCompletion(path):
            context.addLayerToLoadOnCompletion(path, QgsProcessingContext.LayerDetails(name, project, ""))
        details = context.layerToLoadOnCompletionDetails(path)
        details.name, details.forceName = name, True
        details.setPostProcessor(dresser(renderer if written in result.outputs else None))
