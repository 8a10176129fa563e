"""What a run tells as it goes: on the terminal, in ``log.jsonl``, and in TensorBoard where that is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class Journal:
    """The log of a run in a folder; ``talks``: whether this process writes at all."""

    def __init__(self, folder: Path, talks: bool) -> None:
        self.folder, self.talks, self.board = folder, talks, None
        if talks:
            self.board = _tensorboard(folder)

    def close(self) -> None:
        """Write what is left."""
        if self.board is not None:
            self.board.close()

    def tell(self, sentence: str) -> None:
        """A line for people."""
        if self.talks:
            print(sentence, flush=True)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Values of a step, by name."""
        if not self.talks:
            return
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def picture(self, step: int, picture: Image.Image) -> None:
        """Validation images, as a file and on the board."""
        if not self.talks:
            return
        path = self.folder / "validation" / f"step_{step:07d}.png"
        path.parent.mkdir(exist_ok=True)
        picture.save(path)
        if self.board is not None:
            self.board.add_image("validation", np.asarray(picture), step, dataformats="HWC")


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("TensorBoard is not installed (extra `train`); the run's numbers are in log.jsonl.", file=sys.stderr)
        return None
    return SummaryWriter(str(folder / "tensorboard"))
