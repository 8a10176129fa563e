"""An engine for pictures in memory: the device and number format are chosen as for a job."""

from __future__ import annotations

import torch

from backend.cascade.engine import Engine, Sampling
from backend.devices import choose_device
from backend.jobs.calibration import fastest
from backend.models.bundle import Bundle


def open_engine(
    bundle: Bundle, device: str = "auto", precision: str = "auto", sampler: str | None = None, steps: int | None = None
) -> Engine:
    """The model with its own sampler and steps, or others, one window at a time."""
    profile, sha256 = bundle.config.profile, bundle.sha256()
    chosen = choose_device(device)
    name, _ = fastest(bundle, sha256, chosen, precision)
    return Engine(bundle, sha256, Sampling(sampler or profile.sampler, steps or profile.steps), chosen,
                  getattr(torch, name))
