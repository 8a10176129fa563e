"""Algorithms made of the backend's verbs: one a `Verb`, by its table alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputFile,
    QgsProcessingOutputFolder,
    QgsProcessingOutputMultipleLayers,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsRasterLayer,
)

from ...backend.protocol import MODALITY_BANDS, FieldError, JobField, Verb, check_fields
from ..core.backend_client import BackendError
from ..core.jobs import run_verb
from ..core.layers import has_colours, has_own_nodata, own_file, plain_file, shown_bands
from ..core.paths import absolute
from ..core.results import dresser
from ..core.styles import class_renderer
from ..core.translate import tr
from .algorithm import LOAD, MetaEarthAlgorithm, load_parameter
from .parameters import Values, band_values, extent_value, help_of, parameter_of, scalar_values

OUTPUTS = {"file": QgsProcessingOutputFile, "folder": QgsProcessingOutputFolder, "number": QgsProcessingOutputNumber,
           "text": QgsProcessingOutputString, "rasters": QgsProcessingOutputMultipleLayers}
WRITTEN = ("destination", "file", "new_folder")
"""Kinds of fields that say where a result goes."""


class VerbAlgorithm(MetaEarthAlgorithm):
    """Asks the backend to do what a verb says."""

    def __init__(self, verb: Verb) -> None:
        super().__init__()
        self.verb = verb

    def createInstance(self) -> QgsProcessingAlgorithm:
        """A fresh algorithm."""
        return type(self)(self.verb)

    def name(self) -> str:
        """The id without the provider's."""
        return self.verb.algorithm

    def displayName(self) -> str:
        """The name in the toolbox."""
        return tr(self.verb.title)

    def group(self) -> str:
        """The group's name in the toolbox."""
        return tr(self.verb.group)

    def groupId(self) -> str:
        """The group's id."""
        return self.verb.group.lower()

    def shortDescription(self) -> str:
        """One sentence for the tool tip."""
        return tr(self.verb.help).split(". ")[0].rstrip(".") + "."

    def shortHelpString(self) -> str:
        """What the algorithm does, then every parameter and every output."""
        fields = [f"<h3>{tr(field.label)}</h3>\n{self.help_of(field)}" for field in self.verb.fields]
        outputs = [f"<b>{o.name.upper()}</b>: {tr(o.label)}" for o in self.verb.outputs]
        if self.verb.planned:
            load = load_parameter()
            fields.append(f"<h3>{load.description()}</h3>\n{load.help()}")
        parts = [tr(self.verb.help), f"<h2>{tr('Parameters')}</h2>", *fields]
        return "\n".join([*parts, f"<h2>{tr('Outputs')}</h2>", *outputs] if outputs else parts)

    def help_of(self, field: JobField) -> str:
        """What a field means in QGIS."""
        if field.kind == "extent":
            return tr("Part of the first raster, in any coordinate reference system. Empty: all of it.")
        if field.kind == "rasters":
            return tr("Rasters. Folders of them can be given on the command line.")
        return tr(field.help)

    def initAlgorithm(self, configuration: Optional[Values] = None) -> None:
        """Declare parameters and outputs."""
        for field in self.verb.fields:
            self.declare(field)
        if self.verb.planned:
            self.addParameter(load_parameter())
        for output in self.verb.outputs:
            self.addOutput(OUTPUTS[output.kind](output.name.upper(), tr(output.label)))

    def declare(self, field: JobField) -> None:
        """Add a field's parameter."""
        parameter = parameter_of(field, "INPUT")
        parameter.setHelp(help_of(field, self.help_of(field)))
        self.addParameter(parameter)

    def checkParameterValues(self, parameters: Values, context: QgsProcessingContext) -> Tuple[bool, str]:
        """Whether the backend can be asked, and else why not."""
        sound, sentence = super().checkParameterValues(parameters, context)
        if not sound:
            return sound, sentence
        try:
            self.values(parameters, context)
        except FieldError as error:
            return False, str(error)
        return True, ""

    def prepareAlgorithm(self, parameters: Values, context: QgsProcessingContext,
                         feedback: QgsProcessingFeedback) -> bool:
        """Reads everything that belongs to the main thread."""
        try:
            self._values = self.values(parameters, context)
        except FieldError as error:  # a model does not ask its steps whether their values are sound
            raise QgsProcessingException(str(error)) from error
        return True

    def values(self, parameters: Values, context: QgsProcessingContext) -> Values:
        """What the backend is asked for, but for where results go; `FieldError` with a sentence."""
        found = scalar_values(self, self.verb.fields, parameters, context)
        for field in self.verb.fields:
            if field.kind not in WRITTEN and field.name not in found:
                found[field.name] = self.value(field, parameters, context)
        if "band_choice" in found:
            chosen = found["band_choice"] or []
            found["band_choice"] = [*chosen, *self._bands_as_shown(chosen, parameters, context)]
        return found

    def _bands_as_shown(self, chosen: List[str], parameters: Values, context: QgsProcessingContext) -> List[str]:
        """NAME=BANDS of the modalities that nothing was chosen for, where a layer shows as many as they have.

        Bands that the file itself calls red, green and blue are RGB, whatever is shown of it.
        """
        named = {text.partition("=")[0] for text in chosen}
        found = []
        for name, count in MODALITY_BANDS.items():
            if name not in named and parameters.get(name.upper()) not in (None, ""):
                layer = self.parameterAsRasterLayer(parameters, name.upper(), context)
                bands = shown_bands(layer)
                if bands and len(bands) == count and not (name == "rgb" and has_colours(layer)):
                    found.append(f"{name}={','.join(map(str, bands))}")
        return found

    def value(self, field: JobField, parameters: Values, context: QgsProcessingContext) -> Any:
        """The value of a field that is no plain number or text."""
        name = field.parameter
        if field.kind == "raster":
            if not field.required and parameters.get(name) in (None, ""):
                return None
            layer = self.parameterAsRasterLayer(parameters, name, context)
            picture = own_file(layer) if layer and self._places else None  # where it lies does not matter
            return picture or sound_file(layer, field)
        if field.kind == "choices":
            # of none, QGIS 3.22 makes one empty text
            return field.check([text for text in self.parameterAsEnumStrings(parameters, name, context) if text])
        if field.kind == "extent":
            extent = extent_value(self, field, parameters, context, self.place_crs(parameters, context))
            corners = extent and [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()]
            return corners or None
        if field.kind == "rasters":
            layers = self.parameterAsLayerList(parameters, name, context)
            return field.check([sound_file(layer, field) for layer in layers])
        if field.kind == "flag":
            return self.parameterAsBool(parameters, name, context)
        if field.kind == "crs":
            crs = self.parameterAsCrs(parameters, name, context)
            known = crs.authid() if not crs.authid().startswith("USER:") else ""  # only this account's QGIS knows those
            return known or crs.toWkt() or field.default
        if field.kind == "point":
            return self._point(name, parameters, context)
        if field.kind == "bands":
            layer = self.parameterAsRasterLayer(parameters, "INPUT", context)
            chosen = band_values(self, field, parameters, context, layer.bandCount() if layer else 0)
            return chosen or (shown_bands(layer) if layer else None)
        raise FieldError(tr("{} cannot be given in QGIS.").format(tr(field.label)))

    def _point(self, name: str, parameters: Values, context: QgsProcessingContext) -> Optional[List[float]]:
        """X and Y in the CRS of the verb's field CRS, or of its raster."""
        if parameters.get(name) in (None, ""):
            return None
        point = self.parameterAsPoint(parameters, name, context, self.place_crs(parameters, context))
        return [point.x(), point.y()]

    @property
    def _places(self) -> bool:
        """Whether the verb says itself where its raster lies."""
        return any(field.kind == "crs" for field in self.verb.fields)

    def place_crs(self, parameters: Values, context: QgsProcessingContext) -> QgsCoordinateReferenceSystem:
        """What coordinates are given in to the backend."""
        if self._places:
            return self.parameterAsCrs(parameters, "CRS", context)
        rasters = [field.parameter for field in self.verb.fields if field.kind == "raster"]
        given = next((name for name in rasters if parameters.get(name) not in (None, "")), None)
        layer = (self.parameterAsRasterLayer(parameters, given, context) if given else
                 self._first_other(parameters, context))
        return layer.crs() if layer else QgsCoordinateReferenceSystem()

    def _first_other(self, parameters: Values, context: QgsProcessingContext) -> Optional[QgsRasterLayer]:
        """The first raster of a modality of the user's own."""
        named = [field for field in self.verb.fields if field.name == "other_inputs"]
        others = scalar_values(self, named, parameters, context).get("other_inputs") or []
        return QgsRasterLayer(others[0].partition("=")[2]) if others else None

    def processAlgorithm(self, parameters: Values, context: QgsProcessingContext,
                         feedback: QgsProcessingFeedback) -> Dict[str, Any]:
        """Ask the backend; its sentence leaves as a QgsProcessingException."""
        places = {f.name: self._place(f, parameters, context) for f in self.verb.fields if f.kind in WRITTEN}
        try:
            values = check_fields(self.verb.fields, {
                **self._values, **{name: absolute(place) for name, place in places.items()}})
            told = run_verb(self.verb, values, feedback)
        except (BackendError, FieldError) as error:
            raise QgsProcessingException(str(error)) from error
        if told.get("layers") and self.parameterAsBool(parameters, LOAD, context):
            load_layers(told["layers"], tr("MetaEarth: {}").format(Path(told["output"]).name), context)
        if told.get("synthetic"):
            for place in places.values():
                mark_synthetic(place, context)
        found = {output.name.upper(): told.get(output.name) for output in self.verb.outputs}
        return {**{name.upper(): place for name, place in places.items()}, **found}

    def _place(self, field: JobField, parameters: Values, context: QgsProcessingContext) -> str:
        if field.kind == "destination":
            return self.parameterAsOutputLayer(parameters, field.parameter, context)
        return self.parameterAsFileOutput(parameters, field.parameter, context)


def mark_synthetic(place: str, context: QgsProcessingContext) -> None:
    """Have a result that Processing loads say what it is, by its name, notes and metadata."""
    if context.willLoadLayerOnCompletion(place):
        details = context.layerToLoadOnCompletionDetails(place)
        details.name, details.forceName = tr("{} (synthetic)").format(details.name), True
        details.setPostProcessor(dresser())


def load_layers(layers: List[Dict[str, Any]], group: str, context: QgsProcessingContext) -> None:
    """Have QGIS load rasters that the backend made, in a group (from QGIS 3.32 on), marked as synthetic."""
    for told in layers:
        path, unit = told["path"], f", {told['unit']}" if told["unit"] and not told["classes"] else ""
        name = tr("{}{}, {}, seed {} (synthetic)").format(tr(told["title"]), unit, told["model"], told["seed"])
        name += {"mean": tr(", mean of samples"), "spread": tr(", deviation of samples")}.get(told["statistic"], "")
        details = QgsProcessingContext.LayerDetails(name, context.project(), "")
        details.forceName = True
        if hasattr(details, "groupName"):
            details.groupName = group
        details.setPostProcessor(dresser(class_renderer(told["classes"])))
        context.addLayerToLoadOnCompletion(path, details)


def sound_file(layer: Optional[QgsRasterLayer], field: JobField) -> str:
    """The file behind a raster layer; `FieldError` if there is none that the backend reads."""
    if layer is None or not layer.isValid():
        raise FieldError(tr("{}: the raster cannot be opened. Check that the file exists and that QGIS can show it.")
                         .format(tr(field.label)))
    path = plain_file(layer)
    if path is None and own_file(layer) and has_own_nodata(layer.dataProvider()):
        raise FieldError(tr("The layer {}: its nodata value was set in QGIS only. Save it as a GeoTIFF that has it.")
                         .format(layer.name()))
    if path is None and own_file(layer):
        raise FieldError(tr("The layer {}: its coordinate reference system was set in QGIS only. Write it into the "
                            "file with Assign projection.").format(layer.name()))
    if path is None:
        raise FieldError(tr("The layer {} is no file that the backend reads itself. Save it as GeoTIFF first.")
                         .format(layer.name()))
    return path
