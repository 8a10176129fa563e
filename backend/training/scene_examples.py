"""Training examples of MetaEarth-MM: one crop of one place in several modalities, their times and noise.

Example ``i`` is a function of the seed and ``i`` alone, as in the cascade's training.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from backend.errors import InputError
from backend.models.scene_config import SceneNetworkConfig
from backend.raster.averaging import average_down
from backend.scene.modality import Modality, find_modality
from backend.training.chips import ChipRecord, ChipSet
from backend.training.scene_objective import SceneBatch

Values = NDArray[np.float32]
MODES = ("vae", "expectation", "flow", "l1")
"""What is trained: the picture autoencoder first, then the regression, then the rest around them; or the baseline."""
REDUCTIONS = (1, 1, 2, 3)
OBSERVED_SHARE = 0.6
"""Of the examples whose streams are partly observed; in the others all have times of their own."""
MOST_SCENES = 5000
"""So many of a pool are looked at before training. A class of a map that is in none of them is taken for not there."""


@dataclass(frozen=True)
class Tuple:
    """One place: rasters of some modalities on one grid, (rows, cols, bands) uint8, and metres per pixel."""

    rasters: dict[str, NDArray[np.uint8]]
    gsd_m: float


class ScenePool(Protocol):
    """Scenes to draw crops from."""

    def __len__(self) -> int:
        """Scenes in an epoch."""

    def draw_scene(self, index: int, rng: np.random.Generator) -> Tuple:
        """The scene of example ``index``."""

    def scenes(self) -> Iterator[Tuple]:
        """Every scene once; of very many, some."""


def reduced(values: NDArray[np.uint8], modality: Modality, factor: int) -> Values:
    """(rows, cols, bands) area-averaged by ``factor``; of classes the most frequent one."""
    if factor == 1:
        return values.astype(np.float32)
    if not modality.is_map:
        return average_down(values, factor)
    shares = np.stack([average_down(values == c.value, factor)[..., 0] for c in modality.classes])
    return np.array([c.value for c in modality.classes], np.float32)[shares.argmax(axis=0)][..., None]


class SceneExamples(Dataset):
    """The examples of a run, by number. All examples of a batch of ``group`` have equally many streams."""

    def __init__(
        self,
        pool: ScenePool,
        network: SceneNetworkConfig,
        modalities: dict[str, Modality],
        crop: int,
        seed: int,
        group: int,
        most_streams: int = 3,
    ) -> None:
        self.pool, self.network, self.modalities, self.crop, self.seed = pool, network, modalities, crop, seed
        self.group, self.most_streams = group, most_streams

    def __getitem__(self, index: int) -> SceneBatch:
        """Example ``index``, without the batch's dimension."""
        count = int(np.random.default_rng((self.seed, 1, index // self.group)).integers(2, self.most_streams + 1))
        rng = np.random.default_rng((self.seed, 0, index))
        scene = self.pool.draw_scene(index, rng)
        known = sorted(m for m in scene.rasters if m in self.network.modalities)
        # where a place has fewer modalities than its batch has streams, one of them is shown twice
        chosen = [known[k] for k in rng.permutation(len(known))]
        chosen = [chosen[k % len(chosen)] for k in range(count)]
        pictures, gsd_m = self._crops(scene, chosen, rng)
        vae = self.network.vae
        shape = (count, vae.channels, self.crop // vae.fold, self.crop // vae.fold)
        return SceneBatch(
            torch.from_numpy(pictures),
            torch.tensor([self.network.modalities.index(m) for m in chosen]),
            torch.from_numpy(draw_stream_times(count, rng)),
            torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)),
            torch.tensor(gsd_m, dtype=torch.float32),
        )

    def whole_pictures(self) -> Iterator[dict[int, torch.Tensor]]:
        """Every scene of the pool as it is, by modality's number: pictures (3, rows, cols)."""
        numbers = {name: number for number, name in enumerate(self.network.modalities)}
        for scene in self.pool.scenes():
            rasters = {m: v.astype(np.float32) for m, v in scene.rasters.items() if m in numbers}
            yield {numbers[m]: torch.from_numpy(picture_of(self.modalities[m], v)) for m, v in rasters.items()}

    def _crops(self, scene: Tuple, chosen: list[str], rng: np.random.Generator) -> tuple[Values, float]:
        """One random crop of every chosen modality, equally turned and mirrored: (streams, 3, crop, crop)."""
        rows, cols = next(iter(scene.rasters.values())).shape[:2]
        fitting = fitting_reductions(min(rows, cols), self.crop)
        factor = int(fitting[rng.integers(len(fitting))])
        size = self.crop * factor
        top, left = (int(rng.integers(max(1, n - size + 1))) for n in (rows, cols))
        turns, mirror = int(rng.integers(4)), bool(rng.random() < 0.5)
        pictures = []
        for name in chosen:
            modality = self.modalities[name]
            part = reduced(scene.rasters[name][top:top + size, left:left + size], modality, factor)
            missing = [(0, self.crop - n) for n in part.shape[:2]]
            part = np.pad(part, [*missing, (0, 0)], mode="symmetric")
            part = np.rot90(part, turns)
            part = part[:, ::-1] if mirror else part
            pictures.append(picture_of(modality, part))
        return np.stack(pictures), scene.gsd_m * factor


def fitting_reductions(side: int, crop: int) -> list[int]:
    """Those of `REDUCTIONS` after which a chip of so many pixels still holds a crop; 1 alone if it never does."""
    return [r for r in REDUCTIONS if side >= crop * r] or [1]


def picture_of(modality: Modality, values: Values) -> Values:
    """(rows, cols, bands) of 0 to 255, or of class numbers, -> a picture (3, rows, cols)."""
    bands = np.ascontiguousarray(values.transpose(2, 0, 1))
    if modality.is_map:
        return modality.to_picture(bands)
    shown = bands / 127.5 - 1
    return np.repeat(shown, 3, axis=0) if len(shown) == 1 else shown


def draw_stream_times(count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Times of the streams: independent and uniform [paper]; mostly some streams are observed, at time 1 [ours]."""
    times = rng.random(count).astype(np.float32)
    if rng.random() < OBSERVED_SHARE:
        observed = rng.permutation(count)[: int(rng.integers(1, count))]
        times[observed] = 1.0
    return times


class TuplePool:
    """The chips of a prepared set that show a place in two modalities or more.

    A chip is drawn with a weight of one over the square root of how many show the same modalities: rare pairs come more
    often than they are.
    """

    def __init__(self, chips: ChipSet, modalities: tuple[str, ...]) -> None:
        self.chips, self.modalities = chips, modalities
        known = [shown(record) & set(modalities) for record in chips.records]
        self.numbers = [number for number, found in enumerate(known) if len(found) > 1]
        if not self.numbers:
            raise InputError(
                f"The prepared set in {chips.folder} shows no place in two of {', '.join(modalities)}; prepare one with"
                " a collection that names modalities, such as backend/training/tuples.toml."
            )
        alike = Counter(frozenset(known[n]) for n in self.numbers)
        weights = np.array([alike[frozenset(known[n])] ** -0.5 for n in self.numbers])
        self.weights = np.cumsum(weights) / weights.sum()
        self.pairs = {(a, b) for found in alike for a, b in itertools.combinations(sorted(found), 2)}

    def __len__(self) -> int:
        return len(self.numbers)

    def classes(self, modality: str) -> tuple[int, ...]:
        """The classes that are in the chips' maps of a modality, in the order of their numbers."""
        showing = [number for number in self.numbers if modality in shown(self.chips.records[number])]
        found = {int(value) for n in _some(showing) for value in np.unique(self.chips.read_all(n)[modality])}
        return tuple(sorted(found))

    def relative(self) -> set[str]:
        """The modalities that have a unit, but whose values nobody calibrated in some chips, or nobody tells."""
        with_unit = {m for m in self.modalities if not find_modality(m).is_eight_bit}
        facts, found = self.chips.all_facts() if with_unit else [], set[str]()
        for number in self.numbers if with_unit else ():
            told = facts[number].get("relative")
            found |= with_unit & shown(self.chips.records[number]) & set(with_unit if told is None else told)
        return found

    def resolutions(self, crop: int) -> dict[str, tuple[float, float]]:
        """By modality the finest and the coarsest metres per pixel that crops of so many pixels are drawn at."""
        seen: dict[str, list[float]] = {}
        for number in self.numbers:
            for name in shown(self.chips.records[number]) & set(self.modalities):
                seen.setdefault(name, []).append(self.chips.records[number].gsd_m)
        coarser = max(fitting_reductions(min(self.chips.read(self.numbers[0]).shape[:2]), crop))
        return {name: (min(sizes), max(sizes) * coarser) for name, sizes in sorted(seen.items())}

    def scenes(self) -> Iterator[Tuple]:
        """Every chip once, at most `MOST_SCENES`."""
        for number in _some(self.numbers):
            yield Tuple(self.chips.read_all(number), self.chips.records[number].gsd_m)

    def draw_scene(self, index: int, rng: np.random.Generator) -> Tuple:
        """A random chip in all its modalities."""
        place = min(int(np.searchsorted(self.weights, rng.random())), len(self.numbers) - 1)
        number = self.numbers[place]
        return Tuple(self.chips.read_all(number), self.chips.records[number].gsd_m)


def _some(numbers: list[int]) -> list[int]:
    """At most `MOST_SCENES` of them, evenly spread."""
    return numbers[:: -(-len(numbers) // MOST_SCENES) or 1]


def shown(record: ChipRecord) -> set[str]:
    """The modalities of a chip."""
    return {record.modality, *(told.split(":")[0] for told in record.others.split())}


class RandomScenes:
    """Scenes of nothing, to see whether a configuration runs."""

    def __init__(self, side: int, modalities: tuple[str, ...]) -> None:
        rng = np.random.default_rng(0)
        self.scene = Tuple({m: rng.integers(0, 2, (side, side, 3), np.uint8) * 255 for m in modalities}, 1.0)

    def __len__(self) -> int:
        return 1

    def draw_scene(self, index: int, rng: np.random.Generator) -> Tuple:
        """Always the same."""
        return self.scene

    def scenes(self) -> Iterator[Tuple]:
        """The one there is."""
        yield self.scene
