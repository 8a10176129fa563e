"""``evaluate lite``: is the embedded model good enough? Every figure beside its bar, on places it has never seen.

Each held-out chip is averaged down by 4 (one stage) and by 16 (two stages) and made again: by the model as users get
it, by the model without back-projection, by the same network trained with plain L1, and by bicubic interpolation. Each
image is made once, and all figures are taken from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.cascade.engine import Engine
from backend.devices import choose_device
from backend.evaluation.bars import Verdict, by_figure, counts, headline, summary_rows
from backend.evaluation.chips import Chip, low_resolution, spread
from backend.evaluation.classification import Training
from backend.evaluation.features import Extractor, load_extractor
from backend.evaluation.held_out import judged_chips, splits_of
from backend.evaluation.kept import Kept
from backend.evaluation.makers import Maker, side_by_side
from backend.evaluation.quality import group_rows, pooled_rows, regressed
from backend.evaluation.remake import GENERATED, OFF, Remade, Values, methods, remake, remembering
from backend.evaluation.scene_classes import BAR as ACCURACY
from backend.evaluation.scene_classes import read_scenes, scene_rows
from backend.evaluation.shipping import file_rows, precision_rows, range_rows, speed_rows
from backend.evaluation.table import Row, Table, TableSet
from backend.jobs.engines import open_engine
from backend.models.bundle import find_bundle
from backend.models.feature_network import FEATURE_MODEL
from backend.progress import Check, Report, watched

STAGES = (1, 2)
SHOWN = 4
COMPARED = 8
"""Chips on which number formats are compared."""
NO_FEATURES = "none"
NOTES = (
    "Each chip is averaged down by 4 (one stage) or 16 (two stages) and made again. A bar holds if the value is in its"
    " range. Brackets: 95 % bootstrap intervals over places, over chips of fewer than five places; a single"
    " chip has none. A place is a picture of the collection: those of one town or sheet may have more in common than"
    " the intervals know. Ground resolutions of fewer than three chips are shown without a verdict. Real imagery, the"
    " ceiling, has octave power, grain and correlation 1, and colour shift 0. In two stages a chip of 256 pixels has an"
    " input of 16, mirrored to fill the window: less surroundings than a job has.",
    "Octave power: the three octaves below the Nyquist frequency, low to high. Grain: high-pass standard deviation in"
    " the smoothest tenth of patches, generated over real. Energy maps: correlation within each chip of the logarithm"
    " of local energy (a Gaussian window of 8 px standard deviation) in the octaves 2 and 3; the regression predicts"
    " the real maps from the interpolated input alone, fitted on other places: all, or those of the same ground"
    " resolution where five have it, whichever tells more. A regression tells the mean of what may be there, a"
    " generator makes one of the possibilities: if it knew as much and no more, its correlation would be the"
    " square, 'drawn around the regression'. Colour shift: how far a chip's mean is from the real"
    " one's, red, green, blue, in grey levels."
    " Columns of the pictures: source, bicubic, L1 network, generated without and with back-projection, real.",
)
POOLED_NOTES = (
    "Kernel distance: unbiased MMD^2 of a cubic kernel over all chips; images of one place are not compared with each"
    " other; 0 is a perfect match, below 0 no difference is seen. Differences are of the same chips, drawn together."
    " Real against real shows what other places make, no ceiling. The classifier, one a run, was trained on real chips"
    " of the training split; its intervals are over chips.",
    "Seams and repetition between windows are measured by `python -m backend bench seams`.",
)


@dataclass(frozen=True)
class LiteSettings:
    """A model and its L1 twin on at most ``limit`` chips a ground resolution, or class, of a split.

    ``steps``: of the classifier's training.

    ``float32_weights``: a safetensors file of the weights before they were rounded to fp16.
    """

    data: Path
    output: Path
    model: str = "metaearth-lite"
    baseline: str | None = None
    float32_weights: Path | None = None
    split: str = "held-out"
    limit: int = 100
    features: str = FEATURE_MODEL
    steps: int = 600
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Tools:
    """What chips are made again and measured with; ``makers``: by number of stages, then by method."""

    makers: dict[int, dict[str, Maker]]
    scale: int
    extractor: Extractor | None


@dataclass
class Findings:
    """What was found so far: lines of the tables, and the verdicts by method."""

    by_resolution: list[Row]
    pooled: list[Row]
    shipped: list[Row]
    verdicts: dict[str, list[Verdict]]

    def add(self, verdicts: dict[str, list[Verdict]]) -> None:
        """More verdicts."""
        for method, some in verdicts.items():
            self.verdicts[method] += some


def lite(settings: LiteSettings, report: Report, check: Check) -> TableSet:
    """The tables, and a picture for each ground resolution and number of stages in ``output``."""
    extractor = _extractor(settings)
    engine = remembering(open_engine(find_bundle(settings.model), settings.device))
    network = engine.config.network
    baseline = open_engine(find_bundle(settings.baseline), settings.device) if settings.baseline else None
    kept = _kept(settings.output, engine, baseline)
    makers = {stages: kept.makers(methods(engine, baseline, stages, check), stages) for stages in STAGES}
    tools = Tools(makers, network.scale, extractor)
    chips = judged_chips(settings.data, settings.split, network.tile, settings.limit)
    settings.output.mkdir(parents=True, exist_ok=True)
    shipped, shipped_verdicts = _shipped(settings, engine, _inputs(chips, tools), report, check)
    classes, class_verdicts = _classes(settings, tools, report, check)
    remade: list[Remade] = []
    for some in chips.values():
        remade += _remake_all(some, tools, settings.output, settings.seed + len(remade), report, check)
    found = Findings([], [], shipped, {GENERATED: [], OFF: []})
    _judge_images(found, remade, extractor.kernel if extractor else None, report, check)
    found.pooled += classes
    found.add(class_verdicts)
    found.add({GENERATED: shipped_verdicts})
    tables = _tables(found, settings, engine, baseline, extractor, remade)
    tables.write(settings.output)
    kept.clear()
    return tables


def _kept(output: Path, *engines: Engine | None) -> Kept:
    """What these engines made in an earlier run into ``output``."""
    return Kept(output, *(repr((e.sha256, e.sampling, str(e.device), str(e.dtype))) for e in engines if e))


def _extractor(settings: LiteSettings) -> Extractor | None:
    if settings.features == NO_FEATURES:
        return None
    return load_extractor(settings.features, choose_device(settings.device))


def _remake_all(
    chips: list[Chip], tools: Tools, output: Path, seed: int, report: Report, check: Check
) -> list[Remade]:
    """All chips of one ground resolution made again, and one picture of some of them a number of stages."""
    gsd_m, shown = chips[0].gsd_m, spread(list(range(len(chips))), SHOWN)
    lines: dict[int, list[list[Values]]] = {stages: [] for stages in STAGES}
    found: list[Remade] = []
    for n, chip in enumerate(watched(chips, f"{gsd_m:g} m/px", report, check)):
        for stages in STAGES:
            one, images = remake(chip, stages, tools.scale, seed + n, tools.makers[stages], tools.extractor)
            found.append(one)
            if n in shown:
                lines[stages].append(images)
    for stages in STAGES:
        side_by_side(lines[stages]).save(output / f"{gsd_m:g}m-{stages}.png")
    return found


def _judge_images(found: Findings, remade: list[Remade], kernel: str | None, report: Report, check: Check) -> None:
    """Lines and verdicts by ground resolution and number of stages, and over all chips."""
    for stages in STAGES:
        some = [r for r in remade if r.stages == stages]
        regression = regressed(some)
        sizes = list(dict.fromkeys(r.gsd_m for r in some))
        for gsd_m in watched(sizes, f"figures and their intervals, {stages} of {len(STAGES)} stages", report, check):
            members = [k for k, r in enumerate(some) if r.gsd_m == gsd_m]
            rows, verdicts = group_rows([some[k] for k in members], [regression[k] for k in members], kernel)
            found.by_resolution += rows
            found.add(verdicts)
        rows, verdicts = pooled_rows(some, kernel or "kernel distance")
        found.pooled += rows
        found.add(verdicts)
    found.by_resolution.sort(key=lambda row: (float(row["output m/px"]), row["stages"]))


def _classes(
    settings: LiteSettings, tools: Tools, report: Report, check: Check
) -> tuple[list[Row], dict[str, list[Verdict]]]:
    """Lines and verdicts of the classifier, where there are chips of classes."""
    scenes = read_scenes(settings.data, splits_of(settings.split), settings.limit)
    if scenes is None:
        return [], {method: [ACCURACY.judge("", None)] for method in (GENERATED, OFF)}
    training = Training(settings.steps, device=choose_device(settings.device))
    return scene_rows(scenes, tools.makers[1], tools.scale, training, settings.seed, report, check)


def _inputs(chips: dict[float, list[Chip]], tools: Tools) -> list[tuple[Values, float]]:
    """The inputs of one chip each of some ground resolutions, and the results' metres per pixel."""
    chosen = spread([some[0] for some in chips.values()], COMPARED)
    return [(low_resolution(chip.pixels, tools.scale), chip.gsd_m) for chip in chosen]


def _shipped(
    settings: LiteSettings, engine: Engine, lows: list[tuple[Values, float]], report: Report, check: Check
) -> tuple[list[Row], list[Verdict]]:
    """Lines and verdicts of file, number format, speed and range."""
    bundle, half = engine.bundle, lows[0][0].shape[1] // 2
    steps = (
        lambda: file_rows(bundle),
        lambda: precision_rows(engine, settings.float32_weights, lows, check),
        lambda: speed_rows(bundle, settings.device, check),
        lambda: range_rows(bundle, lows[0][0][:, :half, :half], settings.device, check),
    )
    found = [step() for step in watched(steps, "file, number format, speed, range", report, check)]
    return [row for rows, _ in found for row in rows], [v for _, verdicts in found for v in verdicts]


def _baseline_facts(baseline: Engine | None) -> Row:
    if baseline is None:
        return {"L1 network": "none"}
    steps = baseline.config.training.get("steps", "unknown")
    return {"L1 network": f"{baseline.config.id}, {steps} steps", "its sha256": baseline.sha256[:16]}


def _tables(
    found: Findings,
    settings: LiteSettings,
    engine: Engine,
    baseline: Engine | None,
    extractor: Extractor | None,
    remade: Sequence[Remade],
) -> TableSet:
    chips, places = sum(r.stages == 1 for r in remade), len({r.place for r in remade})
    facts = {
        "model": engine.config.id,
        "sha256": engine.sha256[:16],
        **_baseline_facts(baseline),
        "split": settings.split,
        "chips": chips,
        "places": places,
        "features": f"{extractor.name} {extractor.weights_sha256[:16]}" if extractor else "none",
        "seed": settings.seed,
    }
    default, plain = found.verdicts[GENERATED], found.verdicts[OFF]
    holding, measured = counts(plain)
    lead = (
        headline(default, f"at default settings, on {chips} held-out chips of {places} places"),
        f"With the back-projection off, {holding} of the {measured} bars that depend on it hold.",
    )
    tables = (
        Table("Bars", _summary(default, plain), facts),
        Table("Over all chips", found.pooled, notes=POOLED_NOTES),
        Table("File, number format, speed, range", found.shipped),
        Table("By ground resolution and stages", found.by_resolution, notes=NOTES),
    )
    every = {name: [v.to_dict() for v in some] for name, some in found.verdicts.items()}
    filled = tuple(table for table in tables if table.rows)
    return TableSet(f"Is {engine.config.id} good enough?", lead, filled, {"verdicts": every})


def _summary(default: list[Verdict], plain: list[Verdict]) -> list[Row]:
    """One line a figure; how often its bar holds without back-projection stands last."""
    off = by_figure(plain)
    rows = summary_rows(default)
    for row in rows:
        if row["figure"] in off:
            holding, measured = counts(off[row["figure"]])
            row["back-projection off"] = f"{holding} of {measured}" if measured else "not measured"
    return rows
