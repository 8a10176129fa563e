"""How much space MetaEarth's folders take, and emptying those that can be made again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Dict

KINDS = {"environment": ("env", "python", "bin"), "downloads": ("cache",), "models": ("models",),
         "snapshots": ("snapshots",), "logs": ("logs",)}
CLEARED = ("downloads", "snapshots", "logs")


def sizes(home: Path) -> Dict[str, int]:
    """Bytes of every kind of folder under the root."""
    return {kind: sum(_size(home / name) for name in names) for kind, names in KINDS.items()}


def clear(home: Path) -> None:
    """Delete downloads, snapshots and logs; environment and models stay."""
    for kind in CLEARED:
        for name in KINDS[kind]:
            shutil.rmtree(home / name, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
