"""Held-out chips by ground resolution, with the place that each was taken from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.warp import transform

from backend.errors import InputError
from backend.raster.averaging import average_down
from backend.training.data import Picture, load_pictures
from backend.training.degradation import reduce_bicubic

Values = NDArray[np.float32]
GROUND_RESOLUTIONS = (0.1, 0.2, 0.3, 0.6, 1.0, 5.0, 10.0, 20.0, 30.0, 150.0, 300.0)
"""Of the tables on collections, m/px; chips of a prepared set count for their own."""
REDUCTIONS = (1, 2, 3, 5)
NEAR = 0.25
"""Natural logarithm of how far a picture may be from the ground resolution it counts for."""
MUCH_THE_SAME = 1.15
"""Resolutions of one sensor differ by so much over the latitudes of a country."""
FLAT = 3.0
"""Chips of a smaller standard deviation show next to nothing."""


@dataclass(frozen=True)
class Chip:
    """(rows, cols, 3) float32 in 0..255 at ``gsd_m``; chips of one ``place`` are no independent samples.

    ``lon_lat``: degrees, None where the file does not say.
    """

    pixels: Values
    gsd_m: float
    source: str
    place: str
    lon_lat: tuple[float, float] | None


class Crop(NamedTuple):
    """(3, rows, cols) float32 in 0..255, and the place that it shows."""

    pixels: Values
    place: str


def nominal(gsd_m: float) -> float | None:
    """The ground resolution of the tables that ``gsd_m`` counts for, if one is near enough."""
    nearest = min(GROUND_RESOLUTIONS, key=lambda g: abs(math.log(g / gsd_m)))
    return nearest if abs(math.log(nearest / gsd_m)) <= NEAR else None


def lon_lat_of(path: Path) -> tuple[float, float] | None:
    """Longitude and latitude of a picture's centre: from its georeference, or from the tile numbers in its name."""
    tile = re.fullmatch(r"OAM-(\d+)-(\d+)-(\d+)", path.stem)
    if tile:
        x, y, zoom = (int(v) for v in tile.groups())
        mercator = math.pi * (1 - 2 * (y + 0.5) / 2**zoom)
        return (x + 0.5) / 2**zoom * 360 - 180, math.degrees(math.atan(math.sinh(mercator)))
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with rasterio.open(path) as dataset:
            if dataset.crs is None:
                return None
            x, y = dataset.transform @ (dataset.width / 2, dataset.height / 2)
            (lon,), (lat,) = transform(dataset.crs, "EPSG:4326", [x], [y])
    except RasterioError:
        return None
    return float(lon), float(lat)


def _counted_as(picture: Picture, reduction: int) -> float | None:
    """The ground resolution of the tables that the picture counts for when it is averaged down."""
    gsd_m = picture.gsd_m * reduction
    return float(f"{gsd_m:.2g}") if picture.prepared else nominal(gsd_m)


def _chips_of(picture: Picture, tile: int) -> Iterator[Chip]:
    where = picture.lon_lat or lon_lat_of(picture.path)
    for reduction in REDUCTIONS:
        gsd_m = _counted_as(picture, reduction)
        if gsd_m is None:
            continue
        pixels = average_down(picture.pixels, reduction)
        rows, cols = (n // tile for n in pixels.shape[:2])
        for r in range(rows):
            for c in range(cols):
                part = pixels[r * tile:(r + 1) * tile, c * tile:(c + 1) * tile]
                if part.std(axis=(0, 1)).max() > FLAT:
                    yield Chip(part, gsd_m, picture.source, picture.place, where)


def spread(items: list, limit: int) -> list:
    """Up to ``limit`` of the items, spread evenly over them."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(limit, len(items))).round().astype(int)]


def chips_of(pictures: list[Picture], tile: int, limit: int) -> dict[float, list[Chip]]:
    """Up to ``limit`` chips of ``tile`` pixels a side for each ground resolution, spread evenly over the pictures."""
    found: dict[float, list[Chip]] = {}
    for picture in pictures:
        for chip in _chips_of(picture, tile):
            found.setdefault(chip.gsd_m, []).append(chip)
    if not found:
        raise InputError(
            f"There is no RGB imagery of this split of at least {tile} pixels a side in the folder. It must be a"
            " prepared set, or laid out as backend/training/split.toml says with imagery of about "
            f"{', '.join(f'{gsd:g}' for gsd in GROUND_RESOLUTIONS)} m per pixel."
        )
    return {gsd: spread(some, limit) for gsd, some in _together(found).items()}


def _together(chips: dict[float, list[Chip]]) -> dict[float, list[Chip]]:
    """The chips, those of nearly the same ground resolution under the finest of theirs."""
    found: dict[float, list[Chip]] = {}
    for gsd_m in sorted(chips):
        finest = next((other for other in found if gsd_m / other < MUCH_THE_SAME), gsd_m)
        found.setdefault(finest, []).extend(replace(chip, gsd_m=finest) for chip in chips[gsd_m])
    return found


def held_out_chips(root: Path, split: str, tile: int, limit: int) -> dict[float, list[Chip]]:
    """`chips_of` the pictures of a split under ``root``."""
    return chips_of(load_pictures(root, split), tile, limit)


def coarse_crops(
    pictures: list[Picture], gsd_m: float, scale: int, tile: int, limit: int, seed: int = 0
) -> list[Crop]:
    """Random crops of pictures whose own pixels are ``scale`` times coarser than ``gsd_m``.

    Real images of a coarser sensor as input, the paper's row 4m*. One crop a picture, more where pictures are few.
    """
    side = tile // scale
    fitting = [
        p for p in pictures
        if abs(math.log(p.gsd_m / (gsd_m * scale))) <= NEAR and min(p.pixels.shape[:2]) >= side
    ]
    fitting = spread(fitting, limit)
    rng = np.random.default_rng(seed)
    crops = []
    for k in range(limit if fitting else 0):
        picture = fitting[k % len(fitting)]
        top, left = (int(rng.integers(n - side + 1)) for n in picture.pixels.shape[:2])
        pixels = picture.pixels[top:top + side, left:left + side].transpose(2, 0, 1).astype(np.float32)
        crops.append(Crop(pixels, picture.place))
    return [crop for crop in crops if crop.pixels.std(axis=(1, 2)).max() > FLAT]


def low_resolution(pixels: Values, scale: int, kernel: str = "area") -> Values:
    """(rows, cols, 3) -> (3, rows / scale, cols / scale): the area average, or bicubic with antialiasing."""
    if kernel == "area":
        return np.ascontiguousarray(average_down(pixels, scale).transpose(2, 0, 1))
    whole = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return reduce_bicubic(whole, scale).clamp(0, 255).numpy()
