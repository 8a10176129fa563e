"""MetaEarth-MM's jobs as the panel starts them: what they need, and why they cannot be started."""

from __future__ import annotations

import json
import os
from typing import Any, Collection, Dict, Iterable, List, Optional, Sequence

from qgis.core import (
    QgsApplication,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProject,
    QgsRasterLayer,
)

from ...backend.protocol import (
    GENERATE_PAIR,
    JOB_FOLDER,
    MODALITIES,
    MODALITY_TITLES,
    SCENE,
    ModelInfo,
    Verb,
    default_job_folder,
    statistics_paths,
)
from . import settings
from .translate import tr

Parameters = Dict[str, Any]
COLOUR_BANDS = 3
BEGUN = "scenes_begun"
MOST_BEGUN = 20
COARSE = "coarse"


def scene_algorithm(verb: Verb) -> QgsProcessingAlgorithm:
    """A fresh algorithm of `TRANSLATE` or `GENERATE_PAIR`."""
    return QgsApplication.processingRegistry().createAlgorithmById(f"metaearth:{verb.algorithm}")


def project_context() -> QgsProcessingContext:
    """A context in which layers of the project have their names."""
    context = QgsProcessingContext()
    context.setProject(QgsProject.instance())
    return context


def fitting_modality(layer: Any) -> Optional[str]:
    """The modality that a layer most likely shows; one band may be any, so it has none."""
    if isinstance(layer, QgsRasterLayer) and layer.bandCount() >= COLOUR_BANDS:
        return "rgb"
    return None


def titles(names: Iterable[str]) -> str:
    """Modalities as a list for people."""
    return ", ".join(tr(MODALITY_TITLES.get(name, name)) for name in names)


def wanted(parameters: Parameters) -> List[str]:
    """All modalities that are to be made, the user's own among them."""
    return [*parameters["TARGETS"], *str(parameters.get("OTHER_TARGETS") or "").split()]


def why_not(algorithm: QgsProcessingAlgorithm, parameters: Parameters, models: Optional[List[ModelInfo]]) -> str:
    """Why a job cannot be started, in a sentence; empty if it can. ``models`` None: nobody has told them yet.

    Main thread.
    """
    known = [name for name in MODALITIES if parameters.get(name.upper())]
    takes_rasters = algorithm.parameterDefinition("RGB") is not None
    if models is None:
        return tr("The backend is starting…")
    model = next((m for m in models if m.id == parameters["MODEL"] and m.kind == SCENE and m.has_weights), None)
    if model is None:
        return tr("There is no MetaEarth-MM model with weights. Train one, or add one in Settings > Options > "
                  "MetaEarth.")
    if takes_rasters and not known:
        return tr("Choose at least one raster layer of the scene, or generate a scene from nothing.")
    if not wanted(parameters):
        return tr("Tick at least one modality to make.")
    strange = [name for name in [*known, *parameters["TARGETS"]] if model.modalities and name not in model.modalities]
    if strange:
        return tr("The model {} was not trained on: {}.").format(model.title, titles(dict.fromkeys(strange)))
    sound, sentence = algorithm.checkParameterValues(parameters, project_context())
    return "" if sound else sentence


def written_by(folder: str, targets: Sequence[str]) -> List[str]:
    """What a job may write into its folder of results; nothing of a temporary one is there yet."""
    if folder == QgsProcessing.TEMPORARY_OUTPUT:
        return []
    paths = [os.path.join(folder, f"{name}.tif") for name in targets]
    statistics = [path for raster in paths for path in statistics_paths(raster)]
    return [*paths, *statistics, *map(default_job_folder, paths)]


def in_the_way(folder: str, targets: Sequence[str], taken: Collection[str] = ()) -> List[str]:
    """What a job would overwrite, or what jobs that run or wait will write."""
    return [path for path in written_by(folder, targets) if path in taken or os.path.exists(path)]


def is_begun(verb: Verb, parameters: Parameters) -> bool:
    """Whether such a job was started, in whichever session, and has left work: asked for again, it goes on."""
    if _text_of(verb, parameters) not in _begun():
        return False
    folder = parameters["OUTPUT"]
    jobs = [path for path in written_by(folder, wanted(parameters)) if path.endswith(JOB_FOLDER)]
    coarse = os.path.join(folder, COARSE)  # of a scene that is several jobs
    return any(map(os.path.isdir, [*jobs, coarse] if verb is GENERATE_PAIR else jobs))


def note_begun(verb: Verb, parameters: Parameters, ended_well: bool = False) -> None:
    """Remember that a job was started, or forget it since it ended well."""
    text = _text_of(verb, parameters)
    begun = [other for other in _begun() if other != text] + ([] if ended_well else [text])
    settings.write(BEGUN, json.dumps(begun[-MOST_BEGUN:]))


def _begun() -> List[str]:
    return json.loads(settings.read(BEGUN, "[]"))


def _text_of(verb: Verb, parameters: Parameters) -> str:
    return json.dumps([verb.name, parameters], sort_keys=True, default=str)
