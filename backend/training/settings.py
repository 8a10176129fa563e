"""What a run of the trainer may be told: the ``training`` part of a bundle's configuration."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from backend.errors import PlanError
from backend.models.bundle import AnyConfig

NETWORK_PREFIX = "network."


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a run; ``batch`` is that of one process at one go, a step has ``accumulation`` of them in each.

    ``epochs`` above 0 sets the number of steps. ``objective``: diffusion, or l1 for the regression baseline; of
    MetaEarth-MM expectation, then flow (before them vae, where the autoencoder is learnt), or l1 for its baseline;
    ``scene_weight`` is that of the scene consistency loss.
    ``second_stage``: the share of a cascade's examples whose source is the network's own first-stage output.
    ``precision``: that of the network; weights and optimiser are float32 always. ``only``: a regular expression;
    weights whose names have no match are not trained.
    """

    steps: int = 10_000
    epochs: float = 0.0
    batch: int = 16
    accumulation: int = 1
    crop: int = 128
    degradation: str = "area"
    second_stage: float = 0.0
    learning_rate: float = 4e-4
    final_learning_rate: float = 1e-5
    warmup: int = 200
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    times: str = "mixed"
    loss_weighting: str = "none"
    objective: str = "diffusion"
    scene_weight: float = 0.1
    gradient_clip: float = 1.0
    gradient_checkpointing: bool = False
    precision: str = "bfloat16"
    only: str = ""
    seed: int = 0
    validate_every: int = 1000
    save_every_s: float = 300.0

    def examples_a_step(self, ranks: int) -> int:
        """Examples of one optimiser step over all processes."""
        return self.batch * self.accumulation * ranks

    def total_steps(self, epoch: int, ranks: int) -> int:
        """Steps of the whole run; ``epoch``: examples in an epoch."""
        return math.ceil(self.epochs * epoch / self.examples_a_step(ranks)) if self.epochs else self.steps


def changed(config: AnyConfig, assignments: list[str]) -> AnyConfig:
    """The model with NAME=VALUE applied to its training settings, or to its network as ``network.NAME=VALUE``.

    `PlanError` for unknown names and unfit values.
    """
    training, network = dict(config.training), config.network.to_dict()
    known = {f.name: f.default for f in dataclasses.fields(TrainingSettings)}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        into, short = (network, name.removeprefix(NETWORK_PREFIX)) if name.startswith(NETWORK_PREFIX) else (
            training, name)
        defaults = network if into is network else known
        if short not in defaults:
            raise PlanError(f"There is no training setting {name!r}; known: {', '.join(known)}, and network.NAME.")
        into[short] = _value(name, text, defaults[short])
        if name == "steps" and not any(a.startswith("epochs=") for a in assignments):
            into["epochs"] = 0.0  # a bundle's epochs would count, and the number that was asked for would not
    made: Any = type(config.network).from_dict(network)
    return dataclasses.replace(config, training=training, network=made)


def _value(name: str, text: str, like: Any) -> Any:
    """``text`` as a value of the type of ``like``."""
    kind = type(like)
    if isinstance(like, (tuple, list)) and like:
        return kind(_value(name, part.strip(), like[0]) for part in text.split(","))
    if kind is bool and text in ("true", "false"):
        return text == "true"
    try:
        if kind in (int, float, str) and text:
            return kind(text)
    except ValueError:
        pass
    raise PlanError(f"{name}={text}: this is no {kind.__name__}.")
