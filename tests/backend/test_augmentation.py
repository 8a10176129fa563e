"""The data engine: a folder of labelled chips in, generated variants of each out."""

import csv
import dataclasses
import hashlib

import numpy as np
import pytest
import rasterio
from PIL import Image

from backend.augmentation import AugmentSettings, augment, find_chips, variants_of
from backend.errors import Cancelled, InputError, MissingCrsError, ModelError, OutputError, PlanError
from backend.jobs.engines import open_scene_engine
from backend.progress import go_on, silent
from backend.raster.averaging import area_average
from backend.raster.pixels import Pixels
from backend.scene.modality import find_modality
from backend.scene.picture import translate_picture


@pytest.fixture
def chips(make_raster, tmp_path):
    """Two classes: a GeoTIFF with nodata, one of 16 bits, a PNG of an odd size, a JPEG."""
    data = tmp_path / "chips"
    for name in ("beach", "forest"):
        (data / name).mkdir(parents=True)
    make_raster("chips/beach/geo.tif", height=60, width=64, nodata=0)
    make_raster("chips/forest/deep.tif", bands=1, dtype="uint16")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (50, 64, 3), np.uint8)).save(data / "beach" / "odd.png")
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(data / "forest" / "a.jpg")
    return data


@pytest.fixture
def settings(chips, small_model, tmp_path):
    return AugmentSettings(
        chips, tmp_path / "out", str(small_model.folder), variants=2, source_resolution=0.3, device="cpu",
        precision="float32",
    )


def lines(manifest):
    with manifest.open() as stream:
        return list(csv.DictReader(stream))


def test_every_chip_gets_its_variants_in_the_folder_of_its_class(settings):
    found = lines(augment(settings, silent, go_on))
    assert [(r["file"], r["class"], r["source"]) for r in found[:3]] == [
        ("beach/geo_v1.tif", "beach", "beach/geo.tif"),
        ("beach/geo_v2.tif", "beach", "beach/geo.tif"),
        ("beach/odd_v1.png", "beach", "beach/odd.png"),
    ]
    assert len(found) == 8 and len({r["seed"] for r in found}) == 8
    for row in found:
        assert hashlib.sha256((settings.output / row["file"]).read_bytes()).hexdigest() == row["sha256"]
        assert row["model"] == "small" and len(row["model_sha256"]) == 64


def test_a_geotiff_keeps_its_grid_type_and_holes_and_says_that_it_is_synthetic(settings, chips):
    augment(settings, silent, go_on)
    for name in ("beach/geo", "forest/deep"):
        with rasterio.open(chips / f"{name}.tif") as chip, rasterio.open(settings.output / f"{name}_v1.tif") as made:
            assert (made.transform, made.crs, made.shape) == (chip.transform, chip.crs, chip.shape)
            assert (made.dtypes, made.nodata, made.count) == (chip.dtypes, chip.nodata, chip.count)
            assert made.tags()["METAEARTH_SYNTHETIC"] == "YES"
            same = chip.read().astype(float), made.read().astype(float)
            averages = [area_average(v[:, :20, :24].astype(np.float32), 4) for v in same]
            assert np.abs(averages[0] - averages[1]).mean() < 0.1 * averages[0].std()
            assert not np.array_equal(*same)


def test_holes_stay_holes(settings, chips):
    with rasterio.open(chips / "beach/geo.tif", "r+") as chip:
        values = chip.read()
        values[:, 10:20, 30:40] = 0
        chip.write(values)
    augment(settings, silent, go_on)
    with rasterio.open(settings.output / "beach/geo_v1.tif") as made:
        assert not made.read_masks(1)[10:20, 30:40].any() and made.read_masks(1)[:10].all()


def test_pictures_without_a_place_become_png_of_their_size(settings):
    augment(settings, silent, go_on)
    with Image.open(settings.output / "beach/odd_v1.png") as made:
        assert made.size == (64, 50) and made.text["METAEARTH_SYNTHETIC"] == "YES"


def test_variants_differ_and_repeat(settings, tmp_path):
    first = lines(augment(settings, silent, go_on))
    again = lines(augment(dataclasses.replace(settings, output=tmp_path / "again"), silent, go_on))
    assert [r["sha256"] for r in first] == [r["sha256"] for r in again]
    assert len({r["sha256"] for r in first}) == 8


def test_a_cancelled_run_goes_on_where_it_stopped(settings):
    made = []

    def stop_after_three(done, total, message):
        made.append(done)
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        augment(settings, stop_after_three, go_on)
    finished = {p: p.stat().st_mtime_ns for p in settings.output.rglob("*_v*")}
    assert len(finished) == 3
    reports = []
    manifest = augment(settings, lambda *r: reports.append(r), go_on)
    assert reports[0][:2] == (0, 5) and reports[-1][:2] == (5, 5)
    assert all(p.stat().st_mtime_ns == t for p, t in finished.items()) and len(lines(manifest)) == 8


def test_more_variants_are_added_to_those_that_are_there(settings):
    before = lines(augment(settings, silent, go_on))
    after = lines(augment(dataclasses.replace(settings, variants=3), silent, go_on))
    assert len(after) == 12 and {r["sha256"] for r in before} < {r["sha256"] for r in after}


def test_variants_of_other_settings_are_not_taken_for_ones_own(settings):
    augment(dataclasses.replace(settings, variants=1), silent, go_on)
    with pytest.raises(OutputError, match="made with another seed"):
        augment(dataclasses.replace(settings, seed=5), silent, go_on)


def test_two_stages_change_more_than_one(settings, chips, tmp_path):
    def change(stages):
        output = tmp_path / f"{stages}"
        augment(dataclasses.replace(settings, stages=stages, variants=1, output=output), silent, go_on)
        with Image.open(chips / "beach/odd.png") as a, Image.open(output / "beach/odd_v1.png") as b:
            averages = [area_average(np.asarray(i, np.float32).transpose(2, 0, 1)[:, :48], 4) for i in (a, b)]
        return np.abs(averages[0] - averages[1]).mean()

    assert change(2) > 5 * change(1)


@pytest.fixture
def through(settings, chips, scene_model, tmp_path):
    (chips / "forest/deep.tif").unlink()  # one band: no RGB
    return dataclasses.replace(settings, model=str(scene_model.folder), through="nir", output=tmp_path / "through")


def test_chips_go_through_another_modality_and_back(through, chips, scene_model):
    found = lines(augment(through, silent, go_on))
    assert len(found) == 6 and len({r["sha256"] for r in found}) == 6
    assert {(r["through"], r["stages"], r["model"]) for r in found} == {("nir", "", "tiny-mm")}
    assert {r["model_sha256"] for r in found} == {scene_model.sha256()}
    with rasterio.open(chips / "beach/geo.tif") as chip, rasterio.open(through.output / "beach/geo_v1.tif") as made:
        assert (made.transform, made.shape, made.dtypes, made.nodata) == (
            chip.transform, chip.shape, chip.dtypes, chip.nodata)
        assert made.tags()["METAEARTH_THROUGH"] == "nir" and made.tags()["METAEARTH_SYNTHETIC"] == "YES"
        assert (made.read() != chip.read()).mean() > 0.5


def test_what_the_other_modality_does_not_show_is_lost(through, chips, scene_model):
    """The variant is made of the near infrared alone."""
    engine = open_scene_engine(scene_model, "cpu", "float32")
    rgb, nir = find_modality("rgb"), find_modality("nir")
    augment(dataclasses.replace(through, variants=1), silent, go_on)
    with Image.open(chips / "beach/odd.png") as picture, Image.open(through.output / "beach/odd_v1.png") as made:
        values = np.asarray(picture, np.float32).transpose(2, 0, 1)
        variant = np.asarray(made, np.float32).transpose(2, 0, 1)
    seed = next(v.seed for v in variants_of(find_chips(chips), 1, 0) if v.source.name == "odd.png")
    everywhere = np.ones(values.shape[1:], bool)
    seen = translate_picture(engine, Pixels(values, everywhere), rgb, nir, 0.3, seed)
    assert seen.shape == (1, 50, 64)
    np.testing.assert_array_equal(translate_picture(engine, Pixels(seen, everywhere), nir, rgb, 0.3, seed), variant)


def test_a_picture_larger_than_a_window_is_translated_whole(scene_model):
    engine = open_scene_engine(scene_model, "cpu", "float32")
    values = np.random.default_rng(0).uniform(0, 255, (3, 70, 100)).astype(np.float32)
    made = translate_picture(
        engine, Pixels(values, np.ones((70, 100), bool)), find_modality("rgb"), find_modality("pan"), 1.0, 0)
    assert made.shape == (1, 70, 100) and made.std() > 0 and np.isfinite(made).all()


def test_the_way_is_noted_and_others_are_not_mixed(through, settings, small_model):
    augment(dataclasses.replace(through, variants=1), silent, go_on)
    with pytest.raises(OutputError, match="made with another .*through"):
        augment(dataclasses.replace(through, through="pan"), silent, go_on)
    with pytest.raises(OutputError, match="through"):
        augment(dataclasses.replace(settings, output=through.output), silent, go_on)


def test_ways_that_lead_nowhere_get_a_sentence(through, settings, make_raster):
    for change, error, sentence in (
        ({"through": "rgb"}, PlanError, "RGB already"),
        ({"through": "lidar"}, InputError, "no modality 'lidar'"),
        ({"through": "osm"}, ModelError, "not trained on any imagery of Map"),
        ({"stages": 2}, PlanError, "leave stages at 1"),
        ({"model": settings.model}, ModelError, "knows no modalities"),
    ):
        with pytest.raises(error, match=sentence):
            augment(dataclasses.replace(through, **change), silent, go_on)
    make_raster("chips/forest/grey.tif", bands=1)
    with pytest.raises(InputError, match=r"grey.tif is no RGB picture"):
        augment(through, silent, go_on)


def test_chips_without_crs_need_their_resolution(settings):
    with pytest.raises(MissingCrsError):
        augment(dataclasses.replace(settings, source_resolution=None), silent, go_on)


def test_a_folder_without_classes_is_told(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "loose.png")
    with pytest.raises(InputError, match="one folder a class"):
        find_chips(tmp_path)


def test_chips_of_one_name_and_two_formats_do_not_meet(tmp_path):
    from pathlib import Path

    files = [v.file.name for v in variants_of([Path("a/x.jpg"), Path("a/x.png"), Path("a/y.png")], 1, 0)]
    assert files == ["x_jpg_v1.png", "x_png_v1.png", "y_v1.png"]


@pytest.mark.parametrize("below", [".", "variants"])
def test_variants_never_become_chips(settings, below):
    with pytest.raises(PlanError, match="lies among the chips"):
        augment(dataclasses.replace(settings, output=settings.data / below), silent, go_on)


def test_holes_of_a_png_stay_holes(settings, tmp_path):
    data = tmp_path / "with holes"
    (data / "beach").mkdir(parents=True)
    pixels = np.full((64, 64, 4), 255, np.uint8)
    pixels[..., :3] = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
    pixels[:16, :16, 3] = 0
    Image.fromarray(pixels).save(data / "beach" / "a.png")
    augment(dataclasses.replace(settings, data=data, variants=1), silent, go_on)
    made = np.asarray(Image.open(settings.output / "beach" / "a_v1.png"))
    np.testing.assert_array_equal(made[..., 3], pixels[..., 3])


def test_a_model_without_weights_is_told(settings):
    with pytest.raises(ModelError, match="no weights yet"):
        augment(dataclasses.replace(settings, model="metaearth-600m"), silent, go_on)
