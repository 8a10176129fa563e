"""The verbs of `backend.protocol.VERBS` at work: plain values in, plain values out.

A verb's function takes the values of its fields, ``report`` (done, total, what) and ``check``, which may raise; it
returns what it tells by name: ``text`` for people, ``output``, and the verb's outputs. Values that a field cannot have
are a `FieldError`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from backend.errors import PlanError
from backend.progress import Check, Report
from backend.protocol import VERBS, JobSummary

MODULES = {
    "view": "backend.world.verbs",
    "flythrough": "backend.world.verbs",
    "place": "backend.world.verbs",
    "prepare": "backend.training.verbs",
    "train": "backend.training.verbs",
    "augment": "backend.evaluation.verbs",
    "evaluate": "backend.evaluation.verbs",
    "translate": "backend.jobs.scene_verbs",
    "generate-pair": "backend.jobs.scene_verbs",
    "embed": "backend.jobs.embedding_verb",
}
"""Where each verb's function of its name is; loaded when it is called."""


def run_verb(name: str, values: dict[str, Any], report: Report, check: Check) -> dict[str, Any]:
    """What a verb tells of its outcome."""
    return _function(name, list(MODULES))(values, report, check)


def plan_verb(name: str, values: dict[str, Any]) -> JobSummary:
    """What a verb would do and cost, of those that are ``planned``: told by the function plan_VERB."""
    return _function(name, [verb.name for verb in VERBS.values() if verb.planned], "plan_")(values)


def _function(name: str, known: list[str], prefix: str = "") -> Callable[..., Any]:
    if name not in known:
        raise PlanError(f"There is no verb {name!r}; known: {', '.join(known)}.")
    return getattr(import_module(MODULES[name]), prefix + name.replace("-", "_"))
