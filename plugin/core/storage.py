"""How much space MetaEarth's folders take, and emptying those that can be made again."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Dict

from .installation import folder_bytes
from .snapshots import delete_snapshots

KINDS = {"environment": ("env", "python", "bin"), "downloads": ("cache",), "models": ("models",),
         "snapshots": ("snapshots",), "worlds": ("worlds",), "logs": ("logs",)}
CLEARED = ("downloads", "worlds", "logs")
FRESH_SECONDS = 24 * 3600
"""A copy of a layer that is younger may be one that a job, here or in another QGIS, is about to read."""


def sizes(home: Path) -> Dict[str, int]:
    """Bytes of every kind of folder under the root."""
    return {kind: sum(folder_bytes(home / name) for name in names) for kind, names in KINDS.items()}


def clear(home: Path) -> None:
    """Delete downloads, worlds, logs and copies that no job needs; environment and models stay."""
    delete_snapshots(home, FRESH_SECONDS)
    for kind in CLEARED:
        for name in KINDS[kind]:
            for path in (home / name).glob("*"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        path.unlink()
