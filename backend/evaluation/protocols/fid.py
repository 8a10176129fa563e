"""``evaluate fid``: how far generated imagery is from real imagery, by place and by ground resolution.

The paper's protocol: bicubic-downsampled real images are made fine again; Fréchet distances by longitude band,
hemisphere and output resolution, with and without the resolution branch; and the starred row, whose inputs are random
crops of real images of a coarser sensor. Bands are 60 degrees wide [ours].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.devices import choose_device
from backend.evaluation.chips import Chip, chips_of, coarse_crops, low_resolution
from backend.evaluation.distances import frechet_at_infinity, frechet_difference, frechet_estimate, kernel_distance
from backend.evaluation.features import Extractor, load_extractor
from backend.evaluation.makers import Maker, bicubic, maker_of, side_by_side
from backend.evaluation.table import Row, Table
from backend.jobs.engines import open_engine
from backend.models.bundle import find_bundle
from backend.models.feature_network import FEATURE_MODEL
from backend.progress import Check, Report, watched
from backend.training.data import load_pictures

Images = NDArray[np.uint8]
"""(n, 3, rows, cols)"""
Features = NDArray[np.float64]
FEWEST = 8
"""Groups of fewer chips get no row."""
NOTES = (
    "Input: real images made coarser by bicubic interpolation; starred rows: random crops of real images of a sensor"
    " four times coarser, of other places. Brackets: 95 % bootstrap intervals over places (over images where there are"
    " fewer than five places). Crops of a single place have no kernel distance: they are no independent samples.",
    "The Fréchet distance of few images is too large, by an amount that falls as 1/n; compare within a group only. Its"
    " interval tells the spread and has the same bias. The kernel distance (unbiased MMD^2 of a cubic kernel; no image"
    " is compared with what it was made from) has none; 0 is a perfect match.",
)


@dataclass(frozen=True)
class FidSettings:
    """A model, and optionally one ``without`` the resolution branch, on at most ``limit`` chips a resolution."""

    data: Path
    output: Path
    model: str = "metaearth-lite"
    without: str | None = None
    split: str = "validation"
    limit: int = 100
    features: str = FEATURE_MODEL
    consistency: float = 1.0
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Made:
    """What one method made of every chip, as features; and, by ground resolution, of other sensors' images."""

    name: str
    of_chips: Features
    of_coarse: dict[float, Features]


def fid(settings: FidSettings, report: Report, check: Check) -> Table:
    """The table, and samples.png (input, bicubic, models, real) in ``output``."""
    device = choose_device(settings.device)
    extractor = load_extractor(settings.features, device)
    bundles = [find_bundle(m) for m in (settings.model, settings.without) if m]
    network = bundles[0].config.network
    pictures = load_pictures(settings.data, settings.split)
    chips = chips_of(pictures, network.tile, settings.limit)
    flat = [chip for some in chips.values() for chip in some]
    lows = [low_resolution(chip.pixels, network.scale, "bicubic") for chip in flat]
    crops = {
        gsd: coarse_crops(pictures, gsd, network.scale, network.tile, settings.limit, settings.seed)
        for gsd in chips
    }
    coarse = {gsd: some for gsd, some in crops.items() if len(some) >= FEWEST}
    makers: dict[str, Maker] = {"bicubic": bicubic(network.scale)}
    for bundle, role in zip(bundles, ("", ", without resolution branch")):
        engine = open_engine(bundle, settings.device)
        makers[engine.config.id + role] = maker_of(engine, settings.consistency, check)

    real = extractor(np.stack([chip.pixels.transpose(2, 0, 1) for chip in flat]), report, check)
    made, shown = [], [[low] for low in lows[:6]]
    for name, make in makers.items():
        images = make_all(make, lows, [c.gsd_m for c in flat], settings.seed, name, report, check)
        for line, image in zip(shown, images):
            line.append(image.astype(np.float32))
        others = {
            gsd: extractor(
                make_all(
                    make, [c.pixels for c in some], [gsd] * len(some), settings.seed, f"{name}, {gsd:g}*", report, check
                )
            )
            for gsd, some in coarse.items()
        }
        made.append(Made(name, extractor(images, report, check), others))
    settings.output.mkdir(parents=True, exist_ok=True)
    for line, chip in zip(shown, flat):
        line.append(chip.pixels.transpose(2, 0, 1))
    side_by_side(shown).save(settings.output / "samples.png")
    coarse_places = {gsd: [c.place for c in some] for gsd, some in coarse.items()}
    rows = distance_rows(flat, real, made, coarse_places, extractor, report, check)
    facts = _facts(settings, bundles[0].config.id, extractor, len(flat))
    table = Table("Distance of generated to real imagery", rows, facts, NOTES)
    table.write(settings.output)
    return table


def make_all(
    make: Maker, lows: list, gsds: list[float], seed: int, name: str, report: Report, check: Check
) -> Images:
    """Every input made fine, each with a seed of its own."""
    numbered = list(enumerate(zip(lows, gsds)))
    made = [make(low, gsd, seed + n) for n, (low, gsd) in watched(numbered, name, report, check)]
    return np.stack(made).astype(np.uint8)


def _facts(settings: FidSettings, model: str, extractor: Extractor, chips: int) -> dict:
    return {
        "features": extractor.name,
        "features sha256": extractor.weights_sha256[:16],
        "model": model,
        "split": settings.split,
        "chips": chips,
        "consistency": settings.consistency,
        "seed": settings.seed,
    }


GROUPINGS: dict[str, Callable[[Chip], str | None]] = {
    "all": lambda chip: "all",
    "hemisphere": lambda chip: None if chip.lon_lat is None else "north" if chip.lon_lat[1] >= 0 else "south",
    "longitude": lambda chip: None if chip.lon_lat is None else longitude_band(chip.lon_lat[0]),
    "source": lambda chip: chip.source,
    "output m/px": lambda chip: f"{chip.gsd_m:g}",
}


def longitude_band(lon: float, width: int = 60) -> str:
    """The band of ``width`` degrees that a longitude lies in, as "-120 to -60"."""
    start = math.floor((lon + 180) % 360 / width) * width - 180
    return f"{start} to {start + width}"


def distance_rows(
    chips: list[Chip],
    real: Features,
    made: list[Made],
    coarse_places: dict[float, list[str]],
    extractor: Extractor,
    report: Report,
    check: Check,
) -> list[Row]:
    """One row for each group of chips and method; the last method's difference from the one with the branch.

    ``coarse_places``: of the images behind each method's ``of_coarse``.
    """
    groups: list[tuple[str, str, list[int]]] = []
    for kind, key in GROUPINGS.items():
        found: dict[str, list[int]] = {}
        for n, chip in enumerate(chips):
            if (name := key(chip)) is not None:
                found.setdefault(name, []).append(n)
        groups += [(kind, name, members) for name, members in found.items() if len(members) >= FEWEST or kind == "all"]
    rows: list[Row] = []
    for kind, name, members in watched(groups, "distances and their intervals", report, check):
        places = [chips[n].place for n in members]
        rows += [_row(kind, name, real[members], m.name, m.of_chips[members], extractor, places) for m in made]
        if len(made) == 3:
            a, b = (m.of_chips[members] for m in made[1:])
            rows[-2]["less that without branch"] = frechet_difference(real[members], a, b, places)
        if kind == "output m/px":
            gsd = chips[members[0]].gsd_m
            rows += [
                _row(kind, f"{name}*", real[members], m.name, m.of_coarse[gsd], extractor, places, coarse_places[gsd])
                for m in made
                if gsd in m.of_coarse
            ]
    return rows


def distance_columns(
    extractor: Extractor, real: Features, made: Features, places: list[str], places_made: list[str] | None = None
) -> Row:
    """Both distances; row i of both is of one place, unless what was made is of other places, ``places_made``.

    Images of a single other place tell no kernel distance: they are no independent samples.
    """
    pairs = places_made is None
    frechet = {extractor.frechet: frechet_estimate(real, made, pairs, places, clusters_b=places_made)}
    if places_made is not None and len(set(places_made)) < 2:
        return frechet
    kernel = kernel_distance(real, made, pairs, places, clusters_b=places_made)
    named = {"1000 x KID": kernel.times(1000)} if extractor.kernel == "KID" else {extractor.kernel: kernel}
    return {**frechet, "n to infinity": frechet_at_infinity(real, made), **named}


def _row(
    kind: str, name: str, real: Features, method: str, made: Features, extractor: Extractor, places: list[str],
    places_made: list[str] | None = None,
) -> Row:  # fmt: skip
    return {
        "by": kind,
        "group": name,
        "made by": method,
        "n": len(made),
        "places": len(set(places_made or places)),
        **distance_columns(extractor, real, made, places, places_made),
    }
