"""``evaluate seams``: do the borders of windows show? Overlap on and off, noise constraint on and off, and ours.

The paper's measure, the mean absolute directional gradient across seams, is lower for blurred pictures. Beside it
stand the ratio to the gradient at the same pixels of a run whose windows lie elsewhere (1: no seam), and the
autocorrelation at the windows' distance, which tells a noise block that repeats.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.cascade.engine import Engine
from backend.cascade.picture import Manner, render_picture
from backend.errors import InputError
from backend.evaluation.chips import spread
from backend.evaluation.makers import eight_bit, side_by_side, whole
from backend.evaluation.seams import Pairs, line_gradients, lines, repetition, seam_pairs, seam_ratio
from backend.evaluation.statistics import Estimate, mean_estimate
from backend.evaluation.table import Row, Table
from backend.jobs.engines import open_engine
from backend.models.bundle import ModelConfig, find_bundle
from backend.progress import Check, Report, watched
from backend.tiling.lattice import Lattice, paper_lattice
from backend.training.data import Picture, load_pictures

Image = NDArray[np.float32]
NOTES = (
    "Gradient at seams: mean absolute difference across the lines where windows meet, in grey levels; it rewards blur."
    " Seam ratio: the same over that of the same pixels where the windows lie elsewhere; 1 is no seam. Repetition:"
    " high-pass autocorrelation at the windows' distance less its surroundings; 0 is none. Brackets: 95 % bootstrap"
    " intervals over places; for the ratio over images and lines.",
    "Constraint: the paper's, one noise block for all windows; ours is noise as a function of place.",
)


@dataclass(frozen=True)
class SeamSettings:
    """``limit`` results of ``side`` pixels, each made in every variant, with two positions of the windows."""

    data: Path
    output: Path
    model: str = "metaearth-lite"
    split: str = "validation"
    limit: int = 24
    side: int = 512
    consistency: float = 1.0
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Variant:
    """How windows and noise are laid out."""

    overlap: str
    noise: str
    lattice: Lattice


def variants(config: ModelConfig) -> list[Variant]:
    """The paper's four and ours."""
    tile, profile = config.network.tile, config.profile
    half, none = paper_lattice(tile), Lattice(tile, 0, 0)
    own = Lattice(tile, profile.margin, profile.ramp)
    return [
        Variant("half a window", "repeated-block", half),
        Variant("half a window", "independent", half),
        Variant("none", "repeated-block", none),
        Variant("none", "independent", none),
        Variant(f"{profile.margin} px dropped, {profile.ramp} px blended", "field", own),
    ]


def inputs(data: Path, split: str, side: int, limit: int) -> list[Picture]:
    """Middle squares of ``side`` pixels of up to ``limit`` pictures."""
    fitting = [p for p in load_pictures(data, split) if min(p.pixels.shape[:2]) >= side]
    if not fitting:
        raise InputError(f"There is no {split} picture of at least {side} pixels a side in {data}.")
    cut = []
    for p in spread(fitting, limit):
        top, left = ((n - side) // 2 for n in p.pixels.shape[:2])
        cut.append(replace(p, pixels=p.pixels[top:top + side, left:left + side]))
    return cut


def seams(settings: SeamSettings, report: Report, check: Check) -> Table:
    """The table, and variants.png (one column a variant) in ``output``."""
    bundle = find_bundle(settings.model)
    pictures = inputs(settings.data, settings.split, settings.side // bundle.config.network.scale, settings.limit)
    engine = open_engine(bundle, settings.device)
    rows, shown = [], []
    for variant in variants(engine.config):
        row, images = measure(engine, variant, pictures, settings, report, check)
        rows.append(row)
        shown.append(images[:3])
    settings.output.mkdir(parents=True, exist_ok=True)
    side_by_side([list(line) for line in zip(*shown)]).save(settings.output / "variants.png")
    facts = {"model": engine.config.id, "split": settings.split, "pixels a side": settings.side, "seed": settings.seed}
    table = Table("Seams by overlap and noise", rows, facts, NOTES)
    table.write(settings.output)
    return table


def measure(
    engine: Engine, variant: Variant, pictures: list[Picture], settings: SeamSettings, report: Report, check: Check
) -> tuple[Row, list[Image]]:
    """One line of the table, and the images that it was made from, (3, rows, cols)."""
    lattice = variant.lattice
    shifted = replace(lattice, offset=lattice.stride // 2 // 4 * 4)
    images, gradients, repeats = [], [], []
    pairs: list[Pairs] = []
    spent = engine.evaluations
    message = f"overlap: {variant.overlap}, noise: {variant.noise}"
    for n, picture in enumerate(watched(pictures, message, report, check)):
        a, b = (_render(engine, picture, Manner(settings.seed + n, variant.noise, settings.consistency, where), check)
                for where in (lattice, shifted))
        gradients.append(seam_gradient(a, lattice))
        repeats.append(repetition(a, lattice.stride))
        turned = [(a, b), (a.swapaxes(0, 1), b.swapaxes(0, 1))]
        pairs.append(np.concatenate([seam_pairs(one, other, lattice, shifted) for one, other in turned]))
        images.append(a.transpose(2, 0, 1))
    places = [p.place for p in pictures]
    made = 2 * sum(i.shape[1] * i.shape[2] for i in images)
    return {
        "overlap": variant.overlap,
        "noise": variant.noise,
        "images": len(images),
        "places": len(set(places)),
        "gradient at seams": mean_estimate(gradients, places),
        "seam ratio": Estimate(*seam_ratio(pairs), len(pairs)),
        "repetition": mean_estimate(repeats, places),
        "evaluations a pixel": round((engine.evaluations - spent) * lattice.window**2 / made, 1),
    }, images


def _render(engine: Engine, picture: Picture, manner: Manner, check: Check) -> Image:
    """(rows, cols, 3), rounded."""
    low = whole(picture.pixels.transpose(2, 0, 1).astype(np.float32))
    gsd_m = picture.gsd_m / engine.config.network.scale
    return eight_bit(render_picture(engine, low, gsd_m, manner, 1, check)).transpose(1, 2, 0)


def seam_gradient(image: Image, lattice: Lattice) -> float:
    """The paper's measure: mean |I(p) - I(p - 1)| across all lines between windows of (rows, cols, bands)."""
    both = [line_gradients(i, lines(lattice, i.shape[1])) for i in (image, image.swapaxes(0, 1))]
    return float(np.concatenate(both).mean())
