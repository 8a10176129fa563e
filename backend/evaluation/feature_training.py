"""Training of metaearth-features: which land use or source is it, and at which ground resolution?

Both questions need what the distances should see: the content of a place, and whether its texture has the sharpness and
grain of real imagery at that many metres per pixel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.devices import choose_device
from backend.errors import InputError
from backend.models.feature_network import FeatureConfig, FeatureNetwork, save_features
from backend.progress import Check, Report, watched
from backend.raster.averaging import average_down
from backend.training.data import Picture, load_pictures, turned

REDUCTIONS = (1, 2, 3, 4)
CLASSES_IN = "ucmerced_usgs_0.3m"
"""The source whose folders are land-use classes."""


@dataclass(frozen=True)
class FeatureSettings:
    """Training on the training split of ``data``; the network goes to ``output``."""

    data: Path
    output: Path
    steps: int = 3000
    batch: int = 32
    crop: int = 96
    learning_rate: float = 2e-3
    seed: int = 0
    device: str = "auto"
    examples: int = 500
    """Crops of the validation split that the finished network is measured on."""


@dataclass(frozen=True)
class Labelled:
    """A picture, how often it is reduced, and its two labels."""

    picture: Picture
    reduction: int
    scene: int
    octave: int


def scene_of(picture: Picture) -> str:
    """The land-use class where the source has classes, else the source."""
    return f"{picture.source}/{picture.path.parent.name}" if picture.source == CLASSES_IN else picture.source


def octave_of(gsd_m: float) -> int:
    """Metres per pixel as a whole number of octaves above 1 m."""
    return round(math.log2(gsd_m))


def labelled(pictures: list[Picture], crop: int, scenes: tuple[str, ...], octaves: tuple[int, ...]) -> list[Labelled]:
    """Every picture at every reduction at which a crop fits, where its labels are known."""
    found = []
    for p in pictures:
        for reduction in REDUCTIONS:
            scene, octave = scene_of(p), octave_of(p.gsd_m * reduction)
            if min(p.pixels.shape[:2]) // reduction >= crop and scene in scenes and octave in octaves:
                found.append(Labelled(p, reduction, scenes.index(scene), octaves.index(octave)))
    return found


def random_crop(example: Labelled, crop: int, rng: np.random.Generator) -> Tensor:
    """(3, crop, crop) in 0..255, turned and mirrored at random."""
    size = crop * example.reduction
    top, left = (int(rng.integers(n - size + 1)) for n in example.picture.pixels.shape[:2])
    part = average_down(example.picture.pixels[top:top + size, left:left + size], example.reduction)
    return torch.from_numpy(np.ascontiguousarray(turned(part, rng).transpose(2, 0, 1)))


def batches(examples: list[Labelled], settings: FeatureSettings) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(images, scenes, octaves) without end; scenes are drawn evenly, then a picture of the scene."""
    by_scene: dict[int, list[Labelled]] = {}
    for e in examples:
        by_scene.setdefault(e.scene, []).append(e)
    groups = list(by_scene.values())
    rng = np.random.default_rng(settings.seed)
    while True:
        chosen = [group[rng.integers(len(group))] for group in (groups[i] for i in
                  rng.integers(len(groups), size=settings.batch))]
        images = torch.stack([random_crop(e, settings.crop, rng) for e in chosen])
        yield images, torch.tensor([e.scene for e in chosen]), torch.tensor([e.octave for e in chosen])


def train_features(settings: FeatureSettings, report: Report, check: Check) -> FeatureConfig:
    """Train on the training split, measure on the validation split, save; the configuration with the figures."""
    pictures = load_pictures(settings.data, "train")
    if not pictures:
        raise InputError(f"There is no training picture in {settings.data}.")
    scenes = tuple(sorted({scene_of(p) for p in pictures}))
    octaves = tuple(sorted({octave_of(p.gsd_m * r) for p in pictures for r in REDUCTIONS}))
    examples = labelled(pictures, settings.crop, scenes, octaves)
    if not examples:
        raise InputError(f"No training picture in {settings.data} has {settings.crop} pixels a side.")
    torch.manual_seed(settings.seed)
    device = choose_device(settings.device)
    network = FeatureNetwork(FeatureConfig(scenes, octaves)).to(device)
    _fit(network, batches(examples, settings), settings, device, report, check)
    held_out = labelled(load_pictures(settings.data, "validation"), settings.crop, scenes, octaves)
    measured = measure(network.eval(), held_out, settings, device)
    config = dataclasses.replace(network.config, steps=settings.steps, measured=measured)
    save_features(settings.output, network, config)
    return config


def _fit(
    network: FeatureNetwork,
    source: Iterator[tuple[Tensor, Tensor, Tensor]],
    settings: FeatureSettings,
    device: str,
    report: Report,
    check: Check,
) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=settings.steps + 1)
    for _ in watched(range(settings.steps), "training metaearth-features", report, check):
        images, scene, octave = (t.to(device) for t in next(source))
        features = network(images)
        loss = F.cross_entropy(network.scene(features), scene) + F.cross_entropy(network.octave(features), octave)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


@torch.inference_mode()
def measure(
    network: FeatureNetwork, held_out: list[Labelled], settings: FeatureSettings, device: str
) -> dict[str, float]:
    """Share of right answers on crops of held-out pictures, and their number."""
    rng = np.random.default_rng(settings.seed)
    chosen = [held_out[i] for i in rng.permutation(len(held_out))[: settings.examples]]
    right = np.zeros(2)
    for e in chosen:
        features = network(random_crop(e, settings.crop, rng)[None].to(device))
        right += [int(network.scene(features).argmax()) == e.scene, int(network.octave(features).argmax()) == e.octave]
    scene, octave = (right / max(1, len(chosen))).round(3)
    return {"crops": len(chosen), "scene accuracy": float(scene), "ground resolution accuracy": float(octave)}
