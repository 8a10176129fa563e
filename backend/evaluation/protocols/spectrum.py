"""``evaluate spectrum``: detail of the right strength, and true to its source? By ground resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.evaluation.chips import Chip, held_out_chips, low_resolution
from backend.evaluation.makers import Maker, bicubic, maker_of, side_by_side
from backend.evaluation.spectrum import EDGE, consistency_db, octave_ratios, powers, smooth_patch_grain
from backend.evaluation.statistics import mean_estimate
from backend.evaluation.table import Row, Table
from backend.jobs.engines import open_engine
from backend.models.bundle import find_bundle
from backend.progress import Check, Report, watched

SHOWN = 6
NOTE = (
    "Each chip is averaged down and made again. Octaves: the three below the Nyquist frequency, low to high; 1 is"
    " right. Grain: high-pass standard deviation in the smoothest tenth of patches, generated over real. Brackets: 95 %"
    " bootstrap intervals over places, over chips where there are fewer than five places."
)


@dataclass(frozen=True)
class SpectrumSettings:
    """A model on ``split`` of ``data``, at most ``limit`` chips a ground resolution."""

    data: Path
    output: Path
    model: str = "metaearth-lite"
    split: str = "validation"
    limit: int = 24
    consistency: float = 1.0
    device: str = "auto"


@dataclass(frozen=True)
class Comparison:
    """A chip, what was made of its area average, and the average; (3, rows, cols), 0..255."""

    chip: Chip
    real: NDArray[np.float32]
    low: NDArray[np.float32]
    bicubic: NDArray[np.float32]
    generated: NDArray[np.float32]


def compare(chip: Chip, seed: int, make: Maker, scale: int) -> Comparison:
    """One chip reduced and made again."""
    low = low_resolution(chip.pixels, scale)
    interpolated = bicubic(scale)(low, chip.gsd_m, seed)
    return Comparison(chip, chip.pixels.transpose(2, 0, 1), low, interpolated, make(low, chip.gsd_m, seed))


def row(comparisons: list[Comparison]) -> Row:
    """One line of the table."""
    places = [c.chip.place for c in comparisons]
    real, made, plain = (powers([getattr(c, k) for c in comparisons]) for k in ("real", "generated", "bicubic"))

    def inner(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return image[:, EDGE:-EDGE, EDGE:-EDGE].transpose(1, 2, 0)

    grain = [smooth_patch_grain(inner(c.real), inner(c.generated)) for c in comparisons]
    shift = [np.abs((c.generated - c.real).mean(axis=(1, 2))).mean() for c in comparisons]
    return {
        "output m/px": f"{comparisons[0].chip.gsd_m:g}",
        "chips": len(comparisons),
        "places": len(set(places)),
        "octave power, generated / real": octave_ratios(real, made, places),
        "bicubic / real": octave_ratios(real, plain, places),
        "grain": mean_estimate(grain, places),
        "consistency dB": mean_estimate([consistency_db(c.generated, c.low) for c in comparisons], places),
        "colour shift": mean_estimate(shift, places),
    }


def spectrum(settings: SpectrumSettings, report: Report, check: Check) -> Table:
    """The table, and a picture for each ground resolution (source, bicubic, generated, real) in ``output``."""
    bundle = find_bundle(settings.model)
    network = bundle.config.network
    chips = held_out_chips(settings.data, settings.split, network.tile, settings.limit)
    engine = open_engine(bundle, settings.device)
    make = maker_of(engine, settings.consistency, check)
    settings.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for gsd_m, found in chips.items():
        numbered = list(enumerate(found))
        made = [
            compare(chip, seed, make, network.scale)
            for seed, chip in watched(numbered, f"{gsd_m:g} m/px", report, check)
        ]
        rows.append(row(made))
        shown = [[c.low, c.bicubic, c.generated, c.real] for c in made[:SHOWN]]
        side_by_side(shown).save(settings.output / f"{gsd_m:g}m.png")
    pixels = sum(len(found) for found in chips.values()) * network.tile**2
    table = Table(
        "Detail by ground resolution",
        rows,
        {
            "model": engine.config.id,
            "sha256": engine.sha256[:16],
            "split": settings.split,
            "evaluations a pixel": round(engine.evaluations * network.tile**2 / pixels, 1),
        },
        (NOTE,),
    )
    table.write(settings.output)
    return table
