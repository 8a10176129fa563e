"""What can be told of a job before it starts: what is too large, where it cannot write, what its user should know."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import DiskFullError, OutputError, PlanError
from backend.models.bundle import Bundle
from backend.raster.grid import Grid, Region, pixel_sides_m

if TYPE_CHECKING:
    from backend.jobs.plan import JobPlan

MAX_PIXELS = 400_000_000_000
DEGREES_AROUND = 360.0


def existing_folder(path: Path) -> Path:
    """The nearest folder above ``path`` that exists."""
    found = next((folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir()), None)
    if found is None:
        raise OutputError(f"There is no drive or share for {path}; choose another place for the result.")
    return found


def warnings_of(grid: Grid, stages: int, bundle: Bundle, resample_to_m: float | None, native_m: float) -> list[str]:
    """Sentences on the grid, the resolutions and the model; ``native_m``: the source's own metres per pixel."""
    found = []
    if resample_to_m is not None and resample_to_m > native_m:
        found.append(
            f"The target is less than one stage away, so the source is first averaged from {native_m:.4g} to "
            f"{resample_to_m:.4g} m: detail that it has in between is replaced by synthetic detail."
        )
    finest, coarsest = bundle.config.ground_resolution_m
    for stage in range(1, stages + 1):
        size = grid.pixel_size_m / bundle.config.network.scale**stage
        if not finest <= size <= coarsest:
            factor = finest / size if size < finest else size / coarsest
            found.append(
                f"Stage {stage} makes {size:.3g} m pixels; {bundle.config.id} was trained on {finest:g} to "
                f"{coarsest:g} m (off by a factor of {factor:.1f})."
            )
    sides = pixel_sides_m(grid)
    if max(sides) > 1.2 * min(sides):
        found.append(
            f"On the ground the pixels are {sides[0]:.4g} m wide and {sides[1]:.4g} m high, but the model expects "
            "square ones: warp the layer to a UTM zone first for better detail."
        )
    return found


def warnings_at_180_degrees(grid: Grid, extent: list[float] | None) -> list[str]:
    """Sentences on what ends where longitudes do: windows do not go on from 180 degrees east to 180 degrees west."""
    if grid.crs is None or not grid.crs.is_geographic:
        return []
    left, _, right, _ = grid.bounds()
    slack, found = 1e-6, []
    around = right - left >= DEGREES_AROUND - slack
    ends = (left, right) if around else (min(left, -DEGREES_AROUND / 2), max(right, DEGREES_AROUND / 2))
    if around and (extent is None or (extent[0] <= left + slack and extent[2] >= right - slack)):
        found.append("The raster goes around the world: its left and right edges are made apart and will not fit.")
    if extent is not None and (extent[0] < ends[0] - slack or extent[2] > ends[1] + slack):
        found.append(f"The extent goes on where longitudes end, at {ends[0]:g} and {ends[1]:g} degrees: only the part"
                     " inside the raster is made.")
    return found


def check_size(regions: list[Region]) -> None:
    """`PlanError` if one of the stages' regions has too many pixels."""
    if max(r.height * r.width for r in regions) > MAX_PIXELS:
        raise PlanError(
            f"The result would have {regions[-1].width} x {regions[-1].height} pixels. "
            "Choose a smaller extent or a coarser target resolution."
        )


def check_outputs(paths: list[str], sources: list[str]) -> None:
    """`OutputError` if a result cannot be written, or would be written over its own source."""
    for path in paths:
        if os.path.isdir(path):
            raise OutputError(f"{path} is a folder; choose another name for the result.")
        if os.path.exists(path) and any(os.path.samefile(path, source) for source in sources):
            raise OutputError(f"{path} is the source itself; choose another name for the result.")
        folder = existing_folder(Path(path).parent)
        if not os.access(folder, os.W_OK):
            raise OutputError(f"Nothing can be written in {folder}; choose another place for the result.")


def check_space(plan: JobPlan) -> None:
    """`DiskFullError` unless results and unfinished work fit on their disks; what is finished already is counted."""
    finished = sum(f.stat().st_size for f in plan.folder.glob("blocks/*/*/*") if f.is_file())
    needs = [
        (existing_folder(Path(plan.job.output)), plan.result_bytes),
        (existing_folder(plan.folder), max(0, plan.block_bytes - finished)),
    ]
    if os.stat(needs[0][0]).st_dev == os.stat(needs[1][0]).st_dev:
        needs = [(needs[0][0], needs[0][1] + needs[1][1])]
    for folder, needed in needs:
        check_free(folder, needed)


def check_free(folder: Path, needed: float) -> None:
    """`DiskFullError` unless so many bytes are free where a folder is."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFullError(
            f"The job needs up to {needed / 1e9:.2f} GB of disk space in {folder}, and {free / 1e9:.2f} GB are "
            "free. Free some space, or choose another place for the result."
        )
