"""Bars that figures must reach, whether they do, and how many of them hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from backend.evaluation.statistics import Estimate
from backend.evaluation.table import Row


@dataclass(frozen=True)
class Bar:
    """A figure's name and the range that it must lie in; ``kind`` "yes": it is true or false and must be true."""

    figure: str
    low: float = -math.inf
    high: float = math.inf
    kind: str = "range"

    @property
    def text(self) -> str:
        """The range in words."""
        if self.kind == "yes":
            return "yes"
        if math.isinf(self.low):
            return f"at most {self.high:,.10g}"
        return f"at least {self.low:.10g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"

    def judge(self, where: str, found: Estimate | float | bool | None) -> Verdict:
        """Whether ``found`` is in the range; None was not measured."""
        return Verdict(self, where, found)


@dataclass(frozen=True)
class Verdict:
    """A bar, where it was looked at ("0.3 m/px, 1 stage"), and what was found there; None: nothing was."""

    bar: Bar
    where: str
    found: Estimate | float | bool | None

    @property
    def holds(self) -> bool | None:
        """Whether the value is in the bar's range."""
        if self.found is None:
            return None
        if self.bar.kind == "yes":
            return bool(self.found)
        value = self.found.value if isinstance(self.found, Estimate) else float(self.found)
        return self.bar.low <= value <= self.bar.high

    @property
    def surely(self) -> bool:
        """Whether the bar holds for the whole interval, where there is one."""
        if not self.holds or not isinstance(self.found, Estimate):
            return bool(self.holds)
        return self.bar.low <= self.found.low and self.found.high <= self.bar.high

    def __str__(self) -> str:
        """Where, and the value."""
        if self.found is None or self.bar.kind == "yes":
            return self.where
        value = self.found.value if isinstance(self.found, Estimate) else float(self.found)
        return f"{self.where} ({value:.3g})" if self.where else f"{value:.3g}"

    def to_dict(self) -> dict:
        """For JSON."""
        return {"figure": self.bar.figure, "bar": self.bar.text, "where": self.where, "found": self.found,
                "holds": self.holds, "surely": self.surely}


def counts(verdicts: Sequence[Verdict]) -> tuple[int, int]:
    """(bars that hold, bars that were measured)."""
    measured = [v for v in verdicts if v.holds is not None]
    return sum(bool(v.holds) for v in measured), len(measured)


def by_figure(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """The verdicts of each figure, in order of appearance."""
    found: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.bar.figure, []).append(verdict)
    return found


def summary_rows(verdicts: Sequence[Verdict]) -> list[Row]:
    """One line a figure: its bar, how often it holds, and where it fails."""
    rows: list[Row] = []
    for figure, some in by_figure(verdicts).items():
        holding, measured = counts(some)
        rows.append(
            {
                "figure": figure,
                "bar": some[0].bar.text,
                "holds": f"{holding} of {measured}" if measured else "not measured",
                "with its whole interval": sum(v.surely for v in some) if measured else None,
                "fails at": "; ".join(str(v) for v in some if v.holds is False),
            }
        )
    return rows


def headline(verdicts: Sequence[Verdict], whose: str) -> str:
    """"N of M bars hold ...", with the figures that fail somewhere and those that were not measured."""
    holding, measured = counts(verdicts)
    failing, missing = [], []
    for figure, some in by_figure(verdicts).items():
        good, known = counts(some)
        if known == 0:
            missing.append(figure)
        elif good < known:
            failing.append(figure if known == 1 else f"{figure} ({known - good} of {known})")
    parts = [f"**{holding} of {measured} bars hold** {whose}; {sum(v.surely for v in verdicts)} bars hold for the whole"
             " interval."]
    parts.append(f"Not held: {', '.join(failing)}." if failing else "None fails.")
    if missing:
        parts.append(f"Not measured: {', '.join(missing)}.")
    return " ".join(parts)
