"""What a prepared training set holds: numbers, a contact sheet, and a card with sources and licences."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from backend.files import write_text, writing
from backend.training.chips import SPLITS, ChipRecord, ChipSet, finished_files

SHEET_COLUMNS, SHEET_ROWS, THUMBNAIL, LABEL = 12, 10, 96, 64
SAMPLED = 500
"""Chips that the mean colour is taken from."""


def describe_set(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Statistics of the set in ``folder``; its contact sheet and card are written there."""
    sets = {split: _open(folder, split) for split in SPLITS}
    records = {split: chips.records for split, chips in sets.items()}
    dropped: Counter[str] = Counter()
    for path in finished_files(folder, "*/*.json"):
        dropped.update(json.loads(path.read_text(encoding="utf-8"))["dropped"])
    facts = {
        "settings": settings,
        "chips": {split: len(found) for split, found in records.items()},
        "ground_resolution_m": {s: _count(r, lambda c: f"{c.gsd_m:g}") for s, r in records.items()},
        "sources": {s: _count(r, lambda c: c.source) for s, r in records.items()},
        "licences": dict(sorted({c.source: c.licence for found in records.values() for c in found}.items())),
        "dropped": {**dropped, "between splits": settings["on_borders"]},
        "colour": _colour(sets["train"]),
    }
    sheet = contact_sheet(sets["train"])
    if sheet is not None:
        with writing(folder / "contact_sheet.jpg"):
            sheet.save(folder / "contact_sheet.jpg", quality=90)
    write_text(folder / "README.md", _card(facts))
    return facts


def _open(folder: Path, split: str) -> ChipSet:
    return ChipSet(folder, split, finished=False)


def _count(records: list[ChipRecord], what: Any) -> dict[str, int]:
    return dict(Counter(map(what, records)).most_common())


def _colour(chips: ChipSet) -> dict[str, list[float]]:
    """Mean and standard deviation of each band over some chips, in grey levels."""
    if not len(chips):
        return {}
    some = np.linspace(0, len(chips) - 1, min(SAMPLED, len(chips))).round().astype(int)
    pixels = np.concatenate([chips.read(i)[::8, ::8].reshape(-1, 3) for i in some])
    return {"mean": pixels.mean(axis=0).round(1).tolist(), "sd": pixels.std(axis=0).round(1).tolist()}


def contact_sheet(chips: ChipSet) -> Image.Image | None:
    """Some chips of each ground resolution, finest first, one or more rows a resolution; None of an empty set."""
    sizes = sorted({r.gsd_m for r in chips.records})
    if not sizes:
        return None
    sizes = [sizes[i] for i in np.unique(np.linspace(0, len(sizes) - 1, SHEET_ROWS).round().astype(int))]
    sheet = Image.new("RGB", (LABEL + SHEET_COLUMNS * THUMBNAIL, len(sizes) * THUMBNAIL), "white")
    drawing = ImageDraw.Draw(sheet)
    for row, size in enumerate(sizes):
        drawing.text((6, row * THUMBNAIL + THUMBNAIL // 2 - 6), f"{size:g} m", fill="black")
        numbers = [i for i, r in enumerate(chips.records) if r.gsd_m == size]
        chosen = np.unique(np.linspace(0, len(numbers) - 1, SHEET_COLUMNS).round().astype(int))
        for column, k in enumerate(chosen):
            thumbnail = Image.fromarray(chips.read(numbers[k])).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
            sheet.paste(thumbnail, (LABEL + column * THUMBNAIL, row * THUMBNAIL))
    return sheet


def _card(facts: dict[str, Any]) -> str:
    """The set's README."""
    lines = [
        "# Training set for MetaEarth",
        "",
        "Chips in WebDataset tar shards (`*.png` with `*.json`), and an index (`*.csv`) beside each.",
        "Split by place: no chip has a neighbour in another split, but where a collection file fixes the splits,",
        "and of pictures without a coordinate reference system, which are split by their names without dates.",
        "Rows of the contact sheet: finest resolution first.",
        "",
        "| split | chips | m/px: chips |",
        "|---|---|---|",
    ]
    for split, count in facts["chips"].items():
        sizes = ", ".join(f"{size}: {n}" for size, n in facts["ground_resolution_m"][split].items())
        lines.append(f"| {split} | {count} | {sizes} |")
    dropped = ", ".join(f"{reason}: {n}" for reason, n in facts["dropped"].items())
    lines += ["", f"Dropped: {dropped}.", "", "| source | licence |", "|---|---|"]
    lines += [f"| {source} | {licence or 'not stated'} |" for source, licence in facts["licences"].items()]
    return "\n".join(lines) + "\n"
