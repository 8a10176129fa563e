"""What the command line and the server call to prepare and to train; see `backend.verbs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backend.models.bundle import find_any_bundle
from backend.progress import Check, Report
from backend.protocol import PREPARE, TRAIN, FieldError, check_fields
from backend.training import prepare as preparation
from backend.training.chips import SPLITS
from backend.training.run import same_kind, smoke, train_bundle, usual_workers
from backend.training.settings import changed

Values = dict[str, Any]


def prepare(values: Values, report: Report, check: Check) -> Values:
    """Cut a training set; its folder, the chips of each split, and its card."""
    given = check_fields(PREPARE.fields, values)
    sources, gsd_m, workers = (given.pop(name) for name in ("sources", "gsd", "workers"))
    wanted = preparation.Preparation(sources=tuple(sources), gsd_m=tuple(gsd_m or ()), **given)
    facts = preparation.prepare(wanted, workers, report, check)
    card = (Path(wanted.output) / "README.md").read_text(encoding="utf-8")
    return {"output": wanted.output, **{split: facts["chips"][split] for split in SPLITS}, "text": card}


def train(values: Values, report: Report, check: Check) -> Values:
    """Train a model; the folder of its bundle and the steps done."""
    given = check_fields(TRAIN.fields, values)
    assignments = given["set"] or []
    assignments += [f"{name}={given[name]}" for name in ("steps", "learning_rate") if given[name] is not None]
    if given["smoke"]:
        return {"output": "", "step": 0, "text": smoke(given["config"], assignments, given["device"])}
    if not (given["data"] and given["output"]):
        raise FieldError("Give a training set and a folder for the trained model, or only try.")
    workers = usual_workers() if given["workers"] is None else given["workers"]
    step = train_bundle(
        config=given["config"],
        data=Path(given["data"]),
        output=Path(given["output"]),
        assignments=assignments,
        device=given["device"],
        start=beginning(given["config"], given["start"], assignments),
        workers=workers,
        report=report,
        check=check,
    )
    return {"output": given["output"], "step": step, "text": f"The model in {given['output']} has {step} steps."}


def beginning(config: str, start: str, assignments: Sequence[str] = ()) -> str | None:
    """The bundle whose weights a new run begins with; None for random ones.

    ``auto``: the configuration's own, if it has any, and ``assignments`` do not ask for another kind of network.
    """
    if start == "auto":
        bundle = find_any_bundle(config)
        fits = bundle.has_weights and same_kind(bundle.config, changed(bundle.config, list(assignments)))
        return config if fits else None
    return None if start == "none" else start
