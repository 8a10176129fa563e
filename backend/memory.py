"""The memory of this process and of its device: how much there is, and what to do where it is too small."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from backend.errors import DeviceError

Network = TypeVar("Network", bound=nn.Module)


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


def device_memory_bytes(device: str) -> int:
    """Memory of the GPU, or of the machine; 0 if it cannot be told."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def moved(network: Network, device: str) -> Network:
    """The network on a device; `DeviceError` if it does not fit there."""
    with telling("this model", device):
        return network.to(device)


def too_small(what: str, device: str, advice: str = "") -> str:
    """A sentence: the memory does not do for ``what``, and what would help."""
    if device == "cuda":
        return f"The GPU's memory is too small for {what}. {advice or 'Choose the CPU as device.'}"
    advice = advice or "Close other programs, or use one that has more."
    return f"This machine's memory is too small for {what}. {advice}"


@contextmanager
def telling(what: str, device: str, advice: str = "") -> Iterator[None]:
    """`DeviceError` with a sentence where memory turns out to be too small."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise DeviceError(too_small(what, device, advice)) from error


def out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy, PyTorch, cuDNN or cuBLAS mean that memory is too small."""
    text = str(error)
    spellings = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED", "unable to find an engine")
    of_gpu = isinstance(error, torch.OutOfMemoryError) or any(s in text for s in spellings)
    return of_gpu or whose_memory(error) == "cpu"


def whose_memory(error: Exception) -> str:
    """The device whose memory an out-of-memory error means; "cuda" unless the error says that it is the machine's."""
    return "cpu" if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error) else "cuda"


def halved(batch: int, device: str) -> int:
    """Half as many windows at a time; `DeviceError` where it is one already.

    To be called outside the ``except`` block of the error that tells it: its traceback holds the tensors.
    """
    if batch == 1:
        raise DeviceError(too_small("one window", device))
    torch.cuda.empty_cache()
    return batch // 2
