"""The processes of a run: one, or one a GPU as ``torchrun`` or ``accelerate launch`` start them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from backend.devices import choose_device


@dataclass(frozen=True)
class Processes:
    """This process among those of the run, and the device that it works on."""

    rank: int
    ranks: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and talks."""
        return self.rank == 0

    def mean(self, value: float) -> float:
        """The mean of a number over all processes."""
        if self.ranks == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return float(total) / self.ranks

    def of_first(self, value: str) -> str:
        """What the first process holds, once it is there."""
        if self.ranks == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, src=0, device=self.device)
        return str(held[0])


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """This process's place, from the variables that launchers set; the group is left at the end."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    kind = choose_device(device)
    if ranks == 1:
        yield Processes(0, 1, torch.device(kind))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if kind == "cuda":
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if kind == "cuda" and distributed.is_nccl_available() else "gloo")
    own = torch.device(kind, local) if kind == "cuda" else torch.device(kind)
    try:
        yield Processes(distributed.get_rank(), ranks, own)
        distributed.barrier()  # the first may still validate and save
    finally:
        distributed.destroy_process_group()
