"""From files and folders to the rasters that chips are cut from: one `Imagery` a raster and ground resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.errors import InputError, MetaEarthError
from backend.raster.averaging import area_average
from backend.raster.grid import Grid, Region
from backend.raster.source import RasterSource, resolution_without_crs
from backend.raster.stretch import Stretch
from backend.scene.modality import find_modality
from backend.training.places import place_of
from backend.training.split import Companion, ImageEntry

SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".jpg", ".jpeg", ".png", ".img", ".bmp")
WHOLE = 0.02
"""How far a factor may be from a whole one to be taken for it."""


@dataclass(frozen=True)
class Imagery:
    """A raster as it is cut into chips: averaged by a whole ``factor``, or resampled to ``resample_to_m``.

    ``gsd_m``: metres per pixel of the chips. ``grid``: that of the chips' pixels. ``native_m``: metres per pixel of a
    raster without CRS. ``split``: where it is fixed beforehand; else chips are split by their place, or by ``place``.
    ``columns``: those of the chips' pixels that belong to it. ``modality``: what its ``bands`` show, if that is known;
    ``companions`` show the same place in others, ``derived`` are to be made of these.
    """

    path: str
    source: str
    licence: str
    gsd_m: float
    factor: int
    resample_to_m: float | None
    native_m: float | None
    grid: Grid
    stretch: Stretch
    split: str | None
    place: str
    columns: tuple[int, int] | None
    modality: str = ""
    bands: tuple[int, ...] | None = None
    companions: tuple[Companion, ...] = ()
    derived: tuple[str, ...] = ()
    is_relative: bool = False
    """Whether its modality has a unit that the raster's values are not in."""

    def regions(self, chip: int) -> Iterator[Region]:
        """The whole chips of ``chip`` pixels a side, without overlap, in row order."""
        left, right = self.columns or (0, self.grid.width)
        for top in range(0, self.grid.height - chip + 1, chip):
            for column in range(left, min(right, self.grid.width) - chip + 1, chip):
                yield Region(top, column, top + chip, column + chip)

    def open(self) -> RasterSource:
        """The raster behind it."""
        return RasterSource(self.path, None if self.bands is None else list(self.bands), self.native_m,
                            self.resample_to_m)

    def read(self, source: RasterSource, region: Region) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The pixels of a region, (rows, cols, 3), stretched to 8 bit, and which are valid, (rows, cols)."""
        pixels = source.read(region.scaled(self.factor))
        values = area_average(self.stretch.apply(pixels.values), self.factor).transpose(1, 2, 0)
        valid = area_average(pixels.valid, self.factor) == 1
        grey = np.rint((values + 1) * 127.5).astype(np.uint8)
        return (grey if grey.shape[2] == 3 else grey.repeat(3, axis=2)), valid


def find_rasters(paths: list[Path]) -> list[Path]:
    """The rasters named, and those in the folders named, in order; `InputError` if there are none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"There is no file or folder {path}.")
    if not found:
        raise InputError(f"There is no raster in {', '.join(map(str, paths))}.")
    return found


def plain_entries(paths: list[Path], licence: str, native_m: float | None) -> list[ImageEntry]:
    """Rasters of which nothing else is known: the folder's name is their source's.

    ``native_m``: metres per pixel of those without a CRS.
    """
    return [
        ImageEntry(path, path.parent.name, None, resolution_without_crs(path, native_m), licence=licence)
        for path in find_rasters(paths)
    ]


def imagery_of(
    entries: list[ImageEntry], gsd_m: list[float], halvings: int, chip: int, skipped: Callable[[Path, str], None]
) -> Iterator[Imagery]:
    """Every raster at every ground resolution at which a chip fits; what cannot be used is ``skipped`` with a reason.

    ``gsd_m``: the resolutions wanted; none: each raster's own and ``halvings`` halvings of its detail.
    """
    for entry in entries:
        try:
            found = list(_imagery_of(entry, gsd_m, halvings, chip))
        except MetaEarthError as error:
            skipped(entry.path, str(error))
            continue
        if not found:
            skipped(entry.path, f"no chip of {chip} pixels fits into it at a resolution that is asked for")
        yield from found


def _imagery_of(entry: ImageEntry, wanted: list[float], halvings: int, chip: int) -> Iterator[Imagery]:
    bands = None if entry.bands is None else list(entry.bands)
    modality = find_modality(entry.modality) if entry.modality else None
    if modality is not None and modality.is_map:
        raise InputError(f"{modality.title} is a map: let the rule begin with an image, and name the map beside it.")
    with RasterSource(str(entry.path), bands, entry.gsd_m) as source:
        grid, stretch = source.grid, source.percentiles() if entry.percentiles else source.stretch()
        has_unit, is_eight_bit = modality is not None and not modality.is_eight_bit, source.dtype == np.uint8
        if modality is not None and has_unit and not is_eight_bit:
            stretch = source.stretch_between(modality.low, modality.high)
    own = grid.pixel_size_m * entry.average
    for size in wanted or [own * 2**k for k in range(halvings + 1)]:
        factor, resample_to_m = _reduction(grid, size)
        if factor == 0:
            continue
        if resample_to_m is not None:
            with RasterSource(str(entry.path), bands, entry.gsd_m, resample_to_m) as source:
                coarse = source.grid
        else:
            size, coarse = grid.pixel_size_m * factor, reduced(grid, factor)
        found = Imagery(
            str(entry.path.absolute()),
            entry.source,
            entry.licence,
            size,
            factor,
            resample_to_m,
            entry.gsd_m,
            coarse,
            stretch,
            entry.split,
            entry.place or place_of(entry.path),
            _columns_on_chips(entry.columns, size / grid.pixel_size_m),
            entry.modality,
            entry.bands,
            entry.companions,
            entry.derived,
            has_unit and is_eight_bit,
        )
        if next(found.regions(chip), None) is not None:
            yield found


def _columns_on_chips(columns: tuple[int, int] | None, ratio: float) -> tuple[int, int] | None:
    """Columns of pixels ``ratio`` times as wide that lie whole inside ``columns`` of a raster."""
    if columns is None:
        return None
    nearly = 1e-6
    return math.ceil(columns[0] / ratio - nearly), math.floor(columns[1] / ratio + nearly)


def _reduction(grid: Grid, size_m: float) -> tuple[int, float | None]:
    """(whole factor, resolution to resample to first); factor 0 where the raster is too coarse, or cannot be warped."""
    ratio = size_m / grid.pixel_size_m
    factor = round(ratio)
    if factor >= 1 and abs(ratio / factor - 1) <= WHOLE:
        return factor, None
    return (1, size_m) if ratio > 1 and grid.crs is not None else (0, None)


def reduced(grid: Grid, factor: int) -> Grid:
    """The grid of blocks of ``factor`` x ``factor`` pixels, without what is left over at the end."""
    coarse = grid.transform @ grid.transform.scale(factor)
    return Grid(grid.height // factor, grid.width // factor, coarse, grid.crs, grid.pixel_size_m * factor)
