"""``translate`` and ``generate-pair``: plain values in, plain values out; see `backend.verbs`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from affine import Affine

from backend.errors import PlanError
from backend.jobs.plan import make_plan
from backend.jobs.runner import JobRun
from backend.jobs.scene_plan import SceneInput, ScenePlan, SceneRequest, make_scene_plan
from backend.models.bundle import SceneModelConfig, find_scene_bundle
from backend.progress import Check, Report
from backend.protocol import GENERATE_PAIR, MODALITIES, TRANSLATE, FieldError, Job, JobResult, Progress, check_fields
from backend.raster.grid import Grid
from backend.raster.placement import picture_grid
from backend.scene.modality import find_modality

Values = dict[str, Any]
OPTIONS = ("model", "seed", "steps", "device", "precision", "executor", "job_dir")


def translate(values: Values, report: Report, check: Check) -> Values:
    """Make the wanted modalities of a scene from the known ones; paths, and what each raster is."""
    given = check_fields(TRANSLATE.fields, values)
    inputs = known_rasters(given)
    if not inputs:
        raise FieldError("Give at least one raster of the scene.")
    extent = given["extent"]
    wanted = SceneRequest(
        inputs,
        wanted_modalities(given),
        given["output"],
        extent=None if extent is None else (extent[0], extent[1], extent[2], extent[3]),
        resolution_m=given["resolution"],
        source_resolution=given["source_resolution"],
        **{name: given[name] for name in OPTIONS},
    )
    plan = make_scene_plan(wanted)
    return told(plan, run_plan(plan, report, check), wanted)


def generate_pair(values: Values, report: Report, check: Check) -> Values:
    """Make a scene from noise in the wanted modalities; paths, and what each raster is."""
    given = check_fields(GENERATE_PAIR.fields, values)
    x, y = given["centre"] or (0.0, 0.0)
    grid = picture_grid(given["height"], given["width"], given["metres_per_pixel"], given["crs"], x, y)
    wanted = SceneRequest((), wanted_modalities(given), given["output"], grid=grid,
                          **{name: given[name] for name in OPTIONS})
    tile = find_scene_bundle(wanted.model).config.network.tile
    if max(grid.height, grid.width) > tile:
        return coarse_to_fine(wanted, grid, given["cascade"], report, check)
    plan = make_scene_plan(wanted)
    return told(plan, run_plan(plan, report, check), wanted)


def coarse_to_fine(wanted: SceneRequest, grid: Grid, cascade: str, report: Report, check: Check) -> Values:
    """A scene larger than a window: all modalities coarse, in one window; the first finer; the rest from that.

    Without a condition every window would invent a scene of its own. What comes first must be an image. The result is
    rounded up to whole coarse pixels.
    """
    config = find_scene_bundle(wanted.model).config
    lead = next((m for m in wanted.targets if not find_modality(m).is_map), None)
    if lead is None:
        raise PlanError("A scene larger than one window needs an image among its modalities.")
    stages = _stages(config, grid)
    coarse = _coarser(grid, 4**stages)
    folder = Path(wanted.output) / "coarse"
    first = make_scene_plan(dataclasses.replace(wanted, output=str(folder), grid=coarse))
    run_plan(first, report, check)
    finer = Job(str(folder / f"{lead}.tif"), str(Path(wanted.output) / f"{lead}.tif"), stages=stages, model=cascade,
                seed=wanted.seed, device=wanted.device, precision=wanted.precision, executor=wanted.executor)
    result = run_plan(make_plan(finer), report, check)
    others = tuple(m for m in wanted.targets if m != lead)
    if others:
        inputs = (SceneInput(lead, finer.output),)
        result = run_plan(
            make_scene_plan(dataclasses.replace(wanted, inputs=inputs, targets=others, grid=None)), report, check
        )
    return told(first, result, wanted)


def _stages(config: SceneModelConfig, grid: Grid) -> int:
    """How many times the scene must be made four times coarser to fit into one window."""
    stages, side = 0, max(grid.height, grid.width)
    while side > config.network.tile:
        stages, side = stages + 1, -(-side // 4)
    coarsest, needed = config.ground_resolution_m[1], grid.pixel_size_m * 4**stages
    if needed > 1.5 * coarsest:
        raise PlanError(
            f"The whole scene would first be made at {needed:.3g} m per pixel, and {config.id} was trained on up to"
            f" {coarsest:g} m. Make a smaller scene."
        )
    return stages


def _coarser(grid: Grid, factor: int) -> Grid:
    """The grid whose pixels are ``factor`` times larger, with the same first corner, over all of it."""
    rows, cols = (-(-n // factor) for n in (grid.height, grid.width))
    return Grid(rows, cols, grid.transform @ Affine.scale(factor), grid.crs, grid.pixel_size_m * factor)


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


def wanted_modalities(given: Values) -> tuple[str, ...]:
    """The modalities to make."""
    return tuple(dict.fromkeys([*given["targets"], *(given["other_targets"] or [])]))


def run_plan(plan: Any, report: Report, check: Check) -> JobResult:
    """Carry a plan out; windows are what is counted, those that are being made by their share."""

    def advanced(progress: Progress) -> None:
        report(progress.fraction * progress.windows, progress.windows, progress.message)

    return JobRun(plan, advanced, check).run()


def told(plan: ScenePlan, result: JobResult, wanted: SceneRequest) -> Values:
    """What finished jobs say of themselves; ``layers`` tells how each raster is shown."""
    layers = []
    for name in wanted.targets:
        modality = plan.modality(name)
        classes = [[c.value, c.name, "#{:02x}{:02x}{:02x}".format(*c.colour)] for c in modality.classes]
        path = str(Path(wanted.output).absolute() / f"{name}.tif")
        layers.append({"modality": name, "title": modality.title, "path": path, "unit": modality.unit,
                       "classes": classes, "model": plan.model, "seed": wanted.seed})
    paths = [str(layer["path"]) for layer in layers]
    text = [*(f"Written: {path}" for path in paths), f"synthetic imagery by {plan.model}, seed {wanted.seed}"]
    return {"output": wanted.output, "results": "\n".join(paths), "layers": layers, "text": "\n".join(text),
            "evaluations": result.evaluations, "warnings": list(dict.fromkeys([*plan.warnings, *result.warnings]))}
