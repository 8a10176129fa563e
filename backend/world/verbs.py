"""What the command line and the server call: plain values in, plain values out, one function a verb.

``values`` are those of the verb's fields in `backend.protocol`; a value that no field can have is a `FieldError`.
``report`` is told (done, total, what), ``check`` is called at least once a network evaluation and may raise.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import OutputError
from backend.files import writing
from backend.jobs.checks import check_outputs
from backend.jobs.plan import JobPlan
from backend.progress import Check, Report
from backend.protocol import FLYTHROUGH, PLACE, VIEW, WORLD_FIELDS, check_fields
from backend.raster.grid import Grid
from backend.raster.output import write_block
from backend.raster.pixels import Pixels
from backend.raster.placement import place_picture
from backend.world import view as views
from backend.world.animation import check_animation, write_animation
from backend.world.camera import Camera
from backend.world.flythrough import fly, sights_along, tags_of_view
from backend.world.world import World, plan_world

Values = dict[str, Any]
OF_JOB = ("input", *(field.name for field in WORLD_FIELDS if field.name != "world"))


def view(values: Values, report: Report, check: Check) -> Values:
    """Write what a camera sees as a GeoTIFF with alpha; its path, grid, stage, and what the world cost and is."""
    given = check_fields(VIEW.fields, values)
    output = _output(given["output"])
    plan = _planned(given)
    check_outputs([str(output)], list(plan.source))
    x, y = given["centre"] or _middle(plan)
    seen = views.sight(plan, _camera(given), x, y, given["altitude"])
    with World(plan) as world:
        image = views.view(world, seen, report, check)
        write_view(output, image, tags_of_view(plan, seen.stage, seen.grid.pixel_size_m))
        told = _of_world(world)
    text = f"Written: {output}\n{_size(image.grid)}" + (_synthetic(told) if seen.stage else "")
    return {"output": str(output), "grid": _plain(image.grid), "stage": seen.stage, "synthetic": seen.stage > 0, **told,
            "text": text}


def flythrough(values: Values, report: Report, check: Check) -> Values:
    """Write the frames and the animation of a flight; their paths, the stages seen, and what the world cost and is."""
    given = check_fields(FLYTHROUGH.fields, values)
    output = Path(given["output"]).absolute()
    check_animation(output)
    plan = _planned(given)
    check_outputs([str(output)], list(plan.source))
    vertices = [(x, y, altitude) for x, y, altitude in given["path"]]
    sights = sights_along(plan, _camera(given), vertices, given["frames"])
    folder = Path(given["frames_folder"] or output.with_name(f"{output.stem}_frames")).absolute()
    with World(plan) as world:
        frames = fly(world, sights, folder, report, check)
        stages = sorted({seen.stage for seen in sights})
        comment = tags_of_view(plan, stages[-1], sights[-1].grid.pixel_size_m).get("TIFFTAG_IMAGEDESCRIPTION", "")
        write_animation(output, frames, given["frame_rate"], comment, check)
        told = _of_world(world)
    text = f"Written: {output}\n{len(frames)} frames in {folder}" + (_synthetic(told) if stages[-1] else "")
    flown = {"output": str(output), "frames_folder": str(folder), "frames": len(frames), "stages": stages}
    return {**flown, **told, "text": text}


def place(values: Values, report: Report, check: Check) -> Values:
    """Write a picture as a map; its path and grid."""
    given = check_fields(PLACE.fields, values)
    output = _output(given["output"])
    check_outputs([str(output)], [given["input"]] if Path(given["input"]).is_file() else [])
    check()
    x, y = given["centre"] or (0.0, 0.0)
    grid = place_picture(given["input"], output, given["metres_per_pixel"], given["crs"], x, y)
    report(1, 1, "placing")
    return {"output": str(output), "grid": _plain(grid), "text": f"Written: {output}\n{_size(grid)}"}


def write_view(path: Path, seen: views.View, tags: dict[str, str]) -> None:
    """A view as a GeoTIFF: red, green, blue and alpha."""
    values = seen.image.transpose(2, 0, 1).astype(np.float32)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_block(path, Pixels(values, seen.valid), seen.grid, np.dtype("uint8"), None, True, tags)


def _plain(grid: Grid) -> Values:
    return dataclasses.asdict(grid.info())


def _size(grid: Grid) -> str:
    return f"{grid.width} x {grid.height} pixels of {grid.pixel_size_m:.4g} m"


def _synthetic(told: Values) -> str:
    return (
        f"\nSynthetic detail by {told['model']}, seed {told['seed']}: {told['evaluations']} network evaluations now;"
        f" what is made is kept in {told['world']}"
    )


def _output(name: str) -> Path:
    path = Path(name).absolute()
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"{path.name} is no name of a GeoTIFF: it must end in .tif.")
    return path


def _planned(given: Values) -> JobPlan:
    return plan_world({name: given[name] for name in OF_JOB}, given["world"])


def _camera(given: Values) -> Camera:
    return Camera(given["width"], given["height"], given["field_of_view"])


def _middle(plan: JobPlan) -> tuple[float, float]:
    grid = plan.source_grid
    x, y = grid.transform @ (grid.width / 2, grid.height / 2)
    return x, y


def _of_world(world: World) -> Values:
    plan = world.plan
    return {
        "model": plan.model,
        "seed": plan.job.seed,
        "evaluations": world.evaluations,
        "world": str(world.folder),
        "warnings": world.warnings,
    }
