"""What the command line and the server call to augment and to evaluate; see `backend.verbs`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from backend.augmentation import AugmentSettings
from backend.augmentation import augment as make_variants
from backend.evaluation.commands import PROTOCOLS, Protocol
from backend.progress import Check, Report
from backend.protocol import AUGMENT, EVALUATE, FIELDS, FieldError, check_fields

Values = dict[str, Any]


def augment(values: Values, report: Report, check: Check) -> Values:
    """Make generated variants of labelled chips; the manifest and how many it names."""
    given = check_fields(AUGMENT.fields, values)
    data, output = (Path(given.pop(name)) for name in ("data", "output"))
    manifest = make_variants(AugmentSettings(data, output, **given), report, check)
    count = len(manifest.read_text(encoding="utf-8").splitlines()) - 1
    text = f"{count} variants in {output}, listed in {manifest.name}."
    return {"output": str(output), "manifest": str(manifest), "count": count, "text": text}


def evaluate(values: Values, report: Report, check: Check) -> Values:
    """Measure a model by a protocol; its table."""
    given = check_fields(EVALUATE.fields, values)
    protocol = next(p for p in PROTOCOLS if p.name == given["protocol"])
    text = protocol.run(arguments_of(protocol, given), report, check)
    table = Path(given["output"]) / "table.md"
    return {"output": given["output"], "table": str(table) if table.is_file() else "", "text": text}


def arguments_of(protocol: Protocol, given: Values) -> argparse.Namespace:
    """The protocol's options as its command has them; `FieldError` for what it has not, or cannot be.

    The default model of the table of fields stands for the protocol's own.
    """
    parser = Parser(prog=protocol.name, add_help=False, allow_abbrev=False)
    for name, settings in protocol.options:
        parser.add_argument(name, **settings)
    words = ["--data", given["data"], "--output", given["output"]]
    if any(name == "--model" for name, _ in protocol.options) and given["model"] != FIELDS["model"].default:
        words += ["--model", given["model"]]
    for assignment in given["set"] or []:
        name, _, value = assignment.partition("=")
        words += ["--" + name.replace("_", "-"), *value.split(",")]
    return parser.parse_args(words)


class Parser(argparse.ArgumentParser):
    """A parser that raises `FieldError` instead of ending the process."""

    def error(self, message: str) -> Any:
        """What argparse calls for options that do not fit."""
        raise FieldError(f"{self.prog}: {message}.")
