"""What the user has set once for all jobs."""

from __future__ import annotations

from typing import Any, Dict, NamedTuple

from qgis.core import QgsSettings

PREFIX = "metaearth/"


class Limits(NamedTuple):
    """Above which a job is warned of, and above which it is not started."""

    warn_minutes: float = 30.0
    max_gigabytes: float = 200.0


def limits() -> Limits:
    """The user's limits."""
    return Limits(*(float(read(name, default)) for name, default in Limits()._asdict().items()))


def from_options() -> Dict[str, str]:
    """The parameters that the options page decides for all jobs that do not say otherwise."""
    found = {"DEVICE": read("device", "auto"), "EXECUTOR": read("executor", "")}
    return {name: value for name, value in found.items() if value not in ("", "auto")}


def read(name: str, default: Any) -> Any:
    """A setting, or ``default``."""
    return QgsSettings().value(PREFIX + name, default)


def write(name: str, value: Any) -> None:
    """Keep a setting."""
    QgsSettings().setValue(PREFIX + name, value)
