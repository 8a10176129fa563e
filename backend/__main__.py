"""``python -m backend VERB``: the command line."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from backend.evaluation.commands import add_protocols
from backend.protocol import (
    EVALUATE,
    JOB_FIELDS,
    VERBS,
    FieldError,
    Job,
    JobField,
    JobResult,
    Progress,
    Verb,
    data_home,
)

FAILED, USAGE, INTERRUPTED = 1, 2, 130

# threads that wait in a busy loop make the network 20 times slower as soon as another program computes too; after so
# short a wait they sleep, which costs nothing where nobody else does (docs/performance.md)
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


METAVARS: dict[str, str | tuple[str, ...]] = {
    "extent": ("XMIN", "YMIN", "XMAX", "YMAX"),
    "range": ("LOW", "HIGH"),
    "point": ("X", "Y"),
    "bands": "BAND",
    "numbers": "M",
    "rasters": "PATH",
    "choices": "NAME",
    "integer": "N",
    "number": "M",
}


def add_job_arguments(parser: argparse.ArgumentParser, fields: tuple[JobField, ...] = JOB_FIELDS) -> None:
    """One option a job field; the values stay text, `JobField.check` checks them."""
    for field in fields:
        is_told = field.default is not None and field.default is not False and field.default != ""
        usual = f" Default: {field.default}." if is_told else ""
        options: dict = {"help": f"{field.label}. {field.help}{usual}".replace("%", "%%")}
        if not field.positional:
            options.update(dest=field.name, required=field.required)
        metavar = METAVARS.get(field.kind) or "|".join(field.choices) or "TEXT"
        if field.kind == "flag":
            options["action"] = "store_true"
        elif isinstance(metavar, tuple):
            options.update(nargs=len(metavar), metavar=metavar)
        elif field.kind in ("bands", "numbers", "rasters", "words", "choices"):
            options.update(nargs="+", metavar=metavar)
        elif not field.positional:
            options["metavar"] = metavar
        parser.add_argument(field.option, **options)


def add_answer_arguments(parser: argparse.ArgumentParser, planned: bool = False) -> None:
    """How the answer is told, and whether only the cost is asked for."""
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    if planned:
        parser.add_argument("--dry-run", action="store_true", help="print what the job would do and cost, as JSON")


def raise_on_signals() -> Callable[[], None]:
    """A check that raises after Ctrl-C (`Cancelled`) or a polite kill (`Interrupted`)."""
    from backend.errors import Cancelled, Interrupted

    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, frame: received.append(signum))

    def check() -> None:
        if received:
            raise Cancelled if signal.SIGINT in received else Interrupted

    return check


@contextmanager
def counted(unit: str = "") -> Iterator[Callable[[float, int, str], None]]:
    """A report (done, total, message) that moves a progress bar on the terminal; lines of a log where there is none."""
    from backend.progress import in_lines

    if not sys.stderr.isatty():
        yield in_lines(lambda line: print(line, file=sys.stderr, flush=True))
        return
    from tqdm import tqdm

    with tqdm(total=None, unit=unit) as bar:

        def report(done: float, total: int, message: str) -> None:
            bar.total = total
            bar.set_description(message, refresh=False)
            bar.update(int(done) - bar.n)

        yield report


def watched(work: Callable[[Callable[[float, int, str], None], Callable[[], None]], Any]) -> Any:
    """What ``work(report, check)`` returns, under a progress bar, stopped by signals."""
    check = raise_on_signals()
    with counted() as report:
        return work(report, check)


def generate(arguments: argparse.Namespace) -> int:
    """Make a raster finer."""
    check = raise_on_signals()
    job = Job.from_dict({f.name: getattr(arguments, f.name) for f in JOB_FIELDS})
    from backend.jobs.plan import make_plan
    from backend.jobs.runner import JobRun

    plan = make_plan(job)
    if arguments.dry_run:
        print(json.dumps(dataclasses.asdict(plan.summary())))
        return 0
    warn(plan.warnings)
    print_result(lambda report: JobRun(plan, report, check).run(), arguments.json)
    return 0


def resume(arguments: argparse.Namespace) -> int:
    """Finish an interrupted job."""
    check = raise_on_signals()
    from backend.jobs import runner

    folder = Path(arguments.folder)
    print_result(lambda report: runner.resume(folder, report, check, arguments.executor), arguments.json)
    return 0


def print_result(run: Callable[[Callable[[Progress], None]], JobResult], as_json: bool) -> None:
    """Run a job under a progress bar and print what it says of itself."""
    with counted("window") as report:
        result = run(lambda p: report(p.windows_done, p.windows, f"stage {p.stage} of {p.stages}, {p.message}"))
    print(json.dumps(dataclasses.asdict(result)) if as_json else describe(result))


def warn(sentences: Iterable[str]) -> list[str]:
    """Print warnings; those that were printed."""
    told = list(sentences)
    for sentence in told:
        print(f"Warning: {sentence}", file=sys.stderr)
    return told


def run(verb: Verb, arguments: argparse.Namespace) -> int:
    """Do what a verb says, under a progress bar, or tell what it would cost."""
    from backend.verbs import plan_verb, run_verb

    values = {field.name: getattr(arguments, field.name) for field in verb.fields}
    if verb.planned and arguments.dry_run:
        print(json.dumps(dataclasses.asdict(plan_verb(verb.name, values))))
        return 0

    def work(report: Callable[[float, int, str], None], check: Callable[[], None]) -> dict[str, Any]:
        said = warn(plan_verb(verb.name, values).warnings if verb.planned else [])
        check()
        told = run_verb(verb.name, values, report, check)
        warn(w for w in told.get("warnings", []) if w not in said)
        return told

    told = watched(work)
    print(json.dumps(told) if arguments.json else told["text"])
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """Tell what the backend sees in a raster."""
    from backend.jobs.inspection import inspect_raster

    found = inspect_raster(arguments.input, arguments.source_resolution)
    print(json.dumps(dataclasses.asdict(found), indent=None if arguments.json else 2))
    return 0


def describe(result: JobResult) -> str:
    """The result in a few lines for people."""
    grid = result.grid
    psnr = result.consistency_psnr
    consistency = [] if psnr is None else [f"Averaged down, the result is the source within {psnr} dB"]
    return "\n".join(
        [
            *(f"Written: {path}" for path in (*result.outputs, *result.statistics)),
            f"{grid.width} x {grid.height} pixels of {grid.pixel_size_m:.4g} m, synthetic detail by {result.model},"
            f" seed {result.seed}",
            f"{result.evaluations} network evaluations ({result.evaluations_per_pixel:.1f} a pixel),"
            f" {result.seconds_total:.1f} s, {result.seconds_network:.1f} s of them in the network"
            f" ({result.device}, {result.precision})",
            *consistency,
        ]
    )


def serve(arguments: argparse.Namespace) -> int:
    """Answer requests on standard input until it ends."""
    from backend.server import serve_stdio

    return serve_stdio()


def doctor(arguments: argparse.Namespace) -> int:
    """Tell what those ask who help."""
    from backend.diagnosis import diagnose

    for name, line in diagnose().facts.items():
        print(f"{name}: {line}")
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Measure the engine on this machine."""
    from backend.evaluation.bench import bench as run_bench

    run_bench(arguments.parts, Path(arguments.data), Path(arguments.output), arguments.side)
    return 0


def models(arguments: argparse.Namespace) -> int:
    """List the installed models, after adding or removing one."""
    from backend.models.bundle import list_bundles
    from backend.models.store import add_model, remove_model

    if arguments.remove:
        remove_model(arguments.remove)
    if arguments.add:
        add_model(arguments.add, arguments.sha256)

    for bundle in list_bundles():
        finest, coarsest = bundle.config.ground_resolution_m
        state = "" if bundle.has_weights else " (no weights: for training only)"
        print(f"{bundle.config.id}: {bundle.config.title}, {finest:g} to {coarsest:g} m/px{state}\n  {bundle.folder}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(prog="python -m backend", description="MetaEarth's geospatial backend.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("generate", help="make a raster finer")
    add_job_arguments(verb)
    add_answer_arguments(verb, planned=True)
    verb.set_defaults(run=generate)

    verb = verbs.add_parser("resume", help="finish an interrupted job")
    verb.add_argument("folder", help="the job's folder")
    add_answer_arguments(verb)
    verb.add_argument("--executor", metavar="TEXT", help="where to compute the rest; else as the job was started")
    verb.set_defaults(run=resume)

    verb = verbs.add_parser("inspect", help="tell what the backend sees in a raster")
    verb.add_argument("input", help="the raster")
    verb.add_argument("--source-resolution", type=float, metavar="M", help="metres per pixel, where there is no CRS")
    verb.add_argument("--json", action="store_true", help="print one line")
    verb.set_defaults(run=inspect)

    for each in VERBS.values():
        if each is EVALUATE:  # each protocol has options of its own
            continue
        verb = verbs.add_parser(each.name, help=each.title[0].lower() + each.title[1:], description=each.help)
        add_job_arguments(verb, each.fields)
        add_answer_arguments(verb, each.planned)
        verb.set_defaults(run=partial(run, each))

    verb = verbs.add_parser("serve", help="answer JSON-RPC requests on standard input")
    verb.set_defaults(run=serve)

    verb = verbs.add_parser("doctor", help="tell releases, device and models, for those who are asked for help")
    verb.set_defaults(run=doctor)

    verb = verbs.add_parser("evaluate", help="measure a model by the paper's protocols and ours")
    add_protocols(verb, watched)

    verb = verbs.add_parser("bench", help="measure the engine on this machine: cost, memory, seams, workers")
    parts = ("throughput", "memory", "workers", "resume", "borders", "sampler", "modes", "seams", "translations")
    verb.add_argument("parts", nargs="*", default=parts, metavar="PART", help=f"some of {', '.join(parts)}")
    verb.add_argument("--data", default="data", help="folder of imagery, laid out as backend/training/split.toml says")
    verb.add_argument("--output", required=True, help="folder for bench.json and bench.md")
    verb.add_argument("--side", type=int, default=4096, choices=(1024, 2048, 4096), help="pixels a side in part seams")
    verb.set_defaults(run=bench)

    verb = verbs.add_parser("models", help="list the installed models, add one or remove one")
    verb.add_argument("--add", metavar="SOURCE", help="a bundle's folder or zip, or hub:owner/name@COMMIT")
    verb.add_argument("--sha256", default="", help="SHA-256 of the added model's weights; needed for a hub")
    verb.add_argument("--remove", metavar="ID", help="delete one of your own models")
    verb.set_defaults(run=models)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed with a sentence, 2 wrong usage, 130 cancelled or interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path that a console cannot show is no failure
    words = sys.argv[1:] if argv is None else argv
    # else a path that begins in the west, -70.1,-33.4,5000, would be taken for an option
    arguments = build_parser().parse_args([f" {word}" if re.match(r"-[\d.]+,", word) else word for word in words])
    from backend.errors import Cancelled, Interrupted, MetaEarthError

    try:
        return arguments.run(arguments)
    except FieldError as error:
        print(error, file=sys.stderr)
        return USAGE
    except (Cancelled, Interrupted) as error:
        print(error, file=sys.stderr)
        return INTERRUPTED
    except MetaEarthError as error:
        print(error, file=sys.stderr)
        return FAILED
    except Exception as error:
        log = data_home() / "logs" / f"backend-{os.getpid()}.log"
        with suppress(OSError):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(traceback.format_exc(), encoding="utf-8")
        print(f"Something unexpected went wrong ({type(error).__name__}: {error}). Details: {log}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
