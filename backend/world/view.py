"""What a camera sees of a world: which pixels of which stage, and the image that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from backend.cascade.engine import to_three_bands
from backend.errors import ExtentError, PlanError
from backend.jobs.plan import JobPlan
from backend.progress import Check, Report
from backend.raster.grid import Grid, Region
from backend.raster.stretch import Stretch
from backend.world.camera import Camera
from backend.world.resampling import averaged, covered
from backend.world.world import World

DIGITS = 12
"""Of a camera's metres per pixel; what differs by rounding errors only has equal pixels."""


@dataclass(frozen=True)
class Sight:
    """What a camera looks at: ``region`` of a grid whose pixels are ``factor`` times those of ``stage``.

    That grid has the source's origin, so that all sights of one ``factor`` share their pixels. ``under`` are the
    stage's pixels to be seen.
    """

    stage: int
    factor: float
    region: Region
    under: Region
    grid: Grid


@dataclass(frozen=True)
class View:
    """An image, (rows, cols, 3) uint8, where it is valid, (rows, cols), and its grid. Not valid pixels are black."""

    image: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    grid: Grid
    stage: int


def sight(plan: JobPlan, camera: Camera, x: float, y: float, altitude_m: float) -> Sight:
    """What the camera at (x, y), in the source's coordinates, looks at from ``altitude_m`` above the ground.

    The stage is the coarsest that is as fine as the camera sees; the camera moves to the nearest place where its
    pixels are those of the sight's grid. `PlanError` below the altitude that the last stage is fine enough for,
    `ExtentError` where nothing of the source is in sight.
    """
    if not 0 < altitude_m < math.inf:
        raise PlanError(f"An altitude of {altitude_m:g} m is no place for a camera: give one above 0 m.")
    stage = _stage(plan, camera, altitude_m)
    grid = plan.source_grid if stage == 0 else plan.stages[stage - 1].grid
    factor = max(1.0, float(f"{camera.gsd_m(altitude_m) / grid.pixel_size_m:.{DIGITS}g}"))
    col, row = (~grid.transform) @ (x, y)
    if not (math.isfinite(col) and math.isfinite(row)):
        raise ExtentError(f"{x:g} {y:g} is no place.")
    left, top = (math.floor(n / factor - side / 2 + 0.5) for n, side in ((col, camera.width), (row, camera.height)))
    region = Region(top, left, top + camera.height, left + camera.width)
    under = covered(region, factor).intersection(grid.region)
    if under.height <= 0 or under.width <= 0:
        bounds = " ".join(f"{v:.8g}" for v in plan.source_grid.bounds())
        raise ExtentError(f"From {x:.8g} {y:.8g} nothing of the raster is in sight; it covers {bounds}.")
    return Sight(stage, factor, region, under, grid.zoom_out(factor).crop(region))


def lowest_altitude_m(plan: JobPlan, camera: Camera) -> float:
    """The altitude from which a pixel of the camera is one of the last stage."""
    return camera.altitude_m(plan.stages[-1].grid.pixel_size_m)


def _stage(plan: JobPlan, camera: Camera, altitude_m: float) -> int:
    gsd_m = camera.gsd_m(altitude_m)
    ratio = plan.source_grid.pixel_size_m / gsd_m
    stage = max(0, math.ceil(math.log(ratio, plan.geometry.scale) - 1e-9))
    if stage > len(plan.stages):
        lowest = math.ceil(100 * lowest_altitude_m(plan, camera)) / 100
        raise PlanError(
            f"From {altitude_m:g} m this camera sees {gsd_m:.3g} m pixels, and the world's last stage has "
            f"{plan.stages[-1].grid.pixel_size_m:.3g} m: fly at {lowest:.10g} m or higher, with fewer pixels across, "
            "or add a stage."
        )
    return stage


def view(world: World, seen: Sight, report: Report, check: Check) -> View:
    """The image of a sight, see `draw`; what is missing of the world is made first."""
    world.make([(seen.stage, seen.under)], report, check)
    return draw(world, seen)


def draw(world: World, seen: Sight) -> View:
    """The image of a sight whose blocks are made: area averages of its stage, 8 bits by the plan's stretch.

    Rows and columns run as the source's, but for a source whose rows go north or columns west: the image is turned,
    so that it is no mirror image. Beyond the source's edge, and where it has no data, pixels are not valid.
    """
    fine, bands = world.grid(seen.stage).region, world.plan.bands
    pixels = averaged(lambda part: world.read(seen.stage, part), fine, bands, seen.region, seen.factor)
    image = to_8_bits(pixels.values, world.plan.stretch)
    image[~pixels.valid] = 0
    return _north_up(View(image, pixels.valid, seen.grid, seen.stage))


def to_8_bits(values: NDArray[np.float32], stretch: Stretch) -> NDArray[np.uint8]:
    """(bands, rows, cols) in source units -> (rows, cols, 3): the stretch's ends become 0 and 255."""
    shown = np.rint((to_three_bands(stretch.apply(values)) + 1) * 127.5)
    return np.ascontiguousarray(shown.transpose(1, 2, 0).astype(np.uint8))


def _north_up(seen: View) -> View:
    grid, turn = seen.grid, (slice(None), slice(None))
    transform = grid.transform
    if grid.transform.e > 0:
        turn = slice(None, None, -1), turn[1]
        transform = transform @ Affine.translation(0, grid.height) @ Affine.scale(1, -1)
    if grid.transform.a < 0:
        turn = turn[0], slice(None, None, -1)
        transform = transform @ Affine.translation(grid.width, 0) @ Affine.scale(-1, 1)
    turned = Grid(grid.height, grid.width, transform, grid.crs, grid.pixel_size_m)
    return View(np.ascontiguousarray(seen.image[turn]), seen.valid[turn], turned, seen.stage)
