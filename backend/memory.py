"""The process's memory."""

from __future__ import annotations

import sys

import torch


def peak_memory_bytes() -> int:
    """The most memory this process has had: of the GPU where one was used, else of the machine; 0 on Windows' CPU."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
