"""What the user has set once for all jobs."""

from __future__ import annotations

from typing import Any, Dict, NamedTuple
from urllib.parse import quote

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


def qgis_proxy() -> str:
    """The HTTP proxy of QGIS's own options, as an address; empty if there is none. One that needs a stored login that
    only QGIS can read is told without it."""
    settings = QgsSettings()
    host, kind = settings.value("proxy/proxyHost", ""), settings.value("proxy/proxyType", "")
    if not settings.value("proxy/proxyEnabled", False, type=bool) or not host or not kind.startswith("Http"):
        return ""
    user, password = (quote(str(settings.value(f"proxy/{name}", "")), safe="") for name in (
        "proxyUser", "proxyPassword"))
    login = f"{user}:{password}@" if user else ""
    port = settings.value("proxy/proxyPort", "")
    return f"http://{login}{host}" + (f":{port}" if port else "")
