"""The trainer: AdamW, EMA, bf16, checkpoints that survive being killed."""

from __future__ import annotations

import itertools
import json
import math
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.diffusion.losses import alpha_sigma_at, draw_times, expand, loss_weights, prediction_target
from backend.models.bundle import ModelConfig, save_bundle
from backend.models.cascade_network import CascadeNetwork, Condition
from backend.training.data import TrainingPictures


@dataclass(frozen=True)
class TrainingSettings:
    """The ``training`` part of a bundle's configuration."""

    steps: int = 10_000
    batch: int = 16
    crop: int = 128
    learning_rate: float = 4e-4
    final_learning_rate: float = 1e-5
    warmup: int = 200
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    times: str = "mixed"
    loss_weighting: str = "none"
    objective: str = "diffusion"
    gradient_clip: float = 1.0
    seed: int = 0
    accumulation: int = 1


class Prefetcher:
    """Makes the next batches, from number ``first`` on, in a thread of its own."""

    def __init__(self, pictures: TrainingPictures, batch: int, first: int) -> None:
        self.queue: queue.Queue = queue.Queue(maxsize=3)
        self.thread = threading.Thread(target=self._fill, args=(pictures, batch, first), daemon=True)
        self.thread.start()

    def _fill(self, pictures: TrainingPictures, batch: int, first: int) -> None:
        torch.set_num_threads(1)  # of this thread: a second pool of threads would fight with the network's
        for index in itertools.count(first):
            self.queue.put(pictures.batch(batch, index))

    def next(self) -> tuple[Tensor, Tensor, Tensor]:
        """One batch; see `TrainingPictures.batch`."""
        return self.queue.get()


def objective(
    network: CascadeNetwork,
    config: ModelConfig,
    settings: TrainingSettings,
    batch: tuple[Tensor, Tensor, Tensor],
    rng: np.random.Generator,
) -> Tensor:
    """The loss of one batch: w_t ||target - prediction||^2, or plain L1 for the regression baseline."""
    high, lr, gsd = batch
    condition = network.encode(lr, gsd)
    x0 = network.to_model_space(high, condition)
    if settings.objective == "l1":
        return F.l1_loss(regress(network, config, condition), x0)
    times = draw_times(config.schedule, settings.times, len(x0), rng)
    alpha, sigma = (v.to(x0.device) for v in alpha_sigma_at(config.schedule, times))
    noise = torch.randn_like(x0)
    noisy = expand(alpha, x0) * x0 + expand(sigma, x0) * noise
    prediction = network(noisy, torch.from_numpy(times).to(x0), condition)
    error = (prediction - prediction_target(config.prediction, x0, noise, alpha, sigma)).square().mean(dim=(1, 2, 3))
    return (loss_weights(config.schedule, settings.loss_weighting, times).to(error) * error).mean()


def regress(network: CascadeNetwork, config: ModelConfig, condition: Condition) -> Tensor:
    """The regression baseline's x_0: the same network at t = T - 1 with zeros instead of noise."""
    zeros = torch.zeros_like(condition.base)
    time_ = torch.full((len(zeros),), float(config.schedule.steps - 1), device=zeros.device)
    return network(zeros, time_, condition)


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Linear warm-up, then cosine decay to the final rate."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return settings.final_learning_rate + (settings.learning_rate - settings.final_learning_rate) * cosine


class Trainer:
    """One training run in a folder: checkpoint, log and the bundle with the averaged weights.

    ``initial`` weights are where a new run begins; a run that has a checkpoint goes on from that.
    """

    def __init__(
        self,
        config: ModelConfig,
        settings: TrainingSettings,
        pictures: TrainingPictures,
        folder: Path,
        device: torch.device,
        initial: dict[str, Tensor] | None = None,
    ) -> None:
        self.config, self.settings, self.folder, self.device = config, settings, folder, device
        torch.manual_seed(settings.seed)
        self.network = CascadeNetwork(config.network).to(device).channels_last()
        if initial is not None:
            self.network.load_state_dict(initial)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
        )
        self.step, self.seconds = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        self.batches = Prefetcher(pictures, settings.batch, self.step * settings.accumulation)

    @property
    def checkpoint(self) -> Path:
        """Everything that is needed to go on."""
        return self.folder / "checkpoint.pt"

    def _resume(self) -> None:
        if self.checkpoint.is_file():
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average, self.step, self.seconds = state["average"], state["step"], state["seconds"]

    def save(self) -> None:
        """Write checkpoint and bundle, each by rename."""
        partial = self.checkpoint.with_suffix(".part")
        torch.save(
            {
                "network": self.network.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "average": self.average,
                "step": self.step,
                "seconds": self.seconds,
            },
            partial,
        )
        partial.replace(self.checkpoint)
        save_bundle(self.folder, self.config, self.average)

    def train_step(self) -> float:
        """One optimiser step over the accumulated batches; its loss."""
        rng = np.random.default_rng((self.settings.seed, self.step))
        torch.manual_seed(int(rng.integers(2**63)))
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, self.step)
        total = 0.0
        for _ in range(self.settings.accumulation):
            high, lr, gsd = (t.to(self.device) for t in self.batches.next())
            batch = (high.contiguous(memory_format=torch.channels_last), lr, gsd)
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = objective(self.network, self.config, self.settings, batch, rng) / self.settings.accumulation
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        for name, value in self.network.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)
        return total

    def run(self, save_every_s: float = 300.0, report_every: int = 50) -> None:
        """Train up to ``settings.steps`` steps, reporting on the log and the terminal."""
        losses: list[float] = []
        began = saved = time.monotonic()
        earlier = self.seconds
        while self.step < self.settings.steps:
            losses.append(self.train_step())
            self.seconds = earlier + time.monotonic() - began
            if self.step % report_every == 0:
                self._report(losses)
                losses.clear()
            if time.monotonic() - saved > save_every_s:
                self.save()
                saved = time.monotonic()
        self.save()

    def _report(self, losses: list[float]) -> None:
        row = {
            "step": self.step,
            "loss": round(float(np.mean(losses)), 5),
            "seconds": round(self.seconds, 1),
            "learning_rate": learning_rate(self.settings, self.step),
        }
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        remaining = self.seconds / self.step * (self.settings.steps - self.step)
        print(
            f"step {self.step}/{self.settings.steps}  loss {row['loss']:.4f}  {self.seconds / self.step:.2f} s a step"
            f"  {remaining / 60:.0f} min left",
            flush=True,
        )
