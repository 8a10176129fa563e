"""Where training crops are drawn from: pictures in memory, or a prepared set of chips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray

from backend.errors import InputError
from backend.raster.averaging import average_down
from backend.training.chips import ChipSet, is_chip_set
from backend.training.places import place_of
from backend.training.split import ImageEntry, entries, require_training_split

Image = NDArray[np.uint8]
MOST_BYTES = 1_000_000_000
"""So much of a prepared set is held in memory at once."""


@dataclass(frozen=True)
class Picture:
    """An image in memory: (rows, cols, 3) uint8, metres per pixel, its source and its file.

    ``lon_lat``: of its centre in degrees, if that is known without the file. ``prepared``: it is a prepared set's chip.
    """

    pixels: Image
    gsd_m: float
    source: str
    path: Path
    lon_lat: tuple[float, float] | None = None
    prepared: bool = False

    @property
    def place(self) -> str:
        """What it shows: pictures of one place are no independent samples, whatever their dates."""
        return f"{self.source}/{place_of(self.path)}"


def read_picture(entry: ImageEntry) -> Picture:
    """The entry's pixels as RGB."""
    from PIL import Image as PilImage

    with PilImage.open(entry.path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    if entry.columns:
        pixels = pixels[:, slice(*entry.columns)]
    if entry.average > 1:
        pixels = np.rint(average_down(pixels, entry.average)).astype(np.uint8)
    if entry.gsd_m is None:
        raise InputError(f"The metres per pixel of {entry.path} are not known.")
    return Picture(pixels, entry.gsd_m * entry.average, entry.source, entry.path)


def turned(pixels: NDArray, rng: np.random.Generator) -> NDArray:
    """(rows, cols, bands) turned by some quarters and mirrored or not, at random."""
    quarters = np.rot90(pixels, int(rng.integers(4)))
    return quarters[:, ::-1] if rng.random() < 0.5 else quarters


def is_rgb(path: Path) -> bool:
    """Whether a file holds an 8-bit picture with red, green and blue first: no near infrared, no elevations."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        from PIL import Image as PilImage

        with PilImage.open(path) as opened:
            return opened.mode in ("RGB", "RGBA", "P")
    with rasterio.open(path) as dataset:
        return dataset.count in (3, 4) and dataset.dtypes[0] == "uint8"


def load_pictures(root: Path, split: str) -> list[Picture]:
    """Every picture of a split, of a folder laid out as ``split.toml`` says; or a prepared set's chips in RGB.

    Of a very large set some chips, evenly spread.
    """
    if not is_chip_set(root):
        return [read_picture(entry) for entry in entries(root, split) if is_rgb(entry.path)]
    chips = ChipSet(root, split)
    facts = chips.all_facts()
    shown = in_rgb(chips)
    step = -(-len(shown) * chips.read(shown[0]).nbytes // MOST_BYTES) if shown else 1
    return [_chip_picture(chips, number, Path(facts[number]["file"])) for number in shown[::step]]


def in_rgb(chips: ChipSet) -> list[int]:
    """The numbers of the chips that are pictures in red, green and blue, as far as is known."""
    return [number for number, record in enumerate(chips.records) if record.modality in ("", "rgb")]


def _chip_picture(chips: ChipSet, number: int, file: Path) -> Picture:
    record = chips.records[number]
    lon_lat = None
    if record.longitude is not None and record.latitude is not None:
        lon_lat = record.longitude, record.latitude
    return Picture(chips.read(number), record.gsd_m, record.source, file, lon_lat, prepared=True)


class Pool(Protocol):
    """Pictures to draw crops from; ``resolutions``: the finest and the coarsest metres per pixel of the crops."""

    resolutions: tuple[float, float]

    def __len__(self) -> int:
        """Crops in an epoch."""

    def draw(self, index: int, rng: np.random.Generator) -> tuple[Picture, int]:
        """The picture of example ``index``, and by how much it is averaged first."""


class PictureFolder:
    """Pictures in memory, drawn so that neither chips nor large scenes dominate.

    A picture's weight is the square root of its source's area shared among the source's pictures by area,
    spread over the reductions (1, 2, 3, 4, 6, 8 times coarser) at which a crop still fits.
    """

    REDUCTIONS = (1, 2, 3, 4, 6, 8)

    def __init__(self, found: list[ImageEntry], crop: int) -> None:
        self.pictures = [read_picture(e) for e in require_training_split(found)]
        if not self.pictures:
            raise InputError("There is no training picture in the folder: split.toml says which paths are looked for.")
        area: dict[str, float] = {}
        for p in self.pictures:
            area[p.source] = area.get(p.source, 0.0) + p.pixels.size
        self.choices: list[tuple[Picture, int]] = []
        weights = []
        for p in self.pictures:
            for reduction in self.REDUCTIONS:
                if min(p.pixels.shape[:2]) // reduction >= crop:
                    self.choices.append((p, reduction))
                    weights.append(p.pixels.size / math.sqrt(area[p.source]) / reduction**0.5)
        if not self.choices:
            raise InputError(f"No training picture has {crop} pixels a side: choose a smaller crop.")
        self.weights = np.cumsum(weights) / np.sum(weights)
        sizes = [p.gsd_m * reduction for p, reduction in self.choices]
        self.resolutions = min(sizes), max(sizes)

    def __len__(self) -> int:
        return len(self.choices)

    def draw(self, index: int, rng: np.random.Generator) -> tuple[Picture, int]:
        """A random picture and reduction."""
        return self.choices[min(int(np.searchsorted(self.weights, rng.random())), len(self.choices) - 1)]


class ChipPool:
    """The chips in RGB of a split of a prepared set; in every epoch each of them once, in another order."""

    def __init__(self, chips: ChipSet, crop: int, seed: int) -> None:
        self.numbers = in_rgb(chips)
        if not self.numbers:
            raise InputError(f"The prepared set in {chips.folder} has no chips in RGB in its {chips.split} split.")
        if (side := min(chips.read(self.numbers[0]).shape[:2])) < crop:
            raise InputError(
                f"The chips in {chips.folder} have {side} pixels a side, and crops of {crop} are asked for: choose a"
                " smaller crop, or prepare larger chips."
            )
        self.chips, self.seed = chips, seed
        sizes = [chips.records[number].gsd_m for number in self.numbers]
        self.resolutions = min(sizes), max(sizes)
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.numbers)

    def draw(self, index: int, rng: np.random.Generator) -> tuple[Picture, int]:
        """The chip that is due."""
        epoch, place = divmod(index, len(self))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self))
        number = self.numbers[self._order[place]]
        record = self.chips.records[number]
        return Picture(self.chips.read(number), record.gsd_m, record.source, self.chips.folder), 1


def training_pool(data: Path, crop: int, seed: int) -> Pool:
    """What a model is trained on: a prepared set, or a folder of imagery laid out as ``split.toml`` says."""
    return ChipPool(ChipSet(data, "train"), crop, seed) if is_chip_set(data) else PictureFolder(
        list(entries(data, "train")), crop)


def validation_pool(data: Path, crop: int) -> Pool | None:
    """What it is looked at with meanwhile, if the data are prepared and have any."""
    chips = ChipSet(data, "validation") if is_chip_set(data) else None
    return ChipPool(chips, crop, 0) if chips is not None and in_rgb(chips) else None
