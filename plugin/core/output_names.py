"""Names of results that are not there yet."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import List, Optional

from ...backend.protocol import default_job_folder, stage_paths, statistics_paths


def suggested_output(folder: Path, source: str, resolution_m: float, seed: int) -> str:
    """A GeoTIFF in ``folder`` named after its source, resolution and seed, which overwrites nothing."""
    stem = re.sub(r"[^\w.-]+", "_", source).strip("_")[:60] or "result"
    return unused(str(folder / f"{stem}_{resolution_m:.3g}m_seed{seed}.tif"))


def first_writable(folders: List[str]) -> Optional[Path]:
    """The first of the folders in which a file can be made."""
    return next((Path(f) for f in folders if f and os.path.isdir(f) and os.access(f, os.W_OK)), None)


def unused(path: str) -> str:
    """``path``, or the same with the first number that makes a name at which nothing lies."""
    wanted, number, found = Path(path), 1, path
    while in_the_way(found):
        number += 1
        found = str(wanted.with_name(f"{wanted.stem}_{number}{wanted.suffix}"))
    return found


def in_the_way(path: str, stages: int = 3) -> List[str]:
    """What a job with the result ``path`` would overwrite, or find in its job folder's place."""
    paths = [*stage_paths(path, stages), *statistics_paths(path), default_job_folder(path)]
    return [path for path in paths if os.path.exists(path)]
