"""``python -m backend evaluate PROTOCOL``: one command a protocol, each ends in table.md and table.json.

Nothing heavy is imported before a protocol runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.progress import Check, Report

Option = tuple[str, dict[str, Any]]
Execute = Callable[[Callable[[Report, Check], Any]], Any]

COLLECTIONS = "folder of imagery, laid out as backend/training/split.toml says"
IMAGERY = f"a set made by prepare, or a {COLLECTIONS}"
MODEL: Option = ("--model", {"default": "metaearth-lite", "help": "id or folder of a model bundle"})
DATA: Option = ("--data", {"type": Path, "required": True, "help": IMAGERY})
HELD_OUT: Option = ("--data", {"type": Path, "required": True, "help": COLLECTIONS})
CHIPS: Option = (
    "--data", {"type": Path, "required": True, "help": "folder with one subfolder of chips a class"}
)
CLASSES: Option = ("--classes", {"nargs": "+", "metavar": "CLASS", "help": "some of the classes"})
SOURCE_RESOLUTION: Option = (
    "--source-resolution", {"type": float, "metavar": "M", "help": "metres per pixel of chips without a CRS"}
)
OUTPUT: Option = ("--output", {"type": Path, "required": True, "help": "folder for table.md, table.json and pictures"})
DEVICE: Option = ("--device", {"default": "auto", "choices": ("auto", "cpu", "cuda")})
SPLIT: Option = ("--split", {"default": "validation", "choices": ("validation", "test")})
SEED: Option = ("--seed", {"type": int, "default": 0, "help": "of every random choice"})
CONSISTENCY: Option = (
    "--consistency", {"type": float, "default": 1.0, "help": "0 to 1, as for a job; 0 is the paper's"}
)
FEATURES: Option = (
    "--features",
    {"default": "metaearth-features", "help": "metaearth-features, a folder of such a network, inception"
     " (torch-fidelity, which downloads its weights), or a file of those weights (.pth); the last two give FID"},
)

BASELINE: Option = (
    "--baseline", {"metavar": "MODEL", "help": "the same network trained with plain L1 (train --set objective=l1)"}
)


def limit(default: int, what: str) -> Option:
    """An option for the number of images."""
    return "--limit", {"type": int, "default": default, "help": f"at most so many {what}"}


@dataclass(frozen=True)
class Protocol:
    """A sub-verb: the function that runs it, its settings' class, and one option for each of their fields."""

    name: str
    help: str
    module: str
    function: str
    settings: str
    options: tuple[Option, ...]

    def run(self, arguments: argparse.Namespace, report: Report, check: Check) -> str:
        """What the protocol has to say, as text."""
        module = importlib.import_module(self.module)
        kind = getattr(module, self.settings)
        values = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(kind) if f.name in arguments}
        found = getattr(module, self.function)(kind(**values), report, check)
        return found.markdown() if hasattr(found, "markdown") else str(found)


PROTOCOLS = (
    Protocol(
        "spectrum", "strength of the detail by octave, grain, consistency", "backend.evaluation.protocols.spectrum",
        "spectrum", "SpectrumSettings",
        (MODEL, DATA, OUTPUT, SPLIT, limit(24, "chips a ground resolution"), CONSISTENCY, DEVICE),
    ),
    Protocol(
        "fid", "distance of generated to real imagery by place and ground resolution",
        "backend.evaluation.protocols.fid", "fid", "FidSettings",
        (
            MODEL,
            ("--without", {"metavar": "MODEL", "help": "the same model without its resolution branch"}),
            DATA, OUTPUT, SPLIT, limit(100, "chips a ground resolution"), FEATURES, CONSISTENCY, SEED, DEVICE,
        ),
    ),
    Protocol(
        "seams", "whether windows show: overlap and noise constraint on and off, and ours",
        "backend.evaluation.protocols.seams", "seams", "SeamSettings",
        (
            MODEL, DATA, OUTPUT, SPLIT, limit(24, "images; the paper's table has 750"),
            ("--side", {"type": int, "default": 512, "help": "pixels a side of an image"}),
            CONSISTENCY, SEED, DEVICE,
        ),
    ),
    Protocol(
        "data-engine", "whether classifiers gain from generated training images",
        "backend.evaluation.protocols.data_engine", "data_engine", "DataEngineSettings",
        (
            MODEL,
            CHIPS, OUTPUT, CLASSES,
            limit(150, "images a class, a quarter of them for testing"),
            ("--variants", {"type": int, "default": 5, "help": "generated images of each training image"}),
            ("--stages", {"type": int, "default": 1, "choices": (1, 2), "help": "as for augment"}),
            SOURCE_RESOLUTION,
            ("--seeds", {"type": int, "default": 3, "help": "trainings of each classifier and arm"}),
            ("--steps", {"type": int, "default": 600, "help": "of each training"}),
            ("--size", {"type": int, "default": 112, "help": "pixels a side that classifiers see"}),
            CONSISTENCY, SEED, DEVICE,
        ),
    ),
    Protocol(
        "ablations", "cascade against one shot, high-order degradation against bicubic inputs",
        "backend.evaluation.protocols.ablations", "ablations", "AblationSettings",
        (
            MODEL,
            ("--one-shot", {"metavar": "MODEL", "help": "a bundle with the scale of all stages, 64 for three of 4"}),
            ("--stages", {"type": int, "default": 3, "help": "stages of the cascade"}),
            ("--robust", {"metavar": "MODEL", "help": "a bundle trained with high-order degradation"}),
            ("--plain", {"metavar": "MODEL", "help": "a bundle trained with bicubic inputs only"}),
            DATA, OUTPUT, SPLIT, limit(24, "chips a ground resolution"), FEATURES, CONSISTENCY, SEED, DEVICE,
        ),
    ),
    Protocol(
        "diversity", "how much results differ over seeds, by the number of stages",
        "backend.evaluation.protocols.diversity", "diversity", "DiversitySettings",
        (
            MODEL,
            ("--stages", {"type": int, "default": 3}),
            ("--seeds", {"type": int, "default": 4, "help": "results of each input"}),
            DATA, OUTPUT, SPLIT, limit(4, "chips a ground resolution"), FEATURES, CONSISTENCY, SEED, DEVICE,
        ),
    ),
    Protocol(
        "probe", "what frozen features of MetaEarth-MM tell of a place, by logistic regression",
        "backend.evaluation.protocols.probe", "probe", "ProbeSettings",
        (
            ("--model", {"default": "metaearth-mm-lite", "help": "id or folder of a MetaEarth-MM bundle"}),
            CHIPS, OUTPUT, CLASSES,
            limit(100, "chips a class, a quarter of them for testing"),
            ("--labels", {"type": int, "nargs": "+", "default": (5, 10, 20), "metavar": "N",
                          "help": "training chips a class, besides all of them"}),
            ("--splits", {"type": int, "default": 4,
                          "help": "divisions into training and testing; up to four test no chip twice"}),
            ("--block", {"type": int, "help": "after how many blocks of the inference module; all if not given"}),
            SOURCE_RESOLUTION,
            ("--features", {"default": "metaearth-features", "help": "id or folder of a network to compare with"}),
            SEED, DEVICE,
        ),
    ),
    Protocol(
        "modalities", "every modality made of every other, beside regressions; agreement of what is made together",
        "backend.evaluation.protocols.modalities", "modalities", "ModalitySettings",
        (
            ("--model", {"default": "metaearth-mm-lite", "help": "id or folder of a MetaEarth-MM bundle"}),
            ("--l1", {"metavar": "MODEL", "help": "the regression baseline, trained with --set objective=l1"}),
            ("--data", {"type": Path, "required": True, "help": "prepared set of places in several modalities"}),
            OUTPUT,
            ("--modalities", {"nargs": "+", "metavar": "NAME", "help": "some of the model's modalities"}),
            SPLIT, limit(24, "chips a pair of modalities"),
            ("--samples", {"type": int, "default": 8, "help": "translations of each chip"}),
            ("--regression", {"type": int, "default": 2, "choices": (1, 2, 3),
                              "help": "degree of the per-pixel regression's polynomials"}),
            ("--steps", {"type": int, "help": "network evaluations a window; what suits the model by default"}),
            SEED, DEVICE,
        ),
    ),
    Protocol(
        "train-features", "train metaearth-features, the network that distances are measured on",
        "backend.evaluation.feature_training", "train_features", "FeatureSettings",
        (
            DATA,
            ("--output", {"type": Path, "required": True, "help": "folder for the network"}),
            ("--steps", {"type": int, "default": 3000}),
            ("--batch", {"type": int, "default": 32}),
            SEED, DEVICE,
        ),
    ),
    Protocol(
        "lite", "whether the embedded model is good enough: every figure beside its bar",
        "backend.evaluation.protocols.lite", "lite", "LiteSettings",
        (
            MODEL, BASELINE,
            ("--float32-weights", {"type": Path, "metavar": "FILE", "help": "safetensors of the weights before rounding"
             " to fp16; without it float32 weights are drawn among those that round to the stored ones"}),
            HELD_OUT, OUTPUT,
            ("--split", {"default": "held-out", "choices": ("held-out", "validation", "test"), "help": "held-out is"
             " both"}),
            limit(100, "chips a ground resolution, or class"),
            (FEATURES[0], {**FEATURES[1], "help": f"none (no kernel distance), or {FEATURES[1]['help']}"}),
            ("--steps", {"type": int, "default": 600, "help": "of the classifier's training"}),
            SEED, DEVICE,
        ),
    ),
    Protocol(
        "gallery", "pictures of ten held-out places: source, bicubic, L1, generated, real",
        "backend.evaluation.protocols.gallery", "gallery", "GallerySettings",
        (
            MODEL, BASELINE, HELD_OUT,
            ("--output", {"type": Path, "required": True, "help": "folder for gallery.md and pictures"}),
            SEED, DEVICE,
        ),
    ),
)


def add_protocols(parser: argparse.ArgumentParser, execute: Execute) -> None:
    """The sub-verbs of ``evaluate``; ``execute`` runs (report, check) -> text under a progress bar."""
    verbs = parser.add_subparsers(required=True, metavar="PROTOCOL")
    for protocol in PROTOCOLS:
        verb = verbs.add_parser(protocol.name, help=protocol.help)
        for name, settings in protocol.options:
            verb.add_argument(name, **settings)

        def run(arguments: argparse.Namespace, protocol: Protocol = protocol) -> int:
            print(execute(lambda report, check: protocol.run(arguments, report, check)))
            return 0

        verb.set_defaults(run=run)
