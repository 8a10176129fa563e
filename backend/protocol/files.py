"""Files and folders that both processes know."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import List

ANCHOR_TAG = "METAEARTH_ANCHOR"
"""In the copy of a layer that is no file: row and column of its first pixel on the layer's own endless grid."""
ANCHOR_STEP = 52
"""Both are multiples of this, so that the windows of usual models (208 result pixels apart) lie alike in all copies."""
STRETCH_TAG = "METAEARTH_STRETCH"
"""In such a copy: "low,high" of each band, the values of the whole layer that a job takes for black and white."""

RASTER_DRIVERS = ("GTiff", "COG", "VRT", "JPEG", "PNG", "JP2OpenJPEG", "HFA", "ENVI", "AAIGrid", "SRTMHGT", "NITF",
                  "BMP", "PCIDSK", "RST", "GPKG", "BIL", "EHdr", "ERS", "SAGA", "XYZ", "netCDF", "HDF5")
"""GDAL formats that the backend opens: data on disks, or a VRT that names some; none runs code. QGIS copies others."""


def data_home() -> Path:
    """Root of environment, models, jobs and caches; METAEARTH_HOME overrides the system's usual place."""
    override = os.environ.get("METAEARTH_HOME")
    if override:
        return Path(override)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "MetaEarth"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "MetaEarth"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "metaearth"


def stage_paths(output: str, stages: int) -> List[str]:
    """Where the stages' rasters go, first stage first.

    ``out.tif`` with two stages: ``out_stage1.tif`` and ``out.tif``; ``stage2.tif``: ``stage1.tif`` and
    ``stage2.tif``; a folder (no .tif or .tiff at the end): ``stage1.tif`` and ``stage2.tif`` in it.
    """
    path = Path(output)
    if path.suffix.lower() not in (".tif", ".tiff"):
        return [str(path / f"stage{k}.tif") for k in range(1, stages + 1)]
    own = f"stage{stages}"
    base = path.stem[: -len(own)] if path.stem.endswith(own) else path.stem + "_"
    earlier = [str(path.with_name(f"{base}stage{k}{path.suffix}")) for k in range(1, stages)]
    return [*earlier, str(path)]


def statistics_paths(output: str) -> List[str]:
    """Where mean and standard deviation over several samples go: ``out_mean.tif`` and ``out_std.tif``."""
    path = Path(output)
    return [str(path.with_name(f"{path.stem}_{name}{path.suffix}")) for name in ("mean", "std")]


PLAN_FILE = "plan.json"
"""In a job's folder: the plan, as long as the job is not finished."""
OWNER_FILE = "owner.json"
"""In a job's folder: host and pid of the process that works on it, or did last."""
JOB_FOLDER = ".metaearth-job"
"""How the name of a job's folder ends, unless the user has named it."""


def unfinished_folder() -> Path:
    """Where the backend notes which jobs it works on: one small file a job, gone when the job is."""
    return data_home() / "unfinished"


def default_job_folder(output: str) -> str:
    """Where a job's unfinished work lies unless the user names a place: beside its last result."""
    return output + JOB_FOLDER
