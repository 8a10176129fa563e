"""Which block goes to which worker of a cluster."""

from __future__ import annotations

from collections import Counter

from backend.tiling.geometry import Block

DEATHS = 4
"""A block that so many workers died with is handed out no more."""


class BlockQueues:
    """Blocks in row order, a run of neighbours for each worker: what the neighbours before gave is then on the disk.

    A worker without blocks takes the second half of the longest queue. Blocks that were with a worker when it died are
    handed out alone, and no longer after `DEATHS`.
    """

    def __init__(self, blocks: list[Block]) -> None:
        self._queues: dict[str, list[Block]] = {"": blocks}
        self._suspects: list[Block] = []
        self._deaths: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return self.waiting or bool(self._suspects)

    @property
    def waiting(self) -> bool:
        """Whether `next` has a block."""
        return any(self._queues.values())

    def suspect(self, block: Block) -> int:
        """Note that a worker died with this block; how many have by now."""
        self._deaths[block.name] += 1
        if self._deaths[block.name] < DEATHS:
            self._suspects.append(block)
        return self._deaths[block.name]

    def is_suspect(self, block: Block) -> bool:
        """Whether a worker died with this block."""
        return self._deaths[block.name] > 0

    def next_suspect(self) -> Block | None:
        """A block to be computed by a worker that has no other, if there is one."""
        return self._suspects.pop(0) if self._suspects else None

    def next(self, worker: str, alive: list[str]) -> Block:
        """A block for one of the workers that are ``alive``; there must be one left."""
        for name in [name for name in self._queues if name not in alive]:
            self._share(self._queues.pop(name), alive)
        if not self._queues.get(worker):
            longest = max(self._queues, key=lambda name: len(self._queues[name]))
            queue = self._queues[longest]
            self._queues[longest], self._queues[worker] = queue[: len(queue) // 2], queue[len(queue) // 2:]
        return self._queues[worker].pop(0)

    def _share(self, blocks: list[Block], alive: list[str]) -> None:
        """Equal runs of the blocks of nobody, or of a worker that died, to all."""
        bounds = [round(k * len(blocks) / len(alive)) for k in range(len(alive) + 1)]
        for name, start, stop in zip(alive, bounds, bounds[1:]):
            self._queues.setdefault(name, []).extend(blocks[start:stop])
