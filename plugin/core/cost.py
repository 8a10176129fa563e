"""What a job will cost, in one line, and whether that is too much."""

from __future__ import annotations

from typing import NamedTuple

from ...backend.protocol import JobSummary
from .settings import Limits
from .translate import tr

GOOD, WARNING, REFUSED = "good", "warning", "refused"


class Cost(NamedTuple):
    """A line for people, and whether a job is fine, wants a second thought, or is not to be started."""

    text: str
    level: str


def cost_of(summary: JobSummary, limits: Limits) -> Cost:
    """The cost of a planned job."""
    last = summary.stages[-1]
    gigabytes = summary.disk_bytes / 1e9
    line = tr("{} × {} px of {:.3g} m · {} of disk · {} on {}").format(
        last.width, last.height, last.pixel_size_m, size_text(summary.disk_bytes), duration(summary.seconds),
        summary.device_name)
    reasons, level = list(summary.warnings), WARNING if summary.warnings else GOOD
    if summary.seconds > 60 * limits.warn_minutes:
        reasons.append(tr("This will take long: choose a smaller extent or a coarser target, or look at a preview "
                          "first."))
        level = WARNING
    if gigabytes > limits.max_gigabytes:
        reasons.append(tr("The limit in the options is {:g} GB.").format(limits.max_gigabytes))
        level = REFUSED
    return Cost("\n".join([line, *reasons]), level)


def size_text(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000 or unit == "GB":
            break
    return f"{count:.3g} {unit}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return tr("{:.0f} s").format(max(1.0, seconds))
    if seconds < 5400:
        return tr("{:.0f} min").format(seconds / 60)
    return tr("{:.1f} h").format(seconds / 3600)
