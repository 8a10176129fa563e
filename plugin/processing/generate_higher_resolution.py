"""The algorithm `metaearth:generatehigherresolution`."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Tuple

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputLayerDefinition,
    QgsRasterLayer,
    QgsRasterRenderer,
    QgsRectangle,
)

from ...backend.protocol import (
    FIELDS,
    JOB_FIELDS,
    FieldError,
    Job,
    JobField,
    data_home,
    stage_paths,
)
from ..core.backend_client import BackendCancelled, BackendError
from ..core.jobs import is_unfinished, run_job
from ..core.layers import (
    LayerError,
    LayerSource,
    SnapshotGrid,
    blank_raster,
    layer_source,
    own_pixel_size,
    snapshot_grid,
    write_snapshot,
)
from ..core.paths import absolute
from ..core.snapshots import new_snapshot_folder
from ..core.styles import result_renderer
from ..core.translate import tr
from .algorithm import MetaEarthAlgorithm, job_output_texts, job_outputs, load_results
from .parameters import Values, band_values, extent_value, help_of, parameter_of, scalar_values

INPUT, OUTPUT = FIELDS["input"].parameter, FIELDS["output"].parameter


@dataclass(frozen=True)
class Request:
    """What the parameters ask for; extents are in the layer's CRS."""

    source: LayerSource
    extent: Optional[QgsRectangle]
    bands: Optional[List[int]]
    scalars: Values
    renderer: Optional[QgsRasterRenderer]


class GenerateHigherResolution(MetaEarthAlgorithm):
    """Makes a raster's pixels finer with the resolution-guided cascade of a MetaEarth model."""

    def name(self) -> str:
        """The id without the provider's."""
        return "generatehigherresolution"

    def displayName(self) -> str:
        """The name in the toolbox."""
        return tr("Generate higher resolution")

    def tags(self) -> List[str]:
        """Words by which the toolbox finds it."""
        return tr("super-resolution,upscale,sharpen,downscaling,diffusion,synthetic,satellite,aerial,resample,AI,"
                  "deep learning").split(",")

    def shortDescription(self) -> str:
        """One sentence for the tool tip."""
        return tr("Makes a raster's pixels finer, four times a stage, with plausible synthetic detail.")

    def shortHelpString(self) -> str:
        """What the algorithm does, then every parameter and every output."""
        intro = tr(
            "Makes the pixels of a satellite or aerial image finer: every stage divides the pixel size by four. The "
            "detail is invented by a diffusion model so that it is plausible and agrees with the source when averaged "
            "down. It is synthetic detail, not measurement: do not count, measure or classify what was not in the "
            "source.\n\nGive a number of stages or a target resolution; with neither, one stage is made. The same "
            "seed gives the same pixels. The network runs in a process of its own, on the GPU if there is one.")
        parameters = [f"<h3>{tr(field.label)}</h3>\n{_help_of(field)}" for field in JOB_FIELDS]
        outputs = [f"<b>{name}</b>: {text}" for name, text in job_output_texts()]
        return "\n".join([intro, f"<h2>{tr('Parameters')}</h2>", *parameters, f"<h2>{tr('Outputs')}</h2>", *outputs])

    def initAlgorithm(self, configuration: Optional[Values] = None) -> None:
        """Declare parameters and outputs."""
        for field in JOB_FIELDS:
            parameter = parameter_of(field, INPUT)
            parameter.setHelp(_help_of(field))
            self.addParameter(parameter)
        self.add_job_outputs()

    def checkParameterValues(self, parameters: Values,
                             context: QgsProcessingContext) -> Tuple[bool, str]:
        """Whether the job can start, and else why not, as far as that is known without the backend."""
        try:
            layer = self._layer(parameters, context)
            scalars = scalar_values(self, JOB_FIELDS, parameters, context)
            Job.from_dict({**scalars, "input": layer.source(), "output": OUTPUT})
            band_values(self, FIELDS["bands"], parameters, context, layer.bandCount())
            extent = extent_value(self, FIELDS["extent"], parameters, context, layer.crs())
            _check_place(layer, extent, scalars)
            _check_output(parameters.get(OUTPUT), layer, scalars["stages"])
        except FieldError as error:
            return False, str(error)
        return super().checkParameterValues(parameters, context)

    def prepareAlgorithm(self, parameters: Values, context: QgsProcessingContext,
                         feedback: QgsProcessingFeedback) -> bool:
        """Reads everything that belongs to the main thread."""
        try:
            layer = self._layer(parameters, context)
            self._request = self._requested(layer, parameters, context)
        except FieldError as error:
            raise QgsProcessingException(str(error)) from error
        return True

    def planned_job(self, parameters: Values, context: QgsProcessingContext, folder: Path) -> Job:
        """The job that these parameters make, to be asked what it would cost; on the layer's thread.

        A layer that is no plain file is stood in for by an empty raster in ``folder`` with the snapshot's grid.
        `FieldError` or `LayerError` if they make none.
        """
        ready, reason = self.checkParameterValues(parameters, context)
        if not ready:
            raise FieldError(reason)
        self._request = self._requested(self._layer(parameters, context), parameters, context)
        source = self._request.source
        path = source.path or blank_raster(source, self._snapshot_grid(), folder)
        return self._job_on(path, self.parameterAsOutputLayer(parameters, OUTPUT, context))

    def snapshot_of_service(self) -> Optional[SnapshotGrid]:
        """What `planned_job` would copy from a service that draws tiles or pictures at any scale, if it is one."""
        return self._snapshot_grid() if self._request.source.pixel_size is None else None

    def _requested(self, layer: QgsRasterLayer, parameters: Values, context: QgsProcessingContext) -> Request:
        source = layer_source(layer)
        bands = band_values(self, FIELDS["bands"], parameters, context, layer.bandCount())
        return Request(source, extent_value(self, FIELDS["extent"], parameters, context, layer.crs()),
                       bands or source.shown_bands, scalar_values(self, JOB_FIELDS, parameters, context),
                       result_renderer(layer, bands))

    def processAlgorithm(self, parameters: Values, context: QgsProcessingContext,
                         feedback: QgsProcessingFeedback) -> Values:
        """Run the job; whatever goes wrong leaves as a QgsProcessingException with a sentence."""
        output = self.parameterAsOutputLayer(parameters, OUTPUT, context)
        folder: Optional[Path] = None
        job: Optional[Job] = None
        try:
            if self._request.source.path is None:
                folder = new_snapshot_folder(data_home())
            job = self._job(output, folder, context, feedback)
            result = run_job(job, feedback)
        except (BackendError, LayerError, FieldError, OSError) as error:
            raise QgsProcessingException(str(error)) from error
        finally:
            if folder and not (job and is_unfinished(job)):  # a job that is resumed reads the copy again
                shutil.rmtree(folder, ignore_errors=True)
        if context.willLoadLayerOnCompletion(output):
            project = context.layerToLoadOnCompletionDetails(output).project
            load_results(self._request.source.name, result, project, context, self._request.renderer)
        return {OUTPUT: result.outputs[-1], **job_outputs(result)}

    def _layer(self, parameters: Values, context: QgsProcessingContext) -> QgsRasterLayer:
        layer = self.parameterAsRasterLayer(parameters, INPUT, context)
        if layer is None or not layer.isValid():
            raise FieldError(tr("The source raster {} cannot be opened. Check that the file exists and that QGIS can "
                                "show it.").format(parameters.get(INPUT) or ""))
        return layer

    def _job(self, output: str, folder: Optional[Path], context: QgsProcessingContext,
             feedback: QgsProcessingFeedback) -> Job:
        """The job for the backend; a layer that is no plain file is first copied into ``folder``."""
        source, path = self._request.source, self._request.source.path
        if folder:
            grid = self._snapshot_grid()
            feedback.setProgressText(tr("Copying {} x {} pixels of {}…").format(grid.cols, grid.rows, source.name))
            path = write_snapshot(source, grid, folder, context.transformContext(), feedback)
        if feedback.isCanceled():
            raise BackendCancelled(tr("The job was cancelled."), "cancelled")
        return self._job_on(path, output)

    def _snapshot_grid(self) -> SnapshotGrid:
        """The grid on which a layer that is no plain file is read."""
        source, extent = self._request.source, self._request.extent
        return snapshot_grid(source, extent or source.extent, self._request.scalars["source_resolution"])

    def _job_on(self, path: str, output: str) -> Job:
        """The job on the layer's file or its copy."""
        request, scalars = self._request, dict(self._request.scalars)
        extent = request.extent
        if scalars["stages"] is None and scalars["resolution"] is None:
            scalars["stages"] = 1
        if request.source.path is None:
            extent = extent or request.source.extent
            scalars["source_resolution"] = None if request.source.crs.isValid() else scalars["source_resolution"]
        corners = extent and [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()]
        return Job.from_dict({**scalars, "input": path, "output": absolute(output), "extent": corners,
                              "bands": request.bands})


def _check_place(layer: QgsRasterLayer, extent: Optional[QgsRectangle], scalars: Values) -> None:
    """`FieldError` if it is unknown where the job lies or how large its pixels are, or if it lies beside the layer."""
    if not layer.crs().isValid() and scalars["source_resolution"] is None:
        raise FieldError(tr("The layer {} has no coordinate reference system, so its ground resolution is unknown. "
                            "Assign one to the layer, or give the source resolution.").format(layer.name()))
    if extent and not extent.intersects(layer.extent()):
        raise FieldError(tr("The extent lies outside the layer {}.").format(layer.name()))
    if own_pixel_size(layer) is None and (extent is None or scalars["source_resolution"] is None):
        raise FieldError(tr("The layer {} has no pixels of its own (it is drawn at any scale): give an extent and the "
                            "source resolution at which it is to be read.").format(layer.name()))


def _check_output(value: Any, layer: QgsRasterLayer, stages: Optional[int]) -> None:
    """`FieldError` if the result is no GeoTIFF or if one of its stages would overwrite the source."""
    if isinstance(value, QgsProcessingOutputLayerDefinition):
        value = value.sink.staticValue()
    if not isinstance(value, str) or value in ("", QgsProcessing.TEMPORARY_OUTPUT):
        return
    if Path(value).suffix.lower() not in (".tif", ".tiff"):
        raise FieldError(tr("The result is a GeoTIFF: choose a name that ends in .tif."))
    own = os.path.realpath(layer.source())
    if own in [os.path.realpath(path) for path in stage_paths(value, stages or 1)]:
        raise FieldError(tr("The result would overwrite the source raster; choose another name."))


def _help_of(field: JobField) -> str:
    """What a field means, in QGIS's terms where they differ from the command line's."""
    in_qgis = {
        "extent": tr("The part of the source to make finer, in any coordinate reference system. Empty: the whole "
                     "layer."),
        "output": tr("GeoTIFF of the last stage; earlier stages are written beside it."),
        "source_resolution": tr("Metres per pixel of the source. Needed only if the layer has no coordinate reference "
                                "system, or no pixels of its own (XYZ, WMS). Such a layer is read at so many metres of "
                                "its coordinate system: in Web Mercator at 52° N ten of them are six on the ground."),
    }
    return help_of(field, in_qgis.get(field.name))
