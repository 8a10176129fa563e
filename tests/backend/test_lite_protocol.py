"""Whether the embedded model is good enough: each figure can tell good from bad, and the table is whole."""

import dataclasses
import json

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from backend.cascade.engine import Engine, Sampling
from backend.cascade.picture import Manner, render_picture
from backend.errors import InputError
from backend.evaluation import held_out, makers
from backend.evaluation.chips import Chip, low_resolution
from backend.evaluation.classification import LabelledImages, Training
from backend.evaluation.distances import kernel_difference
from backend.evaluation.held_out import held_out_entry, judged_chips, read_entry
from backend.evaluation.kept import UNFINISHED
from backend.evaluation.makers import bicubic, whole
from backend.evaluation.protocols import gallery as gallery_module
from backend.evaluation.protocols.gallery import GallerySettings, Place, gallery
from backend.evaluation.protocols.lite import LiteSettings, lite
from backend.evaluation.quality import COLOUR, CONSISTENCY, GRAIN, POWER, group_rows, pooled_rows, regressed
from backend.evaluation.remake import BICUBIC, GENERATED, L1, OFF, remake, remembering
from backend.evaluation.scene_classes import Scenes, read_scenes, scene_rows
from backend.evaluation.shipping import file_rows, precision_rows, range_rows, speed_rows, unrounded_weights
from backend.models.bundle import Bundle, open_bundle, save_bundle
from backend.models.cascade_network import CascadeNetwork
from backend.models.feature_network import FeatureConfig, FeatureNetwork, save_features
from backend.progress import go_on, silent

CLASSES = "train/ucmerced_usgs_0.3m"


def texture(side, grain, seed, bands=3):
    """(side, side, bands): random blocks of ``grain`` pixels with some noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(40, 200, (side // grain + 1, side // grain + 1, bands))
    values = blocks.repeat(grain, axis=0).repeat(grain, axis=1)[:side, :side]
    return (values + rng.integers(-30, 30, (side, side, bands))).clip(0, 255).astype(np.uint8)


def noise(seed, sd=30.0, side=128):
    """(3, side, side) around middle grey."""
    return np.random.default_rng(seed).normal(128, sd, (3, side, side)).astype(np.float32)


@pytest.fixture(scope="module")
def imagery(tmp_path_factory):
    """Held-out and training pictures of names that the split knows, a test place beside them, two classes of chips."""
    root = tmp_path_factory.mktemp("imagery")
    places = [f"train/s2_amazon_10m/test_{k}.jpg" for k in (1, 3)]
    places += [f"train/naip_california_0.6m/rgb/claremont_2018_{k}.jpg" for k in (1, 2)]
    grains = {"agricultural": 16, "forest": 2}
    chips = [f"{CLASSES}/{name}/{name}{k}.jpg" for name in grains for k in ("00", "01", "02", "90")]
    for seed, name in enumerate(places + chips):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(texture(128, grains.get(path.parent.name, 4), seed)).save(path, quality=95)
    beside = root / held_out.BESIDE
    beside.parent.mkdir()
    profile = {"driver": "GTiff", "width": 96, "height": 80, "count": 4, "dtype": "uint8", "compress": "deflate"}
    with rasterio.open(beside, "w", **profile) as dataset:
        dataset.write(texture(96, 4, 50, bands=4)[:80].transpose(2, 0, 1))
    return root


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A feature network with random weights: distances on it are distances all the same."""
    folder = tmp_path_factory.mktemp("features")
    torch.manual_seed(0)
    config = FeatureConfig(("a",), (0,), widths=(8, 16), features=8)
    save_features(folder, FeatureNetwork(config), config)
    return folder


def engine_of(bundle, dtype=torch.float32):
    return Engine(bundle, bundle.sha256(), Sampling("dpm-solver++", 2), "cpu", dtype)


# --- figures of images -----------------------------------------------------------------------------------------------


def remade(change, features=None, stages=1, count=5):
    """Chips made again by bicubic interpolation, and by a method that knows the real image and changes it."""
    found = []
    for n in range(count):
        chip = Chip(texture(128, 4, n).astype(np.float32), 0.6, "s", f"place {n}", None)
        real = chip.pixels.transpose(2, 0, 1)
        makers = {BICUBIC: bicubic(4**stages), GENERATED: lambda low, gsd_m, seed, real=real: change(real)}
        found.append(remake(chip, stages, 4, n, makers, features)[0])
    return found


def verdicts_of(some):
    """Figure -> verdict of the model."""
    _, verdicts = group_rows(some, regressed(some), None)
    return {v.bar.figure: v for v in verdicts[GENERATED]}


def test_real_imagery_passes_all_bars():
    verdicts = verdicts_of(remade(lambda real: real.copy()))
    assert len(verdicts) == 8 and all(v.holds for v in verdicts.values())


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (lambda real: real + np.array([0, 2, 0], np.float32)[:, None, None], {COLOUR}),
        (lambda real: real + noise(1, 40.0) - 128, {*POWER[1:], GRAIN, CONSISTENCY}),
        (lambda real: np.roll(real, 32, axis=2), {CONSISTENCY}),
    ],
    ids=["other colour", "grain", "another place"],
)
def test_what_is_wrong_with_an_image_fails_its_own_bar(change, fails):
    verdicts = verdicts_of(remade(change))
    failed = {name for name, v in verdicts.items() if not v.holds}
    assert {bar.figure for bar in fails} <= failed
    if fails == {COLOUR}:
        assert str(verdicts[COLOUR.figure]) == "0.6 m/px, 1 stage (2)"
        assert not failed & {bar.figure for bar in (*POWER, GRAIN)}


def test_bicubic_interpolation_lacks_power():
    some = remade(lambda real: bicubic(4)(low_resolution(real.transpose(1, 2, 0), 4), 0.6, 0))
    verdicts = verdicts_of(some)
    assert all(verdicts[bar.figure].found.value < 0.5 for bar in POWER[1:])


def test_few_chips_are_shown_without_a_verdict():
    some = remade(lambda real: real.copy(), count=2)
    rows, verdicts = group_rows(some, regressed(some), None)
    assert len(rows) == 4 and not verdicts


def test_the_kernel_difference_tells_the_nearer_set():
    rng = np.random.default_rng(0)
    real, near = rng.standard_normal((60, 8)), rng.standard_normal((60, 8)) + 0.2
    far = rng.standard_normal((60, 8)) + 2
    found = kernel_difference(real, near, far, 0.5)
    assert found.value <= found.high < 0 and kernel_difference(real, far, near).low > 0
    assert kernel_difference(real, near, near).value == 0


def test_distances_over_all_chips_are_compared_with_bicubic_and_left_out_without_features():
    def extract(images):
        return np.stack([images.mean(axis=(2, 3)).mean(axis=1), images.std(axis=(1, 2, 3))], axis=1) / 20

    some = remade(lambda real: real.copy(), extract, count=8)
    rows, verdicts = pooled_rows(some, "kernel distance")
    assert [r["made by"] for r in rows][:2] == [BICUBIC, GENERATED] and rows[2]["made by"].startswith("real")
    half, below_l1 = verdicts[GENERATED]
    assert half.holds and below_l1.holds is None
    rows, verdicts = pooled_rows(remade(lambda real: real.copy()), "kernel distance")
    assert not rows and all(v.holds is None for v in verdicts[GENERATED])


def test_windows_are_remembered_while_back_projection_changes(small_model):
    low = whole(texture(16, 1, 0).transpose(2, 0, 1))
    engine = engine_of(small_model)
    expected = [render_picture(engine, low, 10.0, Manner(consistency=c)) for c in (0.0, 1.0)]
    memory = remembering(engine)
    found = [render_picture(memory, low, 10.0, Manner(consistency=c)) for c in (0.0, 1.0)]
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(*found) and memory.evaluations == 2
    render_picture(memory, low, 10.0, Manner(seed=1))
    assert memory.evaluations == 4


# --- classes ---------------------------------------------------------------------------------------------------------


def labelled(count, seed):
    """Dark and bright images of 32 pixels a side."""
    images = [texture(32, 4, seed + k).transpose(2, 0, 1) // 2 + (0, 120)[k % 2] for k in range(count)]
    return LabelledImages(np.stack(images), np.arange(count) % 2)


def test_a_classifier_knows_real_images_again_and_not_grey_ones():
    scenes = Scenes(labelled(40, 0), labelled(20, 100), 0.6)
    real = iter(scenes.test.images.astype(np.float32))
    makers = {GENERATED: lambda low, gsd_m, seed: next(real), OFF: lambda low, gsd_m, seed: np.full((3, 32, 32), 99.0)}
    rows, verdicts = scene_rows(scenes, makers, 4, Training(40, 16), 0, silent, go_on)
    accuracy = {row["made by"]: row["value"].value for row in rows}
    assert accuracy["real"] == accuracy[GENERATED] > 80 and accuracy[OFF] == 50
    assert verdicts[GENERATED][0].surely and not verdicts[OFF][0].holds


def test_chips_of_classes_are_read_from_both_splits(imagery):
    scenes = read_scenes(imagery, ("validation",), 9)
    assert scenes.training.images.shape == (6, 3, 64, 64) and scenes.training.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert scenes.test.labels.tolist() == [0, 1] and scenes.gsd_m == 0.6
    assert read_scenes(imagery, ("test",), 9) is None


# --- what is shipped -------------------------------------------------------------------------------------------------


def full_precision(bundle: Bundle, folder, change=1.0):
    """A safetensors file of the bundle's weights in float32, a little off what fp16 can hold."""
    state = {k: (change * 1.0001) * v.float().contiguous() for k, v in bundle.load().state_dict().items()}
    save_file(state, folder / "exact.safetensors")
    return folder / "exact.safetensors"


def test_the_file_is_counted(small_model, tmp_path):
    rows, verdicts = file_rows(small_model)
    assert rows[0]["value"] == CascadeNetwork(small_model.config.network).count_parameters()
    assert rows[2]["value"] == "F16" and all(v.holds for v in verdicts)
    full_precision(small_model, tmp_path).rename(tmp_path / "model.safetensors")
    _, verdicts = file_rows(Bundle(tmp_path, small_model.config))
    assert [v.holds for v in verdicts] == [True, True, False]


def test_number_formats_are_compared_with_float32(small_model, tmp_path):
    lows = [(texture(16, 1, k).transpose(2, 0, 1).astype(np.float32), 10.0) for k in range(2)]
    (row, _), (stored, computed) = precision_rows(engine_of(small_model), None, lows, go_on)
    assert stored.holds and "drawn" in row["of"] and computed.holds is None
    engine = engine_of(small_model, torch.bfloat16)
    (_, row), (stored, computed) = precision_rows(engine, full_precision(small_model, tmp_path), lows, go_on)
    assert stored.holds and computed.found >= row["root mean square"].value > 0
    _, (stored, _) = precision_rows(engine, full_precision(small_model, tmp_path, 1.5), lows, go_on)
    assert not stored.holds


def test_drawn_weights_are_others_that_round_to_the_same(small_model, tmp_path):
    stored = load_file(small_model.weights)
    drawn = load_file(unrounded_weights(small_model.weights, tmp_path / "drawn.safetensors"))
    total, same, moved = (sum(int(count(name)) for name in stored) for count in (
        lambda name: stored[name].numel(),
        lambda name: (drawn[name].half() == stored[name]).sum(),
        lambda name: (drawn[name] != stored[name].float()).sum()))
    assert same > 0.99 * total and moved > 0.5 * total


def test_a_range_is_kept_only_with_a_warning_beyond_it(small_model, tmp_path):
    low = texture(8, 2, 0).transpose(2, 0, 1).astype(np.float32) / 4 + 90
    (row,), (verdict,) = range_rows(small_model, low, "cpu", go_on)
    assert verdict.holds, row["of"]
    narrow = dataclasses.replace(small_model.config, ground_resolution_m=(1.0, 500.0))
    save_bundle(tmp_path, narrow, small_model.load().state_dict())
    (row,), (verdict,) = range_rows(open_bundle(tmp_path), low, "cpu", go_on)
    assert not verdict.holds and row["value"] == "no"


def test_the_speed_is_that_of_a_whole_job(small_model):
    (row,), (verdict,) = speed_rows(small_model, "cpu", go_on)
    in_the_network = float(row["of"].split(", ")[-1].split()[0])
    assert row["figure"] == "seconds for 256 x 256 pixels" and 0 <= in_the_network <= row["value"] + 0.1
    assert "float32" in row["of"] or "bfloat16" in row["of"]
    assert verdict.holds is None  # one thread, and not 1024 pixels


# --- imagery ---------------------------------------------------------------------------------------------------------


def test_judged_chips_are_of_both_splits_and_of_the_place_beside(imagery):
    found = judged_chips(imagery, "held-out", 64, 5)
    assert {gsd: len(some) for gsd, some in found.items()} == {0.6: 5, 1.0: 3, 10.0: 5, 20.0: 2}
    assert set(judged_chips(imagery, "test", 64, 5)) == {0.6, 1.0}
    assert 1.0 not in judged_chips(imagery, "validation", 64, 5)
    with pytest.raises(InputError, match="no split 'train'"):
        judged_chips(imagery, "train", 64, 5)


def test_collars_of_mosaics_are_not_judged(tmp_path):
    path = tmp_path / "train/s2_amazon_10m/test_1.png"
    path.parent.mkdir(parents=True)
    pixels = texture(128, 4, 0)
    pixels[:64, 40:64] = 255
    Image.fromarray(pixels).save(path.with_suffix(".jpg"), quality=100)
    assert len(judged_chips(tmp_path, "validation", 64, 9)[10.0]) == 3


def test_only_held_out_places_are_shown(imagery):
    assert read_entry(held_out_entry(imagery, held_out.BESIDE)).pixels.shape == (80, 96, 3)
    with pytest.raises(InputError, match="is not held out"):
        held_out_entry(imagery, f"{CLASSES}/forest/forest00.jpg")
    with pytest.raises(InputError, match="There is no"):
        held_out_entry(imagery, "train/nothing.jpg")


# --- whole protocols -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twin(small_model, tmp_path_factory):
    """The same network as if it had been trained with plain L1."""
    folder = tmp_path_factory.mktemp("twin")
    config = dataclasses.replace(small_model.config, id="twin", training={"objective": "l1"})
    save_bundle(folder, config, small_model.load().state_dict())
    return folder


def test_the_lite_protocol_ends_in_one_table_with_its_verdicts(small_model, twin, imagery, features, tmp_path):
    said = []
    settings = LiteSettings(
        imagery, tmp_path, str(small_model.folder), str(twin), limit=3, features=str(features), steps=2, device="cpu"
    )
    table = lite(settings, lambda *r: said.append(r), go_on)
    text = (tmp_path / "table.md").read_text()
    lines = text.splitlines()
    assert lines[0] == "# Is small good enough?" and " bars hold** at default settings" in lines[2]
    assert "With the back-projection off" in lines[4] and text == table.markdown()
    values = json.loads((tmp_path / "table.json").read_text())
    bars, pooled, shipped, by_resolution = values["tables"]
    groups = {(r["output m/px"], r["stages"], r["made by"]) for r in by_resolution["rows"]}
    methods = {BICUBIC, L1, OFF, GENERATED, "regression from the input",
               "drawn around the regression"}
    assert groups == {(g, s, m) for g in ("0.6", "1", "10", "20") for s in (1, 2) for m in methods}
    assert {r["made by"] for r in pooled["rows"]} >= {BICUBIC, L1, OFF, GENERATED, "real"}
    assert len(shipped["rows"]) == 7
    default = values["verdicts"][GENERATED]
    held = sum(v["holds"] is True for v in default)
    assert f"**{held} of {sum(v['holds'] is not None for v in default)} bars" in lines[2]
    assert len(default) == 3 * 2 * 8 + 2 * 2 + 1 + 7  # three resolutions of three chips; distances, classes, the rest
    assert len(bars["rows"]) == len({v["figure"] for v in default}) and bars["chips"] == 11
    assert (tmp_path / "0.6m-2.png").is_file() and said[-1][0] == said[-1][1]


@pytest.mark.slow
def test_an_interrupted_lite_protocol_goes_on_with_what_it_has_made(small_model, twin, imagery, tmp_path, monkeypatch):
    cascades, render = [], makers.render_stages
    monkeypatch.setattr(makers, "render_stages", lambda *a: cascades.append(1) or render(*a))
    model = {"model": str(small_model.folder), "baseline": str(twin), "device": "cpu"}
    settings = LiteSettings(imagery, tmp_path / "whole", limit=2, features="none", steps=2, **model)
    whole_run = lite(settings, silent, go_on)
    needed, cascades[:] = len(cascades), []
    settings = dataclasses.replace(settings, output=tmp_path / "halted")

    def stop(done, total, message):
        if message == "10 m/px" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lite(settings, stop, go_on)
    assert 0 < len(cascades) < needed
    table = lite(settings, silent, go_on)
    assert len(cascades) == needed and table.tables[-1].rows == whole_run.tables[-1].rows
    assert not (settings.output / UNFINISHED).exists()


def test_the_gallery_shows_each_place_with_its_licence(small_model, twin, imagery, tmp_path, monkeypatch):
    places = (
        Place("amazon", "Amazon", "train/s2_amazon_10m/test_1.jpg", 8, 8, stages=2),
        Place("pond", "Pond", held_out.BESIDE, licence="public domain (NAIP)"),
    )
    monkeypatch.setattr(gallery_module, "PLACES", places)
    text = gallery(GallerySettings(imagery, tmp_path, str(small_model.folder), str(twin), device="cpu"), silent, go_on)
    assert text == (tmp_path / "gallery.md").read_text() and "trained for" in text
    assert "10 m/px from 160 m/px in 2 stages. Imagery: CC BY 4.0." in text and "public domain (NAIP)" in text
    with Image.open(tmp_path / "gallery" / "pond.jpg") as picture:
        assert picture.size == (5 * 64 + 4 * 4, 64 + 20)
    monkeypatch.setattr(gallery_module, "PLACES", (Place("a", "A", held_out.BESIDE, 40),))
    with pytest.raises(InputError, match="no 64 x 64 pixels"):
        gallery(GallerySettings(imagery, tmp_path, str(small_model.folder), device="cpu"), silent, go_on)


def test_every_place_of_the_gallery_is_held_out(tmp_path):
    assert len({p.name for p in gallery_module.PLACES}) == 10
    for place in gallery_module.PLACES:
        path = tmp_path / place.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        entry = held_out_entry(tmp_path, place.file)
        assert place.licence or entry.licence
