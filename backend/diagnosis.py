"""What a helper wants to know of this backend: releases, GPU, and models with their hashes."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from backend.devices import choose_device, device_name, gpu_works
from backend.models.bundle import list_bundles
from backend.protocol import Diagnosis

PACKAGES = ("torch", "rasterio", "numpy", "pillow", "safetensors", "distributed")


def diagnose() -> Diagnosis:
    """The facts, each a name and a line; reads every model once for its hash."""
    facts = {"Backend's Python": platform.python_version()}
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "missing"
    facts["CUDA"] = str(torch.version.cuda or "not in this build of torch")
    if torch.cuda.is_available():
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        unused = "" if gpu_works() else "; this build of torch has no code for it"
        facts["GPU"] = f"{torch.cuda.get_device_name()}, compute capability {capability}{unused}"
    facts["Device taken"] = device_name(choose_device("auto"))
    for bundle in list_bundles():
        facts[f"Model {bundle.config.id}"] = bundle.sha256() if bundle.has_weights else "no weights"
    return Diagnosis(facts)
