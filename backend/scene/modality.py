"""Modalities as data: what a kind of imagery is, and how its rasters become the network's pictures and back.

A picture is (3, rows, cols) float32 in [-1, 1]: an image of one band shows it three times, classes show their colours.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import InputError, ModelError
from backend.protocol import data_home

if TYPE_CHECKING:
    from backend.models.bundle import SceneModelConfig

Values = NDArray[np.float32]
BUILT_IN = Path(__file__).with_name("modalities.toml")


@dataclass(frozen=True)
class MapClass:
    """A class of a map: its number in rasters, its name, and its colour as red, green and blue of 0 to 255.

    ``tags``: KEY or KEY=VALUE of OpenStreetMap features that belong to it; lines are drawn ``width_m`` wide.
    """

    value: int
    name: str
    colour: tuple[int, int, int]
    tags: tuple[str, ...] = ()
    width_m: float = 1.0


@dataclass(frozen=True)
class Modality:
    """A kind of imagery; see ``modalities.toml`` for what its parts mean."""

    id: str
    title: str
    unit: str
    bands: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 255.0
    classes: tuple[MapClass, ...] = ()
    made_from: tuple[tuple[str, str, float], ...] = ()
    """(modality, band, weight)"""

    @property
    def is_map(self) -> bool:
        """Whether its rasters hold class numbers."""
        return bool(self.classes)

    @property
    def band_count(self) -> int:
        """Bands of its rasters."""
        return 1 if self.is_map else len(self.bands)

    @property
    def is_eight_bit(self) -> bool:
        """Whether its values are whole numbers of 0 to 255."""
        return self.is_map or (self.low, self.high) == (0.0, 255.0)

    @property
    def dtype(self) -> str:
        """Of the rasters that are made of it."""
        return "uint8" if self.is_eight_bit else "float32"

    def without_unit(self) -> Modality:
        """The modality as values of 0 to 255 that nobody calibrated."""
        return dataclasses.replace(self, unit="relative, 0 to 255", low=0.0, high=255.0)

    def with_classes(self, values: tuple[int, ...]) -> Modality:
        """The map with only these of its classes; all others count as the first."""
        return dataclasses.replace(self, classes=tuple(c for c in self.classes if c.value in values))

    def to_picture(self, values: Values) -> Values:
        """(bands, rows, cols) in its unit -> a picture; values beyond the range are clipped."""
        if self.is_map:
            return self._colours()[self._numbers(values[0])].transpose(2, 0, 1)
        scaled = np.clip((values - self.low) / (self.high - self.low), 0, 1) * 2 - 1
        return np.repeat(scaled, 3, axis=0) if len(scaled) == 1 else scaled

    def from_picture(self, picture: Values) -> Values:
        """A picture -> (bands, rows, cols) in its unit; classes by the nearest colour."""
        if self.is_map:
            distance = ((picture[None] - self._colours()[:, :, None, None]) ** 2).sum(axis=1)
            numbers = np.array([c.value for c in self.classes], np.float32)
            return numbers[distance.argmin(axis=0)][None]
        shown = picture if self.band_count == 3 else picture.mean(axis=0, keepdims=True)
        values = self.low + (np.clip(shown, -1, 1) + 1) / 2 * (self.high - self.low)
        return np.rint(values).astype(np.float32) if self.is_eight_bit else values.astype(np.float32)

    def _colours(self) -> Values:
        """(classes, 3) in [-1, 1]."""
        return np.array([c.colour for c in self.classes], np.float32) / 127.5 - 1

    def _numbers(self, values: Values) -> NDArray[np.intp]:
        """Class numbers as places in ``classes``; unknown ones count as the first class."""
        places = np.zeros(values.shape, np.intp)
        for place, found in enumerate(self.classes):
            places[values == found.value] = place
        return places


def _colour(text: str) -> tuple[int, int, int]:
    number = int(text.removeprefix("#"), 16)
    return number >> 16 & 255, number >> 8 & 255, number & 255


def _modality(values: dict[str, Any]) -> Modality:
    classes = tuple(
        MapClass(int(c["value"]), str(c["name"]), _colour(c["colour"]), tuple(c.get("tags", ())),
                 float(c.get("width_m", 1.0)))
        for c in values.get("class", ())
    )
    made_from = tuple((*name.split(".", 1), float(weight)) for name, weight in values.get("from", {}).items())
    found = Modality(
        str(values["id"]),
        str(values["title"]),
        str(values.get("unit", "")),
        tuple(values.get("bands", ())),
        float(values.get("low", 0.0)),
        float(values.get("high", 255.0)),
        classes,
        made_from,
    )
    if (values["kind"] == "classes") != found.is_map or (not found.is_map and len(found.bands) not in (1, 3)):
        raise ValueError(f"{found.id} needs classes, or one band or three")
    if not found.high > found.low:
        raise ValueError(f"{found.id}: high must be above low")
    return found


def read_modalities(path: Path) -> dict[str, Modality]:
    """The modalities in a file by id; `InputError` if it cannot be understood."""
    try:
        parts = tomllib.loads(path.read_text(encoding="utf-8"))["modality"]
        return {found.id: found for found in map(_modality, parts)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not describe modalities: {error}.") from error


def known_modalities() -> dict[str, Modality]:
    """The built-in modalities, and those in the account's MetaEarth folder."""
    found = read_modalities(BUILT_IN)
    for path in sorted((data_home() / "modalities").glob("*.toml")):
        found |= read_modalities(path)
    return found


def find_modality(id_: str) -> Modality:
    """The modality of that id; `InputError` names the known ones."""
    known = known_modalities()
    if id_ not in known:
        raise InputError(f"There is no modality {id_!r}. Known: {', '.join(known)}.")
    return known[id_]


def modality_as_known(id_: str, config: SceneModelConfig) -> Modality:
    """The modality as a model knows it: without its unit, if it was trained so, and with the classes that it saw.

    `ModelError` if it lacks one of them: a file of the user describes a map of other classes under that name.
    """
    found = find_modality(id_)
    if id_ in config.classes:
        seen = config.classes[id_]
        found = found.with_classes(seen)
        if len(found.classes) < len(seen):
            numbers = ", ".join(map(str, seen))
            raise ModelError(f"{found.title} lacks classes that {config.id} was trained on ({numbers}). Give a map of"
                             " your own a name of its own.")
    return found.without_unit() if id_ in config.relative else found
