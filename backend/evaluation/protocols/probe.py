"""``evaluate probe``: what do frozen scene tokens tell of a place, compared with pixels and with chance weights?

A linear probe [ours]: a logistic regression on one vector a chip, for few labels and for all, over several splits.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backend.augmentation import find_chips
from backend.devices import choose_device
from backend.errors import InputError, ModelError
from backend.evaluation.classification import read_image
from backend.evaluation.features import metaearth_features
from backend.evaluation.logistic import fit_probe
from backend.evaluation.protocols.data_engine import of_each_class, split_chips
from backend.evaluation.statistics import crossed_mean
from backend.evaluation.table import Row, Table
from backend.jobs.engines import open_scene_engine
from backend.models.bundle import find_scene_bundle
from backend.models.feature_network import FEATURE_MODEL
from backend.models.scene_network import SceneNetwork
from backend.progress import Check, Report, watched
from backend.protocol import DEFAULT_SCENE_MODEL
from backend.raster.averaging import area_average
from backend.scene.embedding import ChipReading, check_block, embed_chips
from backend.scene.engine import SceneEngine
from backend.scene.modality import modality_as_known

Array = NDArray[np.float64]
Features = dict[str, NDArray]
"""What describes the chips -> (chips, dimensions)."""

SIDE, CELLS = 256, 16
PIXELS, RANDOM = "raw pixels", "random weights"
NOTES = (
    "Accuracy on held-out chips of a logistic regression on frozen features: standardised, L2-penalised, strength by"
    " cross-validation on the training chips. Each split tests another part of every class, a quarter of it. Brackets:"
    " 95 % bootstrap intervals over splits and chips; differences are paired by split and chip.",
    f"{PIXELS}: a chip averaged down to {CELLS} x {CELLS} RGB. {RANDOM}: the same network before any training,"
    " its gates opened. metaearth-features was taught land-use classes by their labels: where these chips were among"
    " its training imagery, its accuracy is too favourable. The probed model may have seen them too, without labels.",
)


@dataclass(frozen=True)
class ProbeSettings:
    """``data``: one subfolder a class; at most ``limit`` chips of each, a quarter of them for testing.

    ``labels``: training chips a class of the few-label rows. ``block``: see `SceneNetwork.scene_tokens`. ``features``:
    another network to compare with.
    """

    data: Path
    output: Path
    model: str = DEFAULT_SCENE_MODEL
    classes: tuple[str, ...] | None = None
    limit: int = 100
    labels: tuple[int, ...] = (5, 10, 20)
    splits: int = 4
    block: int | None = None
    source_resolution: float | None = None
    features: str = FEATURE_MODEL
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Split:
    """Places of chips among all: for training, class by class in the order in which they are drawn, and for testing."""

    training: list[NDArray[np.int64]]
    test: NDArray[np.int64]

    def drawn(self, count: int | None) -> NDArray[np.int64]:
        """The first ``count`` training chips of each class; None: all."""
        return np.concatenate([members[:count] for members in self.training])


def probe(settings: ProbeSettings, report: Report, check: Check) -> Table:
    """The table, in ``output`` too."""
    wanted = settings.classes
    files = [f for f in find_chips(settings.data) if wanted is None or f.parent.as_posix() in wanted]
    chosen = sorted(file for members in of_each_class(files, settings.limit) for file in members)
    classes = sorted({f.parent.as_posix() for f in chosen})
    if len(classes) < 2:
        raise InputError(f"There must be at least two classes in {settings.data}; found: {', '.join(classes)}.")
    if min(settings.labels, default=2) < 2:
        raise InputError("A probe needs at least two training chips a class: cross-validation holds some of them out.")
    labels = np.array([classes.index(f.parent.as_posix()) for f in chosen], np.int64)
    splits = [_split(chosen, labels, settings, k) for k in range(settings.splits)]
    engine = open_scene_engine(find_scene_bundle(settings.model), settings.device)
    check_block(engine.config, settings.block)
    described = describe(settings, engine, chosen, report, check)
    rows = _rows(settings, described, labels, splits, report, check)
    facts = {
        "model": engine.config.id, "sha256": engine.sha256[:16], "classes": len(classes), "chips": len(chosen),
        "splits": settings.splits, "block": settings.block or engine.config.network.inference_blocks,
        "data": settings.data.name,
    }  # fmt: skip
    table = Table("Linear probe of scene tokens", rows, facts, NOTES)
    table.write(settings.output)
    return table


def _split(files: list[Path], labels: NDArray[np.int64], settings: ProbeSettings, number: int) -> Split:
    place = {file: k for k, file in enumerate(files)}
    parts = split_chips(files, settings.limit, settings.seed, number, settings.splits)
    training, test = ([place[f] for f in part] for part in parts)
    rng = np.random.default_rng((settings.seed, number))
    members = [rng.permutation([k for k in training if labels[k] == label]) for label in range(labels.max() + 1)]
    return Split(members, np.array(test))


def describe(
    settings: ProbeSettings, engine: SceneEngine, files: list[Path], report: Report, check: Check
) -> Features:
    """All features of the chips; the probed model's come last."""
    described = _picture_features(settings, files, report, check)
    modality = modality_as_known("rgb", engine.config)
    reading = ChipReading(modality, settings.source_resolution)
    for name, one in ((RANDOM, with_random_weights(engine, settings.seed)), (engine.config.id, engine)):
        found = embed_chips(one, settings.data, files, reading, settings.block, report, check)
        described[name] = found.features
    return described


def _picture_features(settings: ProbeSettings, files: list[Path], report: Report, check: Check) -> Features:
    """Raw pixels, and the feature network's output if there is one."""
    try:
        extractor = metaearth_features(settings.features, choose_device(settings.device))
    except ModelError:
        if settings.features != FEATURE_MODEL:
            raise
        extractor = None
    described: dict[str, list[NDArray]] = {PIXELS: []}
    for file in watched(files, "reading chips", report, check):
        image = read_image(settings.data / file, SIDE)
        described[PIXELS].append(area_average(image, SIDE // CELLS).ravel())
        if extractor is not None:
            described.setdefault(extractor.name, []).append(extractor(image[None])[0])
    return {name: np.stack(vectors) for name, vectors in described.items()}


def with_random_weights(engine: SceneEngine, seed: int) -> SceneEngine:
    """The engine with a network as it is before the first step; what is fitted beforehand is that of the trained one.

    Gates and last maps of blocks begin at zero, with which no token would look at another: they are drawn too [ours].
    """
    other = copy.copy(engine)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SceneNetwork(engine.config.network)
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    fitted = ("prior.", "lost.", "pixels.", *(() if engine.config.network.vae.widths else ("vae.",)))
    known = {name: v for name, v in engine.network.state_dict().items() if name.startswith(fitted)}
    network.load_state_dict({**network.state_dict(), **known})
    other.network = network.eval().requires_grad_(False).to(engine.device)
    return other


def _rows(
    settings: ProbeSettings, described: Features, labels: NDArray[np.int64], splits: list[Split], report: Report,
    check: Check,
) -> list[Row]:  # fmt: skip
    """One line for each number of training chips and each kind of features."""
    fewest = min(len(members) for split in splits for members in split.training)
    counts = [*(n for n in sorted(set(settings.labels)) if n < fewest), None]
    runs = [(count, name, k) for count in counts for name in described for k in range(len(splits))]
    right = {(count, name): np.full((len(splits), len(labels)), np.nan) for count, name, _ in runs}
    for count, name, k in watched(runs, "fitting probes", report, check):
        given, test = splits[k].drawn(count), splits[k].test
        fitted = fit_probe(described[name][given], labels[given], int(labels.max()) + 1, settings.seed + k)
        right[count, name][k, test] = fitted.predict(described[name][test]) == labels[test]
    *others, own = described
    return [_row(count, name, described[name], right, own, fewest) for count in counts for name in (*others, own)]


def _row(
    count: int | None, name: str, features: NDArray, right: dict[tuple[int | None, str], Array], own: str, fewest: int
) -> Row:
    found = right[count, name]
    less = None if name == own else crossed_mean(right[count, own] - found)
    return {
        "training chips a class": f"all ({fewest})" if count is None else count,
        "features": name,
        "dimensions": features.shape[1],
        "accuracy": crossed_mean(found),
        f"{own} less these": less,
    }
