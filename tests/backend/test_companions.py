"""Training sets of places in several modalities."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from affine import Affine
from rasterio.warp import transform

from backend.errors import InputError, PlanError
from backend.models.bundle import Profile, SceneModelConfig, open_bundle, save_bundle
from backend.models.scene_config import SceneNetworkConfig, VaeConfig
from backend.progress import go_on, silent
from backend.scene.drawing import read_features
from backend.scene.modality import find_modality, known_modalities
from backend.training.chips import ChipSet
from backend.training.companions import derived
from backend.training.prepare import Preparation, prepare
from backend.training.run import train_bundle
from backend.training.scene_examples import SceneExamples, TuplePool, draw_stream_times, reduced

from .conftest import SMALL_SCENE


def prepared(folder, tmp_path, rule, modality="rgb", **options):
    """The one split of a set made by a collection of one rule."""
    tmp_path.mkdir(exist_ok=True)
    collection = tmp_path / "collection.toml"
    collection.write_text(f'folders = ["."]\n[[rule]]\nsplit = "train"\nmodality = "{modality}"\n' + rule)
    wanted = Preparation((str(folder),), str(tmp_path / "set"), halvings=0, chip=16, collection=str(collection),
                         max_cloud=1.0, **options)
    prepare(wanted, 1, silent, go_on)
    return ChipSet(tmp_path / "set", "train")


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "imagery"
    found.mkdir()
    return found


def test_bands_of_one_file_and_what_is_derived_of_them(make_raster, folder, tmp_path):
    values = np.random.default_rng(0).integers(40, 200, (4, 32, 48)).astype(float)
    make_raster("imagery/a.tif", values=values)
    rule = 'files = ["a.tif"]\nbands = [3, 2, 1]\nderived = ["pan"]\nwith.nir = { bands = [4] }\n'
    chips = prepared(folder, tmp_path, rule)
    assert len(chips) == 6
    for number, record in enumerate(chips.records):
        chip, facts = chips.read_all(number), chips.facts(number)
        top, left = facts["window"]
        part = values[:, top:top + 16, left:left + 16]
        np.testing.assert_array_equal(chip["rgb"], part[[2, 1, 0]].transpose(1, 2, 0))
        np.testing.assert_array_equal(chip["nir"][..., 0], part[3])
        pan = np.rint(0.45 * part[2] + 0.45 * part[1] + 0.1 * part[0])
        assert np.abs(chip["pan"][..., 0] - pan).max() <= 1 and facts["derived"] == ["pan"]
        assert record.modality == "rgb"


def test_another_grid_and_a_unit_are_brought_to_the_chips(make_raster, folder, tmp_path):
    smooth = np.linspace(30, 220, 64)[None, None].repeat(64, axis=1)
    make_raster("imagery/a.tif", values=np.concatenate([smooth, smooth[:, :, ::-1], smooth]))
    coarse = Affine(20, 0, 500_000, 0, -20, 5_000_000)
    decibels = np.linspace(-25, 0, 64).reshape(1, 1, 32, 2).mean(axis=3).repeat(32, axis=1)
    make_raster("sar.tif", values=decibels, dtype="float32", transform=coarse)
    rule = 'files = ["a.tif"]\nwith.sar = { file = "../sar.tif" }\n'
    chips = prepared(folder, tmp_path, rule)
    for number in range(len(chips)):
        chip, (_, left) = chips.read_all(number), chips.facts(number)["window"]
        expected = np.linspace(0, 255, 64)[left:left + 16]
        assert np.abs(chip["sar"][8, :, 0] - expected).max() < 5


def test_chips_tell_what_has_its_unit_and_what_a_sensor_has_seen(make_raster, folder, tmp_path):
    """Two places: SAR in dB and a real PAN at the one, SAR of 8 bits at the other."""
    for name in ("a", "b"):
        make_raster(f"imagery/{name}.tif", height=16, width=16)
    make_raster("a_sar.tif", values=np.linspace(-25, 0, 256).reshape(1, 16, 16), dtype="float32")
    make_raster("b_sar.tif", bands=1, height=16, width=16)
    make_raster("a_pan.tif", bands=1, height=16, width=16)
    rule = ('files = ["*.tif"]\nderived = ["pan"]\nwith.sar = { file = "../{stem}_sar.tif" }\n'
            'with.pan = { file = "../{stem}_pan.tif" }\n')
    chips = prepared(folder, tmp_path, rule)
    facts = {told["file"]: told for told in chips.all_facts()}
    assert (facts["a.tif"]["relative"], facts["b.tif"]["relative"]) == ([], ["sar"])
    assert (facts["a.tif"]["derived"], facts["b.tif"]["derived"]) == ([], ["pan"])
    pool = TuplePool(chips, ("rgb", "sar", "pan"))
    assert pool.relative() == {"sar"}
    pool.numbers = [number for number, told in enumerate(chips.all_facts()) if told["file"] == "a.tif"]
    assert pool.relative() == set()


def test_a_rule_may_begin_with_radar_and_not_with_a_map(make_raster, folder, tmp_path):
    decibels = np.linspace(-20, -2, 256).reshape(1, 16, 16)
    make_raster("imagery/a.tif", values=decibels, dtype="float32")
    make_raster("rgb.tif", height=16, width=16)
    rule = 'files = ["a.tif"]\nwith.rgb = { file = "../rgb.tif" }\n'
    chips = prepared(folder, tmp_path, rule, modality="sar")
    expected = np.clip((decibels[0] + 25) / 25, 0, 1) * 255
    assert np.abs(chips.read_all(0)["sar"][..., 0] - expected).max() <= 1
    with pytest.raises(InputError, match="is a map: let the rule begin with an image"):
        prepared(folder, tmp_path / "other", rule, modality="osm")


@pytest.mark.parametrize("crs", ["", "urn:ogc:def:crs:OGC:1.3:CRS84", "urn:ogc:def:crs:EPSG::32633"])
def test_a_map_is_drawn_over_the_chips(make_raster, folder, tmp_path, crs):
    """From degrees, or from the layer's own coordinates, which QGIS writes with a member that says so."""
    make_raster("imagery/a.tif", height=32, width=32)

    def corner(x, y):
        if crs.endswith("32633"):
            return [x, y]
        (lon,), (lat,) = transform("EPSG:32633", "EPSG:4326", [x], [y])
        return [lon, lat]

    xs, ys = (500_000, 500_000 + 160), (5_000_000, 5_000_000 - 320)
    ring = [corner(x, y) for x, y in ((xs[0], ys[0]), (xs[1], ys[0]), (xs[1], ys[1]), (xs[0], ys[1]), (xs[0], ys[0]))]
    feature = {"type": "Feature", "properties": {"building": "yes"},
               "geometry": {"type": "Polygon", "coordinates": [ring]}}
    empty = {"type": "Feature", "properties": {"building": "yes"}, "geometry": {"type": "Polygon", "coordinates": []}}
    told = {"crs": {"type": "name", "properties": {"name": crs}}} if crs else {}
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature, empty], **told}))
    chips = prepared(folder, tmp_path, 'files = ["a.tif"]\nwith.osm = { file = "{stem}.geojson" }\n')
    assert len(chips) == 4
    for number in range(4):
        left = chips.facts(number)["window"][1]
        assert (chips.read_all(number)["osm"] == (1 if left == 0 else 0)).all()


def test_features_in_grads_from_paris_become_degrees_from_greenwich(tmp_path):
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [0, 54.27]}}
    told = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::4807"}}
    (tmp_path / "paris.geojson").write_text(json.dumps({"crs": told, "features": [feature]}))
    (found,) = read_features(tmp_path / "paris.geojson")
    assert found["geometry"]["coordinates"] == pytest.approx([2.337, 48.843], abs=2e-3)


def test_a_map_whose_coordinates_are_no_degrees_is_told(make_raster, folder, tmp_path):
    make_raster("imagery/a.tif", height=32, width=32)
    ring = [[500_000, 5_000_000], [500_100, 5_000_000], [500_100, 4_999_900], [500_000, 5_000_000]]
    feature = {"type": "Feature", "properties": {"building": "yes"},
               "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with pytest.raises(InputError, match="degrees"):
        prepared(folder, tmp_path, 'files = ["a.tif"]\nwith.osm = { file = "{stem}.geojson" }\n')


@pytest.mark.parametrize(("average", "gsd", "inside"), [(1, 20.0, 64), (1, 25.0, 51), (1, 30.0, 42)])
def test_columns_of_a_split_stay_apart_at_every_resolution(make_raster, folder, tmp_path, average, gsd, inside):
    """Columns 0 to 128 of pixels of 10 m belong to training; the chips' pixels are 2, 2.5 and 3 times as wide."""
    make_raster("imagery/a.tif", height=128, width=256)
    collection = tmp_path / "collection.toml"
    rules = "".join(f'[[rule]]\nsplit = "{split}"\nfiles = ["a.tif"]\ncolumns = {columns}\naverage = {average}\n'
                    for split, columns in (("train", [0, 128]), ("test", [128, 256])))
    collection.write_text(f'folders = ["."]\n{rules}')
    wanted = Preparation((str(folder),), str(tmp_path / "set"), (gsd,), chip=8, collection=str(collection),
                         max_cloud=1.0)
    prepare(wanted, 1, silent, go_on)
    for split, first, last in (("train", 0, 128), ("test", 128, 256)):
        chips = ChipSet(tmp_path / "set", split)
        lefts = {chips.facts(number)["window"][1] for number in range(len(chips))}
        assert lefts and min(lefts) * gsd / 10 >= first and (max(lefts) + 8) * gsd / 10 <= last
    assert len({chips.facts(n)["window"][1] for n in range(len(chips))}) == inside // 8


def test_chips_that_nothing_accompanies_are_dropped(make_raster, folder, tmp_path):
    make_raster("imagery/a.tif", height=32, width=32)
    holes = np.full((1, 32, 32), 100.0)
    holes[0, 3, 3] = 0
    make_raster("nir.tif", bands=1, values=holes + np.arange(32) * (holes > 0), nodata=0)
    chips = prepared(folder, tmp_path, 'files = ["a.tif"]\nwith.nir = { file = "../nir.tif" }\n')
    assert len(chips) == 3 and all(chips.facts(n)["window"] != [0, 0] for n in range(3))


def test_a_changed_companion_makes_another_set(make_raster, folder, tmp_path):
    make_raster("imagery/a.tif", height=32, width=32)
    make_raster("nir.tif", bands=1, height=32, width=32)
    rule = 'files = ["a.tif"]\nwith.nir = { file = "../nir.tif" }\n'
    prepared(folder, tmp_path, rule)
    make_raster("nir.tif", bands=1, height=32, width=32, compress="deflate")
    with pytest.raises(PlanError, match="differing: chips"):
        prepared(folder, tmp_path, rule)


@pytest.mark.parametrize("change", ["bands", "values", "time"])
def test_another_rule_for_the_same_files_makes_another_set(make_raster, folder, tmp_path, change):
    make_raster("imagery/a.tif", height=32, width=32)
    companion = make_raster("classes.tif", bands=2, height=32, width=32)
    rule = 'files = ["a.tif"]\nwith.osm = { file = "../classes.tif", bands = [1], values = { 1 = 1 } }\n'
    prepared(folder, tmp_path, rule)
    if change == "time":
        os.utime(companion, (1, 1))
    others = {"bands": rule.replace("bands = [1]", "bands = [2]"), "values": rule.replace("1 = 1", "1 = 2")}
    with pytest.raises(PlanError, match="differing: chips"):
        prepared(folder, tmp_path, others.get(change, rule))


def test_what_is_derived_needs_all_of_its_parts():
    pan = find_modality("pan")
    assert derived(pan, {"nir": np.zeros((4, 4, 1), np.uint8)}) is None
    grey = np.full((4, 4, 3), 77, np.uint8)
    assert (derived(pan, {"rgb": grey}) == 77).all()


def test_reduced_classes_are_the_most_frequent_and_values_the_mean():
    classes = np.array([[1, 1], [1, 0]], np.uint8)[..., None]
    assert reduced(classes, find_modality("osm"), 2).item() == 1
    assert reduced(classes * 100, find_modality("nir"), 2).item() == 75


def test_examples_show_one_place_in_equal_streams(make_raster, folder, tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(40, 200, (1, 64, 64)).astype(float)
    make_raster("imagery/a.tif", values=grey.repeat(4, axis=0))
    rule = 'files = ["a.tif"]\nbands = [1, 2, 3]\nderived = ["pan"]\nwith.nir = { bands = [4] }\n'
    chips = prepared(folder, tmp_path, rule)
    network = SceneNetworkConfig()
    pool = TuplePool(chips, network.modalities)
    examples = SceneExamples(pool, network, known_modalities(), 16, 0, group=4)
    for index in range(12):
        example, again = examples[index], examples[index]
        assert all(np.array_equal(a, b) for a, b in zip(example, again))
        assert len(example.pictures) == len(examples[index // 4 * 4].pictures)
        # all bands of the source are equal: so are the crops, whatever they show
        assert float((example.pictures - example.pictures[:1]).abs().max()) < 0.01
        assert example.noise.shape == (len(example.pictures), 4, 2, 2) and float(example.times.min()) < 1
    assert not np.array_equal(examples[0].noise, examples[1].noise)


def test_a_set_without_modalities_is_refused(scene_set):
    with pytest.raises(InputError, match="shows no place in two of rgb, nir"):
        TuplePool(scene_set, ("rgb", "nir"))


@pytest.fixture
def scene_set(make_raster, tmp_path):
    wanted = Preparation((make_raster(height=64, width=64),), str(tmp_path / "plain"), halvings=0, chip=16)
    prepare(wanted, 1, silent, go_on)
    return ChipSet(tmp_path / "plain", "train")


def test_at_least_one_stream_is_always_to_be_made():
    rng = np.random.default_rng(0)
    times = [draw_stream_times(3, rng) for _ in range(500)]
    observed = np.array([(t == 1).sum() for t in times])
    assert observed.max() == 2 and 0.3 < (observed == 0).mean() < 0.5


@pytest.fixture
def scene_to_train(make_raster, folder, tmp_path) -> SceneModelConfig:
    """A prepared set of RGB, near infrared and PAN in ``set``, and an untrained model in ``config``."""
    bands = np.random.default_rng(0).integers(40, 200, (4, 64, 64)).astype(float)
    make_raster("imagery/a.tif", values=bands)
    rule = 'files = ["a.tif"]\nbands = [1, 2, 3]\nderived = ["pan"]\nwith.nir = { bands = [4] }\n'
    prepared(folder, tmp_path, rule)
    network = dataclasses.replace(SMALL_SCENE, vae=VaeConfig(4, 20))
    config = SceneModelConfig("mine", "Mine", network, (1.0, 10.0), Profile(), "", {"objective": "flow"},
                              pairs=(("rgb", "sar"),))
    save_bundle(tmp_path / "config", config, config.build().state_dict())
    return config


@pytest.mark.slow
def test_processes_share_the_training_of_a_scene_network(scene_to_train, tmp_path):
    """Batches of two show two or three of five modalities: some experts get no gradient."""
    settings = ["steps=4", "batch=2", "crop=16", "warmup=1", "precision=float32"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--",
               "backend", "train", "--config", tmp_path / "config", "--start", "none", "--data", tmp_path / "set",
               "--output", tmp_path / "run", "--device", "cpu", "--workers", "0", "--set", *settings]
    done = subprocess.run(list(map(str, command)), env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert open_bundle(tmp_path / "run").config.training["steps"] == 4


def test_a_scene_network_is_fitted_trained_and_resumed_and_knows_what_it_saw(scene_to_train, tmp_path):
    def train(start, output, **more):
        settings = [f"{name}={value}" for name, value in {"batch": 2, "crop": 16, "warmup": 1, **more}.items()]
        train_bundle(str(tmp_path / "config"), tmp_path / "set", tmp_path / output, settings, "cpu", start, 0)
        return open_bundle(tmp_path / output)

    first = train(None, "run", steps=2)
    prior = first.load().prior.factor
    assert first.config.pairs == (("nir", "pan"), ("nir", "rgb"), ("pan", "rgb"))
    assert first.config.untrained == ("sar", "osm") and first.load().vae.is_fitted and first.load().lost.is_fitted
    again = train(None, "run", steps=3).load()
    torch.testing.assert_close(again.prior.factor, prior, rtol=0, atol=0)
    on = train(str(tmp_path / "run"), "other", steps=1)
    torch.testing.assert_close(on.load().prior.factor, prior, rtol=0, atol=0)
    with pytest.raises(PlanError, match="no autoencoder to train"):
        train(None, "vae", steps=1, objective="vae")
    with pytest.raises(PlanError, match="no weight that is trained has such a name"):
        train(None, "baseline", steps=1, objective="l1", only="nothing")
