"""Feature extractors: what the Fréchet and the kernel distance are measured on."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.digest import sha256_of
from backend.errors import ModelError
from backend.models.bundle import WEIGHTS
from backend.models.feature_network import FEATURE_MODEL, find_features, load_features
from backend.progress import Check, Report, go_on, silent, watched

BATCH = 16


@dataclass(frozen=True)
class Extractor:
    """(n, 3, h, w) float images in 0..255 -> (n, d) features; ``weights_sha256`` tells which network it is."""

    name: str
    frechet: str
    """What the Fréchet distance on these features is called; FID for Inception-v3's final pool alone."""
    kernel: str
    weights_sha256: str
    of_batch: Callable[[Tensor], Tensor]
    device: str

    @torch.inference_mode()
    def __call__(
        self, images: NDArray[np.float32] | NDArray[np.uint8], report: Report = silent, check: Check = go_on
    ) -> NDArray[np.float64]:
        """(n, d) float64."""
        starts = range(0, len(images), BATCH)
        found = []
        for start in watched(starts, f"features, {self.name}", report, check):
            batch = torch.from_numpy(np.ascontiguousarray(images[start:start + BATCH], np.float32))
            found.append(self.of_batch(batch.to(self.device)).double().cpu().numpy())
        return np.concatenate(found)


def metaearth_features(id_or_folder: str = FEATURE_MODEL, device: str = "cpu") -> Extractor:
    """The project's own feature network; its distances are never called FID or KID."""
    folder = find_features(id_or_folder)
    network = load_features(folder).to(device)
    name = network.config.id
    return Extractor(
        name, f"Fréchet distance ({name})", f"kernel distance ({name})", sha256_of(folder / WEIGHTS), network, device
    )


def inception(weights: Path | None, device: str = "cpu") -> Extractor:
    """Inception-v3's final pool as FID is defined, by torch-fidelity; without ``weights`` it downloads them.

    `ModelError` where torch-fidelity is not installed or its weights cannot be had.
    """
    if not has_torch_fidelity():
        raise ModelError(
            "FID needs torch-fidelity and torchvision: install both into the backend's environment"
            " (pip install torch-fidelity torchvision), or choose --features metaearth-features."
        )
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except Exception as error:  # torchvision of another build of torch raises RuntimeError
        raise ModelError(f"torch-fidelity cannot be used ({error}): is torchvision of torch's own build?") from error
    try:
        file = _tensors_only(weights, URL_INCEPTION_V3)
        network = FeatureExtractorInceptionV3("inception", ["2048"], str(file)).to(device).eval()
    except Exception as error:
        raise ModelError(f"The weights of Inception-v3 cannot be had: {error}. Name a file of them.") from error

    def pool(images: Tensor) -> Tensor:
        return network(images.round().clamp(0, 255).to(torch.uint8))[0]

    return Extractor("Inception-v3 final pool", "FID", "KID", sha256_of(file), pool, device)


def _tensors_only(weights: Path | None, address: str) -> Path:
    """The file of weights, downloaded if none is named; an error if it holds anything but tensors.

    torch-fidelity itself unpickles whatever the file holds.
    """
    if weights is not None:
        torch.load(weights, map_location="cpu", weights_only=True)
        return weights
    torch.hub.load_state_dict_from_url(address, map_location="cpu", weights_only=True)
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(address).name


def has_torch_fidelity() -> bool:
    """Whether torch-fidelity and what it imports are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch_fidelity", "torchvision"))


def load_extractor(choice: str, device: str = "cpu") -> Extractor:
    """``inception``, a file of its weights (.pth), or a feature network's id or folder."""
    if choice == "inception":
        return inception(None, device)
    if choice.endswith((".pth", ".pt")):
        return inception(Path(choice), device)
    return metaearth_features(choice, device)
