"""Which device and number format the network runs on."""

from __future__ import annotations

import functools
import platform
import threading

import torch

from backend.errors import DeviceError


def choose_device(asked: str) -> str:
    """ "cpu" or "cuda"; auto takes the GPU if there is one."""
    available = gpu_works()
    if asked == "cuda" and not available:
        raise DeviceError("No CUDA GPU can be used here. Choose auto or cpu as device.")
    return "cuda" if available and asked != "cpu" else "cpu"


@functools.lru_cache(maxsize=1)
def gpu_works() -> bool:
    """Whether there is a CUDA GPU, and one that this build of torch has code for."""
    if not torch.cuda.is_available():
        return False
    try:
        torch.zeros(1, device="cuda").add_(1).item()
    except RuntimeError as error:
        return "no kernel image" not in str(error)  # whatever else is wrong may pass
    return True


def fix_arithmetic() -> None:
    """The same pixels in every process on one kind of GPU: no TF32, and the same algorithm for the same convolution."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def fast_bfloat16_on_cpu() -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def device_name(device: str) -> str:
    """The device as people call it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU with {torch.backends.cpu.get_cpu_capability()}"


_threads = torch.get_num_threads()


def use_threads(count: int | None = None) -> None:
    """Let torch use ``count`` threads here, or as many as was said last; at first as many as the process began with.

    torch gives a new thread of Python whatever number any other one has set last, which may be one for its own sake.
    """
    global _threads
    _threads = count or _threads
    torch.set_num_threads(_threads)


class Turns:
    """A lock, to be used with ``with``, whose holder lets those who wait go first now and then."""

    def __init__(self) -> None:
        self._free = threading.Condition(threading.RLock())
        self._counting = threading.Lock()
        self._waiting = 0

    def __enter__(self) -> None:
        self._count(1)
        try:
            self._free.acquire()
        finally:
            self._count(-1)

    def __exit__(self, *error: object) -> None:
        self._free.notify_all()
        self._free.release()

    def give_way(self, device: str) -> None:
        """Let everybody who waits have a turn, on a CPU; the caller holds the lock, and does so afterwards.

        A GPU is not shared: with the memory that the caller holds there, less would fit than on its own.
        """
        if self._waiting and device == "cpu":
            self._free.wait_for(lambda: not self._waiting)

    def _count(self, change: int) -> None:
        with self._counting:
            self._waiting += change


in_use = Turns()
"""Held by a job while it computes, and by whoever measures how fast the device is."""
