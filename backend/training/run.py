"""``python -m backend train``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from backend.devices import choose_device
from backend.errors import PlanError
from backend.models.bundle import find_bundle
from backend.training.data import training_pictures
from backend.training.trainer import Trainer, TrainingSettings


def changed(settings: TrainingSettings, assignments: list[str]) -> TrainingSettings:
    """The settings with NAME=VALUE applied; `PlanError` for unknown names and unfit values."""
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        if not hasattr(settings, name):
            known = ", ".join(f.name for f in dataclasses.fields(settings))
            raise PlanError(f"There is no training setting {name!r}; known: {known}.")
        kind = type(getattr(settings, name))
        try:
            settings = dataclasses.replace(settings, **{name: kind(value)})
        except ValueError:
            raise PlanError(f"{name}={value}: this is no {kind.__name__}.") from None
    return settings


def train_bundle(
    config: str, data: Path, output: Path, assignments: list[str], device: str, start: str | None
) -> None:
    """Train the network that a bundle describes; goes on where an earlier run in ``output`` stopped.

    A new run begins with the weights of the bundle ``start``, or with random ones.
    """
    bundle = find_bundle(config)
    settings = changed(TrainingSettings(**bundle.config.training), assignments)
    model = dataclasses.replace(bundle.config, training=dataclasses.asdict(settings))
    network = model.network
    pictures = training_pictures(data, settings.crop, network.scale, network.context, settings.seed)
    initial = find_bundle(start).load().state_dict() if start else None
    Trainer(model, settings, pictures, output, torch.device(choose_device(device)), initial).run()
