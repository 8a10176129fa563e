"""An engine for pictures in memory: the device and number format are chosen as for a job."""

from __future__ import annotations

import torch

from backend.cascade.engine import Engine, Sampling
from backend.devices import choose_device
from backend.jobs.calibration import fastest
from backend.models.bundle import Bundle, SceneModelConfig
from backend.scene.engine import SceneEngine


def open_engine(
    bundle: Bundle, device: str = "auto", precision: str = "auto", sampler: str | None = None, steps: int | None = None
) -> Engine:
    """The model with its own sampler and steps, or others, one window at a time; `ModelError` if it has no weights."""
    bundle.need_weights()
    profile, sha256 = bundle.config.profile, bundle.sha256()
    chosen = choose_device(device)
    name, _ = fastest(bundle, sha256, chosen, precision)
    return Engine(bundle, sha256, Sampling(sampler or profile.sampler, steps or profile.steps), chosen,
                  getattr(torch, name))


def open_scene_engine(
    bundle: Bundle[SceneModelConfig], device: str = "auto", precision: str = "auto", steps: int | None = None
) -> SceneEngine:
    """MetaEarth-MM with its own number of steps, or another; `ModelError` if it has no weights."""
    bundle.need_weights()
    sha256, chosen = bundle.sha256(), choose_device(device)
    name, _ = fastest(bundle, sha256, chosen, precision)
    return SceneEngine(bundle, sha256, steps or bundle.config.profile.steps, chosen, getattr(torch, name))
