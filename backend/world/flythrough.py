"""A flight over a world: the sights along a path, and their images as files."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image

from backend.errors import ExtentError, PlanError
from backend.files import complete_file, writing
from backend.jobs.plan import JobPlan
from backend.progress import Check, Report
from backend.raster import provenance
from backend.world.animation import FRAME_NAME
from backend.world.camera import Camera
from backend.world.path import Point, along
from backend.world.view import Sight, View, draw, sight
from backend.world.world import World


def sights_along(plan: JobPlan, camera: Camera, vertices: list[Point], frames: int) -> list[Sight]:
    """What the camera looks at in each frame of a path; vertices are x, y in the source's coordinates and altitude.

    `PlanError` or `ExtentError` tells the first frame that cannot be.
    """
    grid = plan.source_grid
    on_ground = [_metres(plan, *vertex) for vertex in vertices]
    found = []
    for number, (east, south, altitude) in enumerate(along(on_ground, frames)):
        x, y = grid.transform @ (east / grid.pixel_size_m, south / grid.pixel_size_m)
        try:
            found.append(sight(plan, camera, x, y, altitude))
        except (PlanError, ExtentError) as error:
            raise type(error)(f"Frame {number} of the path cannot be: {error}") from error
    return found


def _metres(plan: JobPlan, x: float, y: float, altitude_m: float) -> Point:
    """A place in metres along the source's columns and rows, so that degrees need not be compared with metres."""
    col, row = (~plan.source_grid.transform) @ (x, y)
    if not (math.isfinite(col) and math.isfinite(row)):
        raise ExtentError(f"{x:g} {y:g} is no place.")
    return col * plan.source_grid.pixel_size_m, row * plan.source_grid.pixel_size_m, altitude_m


def fly(world: World, sights: list[Sight], folder: Path, report: Report, check: Check) -> list[Path]:
    """The frames of a flight: ``frame_0000.png`` and so on in ``folder``.

    What is missing of the world is made first, stage by stage, for all frames together. Frames that a longer flight
    has left in the folder are deleted.
    """
    blocks = 0

    def making(done: float, total: int, message: str) -> None:
        nonlocal blocks
        blocks = total
        report(done, total + len(sights), message)

    world.make([(seen.stage, seen.under) for seen in sights], making, check)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    frames = [folder / FRAME_NAME.format(number) for number in range(len(sights))]
    for number, (seen, path) in enumerate(zip(sights, frames)):
        check()
        report(blocks + number, blocks + len(sights), "drawing")
        write_png(path, draw(world, seen), tags_of_view(world.plan, seen.stage, seen.grid.pixel_size_m))
    for left in set(folder.glob("frame_[0-9][0-9][0-9][0-9].png")) - set(frames):
        left.unlink()
    return frames


def tags_of_view(plan: JobPlan, stage: int, gsd_m: float) -> dict[str, str]:
    """What an image says of how it was made; nothing where it shows the source itself."""
    return provenance.tags(stage, gsd_m, Path(plan.job.input).name, plan.sha256, plan.facts) if stage else {}


def write_png(path: Path, seen: View, tags: dict[str, str]) -> None:
    """A view as RGB, black where it is not valid, with its tags as text."""
    with complete_file(path) as partial, writing(path):
        Image.fromarray(seen.image).save(partial, pnginfo=provenance.png_text(tags))
