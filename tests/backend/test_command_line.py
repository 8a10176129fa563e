"""``python -m backend`` as a user calls it."""

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from affine import Affine
from PIL import Image

from backend.__main__ import build_parser
from backend.devices import choose_device, device_name
from backend.evaluation.commands import PROTOCOLS
from backend.protocol import EVALUATE, JOB_FIELDS, VERBS, FieldError, Job, stage_paths
from backend.verbs import MODULES

DEGREES = Affine(1e-4, 0, 10.0, 0, -1e-4, 47.0)


def backend(*arguments, timeout=180):
    return subprocess.run(
        [sys.executable, "-m", "backend", *map(str, arguments)], capture_output=True, text=True, timeout=timeout
    )


def test_json_is_one_object_on_one_line(small_model, make_raster, tmp_path):
    done = backend(
        "generate",
        make_raster(height=8, width=9),
        tmp_path / "out.tif",
        "--model",
        small_model.folder,
        "--stages",
        2,
        "--extent",
        500_000,
        4_999_950,
        500_060,
        5_000_000,
        "--bands",
        3,
        2,
        1,
        "--seed",
        5,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    asked = {
        "outputs",
        "grid",
        "seed",
        "model_sha256",
        "evaluations",
        "evaluations_per_pixel",
        "seconds_network",
        "seconds_total",
        "peak_memory_bytes",
        "consistency_psnr",
    }
    assert asked <= set(result)
    assert result["outputs"] == [str(tmp_path / "out_stage1.tif"), str(tmp_path / "out.tif")]
    assert (result["grid"]["width"], result["grid"]["height"]) == (96, 80)


def test_without_json_people_are_told(small_model, make_raster, tmp_path):
    done = backend("generate", make_raster(height=8, width=9), tmp_path / "out.tif", "--model", small_model.folder)
    assert done.returncode == 0
    assert "Written:" in done.stdout and "36 x 32 pixels of 2.5 m, synthetic detail by small, seed 0" in done.stdout


def test_a_dry_run_writes_nothing(small_model, make_raster, tmp_path):
    done = backend("generate", make_raster(), tmp_path / "out.tif", "--model", small_model.folder, "--dry-run")
    summary = json.loads(done.stdout)
    assert summary["stages"][0]["width"] == 96
    assert summary["output_bytes"] == 3 * 80 * 96 and summary["disk_bytes"] >= 2 * summary["output_bytes"]
    assert summary["evaluations"] == 3 * summary["windows"] > 0
    assert 0 < summary["seconds"] < 60 and summary["device_name"]
    assert not (tmp_path / "out.tif").exists()


def test_an_interrupted_job_is_resumed(small_model, make_raster, tmp_path):
    arguments = ["generate", make_raster(height=24, width=24), tmp_path / "out.tif", "--stages", 2, "--steps", 5]
    command = [sys.executable, "-m", "backend", *map(str, arguments), "--model", str(small_model.folder)]
    job = subprocess.Popen(command, stderr=subprocess.PIPE)
    folder = tmp_path / "out.tif.metaearth-job"
    while job.poll() is None and not list(folder.glob("blocks/1/s1/*.tif")):
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    _, text = job.communicate()
    assert job.returncode == 130 and "what is finished is kept" in text.decode()
    done = backend("resume", folder, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["blocks_resumed"] > 0
    assert (tmp_path / "out.tif").exists() and not folder.exists()


def test_inspect_tells_what_the_backend_sees(make_raster):
    found = json.loads(backend("inspect", make_raster(crs="EPSG:4326", transform=DEGREES), "--json").stdout)
    assert found["pixel_height_m"] == pytest.approx(11.12, rel=1e-2)
    assert found["pixel_width_m"] == pytest.approx(7.6, rel=1e-2)
    assert found["stretch_low"] == [0, 0, 0] and found["models"] == ["metaearth-lite"]


def test_a_path_that_the_console_cannot_show_is_no_failure(make_raster):
    done = subprocess.run(
        [sys.executable, "-m", "backend", "inspect", make_raster("日本.tif")],
        env={**os.environ, "PYTHONIOENCODING": "cp1252"}, capture_output=True, text=True, timeout=180,
    )
    assert done.returncode == 0 and r"\u65e5\u672c.tif" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["missing.tif", "out.tif"], 1, "There is no file missing.tif."),
        (["in.tif", "out.tif", "--seed", "x"], 2, "Seed: 'x' is not a valid integer."),
        (["in.tif", "out.tif", "--stages", "1", "--resolution", "2"], 2, "not both"),
        (["in.tif", "out.tif", "--sampler", "magic"], 2, "Sampler: 'magic' is not one of auto, dpm-solver++, ddim."),
        (["in.tif"], 2, "required: output"),
    ],
)
def test_wrong_calls_end_in_a_sentence(arguments, status, sentence):
    done = backend("generate", *arguments)
    assert done.returncode == status
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_the_doctor_tells_releases_device_and_models():
    lines = dict(line.split(": ", 1) for line in backend("doctor").stdout.splitlines())
    assert lines["torch"] == torch.__version__ and lines["Device taken"] == device_name(choose_device("auto"))
    assert len(lines["Model metaearth-lite"]) == 64


def test_models_lists_the_embedded_ones():
    assert "metaearth-600m" in backend("models").stdout


def test_every_job_field_has_its_option():
    text = build_parser()._subparsers._group_actions[0].choices["generate"].format_help()
    for field in JOB_FIELDS:
        assert field.option in text


def test_the_table_of_fields_and_the_job_agree():
    assert [f.name for f in JOB_FIELDS] == list(Job.__dataclass_fields__)
    job = Job.from_dict({"input": "a", "output": "b"})
    for field in JOB_FIELDS[2:]:
        assert getattr(job, field.name) == field.default == Job.__dataclass_fields__[field.name].default
    assert Job.from_dict(job.to_dict()) == job


@pytest.mark.parametrize("verb", [v for v in VERBS.values() if v is not EVALUATE], ids=lambda v: v.name)
def test_every_field_of_a_verb_is_an_argument(verb):
    given = [word for f in verb.fields if f.positional for word in (["3"] if f.kind == "number" else [f.name])]
    named = [word for f in verb.fields if f.required and not f.positional for word in (f.option, f.name)]
    parsed = build_parser().parse_args([verb.name, *given, *named])
    assert {field.name for field in verb.fields} <= set(vars(parsed))
    assert verb.name in MODULES and all(field.help and field.label for field in verb.fields)


def test_the_table_and_the_command_have_the_same_protocols():
    choices = next(field.choices for field in EVALUATE.fields if field.name == "protocol")
    assert choices == tuple(protocol.name for protocol in PROTOCOLS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": 2147483648},
        {"seed": 1.5},
        {"stages": 0},
        {"steps": "many"},
        {"bands": [1, 2]},
        {"bands": [0]},
        {"extent": [1, 2, 3]},
        {"extent": [1, 2, 3, float("nan")]},
        {"consistency": float("nan")},
        {"surprise": 1},
        {"output": ""},
    ],
)
def test_values_that_a_field_cannot_have_are_refused(wrong):
    with pytest.raises(FieldError):
        Job.from_dict({"input": "a", "output": "b", **wrong})


@pytest.mark.parametrize(
    ("output", "stages", "paths"),
    [
        ("d/out.tif", 1, ["d/out.tif"]),
        ("d/out.tif", 3, ["d/out_stage1.tif", "d/out_stage2.tif", "d/out.tif"]),
        ("d/stage2.tif", 2, ["d/stage1.tif", "d/stage2.tif"]),
        ("d", 2, ["d/stage1.tif", "d/stage2.tif"]),
    ],
)
def test_where_stages_are_written(output, stages, paths):
    assert stage_paths(output, stages) == paths


def parser_of(*names):
    """The parser of a verb, or of a sub-verb."""
    parser = build_parser()
    for name in names:
        parser = parser._subparsers._group_actions[0].choices[name]
    return parser


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
def test_every_option_of_a_protocol_is_a_field_of_its_settings(protocol):
    settings = getattr(importlib.import_module(protocol.module), protocol.settings)
    fields = {f.name: f.default for f in dataclasses.fields(settings)}
    for action in parser_of("evaluate", protocol.name)._actions[1:]:
        assert action.dest in fields
        assert action.required or action.default == fields[action.dest], action.dest


def test_evaluate_runs_a_protocol_and_prints_its_table(small_model, tmp_path):
    path = tmp_path / "imagery/train/s2_amazon_10m/test_1.jpg"
    path.parent.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    Image.fromarray(pixels).save(path)
    options = ["--model", small_model.folder, "--data", tmp_path / "imagery", "--output", tmp_path / "out"]
    done = backend("evaluate", "spectrum", *options, "--limit", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (tmp_path / "out" / "table.md").read_text().strip()
    assert "| output m/px | chips | places |" in done.stdout


def test_a_protocol_without_imagery_ends_in_a_sentence(tmp_path):
    done = backend("evaluate", "spectrum", "--data", tmp_path / "none", "--output", tmp_path / "out")
    assert done.returncode == 1 and "There is no folder of imagery" in done.stderr


def test_augment_makes_a_manifest_of_variants(small_model, make_raster, tmp_path):
    (tmp_path / "chips" / "a").mkdir(parents=True)
    make_raster("chips/a/one.tif")
    done = backend("augment", tmp_path / "chips", tmp_path / "out", "--model", small_model.folder, "--variants", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"2 variants in {tmp_path / 'out'}, listed in manifest.csv.\n"
    assert (tmp_path / "out" / "manifest.csv").is_file()
    assert len(list((tmp_path / "out" / "a").glob("one_v?.tif"))) == 2
