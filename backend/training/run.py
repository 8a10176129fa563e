"""``python -m backend train``."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from backend.errors import PlanError
from backend.memory import peak_memory_bytes
from backend.models.bundle import AnyConfig, Bundle, SceneModelConfig, find_any_bundle
from backend.progress import Check, Report, go_on, silent
from backend.training.processes import Processes, joined
from backend.training.settings import TrainingSettings, changed
from backend.training.tasks import task_of
from backend.training.trainer import Trainer

PAPER_CHIPS = 731_000
SMOKE_STEPS = 2


def train_bundle(
    config: str,
    data: Path,
    output: Path,
    assignments: list[str],
    device: str,
    start: str | None,
    workers: int,
    report: Report = silent,
    check: Check = go_on,
) -> int:
    """Train the network that a bundle describes; goes on where an earlier run in ``output`` stopped.

    A new run begins with the weights of the bundle ``start``, or with random ones. Under ``torchrun`` or
    ``accelerate launch`` every process takes its share of each step. The number of steps that the run has then.
    """
    model, settings = _changed(config, assignments)
    first = find_start(start, model) if start else None
    initial = first.load().state_dict() if first else None
    task = task_of(model, settings)

    def run(processes: Processes) -> int:
        pools = task.training_pool(data), task.validation_pool(data)
        after = task.described(pools[0], first.config if first else None)
        trainer = Trainer(after, settings, pools[0], output, processes, initial, pools[1], workers)
        trainer.run(report, check)
        return trainer.state.step

    with joined(device) as processes:
        return run(processes)  # a function of its own: what it holds must be gone before the processes part


def find_start(start: str, model: AnyConfig) -> Bundle[AnyConfig]:
    """The bundle ``start``; `PlanError` if its weights are those of another kind of network."""
    bundle = find_any_bundle(start)
    if not same_kind(bundle.config, model):
        raise PlanError(f"The weights of {bundle.config.id} are of another kind of network than the one to be trained.")
    return bundle


def same_kind(one: AnyConfig, other: AnyConfig) -> bool:
    """Whether the networks of two models are of one class."""
    kinds = [(type(c), isinstance(c, SceneModelConfig) and c.is_regression) for c in (one, other)]
    return kinds[0] == kinds[1]


def smoke(config: str, assignments: list[str], device: str) -> str:
    """Whether a configuration trains here: two steps on random pictures, a checkpoint, and one step after resuming.

    What it took, in a sentence.
    """
    model, settings = _changed(config, assignments)
    settings = dataclasses.replace(settings, epochs=0, steps=SMOKE_STEPS)
    with joined(device) as processes, tempfile.TemporaryDirectory() as name:
        pool, folder = task_of(model, settings).random_pool(), Path(processes.of_first(name))
        # the first trainer is gone when the second is made: large networks fit into memory once
        Trainer(model, settings, pool, folder, processes).run(silent, go_on)
        processes.of_first("has written its checkpoint")
        again = Trainer(model, dataclasses.replace(settings, steps=SMOKE_STEPS + 1), pool, folder, processes)
        if again.state.step != SMOKE_STEPS:
            raise PlanError("The checkpoint was not found again.")
        began = time.monotonic()
        loss = again.train_step()
        if not np.isfinite(loss):
            raise PlanError("The loss is not a number.")
        return _told(model, settings, processes, time.monotonic() - began, again)


def _told(model: AnyConfig, settings: TrainingSettings, processes: Processes, seconds: float, run: Trainer) -> str:
    examples = settings.examples_a_step(processes.ranks)
    cuda = processes.device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() if cuda else peak_memory_bytes()
    hours = seconds / examples * PAPER_CHIPS * 30 / 3600
    millions = sum(p.numel() for p in run.state.network.parameters()) / 1e6
    return (
        f"{model.id} ({millions:.0f} M parameters) trains here: {seconds:.1f} s a step"
        f" of {examples} examples of {settings.crop} pixels ({examples / seconds:.3g} examples/s), at most"
        f" {memory / 1e9:.1f} GB of {'GPU memory' if cuda else 'memory'}; 30 epochs of {PAPER_CHIPS:,} chips would"
        f" take {hours:,.0f} hours."
    )


def _changed(config: str, assignments: list[str]) -> tuple[AnyConfig, TrainingSettings]:
    """The model with all its settings written out, and the settings."""
    model = changed(find_any_bundle(config).config, assignments)
    settings = TrainingSettings(**model.training)
    return dataclasses.replace(model, training=dataclasses.asdict(settings)), settings


def usual_workers() -> int:
    """Processes that make examples: one, more where there are many cores."""
    return max(1, min(8, (os.cpu_count() or 1) // 2))
