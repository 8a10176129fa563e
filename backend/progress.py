"""How whatever runs long says how far it is, and learns that it should stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Report = Callable[[int, int, str], None]
"""(done, total, what is being done)"""
Check = Callable[[], None]
"""Raises where the work should end."""

Item = TypeVar("Item")


def silent(done: int, total: int, message: str) -> None:
    """A report to nobody."""


def go_on() -> None:
    """A check that never stops anything."""


def watched(items: Sequence[Item], message: str, report: Report, check: Check) -> Iterator[Item]:
    """The items, with a check before and a report after each."""
    report(0, len(items), message)
    for done, item in enumerate(items, start=1):
        check()
        yield item
        report(done, len(items), message)
