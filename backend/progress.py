"""How whatever runs long says how far it is, and learns that it should stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Report = Callable[[float, int, str], None]
"""(done, total, what is being done); what is begun may count by its share."""
Check = Callable[[], None]
"""Raises where the work should end."""

Item = TypeVar("Item")

QUIET_S = 300.0
"""Seconds between two lines of a report that goes into a log."""


def silent(done: float, total: int, message: str) -> None:
    """A report to nobody."""


def go_on() -> None:
    """A check that never stops anything."""


class Pace:
    """How long a piece of work will still take, from what was done of it since its first report."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._work: tuple[int, str] | None = None
        self._done, self._began = 0.0, 0.0

    def seconds_left(self, done: float, total: int, message: str) -> float | None:
        """Seconds; None as long as nothing was done. Another ``total`` or ``message`` is another piece of work."""
        now = self._clock()
        if self._work != (total, message) or done < self._done:
            self._work, self._done, self._began = (total, message), done, now
        computed = done - self._done
        return (now - self._began) * (total - done) / computed if computed else None


def in_lines(write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Report:
    """A report for logs: a line from time to time, none of short work."""
    pace, last = Pace(clock), clock()

    def report(done: float, total: int, message: str) -> None:
        nonlocal last
        left = pace.seconds_left(done, total, message)
        if left is not None and clock() - last >= QUIET_S:
            last = clock()
            write(f"{message}: {done:.0f} of {total}, {left / 60:.0f} min left")

    return report


def watched(items: Sequence[Item], message: str, report: Report, check: Check) -> Iterator[Item]:
    """The items, with a check before and a report after each."""
    report(0, len(items), message)
    for done, item in enumerate(items, start=1):
        check()
        yield item
        report(done, len(items), message)
