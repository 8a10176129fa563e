"""``python -m backend evaluate``: a model against bicubic on held-out imagery, by ground resolution."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from backend.cascade.engine import Engine, Sampling, render_windows
from backend.devices import choose_device
from backend.errors import InputError
from backend.evaluation.spectrum import octave_power, smooth_patch_grain
from backend.jobs.calibration import fastest
from backend.models.bundle import Bundle, find_bundle
from backend.models.cascade_network import upsample
from backend.raster.stretch import identity_stretch
from backend.tiling.lattice import Lattice
from backend.tiling.noise import window_noise
from backend.training.data import average_down, load_pictures
from backend.training.objective import regress

Chip = NDArray[np.float32]
EDGE = 16
GROUND_RESOLUTIONS = (0.1, 0.2, 0.3, 0.6, 1.0, 5.0, 10.0, 20.0, 30.0, 150.0, 300.0)


@dataclass(frozen=True)
class Comparison:
    """A real chip and what was made of its area average; (rows, cols, 3), 0..255."""

    gsd_m: float
    real: Chip
    bicubic: Chip
    generated: Chip
    regenerated_lr: Chip
    lr: Chip


def held_out_chips(root: Path, split: str, tile: int, limit: int) -> dict[float, list[Chip]]:
    """Up to ``limit`` chips of ``tile`` pixels a side for each ground resolution, spread evenly over the pictures."""
    found: dict[float, list[Chip]] = {gsd: [] for gsd in GROUND_RESOLUTIONS}
    for picture in load_pictures(root, split):
        for reduction in (1, 2, 3, 5):
            gsd = min(GROUND_RESOLUTIONS, key=lambda g: abs(np.log(g / (picture.gsd_m * reduction))))
            if abs(np.log(gsd / (picture.gsd_m * reduction))) > 0.25:
                continue
            pixels = average_down(picture.pixels, reduction)
            rows, cols = (n // tile for n in pixels.shape[:2])
            for r in range(rows):
                for c in range(cols):
                    chip = pixels[r * tile:(r + 1) * tile, c * tile:(c + 1) * tile]
                    if chip.std() > 3:
                        found[gsd].append(chip)
    spread = {
        gsd: [chips[i] for i in np.linspace(0, len(chips) - 1, min(limit, len(chips))).round().astype(int)]
        for gsd, chips in found.items()
        if chips
    }
    if not spread:
        raise InputError(f"There is no {split} imagery of at least {tile} pixels a side in {root}.")
    return spread


def make_engine(bundle: Bundle, steps: int | None = None, sampler: str | None = None) -> Engine:
    """The model with its own sampler, or another, on the best device."""
    device, sha256 = choose_device("auto"), bundle.sha256()
    sampling = Sampling(sampler or bundle.config.profile.sampler, steps or bundle.config.profile.steps)
    precision, _ = fastest(bundle, sha256, device, "auto")
    return Engine(bundle, sha256, sampling, device, getattr(torch, precision))


def padded_low(chip: Chip, scale: int, context: int) -> Chip:
    """The chip's area average with reflected context: (3, rows / scale + 2 context, ...)."""
    low = average_down(chip, scale).transpose(2, 0, 1)
    return np.pad(low, [(0, 0), (context, context), (context, context)], mode="symmetric")


Maker = Callable[[Chip, float, int], Chip]


def generator(engine: Engine, consistency: float) -> Maker:
    """(padded low resolution, m/px, seed) -> generated (3, rows, cols)."""
    lattice = Lattice(engine.config.network.tile, engine.config.profile.margin, engine.config.profile.ramp)

    def make(low: Chip, gsd_m: float, seed: int) -> Chip:
        noise = window_noise("field", seed, 1, lattice, 0, 0, 3)
        return render_windows(engine, low[None], noise[None], identity_stretch(3), gsd_m, consistency)[0]

    return make


def regressor(engine: Engine) -> Maker:
    """The same for a network trained with ``objective = l1``."""

    @torch.inference_mode()
    def make(low: Chip, gsd_m: float, seed: int) -> Chip:
        stretch = identity_stretch(3)
        lr = torch.from_numpy(stretch.apply(low))[None].to(engine.device)
        condition = engine.network.encode(lr, torch.tensor([gsd_m], device=engine.device))
        x0 = regress(engine.network, engine.config, condition)
        return stretch.invert(engine.network.to_image(x0, condition)[0].cpu().numpy())

    return make


def compare(chip: Chip, gsd_m: float, seed: int, make: Maker, scale: int, context: int) -> Comparison:
    """One chip reduced and made again."""
    low = padded_low(chip, scale, context)
    generated = np.clip(np.rint(make(low, gsd_m, seed)), 0, 255)
    bicubic = upsample(torch.from_numpy(low)[None], context, scale)[0].numpy()
    inner = low[:, context:-context, context:-context]
    again = F.avg_pool2d(torch.from_numpy(generated)[None], scale)[0].numpy()
    return Comparison(gsd_m, chip, *(a.transpose(1, 2, 0) for a in (bicubic, generated, again, inner)))


def row(comparisons: list[Comparison]) -> dict[str, object]:
    """One line of the table."""

    def inner(image: Chip) -> Chip:
        return image[EDGE:-EDGE, EDGE:-EDGE]

    def ratio(images: list[Chip]) -> list[float]:
        real = np.sum([octave_power(inner(c.real)) for c in comparisons], axis=0)
        made = np.sum([octave_power(inner(i)) for i in images], axis=0)
        return [round(float(v), 3) for v in made / real]

    error = np.mean([np.mean((c.regenerated_lr - c.lr) ** 2) for c in comparisons])
    grain = [smooth_patch_grain(inner(c.real), inner(c.generated)) for c in comparisons]
    shift = np.mean([np.abs((c.generated - c.real).mean(axis=(0, 1))) for c in comparisons])
    return {
        "gsd_m": comparisons[0].gsd_m,
        "chips": len(comparisons),
        "generated_octaves": ratio([c.generated for c in comparisons]),
        "bicubic_octaves": ratio([c.bicubic for c in comparisons]),
        "grain": round(float(np.median(grain)), 2),
        "consistency_db": round(float(10 * np.log10(255**2 / max(error, 1e-9))), 1),
        "colour_shift": round(float(shift), 2),
    }


def markdown(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| output m/px | chips | octave power, generated / real | bicubic / real | grain | consistency dB |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        octaves = [" ".join(f"{v:.2f}" for v in r[key]) for key in ("generated_octaves", "bicubic_octaves")]
        lines.append(
            f"| {r['gsd_m']:g} | {r['chips']} | {octaves[0]} | {octaves[1]} | {r['grain']:.2f} "
            f"| {r['consistency_db']:.1f} |"
        )
    return "\n".join(lines)


def picture(comparisons: list[Comparison]) -> Image.Image:
    """Source, bicubic, generated, real, one chip a line."""
    lines = []
    for c in comparisons:
        source = c.lr.repeat(len(c.real) // len(c.lr), axis=0).repeat(len(c.real) // len(c.lr), axis=1)
        lines.append(np.concatenate([source, c.bicubic, c.generated, c.real], axis=1))
    return Image.fromarray(np.clip(np.concatenate(lines), 0, 255).astype(np.uint8))


def evaluate_bundle(model: str, data: Path, split: str, output: Path, limit: int, consistency: float = 1.0) -> None:
    """Write table.json, table.md and a picture for each ground resolution into ``output``."""
    engine = make_engine(find_bundle(model))
    network = engine.config.network
    is_regression = engine.config.training.get("objective") == "l1"
    make = regressor(engine) if is_regression else generator(engine, consistency)
    chips = held_out_chips(data, split, network.tile, limit)
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    with tqdm(total=sum(len(v) for v in chips.values()), unit="chip", disable=None) as bar:
        for gsd_m, found in chips.items():
            made = []
            for seed, chip in enumerate(found):
                made.append(compare(chip, gsd_m, seed, make, network.scale, network.context))
                bar.update()
            rows.append(row(made))
            picture(made[:6]).save(output / f"{gsd_m:g}m.png")
    (output / "table.json").write_text(json.dumps({"model": engine.config.id, "split": split, "rows": rows}, indent=1))
    (output / "table.md").write_text(markdown(rows) + "\n")
    print(markdown(rows))
