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

TOO_SMALL = "The GPU's memory is too small for {}. Choose the CPU as device."
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
    with telling(TOO_SMALL.format("this model")):
        return network.to(device)


@contextmanager
def telling(sentence: str) -> Iterator[None]:
    """`DeviceError` with a sentence where memory turns out to be too small."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise DeviceError(sentence) from error


def out_of_memory(error: Exception) -> bool:
    """Whether PyTorch, cuDNN or cuBLAS mean that memory is too small."""
    text = str(error)
    spellings = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED", "unable to find an engine")
    return isinstance(error, torch.OutOfMemoryError) or any(s in text for s in spellings)


def halved(batch: int) -> int:
    """Half as many windows at a time; `DeviceError` where it is one already.

    To be called outside the ``except`` block of the error that tells it: its traceback holds the tensors.
    """
    if batch == 1:
        raise DeviceError(TOO_SMALL.format("one window"))
    torch.cuda.empty_cache()
    return batch // 2
