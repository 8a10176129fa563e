"""Who computes a stage's blocks: this process, or a cluster. The plan, the blocks and the pixels are the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from backend.errors import NetworkOutputError
from backend.jobs.renderer import BlockReport, Renderer
from backend.tiling.geometry import Block

Done = Callable[[Block, BlockReport], None]


class Executor(Protocol):
    """Computes blocks; a context manager."""

    warnings: list[str]
    """What the user should know of the machines."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *error: object) -> None: ...

    def run(self, sample: int, stage: int, blocks: list[Block], done: Done) -> None:
        """Compute and write all ``blocks``; ``done`` is called after each, in the caller's thread.

        A block that cannot be made does not keep the others from being made; its error is raised after them.
        """


class LocalExecutor:
    """One network in this process; a block is written while the next one is computed."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self.warnings: list[str] = []

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *error: object) -> None:
        self.renderer.close()

    def run(self, sample: int, stage: int, blocks: list[Block], done: Done) -> None:
        """See `Executor`."""
        writing: deque[tuple[Block, Future[BlockReport]]] = deque()
        failures: list[NetworkOutputError] = []

        def finish(waiting: int) -> None:
            while len(writing) > waiting:
                block, report = writing.popleft()
                done(block, report.result())

        for block in blocks:
            try:
                writing.append((block, self.renderer.render(sample, stage, block)))
            except NetworkOutputError as error:
                failures.append(error)
            finish(1)
        finish(0)
        raise_failures(failures)


def raise_failures(failures: list[NetworkOutputError]) -> None:
    """One error for all blocks that could not be made."""
    if failures:
        more = f" So could {len(failures) - 1} more." if len(failures) > 1 else ""
        raise NetworkOutputError(f"{failures[0]}{more} All other blocks are finished.")
