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
class Companion:
    """The same place in another modality: bands of a raster, or a vector file that a map is drawn from.

    ``values``: pairs of a raster's value and the class that it means. ``percentiles``: the values are stretched
    between percentiles although they are of 8 bits.
    """

    modality: str
    path: Path
    bands: tuple[int, ...] | None = None
    values: tuple[tuple[float, int], ...] = ()
    percentiles: bool = False


@dataclass(frozen=True)
class ImageEntry:
    """One file, or some of its columns, and the split it belongs to; what is None is not known beforehand.

    ``modality``: what its ``bands`` show, if that is known; ``companions`` show the same place otherwise. ``derived``:
    modalities that are to be made of these.
    """

    path: Path
    source: str
    split: str | None
    gsd_m: float | None
    average: int = 1
    columns: tuple[int, int] | None = None
    licence: str = ""
    place: str | None = None
    modality: str = ""
    bands: tuple[int, ...] | None = None
    percentiles: bool = False
    companions: tuple[Companion, ...] = ()
    derived: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collection:
    """What a collection file tells of the imagery under a folder; see ``split.toml`` for its parts."""

    rules: list[dict]
    folders: list[str]
    licences: dict[str, str]


def load_collection(path: Path = SPLIT_FILE) -> Collection:
    """The collection described in a TOML file."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return Collection(list(values["rule"]), list(values.get("folders", ["."])), dict(values.get("licences", {})))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} does not describe a collection of imagery: {error}") from error


def entries_of(root: Path, path: Path, collection: Collection) -> list[ImageEntry]:
    """The entries of one file: those of the first rule that matches, or of all its column ranges."""
    parts = path.relative_to(root).parts
    source = parts[min(1, len(parts) - 1)]
    found: list[ImageEntry] = []
    for rule in collection.rules:
        if not any(fnmatch.fnmatchcase("/".join(parts), pattern) for pattern in rule["files"]):
            continue
        found.append(
            ImageEntry(
                path,
                source,
                rule.get("split"),
                rule.get("gsd_m"),
                int(rule.get("average", 1)),
                tuple(rule["columns"]) if "columns" in rule else None,
                collection.licences.get(source, ""),
                rule.get("place"),
                rule.get("modality", ""),
                tuple(rule["bands"]) if "bands" in rule else None,
                bool(rule.get("percentiles", False)),
                tuple(_companions(root, path, rule)),
                tuple(rule.get("derived", ())),
            )
        )
        if "columns" not in rule:
            break
    return found


def _companions(root: Path, path: Path, rule: dict) -> Iterator[Companion]:
    """The companions of a file that are there; ``{stem}`` in their names is the file's own."""
    for modality, told in rule.get("with", {}).items():
        found = root / told["file"].format(stem=path.stem) if "file" in told else path
        if found.is_file():
            values = tuple((float(value), int(number)) for value, number in told.get("values", {}).items())
            bands = tuple(told["bands"]) if "bands" in told else None
            yield Companion(modality, found, bands, values, bool(told.get("percentiles", False)))


def all_entries(root: Path, collection: Collection) -> Iterator[ImageEntry]:
    """Every entry under ``root``, in the order of the paths."""
    if not root.is_dir():
        raise InputError(f"There is no folder of imagery at {root}.")
    for folder in collection.folders:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix.lower() in (".jpg", ".png", ".tif"):
                yield from entries_of(root, path, collection)


def entries(root: Path, split: str) -> Iterator[ImageEntry]:
    """Every entry of ``split`` under ``root``, as ``split.toml`` says."""
    return (entry for entry in all_entries(root, load_collection()) if entry.split == split)


def require_training_split(found: list[ImageEntry]) -> list[ImageEntry]:
    """``found`` itself; `HeldOutError` if one of its images is held out."""
    held_out = [e for e in found if e.split != "train"]
    if held_out:
        raise HeldOutError(
            f"{held_out[0].path.name} belongs to the {held_out[0].split} split and must not be trained on"
            f" ({len(held_out)} such images)."
        )
    return found
