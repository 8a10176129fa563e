"""Held-out imagery of both splits, without the collars of mosaics, and the test place beside the training folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio

from backend.errors import InputError
from backend.evaluation.chips import Chip, chips_of, spread
from backend.training.chips import is_chip_set
from backend.training.data import Picture, load_pictures, read_picture
from backend.training.prepare import unfit
from backend.training.split import ImageEntry, entries_of, load_collection

SPLITS = {"validation": ("validation",), "test": ("test",), "held-out": ("validation", "test")}
BESIDE = "samples/naip_virginia_rgbn_1m.tif"
"""The only test place at 1 m/px."""
ALL = 1_000_000


def splits_of(split: str) -> tuple[str, ...]:
    """The splits that a choice means; ``held-out`` is both."""
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}; known: {', '.join(SPLITS)}.")
    return SPLITS[split]


def held_out_entry(root: Path, file: str, splits: tuple[str, ...] = SPLITS["held-out"]) -> ImageEntry:
    """The entry of ``file`` under ``root`` in one of ``splits``; `InputError` if it is not there or not held out."""
    if not (root / file).is_file():
        raise InputError(f"There is no {file} in {root}.")
    found = [e for e in entries_of(root, root / file, load_collection()) if e.split in splits]
    if not found:
        raise InputError(f"{file} is not held out: split.toml does not put it into {' or '.join(splits)}.")
    return found[0]


def read_entry(entry: ImageEntry) -> Picture:
    """`read_picture`, also of GeoTIFFs with more bands than red, green and blue."""
    if entry.gsd_m is None or entry.path.suffix.lower() not in (".tif", ".tiff"):
        return read_picture(entry)
    with rasterio.open(entry.path) as dataset:
        pixels = dataset.read([1, 2, 3]).transpose(1, 2, 0)
    columns = slice(*(entry.columns or (None,)))
    return Picture(np.ascontiguousarray(pixels[:, columns]), entry.gsd_m, entry.source, entry.path)


def judged_chips(root: Path, split: str, tile: int, limit: int) -> dict[float, list[Chip]]:
    """Up to ``limit`` chips of each ground resolution, none with the white or black collar of a mosaic."""
    if is_chip_set(root):
        raise InputError(
            f"{root} is a prepared set. The embedded model is judged at its own held-out places: give the folder of the"
            " collections in backend/training/split.toml. `evaluate spectrum` measures a model on a set of your own."
        )
    splits = splits_of(split)
    pictures = [picture for name in splits for picture in load_pictures(root, name)]
    if "test" in splits and (root / BESIDE).is_file():
        pictures.append(read_entry(held_out_entry(root, BESIDE)))
    found = chips_of(pictures, tile, ALL)
    fit = {gsd_m: [chip for chip in some if not has_collar(chip)] for gsd_m, some in found.items()}
    if not any(fit.values()):
        raise InputError(f"All imagery of the split {split} in {root} is black or white.")
    return {gsd_m: spread(some, limit) for gsd_m, some in fit.items() if some}


def has_collar(chip: Chip) -> bool:
    """Whether more of it is black or white than in imagery that is trained on."""
    pixels = np.rint(chip.pixels).astype(np.uint8)
    return unfit(pixels, np.ones(pixels.shape[:2], bool), 1.0) == "collar"
