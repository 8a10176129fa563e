"""What makes one modality of another: MetaEarth-MM, and the regression baseline.

Rasters are (bands, rows, cols) in 0..255, or class numbers, at most one window large; a window is filled up by
reflection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from backend.devices import choose_device
from backend.errors import ModelError
from backend.models.bundle import SceneModelConfig, find_any_bundle
from backend.models.scene_regression import SceneRegression
from backend.scene.engine import Observed, SceneEngine, Window
from backend.scene.modality import Modality, find_modality, modality_as_known

Values = NDArray[np.float32]


class Draw(NamedTuple):
    """The noise that a sample begins with: of that seed, or its negative."""

    seed: int
    negative: bool = False


def antithetic(seed: int, count: int) -> list[Draw]:
    """Noise for some samples, in pairs of a field and its negative.

    Each is a fair sample by itself; what they differ by nearly cancels out in their mean (antithetic variates,
    Hammersley and Morton 1956).
    """
    return [Draw(seed + number // 2, number % 2 == 1) for number in range(count)]


def in_chips(name: str) -> Modality:
    """A modality as it is in chips: images have values of 0 to 255."""
    return find_modality(name).without_unit()


def as_known(config: SceneModelConfig) -> dict[str, Modality]:
    """A model's modalities, as they are in chips, maps with the classes that the model knows."""
    return {name: modality_as_known(name, config).without_unit() for name in config.network.modalities}


def filled_up(picture: Values, tile: int) -> Values:
    """(3, rows, cols) -> (3, tile, tile), with the picture in the middle."""
    before = [(tile - n) // 2 for n in picture.shape[1:]]
    after = [tile - n - b for n, b in zip(picture.shape[1:], before)]
    return np.pad(picture, [(0, 0), (before[0], after[0]), (before[1], after[1])], mode="reflect")


def middle(picture: Values, shape: tuple[int, ...]) -> Values:
    """The inverse: the (rows, cols) of ``shape`` in the middle."""
    top, left = ((n - wanted) // 2 for n, wanted in zip(picture.shape[1:], shape))
    return picture[:, top:top + shape[0], left:left + shape[1]]


def joined(pictures: Values, modality: Modality) -> Values:
    """What pictures (n, 3, rows, cols) say together: their mean, or of a map each pixel's most frequent class."""
    if not modality.is_map:
        return modality.from_picture(pictures.mean(axis=0))
    maps = np.stack([modality.from_picture(p) for p in pictures])
    votes = np.stack([(maps == c.value).sum(axis=0) for c in modality.classes])
    return np.array([c.value for c in modality.classes], np.float32)[votes.argmax(axis=0)]


class SceneTranslator:
    """MetaEarth-MM on single chips; ``number`` tells a chip's noise from that of others."""

    def __init__(self, engine: SceneEngine) -> None:
        self.engine, self.tile = engine, engine.config.network.tile
        self.modalities = as_known(engine.config)

    def translate(
        self, given: dict[str, Values], target: str, gsd_m: float, number: int, draws: Sequence[Draw]
    ) -> Values:
        """Pictures of the target, one a draw: (draws, 3, rows, cols) in [-1, 1]."""
        shape = next(iter(given.values())).shape[1:]
        known = np.ones((self.tile, self.tile), bool)
        observed = [
            Observed(name, filled_up(self.modalities[name].to_picture(values), self.tile), known)
            for name, values in given.items()
        ]
        made = [self._window(observed, [target], gsd_m, number, draw)[0] for draw in draws]
        return np.stack([middle(picture, shape) for picture in made])

    def generate(self, targets: list[str], gsd_m: float, number: int, seed: int) -> dict[str, Values]:
        """A window of a scene from noise, in the targets' values."""
        made = self._window([], targets, gsd_m, number, Draw(seed))
        return {name: self.modalities[name].from_picture(picture) for name, picture in zip(targets, made)}

    def _window(
        self, observed: list[Observed], targets: list[str], gsd_m: float, number: int, draw: Draw
    ) -> Values:
        noises = [self.engine.window_noise(draw.seed, name, 0, number * self.tile) for name in targets]
        noises = [-noise for noise in noises] if draw.negative else noises
        return self.engine.windows([Window(observed, noises)], targets, gsd_m)[0]


class BaselineTranslator:
    """A network trained with ``objective=l1`` on single chips."""

    def __init__(self, id_or_folder: str, device: str) -> None:
        bundle = find_any_bundle(id_or_folder)
        config, network = bundle.config, bundle.load()
        if not (isinstance(config, SceneModelConfig) and isinstance(network, SceneRegression)):
            raise ModelError(f"{config.id} is no baseline; one is trained with `--set objective=l1`.")
        self.id, self.sha256, self.network = config.id, bundle.sha256(), config.network
        self.device = choose_device(device)
        self.net = network.to(self.device)
        self.modalities = as_known(config)

    def knows(self, *names: str) -> bool:
        """Whether it has parts for all of some modalities."""
        return set(names) <= set(self.modalities)

    @torch.inference_mode()
    def translate(self, given: dict[str, Values], target: str, gsd_m: float) -> Values:
        """The target's values."""
        shape = next(iter(given.values())).shape[1:]
        pictures = [filled_up(self.modalities[n].to_picture(v), self.network.tile) for n, v in given.items()]
        numbers = torch.tensor([[self.network.modalities.index(name) for name in given]], device=self.device)
        made = self.net(
            torch.from_numpy(np.stack(pictures)[None]).to(self.device),
            numbers,
            torch.ones_like(numbers, dtype=torch.bool),
            torch.tensor([gsd_m], dtype=torch.float32, device=self.device),
        )
        picture = made[0, self.network.modalities.index(target)].clamp(-1, 1).cpu().numpy()
        return self.modalities[target].from_picture(middle(picture, shape))
