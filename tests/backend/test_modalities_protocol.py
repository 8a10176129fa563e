"""`evaluate modalities`, its figures and baselines, on a little set whose modalities are functions of each other."""

from __future__ import annotations

import dataclasses
import importlib
import json

import numpy as np
import pytest
import torch

from backend.__main__ import main
from backend.errors import Cancelled, InputError, ModelError, PlanError
from backend.evaluation.kept import UNFINISHED
from backend.evaluation.protocols.modalities import ModalitySettings, modalities
from backend.evaluation.scene_chips import SceneChips, TrainingPixels
from backend.evaluation.translators import Draw, SceneTranslator, antithetic, as_known, in_chips
from backend.evaluation.verbs import evaluate
from backend.jobs.engines import open_scene_engine
from backend.models.bundle import Profile, SceneModelConfig, find_scene_bundle, open_bundle, save_bundle
from backend.models.scene_config import RegressionConfig, SceneNetworkConfig, VaeConfig
from backend.models.scene_network import SceneNetwork
from backend.models.scene_regression import SceneRegression, observed_and_wanted, of_streams
from backend.progress import go_on, silent
from backend.training.chips import DATASET_FILE, ChipFacts, ChipSet, CutChip, write_shard
from backend.training.processes import Processes
from backend.training.run import find_start, train_bundle
from backend.training.settings import TrainingSettings, changed
from backend.training.tasks import seen_classes, task_of
from backend.training.trainer import Trainer
from backend.training.verbs import beginning

SIDE = 48
TINY = SceneNetworkConfig(
    tile=64, width=32, heads=2, inference_blocks=2, generator_blocks=1, encoding_channels=16,
    vae=VaeConfig(4, 6, (16,), 1), regression=RegressionConfig(16, (1, 2), 1, 2),
)
WEIGHTS = np.array([0.5, 0.3, 0.1])
SHORT = ["objective=l1", "steps=80", "batch=4", "crop=32", "warmup=5", "learning_rate=0.003", "precision=float32"]


def nir_of(rgb):
    """A linear map of the bands, (rows, cols, 1)."""
    return np.rint(20 + rgb @ WEIGHTS).astype(np.uint8)[..., None]


def picture(rng):
    """(SIDE, SIDE, 3): smooth blocks and grain."""
    blocks = rng.integers(20, 220, (SIDE // 8, SIDE // 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
    return (blocks + rng.integers(-15, 15, blocks.shape)).clip(0, 255).astype(np.uint8)


def chip(name, number, others, rng):
    """One place: RGB, and near infrared, SAR and a map as far as ``others`` names them."""
    rgb = picture(rng)
    every = {
        "nir": nir_of(rgb),
        "sar": (255 - rgb[..., :1] // 2).astype(np.uint8),
        "osm": np.where(rgb[..., :1] > 120, 3, 0).astype(np.uint8),
    }
    facts = ChipFacts(10.0, None, None, "toy", "", f"{name}_{number}_2020.jpg", (0, 0), "", (), "rgb", ("osm",))
    return CutChip(f"{name}_{number}", rgb, facts, {m: every[m] for m in others})


def nir_first(cut):
    """The same chip without its RGB; prepared sets hold a first picture as three bands."""
    beside = {m: v for m, v in cut.others.items() if m != "nir"}
    return cut._replace(pixels=cut.others["nir"].repeat(3, axis=2), others=beside,
                        facts=dataclasses.replace(cut.facts, modality="nir", derived=()))


@pytest.fixture(scope="module")
def chips(tmp_path_factory):
    """Training places never show RGB and SAR together; two test places do."""
    folder, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(0)
    train = [chip("train", n, ("nir", "osm"), rng) for n in range(6)]
    train += [nir_first(chip("radar", n, ("nir", "sar"), rng)) for n in range(6)]
    test = [chip("test", n, ("nir", "osm"), rng) for n in range(5)]
    test += [chip("far", n, ("nir", "sar"), rng) for n in (0, 1)]
    write_shard(folder / "train" / "000000.tar", train)
    write_shard(folder / "test" / "000000.tar", test)
    (folder / DATASET_FILE).write_text("{}")
    return folder


def config_of(name="tiny-mm", **fields):
    values = {"training": {}, "relative": ("sar",), "untrained": ("pan",), **fields}
    return SceneModelConfig(name, "Tiny", TINY, (0.1, 100.0), Profile(margin=16, ramp=8, steps=2), "", **values)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """MetaEarth-MM with random weights."""
    folder = tmp_path_factory.mktemp("models") / "scene"
    torch.manual_seed(0)
    network = SceneNetwork(TINY)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        network.vae.deviation.fill_(1)
    save_bundle(folder, config_of(pairs=(("rgb", "nir"), ("rgb", "osm"), ("nir", "osm"))), network.state_dict())
    return folder


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The same model's configuration, without weights."""
    folder = tmp_path_factory.mktemp("models") / "config"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_of().to_dict()))
    return folder


@pytest.fixture(scope="module")
def baseline(chips, untrained, tmp_path_factory):
    """A baseline trained a little by the command's own function."""
    folder = tmp_path_factory.mktemp("models") / "l1"
    assert train_bundle(str(untrained), chips, folder, [*SHORT, "steps=10"], "cpu", None, 0) == 10
    return folder


def test_what_is_given_where_and_which_seed_decide_a_translation(model):
    translator = SceneTranslator(open_scene_engine(find_scene_bundle(str(model)), "cpu"))
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 3, 48, 48)).astype(np.float32)
    pictures = translator.translate({"rgb": one}, "nir", 10.0, 0, antithetic(0, 3))
    again = translator.translate({"rgb": one}, "nir", 10.0, 0, antithetic(0, 3))
    assert pictures.shape == (3, 3, 48, 48)
    assert min(np.abs(pictures[k] - pictures[n]).mean() for k, n in ((0, 1), (0, 2), (1, 2))) > 0.05
    np.testing.assert_array_equal(pictures, again)
    # random weights look at what is given a little only, but the same input repeats exactly
    assert not np.array_equal(translator.translate({"rgb": other}, "nir", 10.0, 0, antithetic(0, 1))[0], pictures[0])
    assert np.abs(translator.translate({"rgb": one}, "nir", 10.0, 1, antithetic(0, 1))[0] - pictures[0]).mean() > 0.05


def test_samples_begin_with_a_noise_field_or_its_negative(model):
    assert antithetic(5, 3) == [Draw(5), Draw(5, negative=True), Draw(6)]
    engine = open_scene_engine(find_scene_bundle(str(model)), "cpu")
    begun = []

    def windows(some, targets, gsd_m):
        begun.extend(window.noises[0] for window in some)
        return np.zeros((len(some), 1, 3, 64, 64), np.float32)

    engine.windows = windows
    given = {"rgb": np.zeros((3, 48, 48), np.float32)}
    SceneTranslator(engine).translate(given, "nir", 10.0, 0, antithetic(5, 2))
    np.testing.assert_array_equal(begun[0], engine.window_noise(5, "nir", 0, 0))
    np.testing.assert_array_equal(begun[0], -begun[1])


def test_a_map_has_the_classes_only_that_the_model_saw():
    between = np.full((3, 1, 1), (0xF0 + 0xA0) / 255 - 1, np.float32)
    between[1:] = np.array([(0xC0 + 0x60) / 255 - 1, (0x40 + 0x50) / 255 - 1])[:, None, None]
    assert in_chips("osm").from_picture(between) == 2
    known = as_known(config_of(classes={"osm": (0, 1)}))["osm"]
    assert [c.value for c in known.classes] == [0, 1] and known.from_picture(between) in (0, 1)
    road = np.full((1, 1, 1), 2, np.float32)
    np.testing.assert_array_equal(known.to_picture(road), known.to_picture(0 * road))


def test_a_model_remembers_which_classes_of_maps_it_saw(chips):
    task = task_of(config_of(classes={"osm": (4,)}), TrainingSettings(objective="flow"))
    pool = task.training_pool(chips)
    assert pool.classes("osm") == (0, 3)
    assert task.described(pool, None).classes == {"osm": (0, 3)}
    start = config_of(training={"objective": "flow"}, classes={"osm": (4,)})
    assert task.described(pool, start).classes["osm"] == (0, 3, 4)
    assert seen_classes(in_chips("osm"), (3, 99)) == (0, 3)


def test_a_model_remembers_at_which_resolutions_it_saw_a_modality(chips):
    task = task_of(config_of(), TrainingSettings(objective="flow", crop=24))
    assert task.described(task.training_pool(chips), None).resolutions == {
        name: (10.0, 20.0) for name in ("nir", "osm", "rgb", "sar")
    }
    start = config_of(training={"objective": "flow"}, resolutions={"nir": (0.6, 2.4), "pan": (1.0, 2.0)})
    task = task_of(config_of(), TrainingSettings(objective="flow", crop=32))
    found = task.described(task.training_pool(chips), start).resolutions
    assert found["nir"] == (0.6, 10.0) and found["pan"] == (1.0, 2.0) and found["osm"] == (10.0, 10.0)


def test_chips_are_spread_over_places_and_know_what_is_derived(chips):
    found = SceneChips(chips, "test", ("rgb", "nir", "sar", "osm"), 32)
    assert [c.place for c in found.showing(("rgb", "osm"), 9)] == [f"toy/test_{n}" for n in range(5)]
    assert len({c.place for c in found.showing(("rgb", "nir"), 4)}) == 4
    assert found.showing(("osm", "sar"), 4) == [] and found.chips[0].derived == {"osm"}
    read = found.read(found.chips[0])
    assert read["rgb"].shape == (3, 32, 32)
    whole = found.set.read_all(0)["rgb"]
    np.testing.assert_array_equal(read["rgb"], whole[8:40, 8:40].transpose(2, 0, 1))
    with pytest.raises(InputError, match="No chip of the test split"):
        SceneChips(chips, "test", ("pan", "osm"), 32)


def test_pixels_of_pairs_that_no_training_place_shows_are_none(chips):
    pixels = TrainingPixels(chips, ("rgb", "nir", "sar", "osm"), 0, silent, go_on)
    rgb, nir = pixels.of(("rgb", "nir"), 0)
    assert len(rgb) == len(nir) == 6 * 256
    np.testing.assert_array_equal(nir, nir_of(rgb))
    assert pixels.of(("rgb", "sar"), 0) is None and frozenset(("nir", "sar")) in pixels.together()


def test_facts_of_all_chips_are_those_of_each(chips):
    found = ChipSet(chips, "test")
    assert found.all_facts() == [found.facts(n) for n in range(len(found))]


def test_a_regression_never_sees_what_it_regresses_and_sees_everything_else():
    modalities = torch.tensor([[0, 1, 0], [2, 0, 1], [2, 1, 2]])
    times = torch.tensor([[0.2, 0.5, 0.7], [1.0, 0.4, 0.1], [1.0, 0.3, 0.3]])
    observed, wanted = observed_and_wanted(modalities, times)
    assert observed.tolist() == [[False, True, False], [True, False, False], [True, False, False]]
    assert wanted.tolist() == [[True, False, True], [False, True, True], [False, True, False]]
    pictures = torch.randn(3, 3, 3, 32, 32)
    stack = SceneRegression(5, TINY.regression, TINY.tile).shown(pictures, modalities, observed)
    torch.testing.assert_close(stack[0, 1, :3], pictures[0, 1])
    assert stack[0, 1, 3].min() == 1 and stack[0, [0, 2, 3, 4]].abs().max() == 0
    torch.testing.assert_close(of_streams(stack, modalities)[observed][:, :3], pictures[observed])


def test_the_baseline_is_of_about_the_models_size():
    config = find_scene_bundle("metaearth-mm-lite").config
    with torch.device("meta"):
        sizes = config.build().count_parameters(), config.build_regression().count_parameters()
    assert sizes[1] <= 8_000_000 and 0.8 < sizes[1] / sizes[0] < 1.25


def test_the_baselines_loss_falls(chips, tmp_path):
    config = changed(config_of(), SHORT)
    settings = TrainingSettings(**config.training)
    pool = task_of(config, settings).training_pool(chips)
    trainer = Trainer(config, settings, pool, tmp_path, Processes(0, 1, torch.device("cpu")))
    losses = [trainer.train_step() for _ in range(80)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert trainer.task.picture(trainer.judge, trainer.task.examples(pool, 0), torch.device("cpu")).width >= 64


def test_a_baseline_is_no_model_for_jobs_and_begins_with_its_own_weights(baseline, model):
    assert open_bundle(baseline).config.is_regression
    with pytest.raises(ModelError, match="is a baseline"):
        find_scene_bundle(str(baseline))
    assert beginning(str(model), "auto") == str(model)
    assert beginning(str(model), "auto", ["objective=l1"]) is None
    with pytest.raises(PlanError, match="another kind of network"):
        find_start(str(model), open_bundle(baseline).config)


def settings_of(chips, output, model, **fields):
    values = {"split": "test", "limit": 6, "samples": 2, "device": "cpu", **fields}
    return ModalitySettings(chips, output, str(model), **values)


def rows_of(folder):
    return json.loads((folder / "table.json").read_text())


@pytest.fixture
def engines(monkeypatch):
    """The engines that evaluations open from now on."""
    found, module = [], importlib.import_module("backend.evaluation.protocols.modalities")

    def opened(*arguments, **named):
        found.append(open_scene_engine(*arguments, **named))
        return found[-1]

    monkeypatch.setattr(module, "open_scene_engine", opened)
    return found


def test_the_protocol_compares_every_pair_and_says_what_is_zero_shot(chips, model, baseline, tmp_path, engines):
    said = []
    table = modalities(settings_of(chips, tmp_path, model, l1=str(baseline)), lambda *r: said.append(r), go_on)
    told = rows_of(tmp_path)
    by_pair = {}
    for row in told["rows"]:
        by_pair.setdefault((row["from"], row["to"]), {})[row["made by"]] = row
    assert set(by_pair) == {(a, b) for a in ("rgb", "nir", "osm", "sar") for b in ("rgb", "nir", "osm", "sar")
                            if a != b and {a, b} != {"osm", "sar"}}
    nir = by_pair["rgb", "nir"]
    assert list(nir) == ["mean of samples", "one sample", "per-pixel regression", "L1 network"]
    assert nir["per-pixel regression"]["PSNR dB"]["value"] > 50 > nir["mean of samples"]["PSNR dB"]["value"]
    assert nir["one sample"]["training"] == "together" and nir["one sample"]["places"] == 6
    assert len(nir["one sample"]["octave power, made / real"]) == 3
    radar = by_pair["rgb", "sar"]
    assert radar["one sample"]["training"] == "zero-shot" and "per-pixel regression" not in radar
    assert radar["one sample"]["unit"] == "relative, 0 to 255" and radar["one sample"]["chips"] == 2
    land = by_pair["rgb", "osm"]
    assert land["per-pixel regression"]["mean IoU"]["value"] > 0.9 and "PSNR dB" not in land["one sample"]
    assert land["one sample"]["derived"] == "osm"
    bars, index, back, joint = told["more"]
    missed = next(r for r in bars["rows"] if (r["from"], r["to"]) == ("rgb", "nir"))
    assert missed["PSNR dB less regression's: bar"] == "missed" and missed["PSNR dB less regression's"]["high"] < 0
    assert "spectrum error of L1 less that of one sample: bar" in missed
    correlations = {r["made by"]: r["correlation a chip"]["value"] for r in index["rows"]}
    assert correlations["per-pixel regression"] > 0.99 > correlations["mean of samples"]
    assert 0 < correlations["one value for all"] < 0.99 and index["rows"][-1]["bar"] == "missed"
    assert [r["made by"] for r in back["rows"]] == ["one sample", "per-pixel regression", "L1 network"]
    assert [r["pairs"] for r in joint["rows"]] == ["made together", "shuffled", "real", "made together less shuffled"]
    assert {p.name for p in tmp_path.glob("*.png")} >= {"rgb-nir.png", "sar-nir.png", "joint.png", "round-trip.png"}
    assert "## Bars" in table.markdown() and said[-1][0] == said[-1][1]
    # translations, there and back, pairs from noise with their translations; 2 steps each
    chips_a_pair = 2 * (7 - 1) + 2 * (5 + 5) + 2 * (2 + 2)
    assert engines[0].evaluations == 2 * (2 * chips_a_pair + 6 + 6 + 2 * 6)


def test_calibrated_values_are_compared_in_their_unit(chips, tmp_path, model):
    calibrated = tmp_path / "calibrated"
    found = open_bundle(model)
    save_bundle(calibrated, dataclasses.replace(found.config, relative=()), found.load().state_dict())
    rows = []
    for name, folder in (("a", model), ("b", calibrated)):
        modalities(settings_of(chips, tmp_path / name, folder, modalities=["nir", "sar"]), silent, go_on)
        rows.append(next(r for r in rows_of(tmp_path / name)["rows"] if r["to"] == "sar"))
    assert rows[1]["unit"] == "dB"
    distances = [row["distance of values"]["value"] for row in rows]
    assert distances[1] == pytest.approx(distances[0] * 25 / 255, rel=1e-3)
    assert {p.name for p in (tmp_path / "b").glob("*.png")} == {"nir-sar.png", "sar-nir.png"}


def test_translations_repeat_and_samples_differ(chips, tmp_path, model):
    texts = []
    for name in "ab":
        modalities(settings_of(chips, tmp_path / name, model, modalities=["rgb", "nir"], limit=2), silent, go_on)
        texts.append((tmp_path / name / "table.md").read_text())
    assert texts[0] == texts[1]
    made = {r["made by"]: r["PSNR dB"]["value"] for r in rows_of(tmp_path / "a")["rows"] if r["to"] == "nir"}
    assert made["one sample"] != made["mean of samples"]


def test_it_stops_when_it_is_told_to_and_goes_on_with_what_it_has_made(chips, tmp_path, model, engines):
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 40:
            raise Cancelled

    settings = settings_of(chips, tmp_path / "halted", model, modalities=["rgb", "nir"])
    with pytest.raises(Cancelled):
        modalities(settings, silent, check)
    assert len(calls) == 41 and not (settings.output / "table.md").exists()
    damaged, *sound = (settings.output / UNFINISHED).glob("*.npz")
    damaged.write_bytes(b"")
    chips_made = len(sound)
    table = modalities(settings, silent, go_on)
    whole_run = modalities(dataclasses.replace(settings, output=tmp_path / "whole"), silent, go_on)
    assert table.rows == whole_run.rows and table.more == whole_run.more
    of_halted, of_rest, of_whole = (engine.evaluations for engine in engines)
    assert chips_made and of_rest == of_whole - 4 * chips_made  # a chip is two samples of two evaluations
    assert of_halted >= 4 * chips_made
    assert not (settings.output / UNFINISHED).exists()


def test_wrong_wishes_end_in_a_sentence(chips, tmp_path, model, untrained, capsys):
    common = ["evaluate", "modalities", "--data", str(chips), "--output", str(tmp_path), "--device", "cpu"]
    cases = [
        (["--model", str(untrained), "--split", "test"], "no weights yet"),
        (["--model", str(model), "--split", "test", "--modalities", "rgb", "pan"], "trained on: rgb, nir, sar, osm"),
        (["--model", str(model), "--l1", str(model)], "is no baseline"),
        (["--model", str(model)], "No chip of the validation split"),
        (["--model", "metaearth-lite"], "knows no modalities"),
    ]
    for arguments, sentence in cases:
        assert main([*common, *arguments]) == 1
        assert sentence in capsys.readouterr().err


def test_the_door_runs_it_too(chips, tmp_path, model):
    given = {"protocol": "modalities", "data": str(chips), "output": str(tmp_path), "model": str(model),
             "set": ["split=test", "limit=2", "samples=1", "modalities=nir,sar", "device=cpu"]}
    assert evaluate(given, silent, go_on)["table"] == str(tmp_path / "table.md")
