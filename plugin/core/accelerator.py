"""Which build of torch suits this machine, and why. Standard library only."""

from __future__ import annotations

import platform
import shutil
import subprocess  # nosec B404 - asks nvidia-smi
import sys
from functools import lru_cache
from typing import NamedTuple, Optional, Tuple

from .translate import tr

SMI = "nvidia-smi"
SMI_WINDOWS = r"C:\Windows\System32\nvidia-smi.exe"
NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)
"""On Windows: without a console of its own."""
QUERY = ["--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]


class Gpu(NamedTuple):
    """An NVIDIA GPU: compute capability as (major, minor), and the driver's first number."""

    name: str
    capability: Tuple[int, int]
    driver: int


class TorchBuild(NamedTuple):
    """A build by its name at download.pytorch.org, and the reason in a sentence; no build where there is none."""

    name: Optional[str]
    reason: str


@lru_cache(maxsize=1)
def find_gpu() -> Optional[Gpu]:
    """The first NVIDIA GPU, as its driver tells; None if there is none."""
    program = shutil.which(SMI) or (SMI_WINDOWS if sys.platform == "win32" else "")
    if not program:
        return None
    try:
        told = subprocess.run([program, *QUERY], capture_output=True, text=True, timeout=5,  # nosec B603 - fixed words
                              creationflags=NO_WINDOW)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_gpu(told.stdout) if told.returncode == 0 else None


def parse_gpu(text: str) -> Optional[Gpu]:
    """The GPU of nvidia-smi's first line: "NVIDIA RTX A2000, 8.6, 580.65.06"."""
    parts = [part.strip() for part in text.strip().splitlines()[0].split(",")] if text.strip() else []
    try:
        major, minor = parts[1].split(".")
        return Gpu(parts[0], (int(major), int(minor)), int(parts[2].split(".")[0]))
    except (IndexError, ValueError):
        return None


def torch_build(gpu: Optional[Gpu], system: str = sys.platform, machine: str = "") -> TorchBuild:
    """The build for a GPU and a system."""
    machine = machine or hardware()
    if system == "darwin":
        if machine != "arm64":
            return TorchBuild(None, tr("torch is no longer built for Macs with Intel processors."))
        return TorchBuild("cpu", tr("Macs use torch's only build."))
    if gpu is None:
        return TorchBuild("cpu", tr("No NVIDIA driver answers, so the network will run on the processor."))
    name = tr("{} (compute capability {}.{}, driver {})").format(gpu.name, *gpu.capability, gpu.driver)
    if gpu.capability >= (7, 5) and gpu.driver >= 580:
        return TorchBuild("cu130", tr("{} runs CUDA 13.0.").format(name))
    if (5, 0) <= gpu.capability < (10, 0) and gpu.driver >= 560:
        return TorchBuild("cu126", tr("{} runs CUDA 12.6.").format(name))
    if gpu.capability < (5, 0):
        return TorchBuild("cpu", tr("{} is older than torch's builds for GPUs, so the processor is used.").format(name))
    return TorchBuild("cpu", tr("{} needs a newer driver; with that one, run the set-up again.").format(name))


def hardware() -> str:
    """The processor's kind; asks the hardware on a Mac, where QGIS may run translated."""
    if sys.platform == "darwin":
        try:
            told = subprocess.run(["/usr/sbin/sysctl", "-n", "hw.optional.arm64"], capture_output=True,  # nosec B603
                                  text=True, timeout=5)
            return "arm64" if told.stdout.strip() == "1" else "x86_64"
        except (OSError, subprocess.TimeoutExpired):
            return platform.machine()
    return platform.machine()
