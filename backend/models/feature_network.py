"""metaearth-features: a small residual network whose pooled features tell land use and ground resolution."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.errors import ModelError
from backend.models.bundle import CONFIG, EMBEDDED, WEIGHTS, read_weights, write_weights
from backend.models.unet import group_norm
from backend.protocol import data_home

FEATURE_MODEL = "metaearth-features"


@dataclass(frozen=True)
class FeatureConfig:
    """A feature network's ``config.json``: its sizes, what it was taught to tell apart, and how well it does.

    ``scenes``: land-use classes and sources. ``octaves``: values of round(log2(m/px)). ``measured``: figures on imagery
    that was not trained on.
    """

    scenes: tuple[str, ...]
    octaves: tuple[int, ...]
    widths: tuple[int, ...] = (32, 64, 128)
    features: int = 64
    steps: int = 0
    measured: dict[str, float] = dataclasses.field(default_factory=dict)
    id: str = FEATURE_MODEL


class Block(nn.Module):
    """Two 3x3 convolutions with a residual connection, the first with a stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(inputs), group_norm(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class FeatureNetwork(nn.Module):
    """Stem, two blocks a width, pooled features, and two classifiers on them for training.

    The features are standardised by their mean and variance over training crops: distances are in these units, which
    the kernel of `kernel_distance` is made for.
    """

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(3, config.widths[0], 5, stride=2, padding=2)
        blocks: list[nn.Module] = []
        channels = config.widths[0]
        for k, width in enumerate(config.widths):
            blocks += [Block(channels, width, 2 if k else 1), Block(width, width, 1)]
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = group_norm(channels)
        self.last = nn.Conv2d(channels, config.features, 1)
        self.scene = nn.Linear(config.features, len(config.scenes))
        self.octave = nn.Linear(config.features, len(config.octaves))
        self.standard = nn.BatchNorm1d(config.features, affine=False)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, h, w) in 0..255 -> (batch, features): the mean over all places, standardised."""
        x = self.blocks(self.stem(images / 127.5 - 1))
        return self.standard(F.silu(self.last(F.silu(self.norm(x)))).mean(dim=(2, 3)))


def save_features(folder: Path, network: FeatureNetwork, config: FeatureConfig) -> None:
    """Write config.json and model.safetensors (float32)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n", encoding="utf-8")
    write_weights(folder / WEIGHTS, network.state_dict(), torch.float32)


def load_features(folder: Path) -> FeatureNetwork:
    """The network in ``folder``, in evaluation mode; `ModelError` if it is none or damaged."""
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        values |= {name: tuple(values[name]) for name in ("scenes", "octaves", "widths")}
        network = FeatureNetwork(FeatureConfig(**values))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} holds no feature network: its {CONFIG} cannot be used ({error}).") from error
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(read_weights(folder / WEIGHTS, shapes))
    return network.eval().requires_grad_(False)


def find_features(id_or_folder: str = FEATURE_MODEL) -> Path:
    """The folder of a feature network: one that is named, the user's own, or the embedded one."""
    for folder in (Path(id_or_folder), data_home() / "models" / id_or_folder, EMBEDDED / id_or_folder):
        if (folder / WEIGHTS).is_file():
            return folder
    raise ModelError(
        f"There is no feature network {id_or_folder!r}. Make one with `python -m backend evaluate train-features`,"
        " or name its folder."
    )
