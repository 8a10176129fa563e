"""Names of results that are not there yet."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Collection, List, Optional

from qgis.core import QgsMapLayer, QgsProcessing, QgsProject

from ...backend.protocol import default_job_folder, stage_paths, statistics_paths
from .backend_client import PLUGIN_ROOT


def suggested_output(folder: Path, source: str, resolution_m: float, seed: int, stages: int,
                     taken: Collection[str] = ()) -> str:
    """A GeoTIFF in ``folder`` named after its source, resolution and seed, which overwrites nothing.

    ``taken`` are paths that jobs which run or wait will write.
    """
    stem = re.sub(r"[^\w.-]+", "_", source).strip("_")[:60] or "result"
    wanted, number = folder / f"{stem}_{resolution_m:.3g}m_seed{seed}.tif", 1
    found = str(wanted)
    while in_the_way(found, stages, taken):
        number += 1
        found = str(wanted.with_name(f"{wanted.stem}_{number}.tif"))
    return found


def usual_folder(layer: Optional[QgsMapLayer]) -> Optional[Path]:
    """Where results go whose place nobody names: beside the project or the source; None if neither can be."""
    beside_source = [os.path.dirname(layer.source())] if layer and layer.providerType() == "gdal" else []
    return first_writable([QgsProject.instance().homePath(), *beside_source])


def whole_path(typed: str, layer: Optional[QgsMapLayer]) -> str:
    """A path from the root: what is typed without a folder lies in the usual one, wherever QGIS itself runs."""
    return typed if os.path.isabs(typed) else os.path.join(usual_folder(layer) or Path.home(), typed)


def first_writable(folders: List[str]) -> Optional[Path]:
    """The first of the folders in which a file can be made and stays: the plugin's own go when it is updated."""
    return next((Path(f) for f in folders if f and os.path.isdir(f) and not _is_ours(f) and _can_write(f)), None)


def _is_ours(folder: str) -> bool:
    place = Path(os.path.realpath(folder))
    return PLUGIN_ROOT in (place, *place.parents)


def _can_write(folder: str) -> bool:
    return os.access(folder, os.W_OK) and (sys.platform != "win32" or _can_make_a_file(folder))


@lru_cache(maxsize=64)
def _can_make_a_file(folder: str) -> bool:
    """By trying: of folders on Windows, `os.access` knows nothing."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def written_by(path: str, stages: int) -> List[str]:
    """All that a job with the result ``path`` may write: every stage, statistics, and its folder.

    Nothing of a temporary result, whose place nobody knows yet.
    """
    if path == QgsProcessing.TEMPORARY_OUTPUT:
        return []
    return [*stage_paths(path, stages), *statistics_paths(path), default_job_folder(path)]


def in_the_way(path: str, stages: int, taken: Collection[str] = ()) -> List[str]:
    """What a job with the result ``path`` would overwrite, or find in its job folder's place."""
    return [name for name in written_by(path, stages) if name in taken or os.path.exists(name)]
