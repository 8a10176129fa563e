"""The split, the pictures and the trainer, on a few small images."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.errors import HeldOutError, InputError, PlanError
from backend.evaluation.spectrum import octave_power, smooth_patch_grain
from backend.models.bundle import open_bundle
from backend.training.data import TrainingPictures, average_down, is_rgb
from backend.training.run import changed
from backend.training.split import ImageEntry, entries, entries_of, load_rules, require_training_split
from backend.training.trainer import Trainer, TrainingSettings, learning_rate

SETTINGS = TrainingSettings(steps=6, batch=2, crop=64, warmup=2)
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
    return [e.split for e in entries_of(ROOT, ROOT / name, load_rules())]


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
        found = entries_of(ROOT, ROOT / f"train/scenes_rgb8/naip_northdakota_{date}_5m.tif", load_rules())
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
        TrainingPictures(found, 64, 4, 4, 0)
    assert len(require_training_split(list(entries(imagery, "train")))) == 2


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(InputError, match="no folder of imagery"):
        list(entries(tmp_path / "nothing", "train"))


def test_batches_repeat_by_number(imagery):
    pictures = TrainingPictures(list(entries(imagery, "train")), 64, 4, 4, 3)
    high, low, gsd = pictures.batch(4, 7)
    again = pictures.batch(4, 7)
    assert all(torch.equal(a, b) for a, b in zip((high, low, gsd), again))
    assert not torch.equal(high, pictures.batch(4, 8)[0])
    assert high.shape == (4, 3, 64, 64) and low.shape == (4, 3, 24, 24)
    assert {round(float(v), 3) for v in gsd} <= {0.6, 1.2, 10.0, 20.0}


def test_the_low_resolution_input_lies_over_the_crop(tmp_path):
    ramp = np.add.outer(np.arange(160), np.arange(160)) * 0.7
    path = tmp_path / "ramp.png"
    Image.fromarray(np.repeat(ramp[..., None], 3, 2).astype(np.uint8)).save(path)
    pictures = TrainingPictures([ImageEntry(path, "a", "train", 1.0)], 64, 4, 4, 0)
    for index in range(8):
        high, low, _ = pictures.batch(2, index)
        down = torch.nn.functional.avg_pool2d(high, 4)
        assert float((down - low[..., 4:-4, 4:-4]).abs().mean()) < 0.02


def trainer(small_model, imagery, folder, settings=SETTINGS):
    network = small_model.config.network
    pictures = TrainingPictures(list(entries(imagery, "train")), settings.crop, network.scale, network.context, 0)
    return Trainer(small_model.config, settings, pictures, folder, torch.device("cpu"))


def test_a_resumed_run_goes_on_as_if_never_stopped(small_model, imagery, tmp_path):
    straight = trainer(small_model, imagery, tmp_path / "straight")
    losses = [straight.train_step() for _ in range(6)]

    first = trainer(small_model, imagery, tmp_path / "stopped")
    stopped = [first.train_step() for _ in range(3)]
    first.save()
    second = trainer(small_model, imagery, tmp_path / "stopped")
    assert second.step == 3
    stopped += [second.train_step() for _ in range(3)]
    np.testing.assert_allclose(stopped, losses, rtol=1e-4)


@pytest.mark.parametrize(
    "changes", [{}, {"objective": "l1"}, {"loss_weighting": "p2", "times": "uniform"}, {"accumulation": 2}]
)
def test_a_run_ends_in_a_bundle_that_loads(small_model, imagery, tmp_path, changes, capsys):
    run = trainer(small_model, imagery, tmp_path / "run", dataclasses.replace(SETTINGS, **changes))
    run.run(report_every=2)
    network = open_bundle(tmp_path / "run").load()
    assert network.count_parameters() == run.network.count_parameters()
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [2, 4, 6] and all(np.isfinite(r["loss"]) for r in rows)
    assert "step 6/6" in capsys.readouterr().out


def test_a_run_may_begin_with_given_weights(small_model, imagery, tmp_path):
    network = small_model.config.network
    pictures = TrainingPictures(list(entries(imagery, "train")), 64, network.scale, network.context, 0)
    given = small_model.load().state_dict()
    run = Trainer(small_model.config, SETTINGS, pictures, tmp_path / "run", torch.device("cpu"), given)
    assert all(torch.equal(value, given[name]) for name, value in run.network.state_dict().items())


def test_training_lowers_the_loss_on_one_batch(small_model, imagery, tmp_path):
    settings = dataclasses.replace(SETTINGS, objective="l1", steps=60, learning_rate=3e-3)
    run = trainer(small_model, imagery, tmp_path / "run", settings)
    batch = run.batches.next()
    run.batches.next = lambda: batch
    losses = [run.train_step() for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.95 * losses[0]


def test_the_learning_rate_warms_up_and_decays():
    settings = TrainingSettings(steps=100, warmup=10, learning_rate=1.0, final_learning_rate=0.1)
    rates = [learning_rate(settings, s) for s in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates[-1] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_settings_are_changed_by_name():
    assert changed(SETTINGS, ["steps=9", "learning_rate=0.5", "objective=l1"]).learning_rate == 0.5
    with pytest.raises(PlanError, match="no training setting 'stepz'"):
        changed(SETTINGS, ["stepz=9"])
    with pytest.raises(PlanError, match="this is no int"):
        changed(SETTINGS, ["steps=nine"])


def test_averaging_is_the_mean_of_blocks():
    pixels = np.arange(2 * 4 * 3).reshape(2, 4, 3)
    np.testing.assert_allclose(average_down(pixels, 2)[0, 0], pixels[:2, :2].mean(axis=(0, 1)))


@pytest.mark.parametrize("octave", [0, 1, 2])
def test_octave_power_finds_a_wave_in_its_octave(octave):
    frequency = (0.09, 0.18, 0.36)[octave]
    wave = np.cos(2 * np.pi * frequency * np.arange(128))[None, :, None] * np.ones((128, 1, 3))
    power = octave_power(wave)
    assert power.argmax() == octave and power[octave] > 100 * np.delete(power, octave).max()


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
