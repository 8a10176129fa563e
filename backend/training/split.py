"""The split of the training imagery by place, read from ``split.toml``."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backend.errors import HeldOutError, InputError

SPLIT_FILE = Path(__file__).with_name("split.toml")


@dataclass(frozen=True)
class ImageEntry:
    """One file, or some of its columns, and the split it belongs to."""

    path: Path
    source: str
    split: str
    gsd_m: float
    average: int = 1
    columns: tuple[int, int] | None = None


def load_rules(path: Path = SPLIT_FILE) -> list[dict]:
    """The rules of ``path``, in order."""
    return tomllib.loads(path.read_text(encoding="utf-8"))["rule"]


def entries_of(root: Path, path: Path, rules: list[dict]) -> list[ImageEntry]:
    """The entries of one file: those of the first rule that matches, or of all its column ranges."""
    name = path.relative_to(root).as_posix()
    found: list[ImageEntry] = []
    for rule in rules:
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in rule["files"]):
            continue
        columns = tuple(rule["columns"]) if "columns" in rule else None
        found.append(
            ImageEntry(
                path,
                path.relative_to(root).parts[1],
                rule["split"],
                float(rule["gsd_m"]),
                int(rule.get("average", 1)),
                columns,
            )
        )
        if columns is None:
            break
    return found


def entries(root: Path, split: str, folders: tuple[str, ...] = ("train", "multimodal")) -> Iterator[ImageEntry]:
    """Every entry of ``split`` under ``root``, in the order of the paths."""
    if not root.is_dir():
        raise InputError(f"There is no folder of imagery at {root}.")
    rules = load_rules()
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix.lower() in (".jpg", ".png", ".tif"):
                yield from (e for e in entries_of(root, path, rules) if e.split == split)


def require_training_split(found: list[ImageEntry]) -> list[ImageEntry]:
    """``found`` itself; `HeldOutError` if one of its images is held out."""
    held_out = [e for e in found if e.split != "train"]
    if held_out:
        raise HeldOutError(
            f"{held_out[0].path.name} belongs to the {held_out[0].split} split and must not be trained on"
            f" ({len(held_out)} such images)."
        )
    return found
