"""``evaluate diversity``: how much results of one input differ over seeds, by the number of stages.

The result has the same size and ground resolution in every row; what it was made from is 4, 16, 64 times coarser.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.devices import choose_device
from backend.evaluation.chips import held_out_chips, low_resolution
from backend.evaluation.features import load_extractor
from backend.evaluation.makers import cascade, side_by_side
from backend.evaluation.spectrum import consistency_db
from backend.evaluation.statistics import mean_estimate
from backend.evaluation.table import Row, Table
from backend.jobs.engines import open_engine
from backend.models.bundle import find_bundle
from backend.models.feature_network import FEATURE_MODEL
from backend.progress import Check, Report, watched

NOTES = (
    "Standard deviation: over the seeds, of each pixel, in grey levels. Feature distance: between two seeds of one"
    " input, over the mean distance between two real chips; 1 means that seeds differ as much as places. Brackets: 95 %"
    " bootstrap intervals over places.",
)


@dataclass(frozen=True)
class DiversitySettings:
    """``seeds`` results of each chip's input after 1 to ``stages`` stages."""

    data: Path
    output: Path
    model: str = "metaearth-lite"
    stages: int = 3
    seeds: int = 4
    split: str = "validation"
    limit: int = 4
    features: str = FEATURE_MODEL
    consistency: float = 1.0
    seed: int = 0
    device: str = "auto"


def mean_distance(features: NDArray[np.float64]) -> float:
    """Mean Euclidean distance between two different rows of (n, d)."""
    return float(np.mean([np.linalg.norm(a - b) for a, b in itertools.combinations(features, 2)]))


def diversity(settings: DiversitySettings, report: Report, check: Check) -> Table:
    """The table, and seeds.png (input, one column a seed, real; one line a number of stages) in ``output``."""
    extractor = load_extractor(settings.features, choose_device(settings.device))
    bundle = find_bundle(settings.model)
    network = bundle.config.network
    by_gsd = held_out_chips(settings.data, settings.split, network.tile, settings.limit)
    engine = open_engine(bundle, settings.device)
    chips = [chip for some in by_gsd.values() for chip in some]
    places = [chip.place for chip in chips]
    between = mean_distance(extractor(np.stack([c.pixels.transpose(2, 0, 1) for c in chips]))) if len(chips) > 1 else 1
    rows: list[Row] = []
    lines = []
    for stages in range(1, settings.stages + 1):
        make = cascade(engine, stages, settings.consistency, check)
        spread, apart, psnr = [], [], []
        for n, chip in enumerate(watched(chips, f"{stages} stages, {settings.seeds} seeds", report, check)):
            low = low_resolution(chip.pixels, network.scale**stages)
            seeds = range(settings.seed + n * settings.seeds, settings.seed + (n + 1) * settings.seeds)
            made = np.stack([make(low, chip.gsd_m, seed) for seed in seeds])
            spread.append(float(made.std(axis=0, ddof=1).mean()))
            apart.append(mean_distance(extractor(made)) / between)
            psnr.append(float(np.mean([consistency_db(m, low) for m in made])))
            if n == 0:
                lines.append([low, *made[:4], chip.pixels.transpose(2, 0, 1)])
        rows.append(
            {
                "stages": stages,
                "input px": network.tile // network.scale**stages,
                "chips": len(chips),
                "places": len(set(places)),
                "seeds": settings.seeds,
                "standard deviation": mean_estimate(spread, places),
                f"feature distance ({extractor.name})": mean_estimate(apart, places),
                "consistency dB": mean_estimate(psnr, places),
            }
        )
    settings.output.mkdir(parents=True, exist_ok=True)
    side_by_side(lines).save(settings.output / "seeds.png")
    facts = {"model": engine.config.id, "split": settings.split, "seed": settings.seed}
    table = Table("Diversity over seeds by the number of stages", rows, facts, NOTES)
    table.write(settings.output)
    return table
