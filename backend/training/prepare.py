"""``python -m backend prepare``: imagery of any sensor becomes a training set of chips, split by place."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import multiprocessing.process
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.errors import InputError, PlanError
from backend.files import PARTIAL, write_text
from backend.progress import Check, Report
from backend.raster.grid import Region, crs_name
from backend.training.chips import DATASET_FILE, SPLITS, ChipFacts, CutChip, write_shard
from backend.training.companions import Beside, opened
from backend.training.imagery import Imagery, imagery_of, plain_entries
from backend.training.places import Cells, box_of, split_of, with_neighbours
from backend.training.split import all_entries, load_collection
from backend.training.statistics import describe_set

PLAN_FILE = "plan.json"
BLANK_SD = 1.5
"""Grey levels: a chip of a smaller standard deviation shows nothing."""
COLLAR = 0.05
"""Largest share of black or white pixels: mosaics have such collars, also where no nodata value is declared."""
CLOUD_DARKEST, CLOUD_COLOUR = 200, 30
"""A pixel may be cloud where its darkest band is above the one and its bands differ by less than the other."""


@dataclass(frozen=True)
class Preparation:
    """What to make: ``gsd_m`` none means each raster's own metres per pixel and ``halvings`` halvings of its detail.

    ``max_cloud``: the largest share of cloud-like pixels (bright and grey: snow and salt are too) of a chip.
    ``cell_km``: side of the cells by which places are split; 0: eight of the coarsest chips.
    """

    sources: tuple[str, ...]
    output: str
    gsd_m: tuple[float, ...] = ()
    halvings: int = 2
    chip: int = 256
    max_cloud: float = 0.5
    cell_km: float = 0.0
    licence: str = ""
    source_resolution: float | None = None
    collection: str = ""
    shard: int = 1000


@dataclass(frozen=True)
class Candidate:
    """A chip that may be cut: the imagery's number and the chip's place on its grid."""

    imagery: int
    region: Region


@dataclass
class Census:
    """What was found before any pixel was read."""

    imagery: list[Imagery] = field(default_factory=list)
    shards: dict[str, list[list[Candidate]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    on_borders: int = 0

    @property
    def candidates(self) -> int:
        """Chips that may be cut."""
        return sum(len(shard) for shards in self.shards.values() for shard in shards)

    def digest(self) -> str:
        """Hash of all chips that would be cut, and from what."""
        parts: list[tuple] = [
            (repr(i), *_state(Path(i.path)), *(_state(c.path) for c in i.companions)) for i in self.imagery
        ]
        plan = [[c.imagery, c.region.top, c.region.left] for s in SPLITS for shard in self.shards[s] for c in shard]
        return hashlib.sha256(json.dumps([parts, plan], sort_keys=True).encode()).hexdigest()


def _state(path: Path) -> tuple[int, float]:
    """Size and time of change of a file."""
    found = path.stat()
    return found.st_size, found.st_mtime


def census(wanted: Preparation, check: Check) -> Census:
    """Every chip that could be cut, in its split; no pixel is read but for stretches."""
    found = Census(shards={split: [] for split in SPLITS})
    sources = [Path(s) for s in wanted.sources]
    if wanted.collection:
        entries = [e for s in sources for e in all_entries(s, load_collection(Path(wanted.collection)))]
    else:
        entries = plain_entries(sources, wanted.licence, wanted.source_resolution)

    def skip(path: Path, reason: str) -> None:
        found.skipped[str(path)] = reason

    for imagery in imagery_of(entries, list(wanted.gsd_m), wanted.halvings, wanted.chip, skip):
        check()
        found.imagery.append(imagery)
    if not found.imagery:
        reason = next(iter(found.skipped.values()), "no raster fits the collection")
        raise InputError(f"No training chip can be cut: {reason}.")
    chips: dict[str, list[Candidate]] = {split: [] for split in SPLITS}
    coarsest = max((i.gsd_m for i in found.imagery if i.split is None), default=1.0)
    cells = Cells(wanted.cell_km * 1000 or 8 * wanted.chip * coarsest)
    for number, imagery in enumerate(found.imagery):
        check()
        for region in imagery.regions(wanted.chip):
            split = split_at(imagery, region, cells)
            if split is None:
                found.on_borders += 1
            else:
                chips[split].append(Candidate(number, region))
    for split, of_split in chips.items():
        found.shards[split] = [of_split[k:k + wanted.shard] for k in range(0, len(of_split), wanted.shard)]
    return found


def split_at(imagery: Imagery, region: Region, cells: Cells) -> str | None:
    """The split of a chip; None where a neighbour of its size might lie in another split."""
    if imagery.split is not None:
        return imagery.split
    if imagery.grid.crs is None:
        return split_of(imagery.place)
    return cells.split_of(box_of(imagery.grid, with_neighbours(region)))


def unfit(pixels: NDArray[np.uint8], valid: NDArray[np.bool_], max_cloud: float) -> str | None:
    """Why a chip is dropped: "nodata", "blank", "collar" or "cloud"; None if it is kept."""
    if not valid.all():
        return "nodata"
    if pixels.astype(np.float32).std(axis=(0, 1)).max() < BLANK_SD:
        return "blank"
    darkest = pixels.min(axis=2)
    if ((darkest >= 254) | (pixels.max(axis=2) <= 1)).mean() > COLLAR:
        return "collar"
    cloud = (darkest > CLOUD_DARKEST) & (pixels.max(axis=2) - darkest < CLOUD_COLOUR)
    return "cloud" if cloud.mean() > max_cloud else None


def cut_shard(path: Path, candidates: list[Candidate], imagery: dict[int, Imagery], max_cloud: float) -> None:
    """Write the shard of these candidates, with what was dropped beside it."""
    write_shard(path, _chips(path, candidates, imagery, max_cloud))


def _chips(
    path: Path, candidates: list[Candidate], imagery: dict[int, Imagery], max_cloud: float
) -> Iterator[CutChip]:
    dropped: Counter[str] = Counter()
    for index, group in groupby(enumerate(candidates), lambda numbered: numbered[1].imagery):
        of = imagery[index]
        with opened(of) as (source, companions):
            for number, candidate in group:
                pixels, valid = of.read(source, candidate.region)
                beside = companions.read(candidate.region, pixels)
                reason = unfit(pixels, valid, max_cloud) or ("alone" if of.modality and not beside.rasters else None)
                if reason:
                    dropped[reason] += 1
                else:
                    key = f"{path.parent.name}_{path.stem}_{number:04d}"
                    yield CutChip(key, pixels, facts_of(of, candidate.region, beside), beside.rasters)
    # here, not after the shard is written: the index that appears then says that all of it is there
    write_text(path.with_suffix(".json"), json.dumps({"dropped": dropped}))


def facts_of(imagery: Imagery, region: Region, beside: Beside) -> ChipFacts:
    """What is known of a chip."""
    longitude = latitude = None
    if imagery.grid.crs is not None:
        west, south, east, north = box_of(imagery.grid, region)
        if math.isfinite(west + south + east + north):
            longitude, latitude = round(((west + east) / 2 + 180) % 360 - 180, 6), round((south + north) / 2, 6)
    return ChipFacts(
        round(imagery.gsd_m, 6),
        longitude,
        latitude,
        imagery.source,
        imagery.licence,
        Path(imagery.path).name,
        (region.top, region.left),
        crs_name(imagery.grid.crs),
        tuple(imagery.grid.crop(region).transform)[:6],
        imagery.modality,
        beside.derived,
        beside.relative,
    )


def prepare(wanted: Preparation, workers: int, report: Report, check: Check) -> dict:
    """Make or finish the set in ``wanted.output``; what its ``dataset.json`` says.

    Shards that are finished are kept. `PlanError` if the folder holds a set of other settings or imagery.
    """
    output = Path(wanted.output)
    report(0, 1, "looking at the imagery")
    found = census(wanted, check)
    _adopt(output, wanted, found)
    for left in output.glob(f"*/*{PARTIAL}.*"):  # by processes that were killed
        left.unlink(missing_ok=True)
    missing = [
        (output / split / f"{number:06d}.tar", candidates)
        for split in SPLITS
        for number, candidates in enumerate(found.shards[split])
        if not (output / split / f"{number:06d}.csv").is_file()
    ]
    done = found.candidates - sum(len(candidates) for _, candidates in missing)
    report(done, found.candidates, "cutting chips")
    for count in _cut(missing, found.imagery, wanted.max_cloud, workers, check):
        done += count
        report(done, found.candidates, "cutting chips")
    facts = describe_set(output, {**asdict(wanted), "skipped": found.skipped, "on_borders": found.on_borders})
    write_text(output / DATASET_FILE, json.dumps(facts, indent=1) + "\n")
    return facts


def _adopt(output: Path, wanted: Preparation, found: Census) -> None:
    """Write the plan, or compare it with the one that is there."""
    settings = {k: v for k, v in asdict(wanted).items() if k not in ("output", "sources")}
    plan = json.loads(json.dumps({**settings, "chips": found.digest()}))
    path = output / PLAN_FILE
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(k for k in plan.keys() | there.keys() if plan.get(k) != there.get(k))
        if differing:
            raise PlanError(
                f"{output} holds a training set of other settings or imagery (differing: {', '.join(differing)}). "
                "Choose another folder, or delete it."
            )
    elif output.is_dir() and any(output.iterdir()):
        raise PlanError(f"{output} is not empty and holds no training set; choose another folder.")
    else:
        write_text(path, json.dumps(plan, indent=1) + "\n")


def end_with_parent() -> None:
    """In a pool's process: end when the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _cut(
    missing: list[tuple[Path, list[Candidate]]], imagery: list[Imagery], max_cloud: float, workers: int,
    check: Check,
) -> Iterator[int]:
    """Cut the missing shards in some processes; yields the number of candidates of each as it is finished.

    No process has a second shard before it is done with one: a pool would not give that up.
    """
    context, workers = multiprocessing.get_context("spawn"), max(1, min(workers, len(missing) or 1))
    with ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        waiting = iter(missing)
        running: dict[Future[None], int] = {}
        try:
            while True:
                for path, candidates in islice(waiting, workers - len(running)):
                    needed = {c.imagery: imagery[c.imagery] for c in candidates}
                    running[pool.submit(cut_shard, path, candidates, needed, max_cloud)] = len(candidates)
                if not running:
                    return
                done, _ = wait(running, 0.2, FIRST_COMPLETED)
                check()
                for future in done:
                    future.result()
                    yield running.pop(future)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
