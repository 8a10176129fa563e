"""Copies of layers that are no file: made for a job, kept as long as it can be resumed."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Set

from ...backend.protocol import PLAN_FILE, data_home, unfinished_folder

STALE_SECONDS = 7 * 24 * 3600


def source_of(folder: Path) -> str:
    """The source raster of an unfinished job; empty if its plan cannot be read."""
    try:
        return json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))["job"]["input"]
    except (OSError, ValueError, KeyError):
        return ""


def needed_snapshots() -> Set[Path]:
    """The folders of copies that unfinished jobs would read."""
    found = set()
    for note in unfinished_folder().glob("*.txt"):
        with suppress(OSError):  # the job has just ended
            found.add(Path(source_of(Path(note.read_text(encoding="utf-8")))).parent)
    return found


def delete_snapshots(home: Path, older_than_s: float) -> None:
    """Delete the copies that nobody has touched for so long, but for those of unfinished jobs."""
    needed = needed_snapshots()
    for folder in (home / "snapshots").glob("*"):
        with suppress(OSError):  # another QGIS may be doing the same
            if folder not in needed and time.time() - folder.stat().st_mtime > older_than_s:
                shutil.rmtree(folder, ignore_errors=True)


def new_snapshot_folder(home: Path) -> Path:
    """A fresh folder for a copy; those that a crash left behind a week ago are deleted."""
    (home / "snapshots").mkdir(parents=True, exist_ok=True)
    delete_snapshots(home, STALE_SECONDS)
    return Path(tempfile.mkdtemp(dir=home / "snapshots"))


def remove_snapshot(path: str) -> None:
    """Delete a job's source if it is such a copy; anything else stays."""
    folder = Path(path).parent
    if folder.parent == data_home() / "snapshots":
        shutil.rmtree(folder, ignore_errors=True)
