"""``translate`` and ``generate-pair``: plain values in, plain values out; see `backend.verbs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.jobs.large_scene import LargeScene, large_scene
from backend.jobs.plan import JobPlan
from backend.jobs.runner import JobRun
from backend.jobs.scene_plan import SceneInput, ScenePlan, SceneRequest, make_scene_plan
from backend.models.bundle import find_scene_bundle
from backend.progress import Check, Report
from backend.protocol import (
    GENERATE_PAIR,
    MODALITIES,
    TRANSLATE,
    FieldError,
    JobResult,
    JobSummary,
    Progress,
    check_fields,
    statistics_paths,
)
from backend.raster.placement import picture_grid

Values = dict[str, Any]
MEAN, SPREAD = "mean", "spread"
OPTIONS = ("model", "seed", "steps", "device", "precision", "executor", "job_dir")


def translate(values: Values, report: Report, check: Check) -> Values:
    """Make the wanted modalities of a scene from the known ones; paths, and what each raster is."""
    wanted = translation(values)
    plan = make_scene_plan(wanted)
    return told(plan, [run_plan(plan, report, check)], wanted)


def plan_translate(values: Values) -> JobSummary:
    """What `translate` would do and cost."""
    return make_scene_plan(translation(values)).summary()


def translation(values: Values) -> SceneRequest:
    """What is asked of `translate`; `FieldError` if that makes no sense."""
    given = check_fields(TRANSLATE.fields, values)
    inputs = known_rasters(given)
    if not inputs:
        raise FieldError("Give at least one raster of the scene.")
    extent = given["extent"]
    return SceneRequest(
        inputs,
        wanted_modalities(given, ("nir",)),
        given["output"],
        extent=None if extent is None else (extent[0], extent[1], extent[2], extent[3]),
        resolution_m=given["resolution"],
        source_resolution=given["source_resolution"],
        samples=given["samples"],
        **{name: given[name] for name in OPTIONS},
    )


def generate_pair(values: Values, report: Report, check: Check) -> Values:
    """Make a scene from noise in the wanted modalities; paths, and what each raster is."""
    scene = scene_from_nothing(values)
    if isinstance(scene, LargeScene):
        return told(scene.first, scene.run(lambda plan: run_plan(plan, report, check)), scene.wanted)
    plan = make_scene_plan(scene)
    return told(plan, [run_plan(plan, report, check)], scene)


def plan_generate_pair(values: Values) -> JobSummary:
    """What `generate_pair` would do and cost."""
    scene = scene_from_nothing(values)
    return scene.summary() if isinstance(scene, LargeScene) else make_scene_plan(scene).summary()


def scene_from_nothing(values: Values) -> SceneRequest | LargeScene:
    """What is asked of `generate_pair`; `FieldError` or `PlanError` if that makes no sense."""
    given = check_fields(GENERATE_PAIR.fields, values)
    x, y = given["centre"] or (0.0, 0.0)
    grid = picture_grid(given["height"], given["width"], given["metres_per_pixel"], given["crs"], x, y)
    wanted = SceneRequest((), wanted_modalities(given, ("rgb", "nir")), given["output"], grid=grid,
                          **{name: given[name] for name in OPTIONS})
    tile = find_scene_bundle(wanted.model).config.network.tile
    return large_scene(wanted, grid, given["cascade"]) if max(grid.height, grid.width) > tile else wanted


def known_rasters(given: Values) -> tuple[SceneInput, ...]:
    """The rasters given, one a modality."""
    named = {name: given[name] for name in MODALITIES if given.get(name)}
    named |= dict(_assignment(text, "Other rasters") for text in given.get("other_inputs") or [])
    bands = dict(_assignment(text, "Bands") for text in given.get("band_choice") or [])
    try:
        chosen = {name: tuple(int(n) for n in text.split(",")) for name, text in bands.items()}
    except ValueError:
        raise FieldError("Bands: give them as NAME=BAND or NAME=BAND,BAND,BAND.") from None
    if any(band < 1 for some in chosen.values() for band in some):
        raise FieldError("Bands: they count from 1.")
    if unknown := sorted(set(chosen) - set(named)):
        raise FieldError(f"Bands: there is no raster of {', '.join(unknown)}.")
    return tuple(SceneInput(name, path, chosen.get(name)) for name, path in named.items())


def _assignment(text: str, label: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise FieldError(f"{label}: {text!r} is not NAME=VALUE.")
    return name, value


def wanted_modalities(given: Values, usual: tuple[str, ...]) -> tuple[str, ...]:
    """The modalities to make, each once; the usual ones where none are named."""
    return tuple(dict.fromkeys([*(given["targets"] or ()), *(given["other_targets"] or ())])) or usual


def run_plan(plan: JobPlan, report: Report, check: Check) -> JobResult:
    """Carry a plan out; windows are what is counted, those that are being made by their share."""

    def advanced(progress: Progress) -> None:
        report(progress.fraction * progress.windows, progress.windows, progress.message)

    return JobRun(plan, advanced, check).run()


def told(plan: ScenePlan, results: list[JobResult], wanted: SceneRequest) -> Values:
    """What finished jobs say of themselves."""
    layers = shown_layers(plan, wanted)
    written = [layer["path"] for layer in layers]
    paths = [layer["path"] for layer in layers if not layer["statistic"]]
    text = [*(f"Written: {path}" for path in written), f"synthetic imagery by {plan.model}, seed {wanted.seed}"]
    warnings = [*plan.warnings, *(warning for result in results for warning in result.warnings)]
    return {
        "output": wanted.output,
        "results": paths,
        "statistics": [path for path in written if path not in paths],
        "layers": layers,
        "text": "\n".join(text),
        "evaluations": sum(result.evaluations for result in results),
        "warnings": list(dict.fromkeys(warnings)),
    }


def shown_layers(plan: ScenePlan, wanted: SceneRequest) -> list[Values]:
    """How each raster is to be shown, each target's followed by what is told of its samples."""
    layers: list[Values] = []
    for name in wanted.targets:
        modality = plan.modality(name)
        classes = [[c.value, c.name, "#{:02x}{:02x}{:02x}".format(*c.colour)] for c in modality.classes]
        path = str(Path(wanted.output).absolute() / f"{name}.tif")
        facts = {"modality": name, "title": modality.title, "unit": modality.unit, "model": plan.model,
                 "seed": wanted.seed}
        layers.append({**facts, "path": path, "classes": classes, "statistic": ""})
        if wanted.samples > 1:
            usual, spread = statistics_paths(path)
            layers += [{**facts, "path": usual, "classes": classes, "statistic": MEAN},
                       {**facts, "path": spread, "classes": [], "statistic": SPREAD}]
    return layers
