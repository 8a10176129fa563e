"""A run's state on disk, as safetensors: nothing that could run code is ever read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.errors import ModelError
from backend.files import to_disk

CHECKPOINT = "checkpoint.safetensors"
FACTS = "facts"


@dataclass
class TrainingState:
    """What a run changes as it goes: weights, their average, the optimiser, steps and seconds so far."""

    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name."""
        found = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        found |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for number, values in self.optimiser.state_dict()["state"].items():
            found |= {f"optimiser.{number}.{k}": torch.as_tensor(v) for k, v in values.items()}
        return found


def save_state(folder: Path, state: TrainingState, facts: dict[str, Any]) -> None:
    """Write the state and ``facts`` of its run; whoever reads sees the old file or the new one, whole."""
    path, partial = folder / CHECKPOINT, folder / (CHECKPOINT + ".part")
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.tensors().items()}
    told = {**facts, "step": state.step, "seconds": state.seconds}
    save_file(tensors, partial, metadata={FACTS: json.dumps(told)})
    to_disk(partial)
    partial.replace(path)


def load_state(folder: Path, state: TrainingState, objective: str) -> None:
    """Put what was saved into ``state``, if there is anything; `ModelError` if it is damaged, or of other weights."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return
    try:
        with safe_open(path, framework="pt") as opened:
            facts = json.loads(opened.metadata()[FACTS])
            begun = facts.get("settings", {}).get("objective", objective)
            if begun != objective:
                raise ModelError(
                    f"The training in {folder} was begun with objective={begun}, not {objective}. Choose another"
                    f" folder; --start {folder} begins with what this one has learnt."
                )
            # copies: what maps the file would keep Windows from replacing it
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        state.network.load_state_dict(_part(tensors, "network."))
        state.average.load_state_dict(_part(tensors, "average."))
        state.optimiser.load_state_dict(_optimiser(state.optimiser, _part(tensors, "optimiser.")))
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError) as error:
        raise ModelError(
            f"The checkpoint {path} does not fit this run ({error}). Choose another folder, or delete it."
        ) from error
    state.step, state.seconds = facts["step"], facts["seconds"]


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> dict[str, Any]:
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        found.setdefault(int(number), {})[key] = value
    return {**optimiser.state_dict(), "state": found}
