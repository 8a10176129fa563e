"""The split, the pictures and the trainer, on a few small images."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.__main__ import main
from backend.diffusion.schedules import NoiseSchedule
from backend.errors import Cancelled, DeviceError, HeldOutError, InputError, ModelError, PlanError
from backend.evaluation.spectrum import octave_power, smooth_patch_grain
from backend.models.bundle import find_bundle, open_bundle
from backend.progress import go_on, silent
from backend.raster.averaging import average_down
from backend.training.checkpoint import CHECKPOINT
from backend.training.chips import ChipFacts, ChipSet, CutChip, write_shard
from backend.training.data import ChipPool, PictureFolder, is_rgb, training_pool
from backend.training.examples import BatchNumbers, Cropping, Examples, collate
from backend.training.processes import Processes
from backend.training.run import train_bundle
from backend.training.settings import TrainingSettings, changed
from backend.training.split import ImageEntry, entries, entries_of, load_collection, require_training_split
from backend.training.tasks import task_of
from backend.training.trainer import Trainer, learning_rate
from backend.training.verbs import beginning

SETTINGS = TrainingSettings(steps=6, batch=2, crop=64, warmup=2, precision="float32")
ALONE = Processes(0, 1, torch.device("cpu"))
COMMAND = [sys.executable, "-m", "backend", "train"]
ROOT = Path("imagery")


@pytest.fixture
def imagery(tmp_path) -> Path:
    """A folder of imagery as the split expects it, with random content."""
    rng = np.random.default_rng(0)
    for name in (
        "train/naip_california_0.6m/rgb/chico_2018_1.jpg",
        "train/s2_amazon_10m/amazon_1_1.jpg",
        "train/naip_california_0.6m/rgb/claremont_2018_1.jpg",
        "train/s2_amazon_10m/test_3.jpg",
    ):
        path = tmp_path / "imagery" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (160, 160, 3), np.uint8)).save(path)
    return tmp_path / "imagery"


def split_of(name):
    return [e.split for e in entries_of(ROOT, ROOT / name, load_collection())]


@pytest.mark.parametrize(
    "name",
    [
        "train/scenes_rgb8/l7_olinda_br_28.5m.tif",
        "samples/landsat7_olinda_rgb_28m.tif",
        "train/scenes_rgb8/s2_redclover_ca_20200802_10m.tif",
        "train/scenes_rgb8/s2_redclover_ca_20210708_10m.tif",
        "samples/sentinel2_redclover_bgrn_uint16_10m.tif",
        "train/scenes_rgb8/s2_capelookout_nc_10m.tif",
        "samples/sentinel2_beaufort_rgb_10m_epsg4326.tif",
        "train/naip_california_0.6m/rgb/claremont_2020_4.jpg",
        "train/naip_california_0.6m/nir/palm_springs_2018_9.jpg",
        "samples/naip_virginia_rgbn_1m.tif",
    ],
)
def test_places_held_out_whole_are_in_the_test_split_at_every_date(name):
    assert split_of(name) == ["test"]


def test_one_place_at_ten_dates_is_cut_at_the_same_columns():
    for date in ("20090818", "20200831"):
        found = entries_of(ROOT, ROOT / f"train/scenes_rgb8/naip_northdakota_{date}_5m.tif", load_collection())
        assert [(e.split, e.columns) for e in found] == [("validation", (678, 934)), ("train", (0, 662))]


def test_numbers_from_90_of_each_class_are_held_out():
    assert split_of("train/ucmerced_usgs_0.3m/beach/beach90.jpg") == ["validation"]
    assert split_of("train/ucmerced_usgs_0.3m/beach/beach89.jpg") == ["train"]


def test_imagery_that_no_rule_names_is_not_trained_on():
    assert split_of("train/somewhere/else.jpg") == []


def test_the_trainer_refuses_held_out_places(imagery):
    found = [*entries(imagery, "train"), *entries(imagery, "test")]
    with pytest.raises(
        HeldOutError, match=r"claremont_2018_1.jpg belongs to the test split and must not be trained on"
    ):
        PictureFolder(found, 64)
    assert len(require_training_split(list(entries(imagery, "train")))) == 2


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(InputError, match="no folder of imagery"):
        list(entries(tmp_path / "nothing", "train"))


def examples_of(pool, degradation="area", crop=64, seed=3, context=4):
    return Examples(pool, Cropping(crop, 4, context, degradation), NoiseSchedule(), "mixed", seed)


@pytest.mark.parametrize("degradation", ["area", "bicubic", "high-order"])
def test_examples_repeat_by_number(imagery, degradation):
    made = examples_of(PictureFolder(list(entries(imagery, "train")), 64), degradation)
    batch, again = (collate([made[i] for i in range(6)]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(batch, again))
    assert not torch.equal(batch.high[0], batch.high[1]) and not torch.equal(batch.noise[0], batch.noise[1])
    assert batch.high.shape == batch.noise.shape == (6, 3, 64, 64) and batch.low.shape == (6, 3, 24, 24)
    assert batch.high.abs().max() <= 1 and batch.low.abs().max() <= 1
    assert {round(float(v), 3) for v in batch.ground_resolution_m} <= {0.6, 1.2, 10.0, 20.0}
    assert batch.times.min() >= 0 and batch.times.max() <= 999


def test_an_unknown_degradation_is_refused():
    with pytest.raises(PlanError, match="no degradation 'rain'; known: area, bicubic, high-order"):
        Cropping(64, 4, 4, "rain")


def test_a_share_of_the_sources_is_the_networks_own_first_stage(small_model, imagery):
    """The target and the averages of the source stay; its detail is the network's, and no gradient goes through it."""
    plain, own = (dataclasses.replace(SETTINGS, crop=160, second_stage=share) for share in (0.0, 0.5))
    pool = training_pool(imagery, 160, 0)
    some = [task_of(small_model.config, s).examples(pool, s.seed) for s in (plain, own)]
    batches = [collate([examples[n] for n in range(6)]) for examples in some]
    assert not batches[0].second_stage.any() and 0 < int(batches[1].second_stage.sum()) < 6
    assert torch.equal(batches[0].high, batches[1].high) and torch.equal(batches[0].noise, batches[1].noise)
    objective = task_of(small_model.config, own).objective(small_model.load(torch.float32))
    source, low, chosen = objective._source(batches[1]), batches[1].low, batches[1].second_stage
    assert torch.equal(source[~chosen], low[~chosen]) and not source.requires_grad
    assert (source[chosen] - low[chosen]).abs().mean() > 1 / 255
    assert torch.equal(source, objective._source(batches[1]))
    assert float(objective(batches[1])) != float(objective(batches[0]))


@pytest.mark.parametrize("crop", [32, 132, 136])
def test_a_crop_that_the_network_cannot_make_itself_is_told(small_model, imagery, crop):
    settings = dataclasses.replace(SETTINGS, crop=crop, second_stage=0.5)
    with pytest.raises(PlanError, match="choose another crop"):
        task_of(small_model.config, settings).examples(training_pool(imagery, crop, 0), 0)


def test_a_regression_has_no_first_stage_to_sample(small_model, imagery):
    settings = dataclasses.replace(SETTINGS, crop=160, second_stage=0.5, objective="l1")
    with pytest.raises(PlanError, match="objective=diffusion"):
        task_of(small_model.config, settings).examples(training_pool(imagery, 160, 0), 0)


@pytest.mark.parametrize("degradation", ["area", "bicubic"])
def test_the_low_resolution_input_lies_over_the_crop(tmp_path, degradation):
    ramp = np.add.outer(np.arange(160), np.arange(160)) * 0.7
    path = tmp_path / "ramp.png"
    Image.fromarray(np.repeat(ramp[..., None], 3, 2).astype(np.uint8)).save(path)
    made = examples_of(PictureFolder([ImageEntry(path, "a", "train", 1.0)], 64), degradation)
    for index in range(8):
        down = torch.nn.functional.avg_pool2d(made[index].high, 4)
        assert float((down - made[index].low[..., 4:-4, 4:-4]).abs().mean()) < 0.02


@pytest.fixture
def chips(tmp_path) -> Path:
    """A prepared set of seven chips of 64 pixels."""
    rng = np.random.default_rng(0)
    facts = ChipFacts(2.5, None, None, "a", "CC0", "a.tif", (0, 0), "", (1, 0, 0, 0, 1, 0))
    for split, count in (("train", 7), ("validation", 4)):
        pixels = [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(count)]
        cut = (CutChip(f"{n}", p, facts, {}) for n, p in enumerate(pixels))
        write_shard(tmp_path / "set" / split / "000000.tar", cut)
    (tmp_path / "set" / "dataset.json").write_text("{}")
    return tmp_path / "set"


def test_an_epoch_has_every_chip_once_and_the_next_another_order(chips):
    found = ChipSet(chips, "train")
    pool, rng = ChipPool(found, 64, 0), np.random.default_rng(0)
    drawn = [pool.draw(i, rng)[0].pixels.tobytes() for i in range(14)]
    there = {found.read(i).tobytes() for i in range(7)}
    assert set(drawn[:7]) == set(drawn[7:]) == there and drawn[:7] != drawn[7:]
    assert pool.draw(3, rng)[0].pixels.tobytes() == drawn[3] and pool.draw(0, rng)[0].gsd_m == 2.5


def test_chips_in_other_modalities_are_no_pictures_to_train_a_cascade_on(tmp_path):
    rng = np.random.default_rng(0)
    facts = ChipFacts(2.5, None, None, "a", "CC0", "a.tif", (0, 0), "", (1, 0, 0, 0, 1, 0))
    shown = [dataclasses.replace(facts, modality=m) for m in ("nir", "rgb", "sar", "")]
    cut = (CutChip(f"{n}", rng.integers(0, 255, (64, 64, 3), np.uint8), f, {}) for n, f in enumerate(shown))
    write_shard(tmp_path / "train" / "000000.tar", cut)
    (tmp_path / "dataset.json").write_text("{}")
    found = ChipSet(tmp_path, "train")
    pool = ChipPool(found, 64, 0)
    drawn = {pool.draw(i, rng)[0].pixels.tobytes() for i in range(8)}
    assert len(pool) == 2 and drawn == {found.read(n).tobytes() for n in (1, 3)}


def test_epochs_set_the_number_of_steps():
    assert TrainingSettings(epochs=30, batch=1, accumulation=8).total_steps(731_000, 4) == 685_313
    assert TrainingSettings(steps=5).total_steps(731_000, 4) == 5


def test_ranks_share_a_step_and_a_resumed_one_goes_on():
    def taken(batch, accumulation, rank, ranks, step, parts):
        numbers = iter(BatchNumbers(batch, accumulation, rank, ranks, step))
        return [next(numbers) for _ in range(parts)]

    alone = taken(4, 2, 0, 1, 0, 6)
    both = zip(taken(2, 2, 0, 2, 0, 6), taken(2, 2, 1, 2, 0, 6))
    assert [a + b for a, b in both] == alone == [list(range(4 * k, 4 * k + 4)) for k in range(6)]
    assert taken(4, 2, 0, 1, 2, 2) == alone[4:]


def trainer(small_model, imagery, folder, settings=SETTINGS, **options):
    pool = PictureFolder(list(entries(imagery, "train")), settings.crop)
    return Trainer(small_model.config, settings, pool, folder, ALONE, **options)


def test_a_resumed_run_goes_on_as_if_never_stopped(small_model, imagery, tmp_path):
    straight = trainer(small_model, imagery, tmp_path / "straight")
    losses = [straight.train_step() for _ in range(6)]

    first = trainer(small_model, imagery, tmp_path / "stopped")
    stopped = [first.train_step() for _ in range(3)]
    first.save()
    second = trainer(small_model, imagery, tmp_path / "stopped")
    assert second.state.step == 3
    stopped += [second.train_step() for _ in range(3)]
    assert stopped == losses
    for one, other in zip(straight.state.average.parameters(), second.state.average.parameters()):
        assert torch.equal(one, other)


def run_command(*arguments, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen([*COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)


def arguments_of(small_model, data, folder, **settings):
    values = {"batch": 2, "crop": 64, "warmup": 2, "precision": "float32", "degradation": "bicubic", **settings}
    return ["--config", str(small_model.folder), "--data", str(data), "--output", str(folder), "--device", "cpu",
            "--set", *(f"{k}={v}" for k, v in values.items())]


def final_weights(folder):
    return {k: v.clone() for k, v in open_bundle(folder).load().state_dict().items()}


def test_a_run_killed_at_any_moment_ends_with_the_same_weights(small_model, chips, tmp_path):
    settings = {"steps": 30, "save_every_s": 0.05}
    straight = run_command(*arguments_of(small_model, chips, tmp_path / "straight", **settings), "--workers", "1")
    killed = run_command(*arguments_of(small_model, chips, tmp_path / "killed", **settings), "--workers", "1")
    while not (tmp_path / "killed" / CHECKPOINT).exists() and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    # a run that began anew would begin with other weights
    again = run_command(*arguments_of(small_model, chips, tmp_path / "killed", **settings), "--workers", "1", "--start",
                        "none")
    assert straight.communicate()[0] and straight.returncode == 0
    assert again.communicate()[0] and again.returncode == 0
    one, other = final_weights(tmp_path / "straight"), final_weights(tmp_path / "killed")
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_cancelled_run_saves_and_goes_on(small_model, imagery, tmp_path):
    run = trainer(small_model, imagery, tmp_path / "run")

    def stop():
        if run.state.step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        run.run(silent, stop)
    again, straight = trainer(small_model, imagery, tmp_path / "run"), trainer(small_model, imagery, tmp_path / "other")
    assert again.state.step == 2
    again.train_step()
    for _ in range(3):
        straight.train_step()
    one, other = again.state.network.state_dict(), straight.state.network.state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_resumed_run_does_not_keep_its_checkpoint_open(small_model, imagery, tmp_path):
    """On Windows nobody could replace it then, and the run would save no more."""
    first = trainer(small_model, imagery, tmp_path / "run")
    first.train_step()
    first.save()
    again = trainer(small_model, imagery, tmp_path / "run", initial=open_bundle(tmp_path / "run").load().state_dict())
    assert again.state.step == 1
    assert str(tmp_path / "run") not in Path("/proc/self/maps").read_text()


def test_too_small_memory_is_told_with_what_helps(small_model, imagery, tmp_path, monkeypatch):
    run = trainer(small_model, imagery, tmp_path / "run")

    def too_much(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(run, "_loss", too_much)
    with pytest.raises(DeviceError, match=r"too small for a batch of 2 examples of 64 pixels. Choose a smaller batch"):
        run.train_step()


def test_a_damaged_checkpoint_is_told(small_model, imagery, tmp_path):
    run = trainer(small_model, imagery, tmp_path / "run")
    run.save()
    path = tmp_path / "run" / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="does not fit this run"):
        trainer(small_model, imagery, tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "l1"},
        {"loss_weighting": "p2", "times": "uniform"},
        {"accumulation": 2, "precision": "bfloat16", "degradation": "high-order", "gradient_checkpointing": True},
    ],
)
def test_a_run_ends_in_a_bundle_that_loads(small_model, imagery, tmp_path, changes, capsys):
    run = trainer(small_model, imagery, tmp_path / "run", dataclasses.replace(SETTINGS, **changes))
    told = []
    run.run(lambda *progress: told.append(progress), lambda: None, report_every=2)
    network = open_bundle(tmp_path / "run").load()
    assert network.count_parameters() == run.state.network.count_parameters()
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [2, 4, 6] and all(np.isfinite(r["loss"]) for r in rows)
    assert "step 6/6" in capsys.readouterr().out and told[-1] == (6, 6, "training")


def test_two_small_batches_are_one_large_one(small_model, imagery, tmp_path):
    whole = trainer(small_model, imagery, tmp_path / "a", dataclasses.replace(SETTINGS, batch=4))
    parts = trainer(small_model, imagery, tmp_path / "b", dataclasses.replace(SETTINGS, batch=2, accumulation=2))
    for _ in range(3):
        assert whole.train_step() == pytest.approx(parts.train_step(), rel=1e-5)
    for one, other in zip(whole.state.network.parameters(), parts.state.network.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


def test_recomputed_activations_give_the_same_gradients(small_model, imagery, tmp_path):
    kept = trainer(small_model, imagery, tmp_path / "a")
    again = trainer(small_model, imagery, tmp_path / "b", dataclasses.replace(SETTINGS, gradient_checkpointing=True))
    assert [kept.train_step() for _ in range(3)] == [again.train_step() for _ in range(3)]


def test_two_processes_equal_one_with_twice_the_batch(small_model, chips, tmp_path):
    """Real gloo processes, started as torchrun starts them."""
    alone = run_command(*arguments_of(small_model, chips, tmp_path / "one", batch=4, steps=8), "--workers", "0")
    share = arguments_of(small_model, chips, tmp_path / "two", batch=2, steps=8)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "backend",
               "train", *share, "--workers", "0"]
    both = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                          timeout=300)
    assert both.returncode == 0, both.stderr
    assert alone.communicate()[0] and alone.returncode == 0
    losses = [[json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
               if "loss" in json.loads(line)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0]
    one, two = final_weights(tmp_path / "one"), final_weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-2, atol=1e-3)


def test_held_out_places_are_looked_at_as_it_goes(small_model, chips, tmp_path, capsys):
    train_bundle(str(small_model.folder), chips, tmp_path / "run",
                 ["steps=4", "batch=2", "crop=64", "validate_every=2", "degradation=bicubic"], "cpu", None, 0)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "validation_loss" in r] == [2, 4]
    assert Image.open(tmp_path / "run" / "validation" / "step_0000004.png").size == (4 * 64, 4 * 64)
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert "loss on held-out places" in capsys.readouterr().out


def test_held_out_losses_of_runs_of_different_seeds_compare(small_model, imagery, tmp_path):
    pool = PictureFolder(list(entries(imagery, "train")), SETTINGS.crop)
    seen = []
    for seed in (1, 2):
        settings = dataclasses.replace(SETTINGS, seed=seed)
        run = trainer(small_model, imagery, tmp_path / str(seed), settings, held_out=pool)
        seen.append([next(iter(run.batches)), collate([run.held_out[0]])])
    (trained, judged), (others, same) = seen
    assert torch.equal(judged.noise, same.noise) and torch.equal(judged.high, same.high)
    assert not torch.equal(trained.noise, others.noise)


def test_the_resolution_branch_can_be_left_out(small_model, chips, tmp_path):
    train_bundle(str(small_model.folder), chips, tmp_path / "run",
                 ["steps=1", "batch=1", "crop=64", "network.resolution_guidance=false"], "cpu", None, 0)
    network = open_bundle(tmp_path / "run").load()
    assert not any(name.startswith("resolution_embedding") for name in network.state_dict())
    batch = collate([examples_of(ChipPool(ChipSet(chips, "train"), 64, 0))[0]])
    made = [network(batch.noise, batch.times.float(), network.encode(batch.low, gsd))
            for gsd in (torch.tensor([1.0]), torch.tensor([64.0]))]
    assert torch.equal(*made)


@pytest.mark.slow
def test_the_network_of_the_paper_takes_a_real_step(tmp_path, chips, capfd):
    """582 million weights, batch 1, gradients with recomputed activations: some three minutes and 19 GB."""
    status = main(["train", "--config", "metaearth-600m", "--smoke", "--device", "cpu", "--set", "accumulation=1",
                   "crop=256"])
    told = capfd.readouterr().out
    assert status == 0 and "trains here" in told
    print(told)


def test_a_configuration_can_be_tried_without_imagery(small_model, capfd):
    assert main(["train", "--config", str(small_model.folder), "--smoke", "--device", "cpu", "--set", "batch=1",
                 "crop=64"]) == 0
    assert "examples/s" in capfd.readouterr().out


def test_a_configuration_can_be_tried_by_several_processes(small_model):
    """The checkpoint that the first writes is found by the second."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--",
               "backend", "train", "--config", str(small_model.folder), "--smoke", "--device", "cpu",
               "--set", "batch=1", "crop=64"]
    both = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                          timeout=300)
    assert both.returncode == 0, both.stderr
    assert "of 2 examples" in both.stdout


def test_training_without_data_is_refused(small_model, capfd):
    assert main(["train", "--config", str(small_model.folder)]) == 2
    assert "Give a training set and a folder" in capfd.readouterr().err


def test_a_run_begins_with_the_models_own_weights_unless_told_otherwise(small_model):
    assert beginning(str(small_model.folder), "auto") == str(small_model.folder)
    assert beginning("metaearth-600m", "auto") is None and beginning(str(small_model.folder), "none") is None
    assert beginning(str(small_model.folder), "metaearth-lite") == "metaearth-lite"


def test_weights_of_a_network_with_other_settings_are_refused_in_a_sentence(small_model, chips, tmp_path, capsys):
    arguments = arguments_of(small_model, chips, tmp_path / "run", steps=1, **{"network.resolution_guidance": "false"})
    assert main(["train", *arguments, "--start", str(small_model.folder)]) == 1
    assert "Begin with those of a network like it, or with random ones" in capsys.readouterr().err
    assert main(["train", *arguments, "--start", "none"]) == 0


def test_the_configuration_of_the_paper():
    settings = TrainingSettings(**find_bundle("metaearth-600m").config.training)
    assert (settings.learning_rate, settings.epochs, settings.batch, settings.accumulation) == (2e-6, 30, 1, 8)
    assert (settings.loss_weighting, settings.degradation, settings.times) == ("p2", "high-order", "uniform")


def test_a_run_may_begin_with_given_weights(small_model, imagery, tmp_path):
    given = small_model.load().state_dict()
    run = trainer(small_model, imagery, tmp_path / "run", initial=given)
    assert all(torch.equal(value, given[name]) for name, value in run.state.network.state_dict().items())


def test_training_lowers_the_loss_on_one_batch(small_model, imagery, tmp_path):
    settings = dataclasses.replace(SETTINGS, objective="l1", steps=60, learning_rate=3e-3)
    run = trainer(small_model, imagery, tmp_path / "run", settings)
    batch = next(run.batches)
    run.batches = iter([batch] * 60)
    losses = [run.train_step() for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.95 * losses[0]


def test_the_learning_rate_warms_up_and_decays():
    settings = TrainingSettings(steps=100, warmup=10, learning_rate=1.0, final_learning_rate=0.1)
    rates = [learning_rate(settings, s, 100) for s in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates[-1] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    gentle = TrainingSettings(steps=100, warmup=10, learning_rate=0.01, final_learning_rate=0.1)
    assert {learning_rate(gentle, s, 100) for s in range(10, 101)} == {0.01}


def test_a_run_that_made_no_step_leaves_nothing_to_go_on_from(small_model, imagery, tmp_path, capsys):
    def cancel():
        raise Cancelled

    with pytest.raises(Cancelled):
        trainer(small_model, imagery, tmp_path / "run").run(silent, cancel)
    assert not (tmp_path / "run" / CHECKPOINT).exists()
    trainer(small_model, imagery, tmp_path / "run", dataclasses.replace(SETTINGS, steps=1)).run(silent, go_on)
    assert "goes on" not in capsys.readouterr().out
    trainer(small_model, imagery, tmp_path / "run", dataclasses.replace(SETTINGS, steps=2)).run(silent, go_on)
    assert "goes on from step 1 " in capsys.readouterr().out


def test_a_trained_model_tells_the_resolutions_that_it_has_seen(small_model, chips, tmp_path):
    def trained(name, start):
        changes = ["steps=1", "batch=1", "crop=64"]
        train_bundle(str(small_model.folder), chips, tmp_path / name, changes, "cpu", start, 0)
        return open_bundle(tmp_path / name).config.ground_resolution_m

    assert trained("anew", None) == (2.5, 2.5)
    finest, coarsest = small_model.config.ground_resolution_m
    assert trained("on", str(small_model.folder)) == (min(finest, 2.5), max(coarsest, 2.5))


def test_a_part_of_the_weights_can_be_trained(small_model, imagery, tmp_path):
    run = trainer(small_model, imagery, tmp_path / "run", dataclasses.replace(SETTINGS, only=r"unet\.out|embedding"))
    before = {name: value.clone() for name, value in run.state.network.named_parameters()}
    for _ in range(2):
        run.train_step()
    changed_now = {n for n, value in run.state.network.named_parameters() if not torch.equal(value, before[n])}
    assert changed_now and all("unet.out" in name or "embedding" in name for name in changed_now)


@pytest.mark.parametrize(("only", "sentence"), [("[", "no regular expression"), ("none", "no weight that is")])
def test_a_part_that_is_none_is_told(small_model, imagery, tmp_path, only, sentence):
    with pytest.raises(PlanError, match=sentence):
        trainer(small_model, imagery, tmp_path / "run", dataclasses.replace(SETTINGS, only=only))


@pytest.mark.parametrize(("crop", "sentence"), [(70, "must be a multiple of"), (128, "64 pixels a side, and crops")])
def test_crops_that_do_not_fit_are_told(small_model, chips, tmp_path, crop, sentence):
    with pytest.raises((PlanError, InputError), match=sentence):
        train_bundle(str(small_model.folder), chips, tmp_path / "run", [f"crop={crop}"], "cpu", None, 0)
    assert not (tmp_path / "run").exists()


def test_pictures_smaller_than_a_crop_are_told(imagery):
    with pytest.raises(InputError, match="No training picture has 4096 pixels"):
        PictureFolder(list(entries(imagery, "train")), 4096)


def test_settings_are_changed_by_name(small_model, scene_model):
    config = changed(small_model.config, ["steps=9", "learning_rate=0.5", "objective=l1", "network.context=0"])
    settings = TrainingSettings(**config.training)
    assert (settings.steps, settings.learning_rate, settings.objective, config.network.context) == (9, 0.5, "l1", 0)
    assert changed(scene_model.config, ["network.modalities=rgb, dem"]).network.modalities == ("rgb", "dem")
    with pytest.raises(PlanError, match="no training setting 'stepz'"):
        changed(small_model.config, ["stepz=9"])
    with pytest.raises(PlanError, match="this is no str"):
        changed(scene_model.config, ["network.modalities="])
    with pytest.raises(PlanError, match="this is no int"):
        changed(small_model.config, ["steps=nine"])
    with pytest.raises(PlanError, match="this is no bool"):
        changed(small_model.config, ["gradient_checkpointing=perhaps"])


def test_the_number_of_steps_that_is_asked_for_counts(small_model):
    epochs = dataclasses.replace(small_model.config, training={**small_model.config.training, "epochs": 30})
    for assignments, steps in ((["steps=9"], 9), ([], 3000), (["steps=9", "epochs=1"], 100)):
        settings = TrainingSettings(**changed(epochs, [*assignments, "batch=1", "accumulation=1"]).training)
        assert settings.total_steps(100, 1) == steps


def test_a_training_that_diverges_keeps_what_was_learnt(small_model, imagery, tmp_path):
    run = trainer(small_model, imagery, tmp_path / "run")
    run.train_step()
    run.save()
    with torch.no_grad():
        next(run.state.network.parameters()).fill_(torch.inf)
    with pytest.raises(ModelError, match="diverged at step 2"):
        run.run(silent, go_on)
    again = trainer(small_model, imagery, tmp_path / "run")
    assert again.state.step == 1 and np.isfinite(again.train_step())


def test_a_training_goes_on_with_its_own_objective_only(small_model, imagery, tmp_path):
    trainer(small_model, imagery, tmp_path / "run").save()
    with pytest.raises(ModelError, match="was begun with objective=diffusion, not l1"):
        trainer(small_model, imagery, tmp_path / "run", dataclasses.replace(SETTINGS, objective="l1"))


def test_averaging_is_the_mean_of_blocks():
    pixels = np.arange(2 * 4 * 3).reshape(2, 4, 3)
    np.testing.assert_allclose(average_down(pixels, 2)[0, 0], pixels[:2, :2].mean(axis=(0, 1)))


@pytest.mark.parametrize("octave", [0, 1, 2])
def test_octave_power_finds_a_wave_in_its_octave(octave):
    frequency = (0.09, 0.18, 0.36)[octave]
    wave = np.cos(2 * np.pi * frequency * np.arange(128))[None, :, None] * np.ones((128, 1, 3))
    power = octave_power(wave)
    assert power.argmax() == octave and power[octave] > 100 * np.delete(power, octave).max()


def test_grain_beside_patches_of_one_value_is_finite():
    flat, noisy = np.zeros((64, 64, 3)), np.random.default_rng(0).normal(0, 1, (64, 64, 3))
    assert 2 < smooth_patch_grain(flat, noisy) < 4


def test_grain_is_the_ratio_where_it_is_smooth():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(128, 128, 3))
    strength = np.where(np.arange(128)[None, :, None] < 16, 1.0, 20.0)
    assert smooth_patch_grain(noise * strength, 2 * noise * strength) == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize(
    ("bands", "dtype", "usable"), [(3, "uint8", True), (4, "uint8", True), (6, "uint8", False), (3, "uint16", False)]
)
def test_only_8_bit_rgb_files_are_pictures(make_raster, bands, dtype, usable):
    assert is_rgb(Path(make_raster(bands=bands, dtype=dtype))) is usable


@pytest.mark.parametrize(("mode", "usable"), [("RGB", True), ("L", False)])
def test_a_grey_picture_such_as_near_infrared_is_no_rgb(tmp_path, mode, usable):
    Image.new(mode, (8, 8)).save(tmp_path / "a.jpg")
    assert is_rgb(tmp_path / "a.jpg") is usable
