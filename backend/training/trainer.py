"""The trainer: AdamW, averaged weights, bf16, any number of processes; a run survives being killed."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from backend.errors import ModelError, PlanError
from backend.memory import telling
from backend.models.bundle import AnyConfig, SceneModelConfig, save_bundle
from backend.progress import Check, Report
from backend.training.checkpoint import CHECKPOINT, TrainingState, load_state, save_state
from backend.training.examples import BatchNumbers, collate
from backend.training.journal import Journal
from backend.training.processes import Processes
from backend.training.settings import TrainingSettings
from backend.training.tasks import task_of
from backend.training.validation import validation_loss

JUDGED_SEED = 0
"""Of the held-out examples: the same for all seeds of a run, so that losses of runs compare."""


def learning_rate(settings: TrainingSettings, step: int, steps: int) -> float:
    """Linear warm-up, then cosine decay to the final rate; a rate below that stays as it is."""
    final = min(settings.final_learning_rate, settings.learning_rate)
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, steps - settings.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return final + (settings.learning_rate - final) * cosine


def begin_with(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights; `PlanError` if the network has other ones, as after ``--set network.scale=64``."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise PlanError(
            "The weights to begin with are of a network with other settings than the one to be trained."
            " Begin with those of a network like it, or with random ones (--start none)."
        ) from error


def restrict(network: nn.Module, only: str) -> None:
    """Of the weights that are trained, train those alone whose names ``only`` matches; `PlanError` if none does."""
    try:
        others = [p for name, p in network.named_parameters() if not re.search(only, name)]
    except re.error as error:
        raise PlanError(f"only={only}: this is no regular expression ({error}).") from error
    for parameter in others:
        parameter.requires_grad_(False)
    if not any(p.requires_grad for p in network.parameters()):
        raise PlanError(f"only={only}: no weight that is trained has such a name.")


class Diverged(ModelError):
    """The gradient is not finite."""


class Trainer:
    """One training run in a folder: checkpoint, log and the bundle with the averaged weights.

    ``initial`` weights are where a new run begins; a run that has a checkpoint goes on from that. ``workers``:
    processes that make examples ahead; 0: this one makes them when they are needed.
    """

    def __init__(
        self,
        config: AnyConfig,
        settings: TrainingSettings,
        pool: Any,
        folder: Path,
        processes: Processes,
        initial: dict[str, Tensor] | None = None,
        held_out: Any = None,
        workers: int = 0,
    ) -> None:
        self.config, self.settings, self.folder, self.processes = config, settings, folder, processes
        self.steps = settings.total_steps(len(pool), processes.ranks)
        self.task = task_of(config, settings)
        examples = self.task.examples(pool, settings.seed)
        self.state = self._new_state(initial, examples)
        folder.mkdir(parents=True, exist_ok=True)
        load_state(folder, self.state, settings.objective)
        self.objective = self.task.objective(self.state.network)
        self.judge = self.task.objective(self.state.average)
        self.parallel = self.objective
        if processes.ranks > 1:  # a batch may show none of some modality, whose expert then has no gradient
            unused = isinstance(config, SceneModelConfig)
            self.parallel = DistributedDataParallel(self.objective, find_unused_parameters=unused)
        self.held_out = None if held_out is None else self.task.examples(held_out, JUDGED_SEED)
        self.batches = self._load(examples, workers)

    def _new_state(self, initial: dict[str, Tensor] | None, examples: Dataset) -> TrainingState:
        torch.manual_seed(self.settings.seed)
        network = self.task.network().to(self.processes.device)
        restrict(network, self.settings.only)
        if initial is not None:
            begin_with(network, initial)
        if not (self.folder / CHECKPOINT).is_file():
            self.task.prepare(network, examples)
        optimiser = torch.optim.AdamW(
            [p for p in network.parameters() if p.requires_grad],
            lr=self.settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.settings.weight_decay,
        )
        return TrainingState(network, copy.deepcopy(network).requires_grad_(False), optimiser)

    def _load(self, examples: Dataset, workers: int) -> Iterator[Any]:
        p, s = self.processes, self.settings
        numbers = BatchNumbers(s.batch, s.accumulation, p.rank, p.ranks, self.state.step)
        return iter(
            DataLoader(
                examples,
                batch_sampler=numbers,
                num_workers=workers,
                collate_fn=collate,
                pin_memory=p.device.type == "cuda",
                multiprocessing_context="spawn" if workers else None,  # the server has threads, which do not fork
            )
        )

    def train_step(self) -> float:
        """One optimiser step over the accumulated batches of all processes; its loss."""
        with telling(
            f"a batch of {self.settings.batch} examples of {self.settings.crop} pixels", self.processes.device.type,
            "Choose a smaller batch and more accumulation, or gradient_checkpointing=true.",
        ):  # fmt: skip
            return self._train_step()

    def _train_step(self) -> float:
        s, state = self.settings, self.state
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(s, state.step, self.steps)
        total = 0.0
        for part in range(s.accumulation):
            with self._together(part + 1 == s.accumulation):
                loss = self._loss(self.parallel, next(self.batches)) / s.accumulation
                loss.backward()
            total += float(loss.detach())
        norm = nn.utils.clip_grad_norm_(state.network.parameters(), s.gradient_clip)
        if not norm.isfinite():
            raise Diverged(
                f"The training diverged at step {state.step + 1}: the gradient is not finite. Go on from the last"
                " checkpoint with a lower learning_rate or precision=float32, or begin anew."
            )
        state.optimiser.step()
        state.optimiser.zero_grad(set_to_none=True)
        state.step += 1
        self._average()
        return self.processes.mean(total)

    def _together(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged with the other processes once a step, after its last batch."""
        parallel = self.parallel
        return parallel.no_sync() if isinstance(parallel, DistributedDataParallel) and not last else nullcontext()

    def _loss(self, objective: nn.Module, batch: Any) -> Tensor:
        with self._autocast():
            return objective(batch.to(self.processes.device))

    def _autocast(self) -> torch.autocast:
        kind = self.processes.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self.settings.precision == "bfloat16")

    def _average(self) -> None:
        """Exponential moving average of the weights; it forgets the random beginning quickly."""
        state = self.state
        decay = min(self.settings.ema_decay, (1 + state.step) / (10 + state.step))
        averages = [p.data for p in state.average.parameters()]
        torch._foreach_lerp_(averages, [p.data for p in state.network.parameters()], 1 - decay)

    def save(self) -> None:
        """Write checkpoint and bundle, each by rename."""
        if self.processes.is_first:
            save_state(self.folder, self.state, {"settings": dataclasses.asdict(self.settings)})
            save_bundle(self.folder, self.config, self.state.average.state_dict())

    def run(self, report: Report, check: Check, report_every: int = 50) -> None:
        """Train up to the last step; what is done is saved now and then, at the end, and when ``check`` raises.

        Not when the training diverged: the weights may be what is bad; nor before the first step.
        """
        journal = Journal(self.folder, self.processes.is_first)
        clock = Clock(self.state.seconds, self.state.step)
        losses: list[float] = []
        if self.state.step:
            journal.tell(f"goes on from step {self.state.step} of the run in {self.folder}, and from its weights")
        try:
            while self.state.step < self.steps:
                check()
                losses.append(self.train_step())
                self.state.seconds = clock.seconds
                if self.state.step % report_every == 0 or self.state.step == self.steps:
                    self._report(journal, losses, clock)
                    losses = []
                report(self.state.step, self.steps, "training")
                if self.state.step % self.settings.validate_every == 0 or self.state.step == self.steps:
                    self._validate(journal)
                if clock.since_save > self.settings.save_every_s:
                    self.save()
                    clock.saved()
        finally:
            journal.close()
            if self.state.step and not isinstance(sys.exc_info()[1], Diverged):
                self.save()

    def _report(self, journal: Journal, losses: list[float], clock: Clock) -> None:
        step, s = self.state.step, self.settings
        pace = clock.seconds_a_step(step)
        values = {
            "loss": float(np.mean(losses)),
            "learning_rate": learning_rate(s, step - 1, self.steps),
            "examples_a_second": s.examples_a_step(self.processes.ranks) / max(pace, 1e-9),
            "seconds": clock.seconds,
        }
        journal.numbers(step, {k: float(f"{v:.6g}") for k, v in values.items()})
        journal.tell(
            f"step {step}/{self.steps}  loss {values['loss']:.4f}  {pace:.2f} s a step"
            f"  {values['examples_a_second']:.1f} examples/s  {pace * (self.steps - step) / 60:.0f} min left"
        )

    def _validate(self, journal: Journal) -> None:
        """Loss and pictures of the averaged weights on held-out places, if there are any."""
        if self.held_out is None or not self.processes.is_first:
            return
        self.state.average.eval()
        with self._autocast():
            loss = validation_loss(self.judge, self.held_out, self.settings.batch, self.processes.device)
            picture = self.task.picture(self.judge, self.held_out, self.processes.device)
        journal.numbers(self.state.step, {"validation_loss": round(loss, 6)})
        journal.picture(self.state.step, picture)
        journal.tell(f"step {self.state.step}: loss on held-out places {loss:.4f}")


class Clock:
    """Seconds of a run over all its sittings, and how long ago it was saved."""

    def __init__(self, earlier: float, step: int) -> None:
        self.earlier, self.began = earlier, time.monotonic()
        self.last_save, self.last_look = self.began, (step, self.began)

    @property
    def seconds(self) -> float:
        """Seconds of the whole run."""
        return self.earlier + time.monotonic() - self.began

    @property
    def since_save(self) -> float:
        """Seconds since `saved`, or the start."""
        return time.monotonic() - self.last_save

    def saved(self) -> None:
        """Count anew."""
        self.last_save = time.monotonic()

    def seconds_a_step(self, step: int) -> float:
        """Pace since the last call, or the start of this sitting."""
        now, (last_step, last) = time.monotonic(), self.last_look
        self.last_look = (step, now)
        return (now - last) / max(1, step - last_step)
