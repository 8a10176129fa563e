"""Tables of figures: one list of rows becomes table.md for people and table.json for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.evaluation.statistics import Estimate

Row = dict[str, Any]
"""Column -> text, number, list of numbers, or `Estimate`."""


@dataclass(frozen=True)
class Table:
    """Rows under a title; ``facts`` say what was measured with what, ``notes`` how to read it.

    ``more``: tables that follow in the same files.
    """

    title: str
    rows: list[Row]
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    more: tuple[Table, ...] = ()

    def markdown(self, level: int = 1) -> str:
        """Title, table, notes and facts; then the tables that follow, one level lower."""
        facts = "; ".join(f"{name}: {value}" for name, value in self.facts.items())
        parts = [f"{'#' * level} {self.title}", markdown_rows(self.rows), *self.notes, facts]
        parts += [table.markdown(level + 1).rstrip("\n") for table in self.more]
        return "\n\n".join(p for p in parts if p) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; values that are no numbers become null."""
        rows = [{name: _plain(value) for name, value in row.items()} for row in self.rows]
        more = {"more": [table.to_dict() for table in self.more]} if self.more else {}
        return {"title": self.title, **_plain(self.facts), "rows": rows, "notes": list(self.notes), **more}

    def write(self, folder: Path, name: str = "table") -> None:
        """``table.md`` and ``table.json`` in ``folder``."""
        write_both(folder, name, self.markdown(), self.to_dict())


@dataclass(frozen=True)
class TableSet:
    """Several tables under one title; ``lead`` says what they come to, ``more`` are further values of the JSON."""

    title: str
    lead: tuple[str, ...]
    tables: tuple[Table, ...]
    more: Row = field(default_factory=dict)

    def markdown(self) -> str:
        """Title and lead, then the tables, one level lower."""
        return "\n\n".join([f"# {self.title}", *self.lead, *(f"#{t.markdown()}".strip() for t in self.tables)]) + "\n"

    def write(self, folder: Path, name: str = "table") -> None:
        """``table.md`` and ``table.json`` in ``folder``."""
        values = {"title": self.title, "lead": list(self.lead), **_plain(self.more)}
        write_both(folder, name, self.markdown(), {**values, "tables": [t.to_dict() for t in self.tables]})


def write_both(folder: Path, name: str, markdown: str, values: dict[str, Any]) -> None:
    """``name``.md and ``name``.json in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(markdown, encoding="utf-8")
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def markdown_rows(rows: list[Row]) -> str:
    """Rows as a Markdown table; columns in the order of their first appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Estimate):
        return _with_interval(value)
    if isinstance(value, (list, tuple)):
        return " ".join(_cell(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _with_interval(found: Estimate) -> str:
    """value [low, high] with as many decimals as two digits of half the interval need; else the value alone."""
    half = (found.high - found.low) / 2
    if not half >= 0:
        return f"{found.value:.3g}"
    decimals = max(0, 1 - math.floor(math.log10(half))) if half > 0 else 3
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(found.value, found.low, found.high, d=min(decimals, 9))


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return {name: _plain(v) for name, v in dataclasses.asdict(value).items()}
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value
