"""What a long evaluation has made, kept on disk so that an interrupted one goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backend.evaluation.makers import Maker
from backend.files import complete_file, to_disk
from backend.jobs.code import code_sha256

Arrays = dict[str, NDArray[Any]]
Part = str | bytes | int | float | None

UNFINISHED = ".metaearth-evaluation"
"""In an evaluation's output folder: what is kept, until its tables are written."""


class Kept:
    """Named arrays in a folder, found again by all that they were made of: this code, ``made_with`` and a key."""

    def __init__(self, output: Path, *made_with: Part) -> None:
        self.folder = output / UNFINISHED
        self.made_with = (code_sha256(), torch.__version__, *made_with)

    def arrays(self, key: tuple[Part, ...], make: Callable[[], Arrays]) -> Arrays:
        """What ``make`` makes, from the disk if it was made before."""
        path = self.folder / f"{digest(*self.made_with, *key)}.npz"
        with suppress(Exception), np.load(path, allow_pickle=False) as found:  # a damaged one fails in many ways
            return dict(found)
        made = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        with complete_file(path) as partial:
            np.savez_compressed(partial, **made)  # type: ignore[arg-type]  # the stub fears an array "allow_pickle"
            to_disk(partial)
        return made

    def makers(self, makers: dict[str, Maker], stages: int) -> dict[str, Maker]:
        """The same makers by name, each of which makes a picture once."""
        return {name: self._once(make, name, stages) for name, make in makers.items()}

    def _once(self, make: Maker, name: str, stages: int) -> Maker:
        def once(low: NDArray[np.float32], gsd_m: float, seed: int) -> NDArray[np.float32]:
            key = (name, stages, low.tobytes(), str(low.shape), gsd_m, seed)
            found = self.arrays(key, lambda: {"picture": make(low, gsd_m, seed).astype(np.uint8)})
            return found["picture"].astype(np.float32)

        return once

    def clear(self) -> None:
        """Forget everything: the evaluation is finished."""
        for path in self.folder.glob("*.npz"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # it is not there, or another evaluation still works in it
            self.folder.rmdir()


def digest(*parts: Part) -> str:
    """SHA-256 of the parts, in hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else repr(part).encode()
        found.update(b"%d " % len(content) + content)
    return found.hexdigest()
