"""Training a classifier on labelled images, and which of the test images it gets right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from backend.evaluation.classifiers import ARCHITECTURES
from backend.progress import Check
from backend.raster.source import RasterSource


@dataclass(frozen=True)
class LabelledImages:
    """(n, 3, s, s) uint8 images and the number of the class of each."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def with_more(self, other: LabelledImages) -> LabelledImages:
        """Both together."""
        joined = np.concatenate([self.images, other.images]), np.concatenate([self.labels, other.labels])
        return LabelledImages(*joined)


@dataclass(frozen=True)
class Training:
    """How every classifier is trained; the number of steps does not depend on the number of images."""

    steps: int = 600
    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    device: str = "cpu"


def read_images(folder: Path, files: list[Path], classes: list[str], size: int) -> LabelledImages:
    """The files (class folder first in their path) as 8-bit RGB of ``size`` pixels a side."""
    images = np.stack([read_image(folder / file, size) for file in files])
    return LabelledImages(images, np.array([classes.index(file.parent.as_posix()) for file in files]))


def read_image(path: Path, size: int) -> NDArray[np.uint8]:
    """(3, size, size) 8-bit RGB of a raster or picture."""
    with RasterSource(str(path), None, 1.0, placed=False) as source:
        values = source.stretch().apply(source.read(source.grid.region).values)
    whole = torch.from_numpy(np.repeat(values, 3, axis=0) if len(values) == 1 else values)[None]
    resized = F.interpolate(whole, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return ((resized[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def right_answers(
    architecture: str, given: LabelledImages, test: LabelledImages, training: Training, seed: int, check: Check
) -> NDArray[np.bool_]:
    """(test images,): which of them a classifier trained from scratch on ``given`` gets right."""
    classes = int(max(given.labels.max(), test.labels.max())) + 1
    network = trained(architecture, classes, given, training, seed, check)
    return _answers(network.eval(), test, training) == test.labels


def trained(
    architecture: str, classes: int, given: LabelledImages, training: Training, seed: int, check: Check
) -> torch.nn.Module:
    """A classifier trained from scratch."""
    torch.manual_seed(seed)
    size = given.images.shape[-1]
    network = ARCHITECTURES[architecture](classes, size).to(training.device)
    optimiser = torch.optim.AdamW(network.parameters(), training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, training.learning_rate, total_steps=training.steps + 1)
    rng = np.random.default_rng(seed)
    for _ in range(training.steps):
        check()
        chosen = rng.integers(len(given.labels), size=training.batch)
        images = turned(_normalised(given.images[chosen]), rng).to(training.device)
        labels = torch.from_numpy(given.labels[chosen]).to(training.device)
        with torch.autocast(images.device.type, torch.bfloat16):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network


@torch.inference_mode()
def _answers(network: torch.nn.Module, test: LabelledImages, training: Training) -> NDArray[np.int64]:
    parts = [
        network(_normalised(test.images[start:start + 64]).to(training.device)).argmax(dim=1).cpu().numpy()
        for start in range(0, len(test.labels), 64)
    ]
    return np.concatenate(parts)


def _normalised(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).float() / 127.5 - 1


def turned(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Each image turned by a multiple of 90 degrees and mirrored at random: imagery has no up."""
    out = [torch.rot90(image, int(rng.integers(4)), (1, 2)) for image in images]
    return torch.stack([image.flip(2) if rng.random() < 0.5 else image for image in out])
