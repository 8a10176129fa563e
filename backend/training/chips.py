"""A prepared training set on disk: chips of one size in tar shards, with an index a shard.

The format is WebDataset's (tar shards of ``key.png`` and ``key.json``, and ``key.nir.png`` where a place is known in
other modalities too): it is plain POSIX tar, so that any tool reads
it and object stores stream it from front to back, and a shard holds a thousand chips, so that a million chips are a
thousand files. The index beside each shard names every chip's bytes: the trainer draws chips in any order from it.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.errors import InputError
from backend.files import PARTIAL, complete_file, make_parent, to_disk, writing

SPLITS = ("train", "validation", "test")
DATASET_FILE = "dataset.json"
TAR_BLOCK = 512
Chip = NDArray[np.uint8]


@dataclass(frozen=True)
class ChipRecord:
    """A chip's line in the index: where its picture lies in the shard, and what it shows.

    ``gsd_m``: metres per pixel. ``longitude`` and ``latitude`` of its centre in degrees, where they are known.
    ``modality``: what the picture is, if that is known; ``others``: "nir:OFFSET:SIZE osm:OFFSET:SIZE".
    """

    key: str
    offset: int
    size: int
    gsd_m: float
    longitude: float | None
    latitude: float | None
    source: str
    licence: str
    modality: str = ""
    others: str = ""


@dataclass(frozen=True)
class ChipFacts:
    """What is known of a chip: all of its ``key.json``. ``window``: row and column of its first pixel at ``gsd_m``.

    ``derived``: those of its modalities that no sensor has seen. ``relative``: those that have a unit, but whose values
    nobody calibrated.
    """

    gsd_m: float
    longitude: float | None
    latitude: float | None
    source: str
    licence: str
    file: str
    window: tuple[int, int]
    crs: str
    transform: tuple[float, ...]
    modality: str = ""
    derived: tuple[str, ...] = ()
    relative: tuple[str, ...] = ()


class CutChip(NamedTuple):
    """A chip to be written: pixels (rows, cols, 3), and (rows, cols, bands) of other modalities."""

    key: str
    pixels: Chip
    facts: ChipFacts
    others: dict[str, Chip]


def write_shard(path: Path, chips: Iterable[CutChip]) -> int:
    """Write chips into a shard and its index; the number of chips.

    The index appears last, whole: a shard that has one is finished.
    """
    records = []
    make_parent(path)
    with complete_file(path) as partial, ExitStack() as opened:
        with writing(path):
            stream = opened.enter_context(partial.open("wb"))
            tar = opened.enter_context(tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT))
        for chip in chips:  # which reads imagery: what goes wrong in that is told otherwise
            with writing(path):
                records.append(_add_chip(tar, chip))
        with writing(path):
            opened.close()
            to_disk(partial)
    _write_index(path.with_suffix(".csv"), records)
    return len(records)


def _add_chip(tar: tarfile.TarFile, chip: CutChip) -> ChipRecord:
    key, pixels, facts, others = chip
    offset, size = _add_picture(tar, f"{key}.png", pixels)
    beside = {name: _add_picture(tar, f"{key}.{name}.png", other) for name, other in others.items()}
    _add(tar, f"{key}.json", json.dumps(asdict(facts)).encode())
    told = " ".join(f"{name}:{start}:{length}" for name, (start, length) in beside.items())
    return ChipRecord(key, offset, size, facts.gsd_m, facts.longitude, facts.latitude, facts.source, facts.licence,
                      facts.modality, told)


def _add_picture(tar: tarfile.TarFile, name: str, pixels: Chip) -> tuple[int, int]:
    """Add pixels (rows, cols, 1 or 3) as PNG; the offset of its bytes and their number."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return _add(tar, name, buffer.getvalue()), buffer.getbuffer().nbytes


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a member; the offset of its bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    offset = tar.offset + TAR_BLOCK
    tar.addfile(member, io.BytesIO(data))
    return offset


def _write_index(path: Path, records: list[ChipRecord]) -> None:
    with complete_file(path) as partial, writing(path):
        with partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, [f.name for f in fields(ChipRecord)])
            writer.writeheader()
            writer.writerows(asdict(record) for record in records)
        to_disk(partial)


def _read_index(path: Path) -> Iterator[ChipRecord]:
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            longitude, latitude = (float(row[name]) if row[name] else None for name in ("longitude", "latitude"))
            yield ChipRecord(
                row["key"],
                int(row["offset"]),
                int(row["size"]),
                float(row["gsd_m"]),
                longitude,
                latitude,
                row["source"],
                row["licence"],
                row.get("modality", ""),
                row.get("others", ""),
            )


def finished_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern in order, but for what processes write, or wrote when they were killed."""
    return sorted(path for path in folder.glob(pattern) if PARTIAL not in path.name)


class ChipSet:
    """The chips of one split of a prepared set, in the order of the shards."""

    def __init__(self, folder: Path, split: str, finished: bool = True) -> None:
        """``finished``: whether a set that is not wholly prepared is refused."""
        if finished and not is_chip_set(folder):
            raise InputError(f"{folder} is no prepared training set; make one with `python -m backend prepare`.")
        self.folder, self.split = folder, split
        self.shards: list[Path] = []
        self.records: list[ChipRecord] = []
        self._shard_of: list[int] = []
        for index in finished_files(folder, f"{split}/*.csv"):
            found = list(_read_index(index))
            self.records += found
            self._shard_of += [len(self.shards)] * len(found)
            self.shards.append(index.with_suffix(".tar"))

    def __len__(self) -> int:
        return len(self.records)

    def read(self, number: int) -> Chip:
        """The pixels of a chip: (rows, cols, 3)."""
        record = self.records[number]
        return self._picture(number, record.offset, record.size, "RGB")

    def read_all(self, number: int) -> dict[str, Chip]:
        """A chip in all its modalities, (rows, cols, 1 or 3) each."""
        record = self.records[number]
        found = {record.modality: self._picture(number, record.offset, record.size)}
        for told in record.others.split():
            modality, offset, size = told.split(":")
            found[modality] = self._picture(number, int(offset), int(size))
        return found

    def _picture(self, number: int, offset: int, size: int, mode: str | None = None) -> Chip:
        with self.shards[self._shard_of[number]].open("rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
        with Image.open(io.BytesIO(data)) as picture:
            pixels = np.asarray(picture if mode is None else picture.convert(mode))
        return pixels if pixels.ndim == 3 else pixels[..., None]

    def facts(self, number: int) -> dict[str, Any]:
        """All that is known of a chip; see `ChipFacts`."""
        record = self.records[number]
        with tarfile.open(self.shards[self._shard_of[number]]) as tar:
            member = tar.extractfile(f"{record.key}.json")
            if member is None:
                raise InputError(f"The shard of chip {record.key} is damaged: {record.key}.json is missing.")
            return json.load(member)

    def all_facts(self) -> list[dict[str, Any]]:
        """`facts` of every chip; each shard is read once."""
        found: dict[tuple[Path, str], dict[str, Any]] = {}
        for shard in self.shards:
            with tarfile.open(shard) as tar:
                for member in tar:
                    if member.name.endswith(".json") and (stream := tar.extractfile(member)) is not None:
                        found[shard, member.name.removesuffix(".json")] = json.load(stream)
        try:
            return [found[self.shards[place], r.key] for place, r in zip(self._shard_of, self.records)]
        except KeyError as error:
            raise InputError(f"A shard in {self.folder} is damaged: the facts of chip {error} are missing.") from error


def is_chip_set(folder: Path) -> bool:
    """Whether a folder holds a prepared set."""
    return (folder / DATASET_FILE).is_file()
