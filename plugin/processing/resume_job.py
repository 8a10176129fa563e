"""The algorithm `metaearth:resumejob`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterFile,
)

from ...backend.protocol import FIELDS, PLAN_FILE
from ..core.backend_client import BackendError
from ..core.jobs import resume_job
from ..core.paths import absolute
from ..core.results import metaearth_tags
from ..core.translate import tr
from .algorithm import LOAD, MetaEarthAlgorithm, job_output_texts, job_outputs, load_parameter, load_results
from .parameters import parameter_of

FOLDER, EXECUTOR = "FOLDER", "EXECUTOR"


class ResumeJob(MetaEarthAlgorithm):
    """Finishes an interrupted job: only the blocks that are missing are computed."""

    def name(self) -> str:
        """The id without the provider's."""
        return "resumejob"

    def displayName(self) -> str:
        """The name in the toolbox."""
        return tr("Resume an interrupted job")

    def shortDescription(self) -> str:
        """One sentence for the tool tip."""
        return tr("Finishes a job that a crash, a full disk or the end of QGIS interrupted.")

    def shortHelpString(self) -> str:
        """What the algorithm does, then parameters and outputs."""
        outputs = "\n".join(f"<b>{name}</b>: {text}" for name, text in job_output_texts())
        return tr(
            "Finishes a job that a crash, a full disk or the end of QGIS interrupted. Finished blocks are checked and "
            "kept, the others are computed, and the result has the pixels that it would have had without the "
            "interruption. The source raster and the model must still be what they were.\n\n"
            "<h3>Job folder</h3>\nThe folder that the job has left: it ends in .metaearth-job beside the result, or is "
            "the one that was given to the job.") + f"\n<h2>{tr('Outputs')}</h2>\n{outputs}"

    def initAlgorithm(self, configuration: Optional[Dict[str, Any]] = None) -> None:
        """Declare parameters and outputs."""
        self.addParameter(QgsProcessingParameterFile(FOLDER, tr("Job folder"),
                                                     behavior=QgsProcessingParameterFile.Behavior.Folder))
        executor = parameter_of(FIELDS["executor"], FOLDER)
        executor.setDefaultValue("")
        executor.setFlags(executor.flags() | QgsProcessingParameterDefinition.Flag.FlagOptional)
        executor.setHelp(tr("Where the rest is computed: local, or a Dask scheduler. Empty: as the job was started."))
        self.addParameter(executor)
        self.addParameter(load_parameter())
        self.add_job_outputs()

    def checkParameterValues(self, parameters: Dict[str, Any], context: QgsProcessingContext) -> Tuple[bool, str]:
        """Whether there is a job in the folder."""
        folder = self.parameterAsString(parameters, FOLDER, context)
        if not os.path.isfile(os.path.join(folder, PLAN_FILE)):
            return False, tr("{} holds no unfinished job.").format(folder)
        return super().checkParameterValues(parameters, context)

    def processAlgorithm(self, parameters: Dict[str, Any], context: QgsProcessingContext,
                         feedback: QgsProcessingFeedback) -> Dict[str, Any]:
        """Finish the job; whatever goes wrong leaves as a QgsProcessingException with a sentence."""
        try:
            folder = absolute(self.parameterAsString(parameters, FOLDER, context))
            result = resume_job(folder, self.parameterAsString(parameters, EXECUTOR, context), feedback)
        except BackendError as error:
            raise QgsProcessingException(str(error)) from error
        if self.parameterAsBool(parameters, LOAD, context) and context.project():
            named_after = metaearth_tags(result.outputs[-1]).get("source") or result.outputs[-1]
            load_results(Path(named_after).stem, result, context.project(), context)
        return job_outputs(result)
