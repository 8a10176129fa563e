"""This process and others of the machine."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

import torch


def peak_memory_bytes() -> int:
    """The most memory this process has had: of the GPU where one was used, else of the machine; 0 on Windows' CPU."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError):  # Linux: rusage would count what the parent had when it started this process
        status = Path("/proc/self/status").read_text(encoding="ascii")
        found = re.search(r"VmHWM:\s*(\d+) kB", status)
        if found:
            return int(found[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
