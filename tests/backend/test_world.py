"""The world: what a camera sees is what a whole job would make, wherever it flies and in whatever order."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.warp import transform as transform_points

from backend.__main__ import main
from backend.errors import (
    Cancelled,
    ExtentError,
    InputError,
    JobBusyError,
    MetaEarthError,
    OutputError,
    PlanError,
)
from backend.jobs.directory import JobDirectory, unfinished_jobs
from backend.jobs.runner import resume
from backend.protocol import FLYTHROUGH, PLACE, VIEW, FieldError, check_fields
from backend.raster.grid import Region
from backend.raster.pixels import Pixels
from backend.raster.placement import place_picture
from backend.raster.source import RasterSource
from backend.tiling.lattice import Lattice
from backend.world import verbs
from backend.world.camera import Camera
from backend.world.path import along
from backend.world.resampling import averaged
from backend.world.view import lowest_altitude_m, sight, view
from backend.world.world import World, plan_world

from .conftest import keep_on, read, run

CAMERA = Camera(24, 16)


def quiet(done, total, message):
    """The report of those who watch nothing."""


def values_of(small_model, source, **fields):
    """A world on the CPU whose pixels repeat."""
    return {"input": source, "model": str(small_model.folder), "device": "cpu", "precision": "float32", **fields}


def world_of(small_model, source, folder, **fields):
    return World(plan_world(values_of(small_model, source, stages=2, **fields), str(folder)))


def look(world, x, y, gsd_m, camera=CAMERA, check=keep_on):
    """What the camera sees from where its pixels are ``gsd_m`` metres."""
    return view(world, sight(world.plan, camera, x, y, camera.altitude_m(gsd_m)), quiet, check)


def place_on(grid, other):
    """Row and column of a grid's corner on another of equal pixels."""
    col, row = ~other.transform @ (grid.transform @ (0, 0))
    assert abs(col - round(col)) + abs(row - round(row)) < 1e-6
    return round(row), round(col)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_view_is_the_crop_of_a_whole_run(small_model, scene, tmp_path, stage):
    source, whole = scene
    with world_of(small_model, source, tmp_path / "world") as world:
        seen = look(world, 500_120, 4_999_900, 10 / 4**stage)
        assert 0 < world.evaluations < whole.evaluations
    assert seen.stage == stage and seen.valid.all()
    with rasterio.open(whole.outputs[stage - 1]) as made:
        col, row = (round(v) for v in ~made.transform @ (seen.grid.transform @ (0, 0)))
        expected = made.read()[:, row:row + 16, col:col + 24]
    np.testing.assert_array_equal(seen.image, expected.transpose(1, 2, 0))


@pytest.mark.parametrize(
    "source_of",
    [
        {"dtype": "uint16", "nodata": 0},
        {"bands": 1, "dtype": "float32", "nodata": math.nan},
        {"bands": 4, "photometric": "rgb", "alpha": "yes"},
    ],
)
def test_whatever_the_source_the_stages_are_those_of_a_whole_run(small_model, make_raster, tmp_path, source_of):
    source = make_raster(height=9, width=13, **source_of)
    with rasterio.open(source, "r+") as dataset:
        values = dataset.read()
        values[-1 if dataset.count == 4 else slice(None), 2:6, 4:9] = dataset.nodata or 0
        dataset.write(values)
    whole = run(small_model, source, tmp_path / "whole.tif", stages=2)
    with world_of(small_model, source, tmp_path / "world") as world, rasterio.open(whole.outputs[1]) as made:
        part = Region(30, 50, 130, 200)
        world.make([(2, part)], quiet, keep_on)
        pixels = world.read(2, part)
        expected = made.read(window=((30, 130), (50, 200)))
        valid = made.dataset_mask(window=((30, 130), (50, 200))) > 0
    np.testing.assert_array_equal(pixels.valid, valid)
    assert 0.1 < valid.mean() < 0.9
    np.testing.assert_array_equal(pixels.values[:, valid], expected[:len(pixels.values), valid])


@pytest.mark.parametrize("gsd_m", [0.7, 1.9, 2.5, 3.3, 9.99, 14.0, 27.3])
def test_ground_seen_twice_at_one_resolution_has_equal_pixels(small_model, scene, tmp_path, gsd_m):
    source, _ = scene
    with world_of(small_model, source, tmp_path / "world") as world:
        one = look(world, 500_110, 4_999_910, gsd_m)
        two = look(world, 500_110 + 5.3 * gsd_m, 4_999_910 - 2.8 * gsd_m, gsd_m)
    row, col = place_on(two.grid, one.grid)
    assert (row, col) in {(3, 5), (3, 6), (2, 5), (2, 6)}
    np.testing.assert_array_equal(one.image[row:, col:], two.image[:-row, :-col])
    np.testing.assert_array_equal(one.valid[row:, col:], two.valid[:-row, :-col])


def test_what_is_made_is_not_made_again(small_model, scene, tmp_path):
    source, _ = scene
    with world_of(small_model, source, tmp_path / "world") as world:
        first = look(world, 500_120, 4_999_900, 0.7)
        assert world.evaluations > 0
        cost = world.evaluations
        again = look(world, 500_120, 4_999_900, 0.7)
        assert world.evaluations == cost
    with world_of(small_model, source, tmp_path / "world") as later:
        third = look(later, 500_120, 4_999_900, 0.7)
        assert later.evaluations == 0
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.image, third.image)


def test_only_a_damaged_block_is_made_again(small_model, scene, tmp_path):
    source, _ = scene
    with world_of(small_model, source, tmp_path / "world") as world:
        first = look(world, 500_120, 4_999_900, 0.7)
        cost = world.evaluations
    damaged = sorted((tmp_path / "world" / "blocks" / "1" / "s2").glob("*.tif"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with world_of(small_model, source, tmp_path / "world") as later:
        again = look(later, 500_120, 4_999_900, 0.7)
        assert 0 < later.evaluations < cost
    np.testing.assert_array_equal(first.image, again.image)


def test_a_view_needs_few_blocks_of_a_large_world(small_model, make_raster, tmp_path):
    """Six stages over 200 x 600 source pixels: two million million pixels, five times what a job may have."""
    source = make_raster(height=200, width=600)
    plan = plan_world(values_of(small_model, source, stages=6), str(tmp_path / "world"))
    last = plan.stages[-1].grid
    assert last.height * last.width > 400_000_000_000
    with World(plan) as world:
        seen = look(world, 502_000, 4_999_000, last.pixel_size_m)
    made = list((tmp_path / "world").rglob("*.tif"))
    assert seen.stage == 6 and seen.valid.all()
    assert len(made) < 60


def test_from_high_above_the_source_itself_is_averaged(small_model, make_raster, tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (3, 20, 24)).astype(np.uint8)
    with world_of(small_model, make_raster(values=values), tmp_path / "world") as world:
        seen = look(world, 500_120, 4_999_900, 20.0, Camera(12, 10))
        assert world.evaluations == 0
    assert seen.stage == 0 and seen.valid.all() and seen.grid.pixel_size_m == 20.0
    means = values.reshape(3, 10, 2, 12, 2).mean(axis=(2, 4)).transpose(1, 2, 0)
    np.testing.assert_allclose(seen.image, means, atol=0.51)


def test_an_average_weighs_by_shared_area():
    values = np.arange(60, dtype=np.float32).reshape(1, 6, 10)
    whole = Region(0, 0, 6, 10)

    def crop(region):
        rows, cols = region.slices()
        return Pixels(values[:, rows, cols], np.ones((region.height, region.width), bool))

    made = averaged(crop, whole, 1, Region(0, 0, 4, 6), 1.75)
    assert made.values[0, 0, 0] == pytest.approx(
        (0 + 0.75 * 1 + 0.75 * 10 + 0.75**2 * 11) / 1.75**2
    )
    assert made.valid[:3, :5].all()
    assert not made.valid[3].any()  # 0.75 of 1.75 rows
    assert made.valid[0, 5]  # 1.25 of 1.75 columns


def test_beyond_the_edge_an_image_is_black_and_says_so(small_model, make_raster, tmp_path):
    with world_of(small_model, make_raster(), tmp_path / "world") as world:
        seen = look(world, 500_000, 5_000_000, 2.5)
    assert not seen.valid[:8].any() and not seen.valid[:, :12].any() and seen.valid[8:, 12:].all()
    assert not seen.image[~seen.valid].any() and seen.image[seen.valid].any()


def test_sixteen_bits_are_shown_by_the_stretch(small_model, make_raster, tmp_path):
    source = make_raster(dtype="uint16", values=np.full((3, 20, 24), 1500))
    with world_of(small_model, source, tmp_path / "world", stretch=[1000, 2000]) as world:
        seen = look(world, 500_120, 4_999_900, 10.0)
    assert (seen.image[seen.valid] == 128).all()


@pytest.mark.parametrize(("east", "south"), [(1, -1), (1, 1), (-1, -1)])
def test_images_are_north_up_wherever_the_sources_rows_go(small_model, make_raster, tmp_path, east, south):
    values = np.random.default_rng(0).integers(0, 255, (3, 20, 24)).astype(np.uint8)
    turned = values[:, ::-south, ::east]
    transform = Affine(10 * east, 0, 500_000 + (0 if east > 0 else 240), 0, 10 * south,
                       5_000_000 - (0 if south < 0 else 200))
    with world_of(small_model, make_raster(values=turned, transform=transform), tmp_path / "world") as world:
        seen = look(world, 500_120, 4_999_900, 10.0, Camera(24, 20))
    np.testing.assert_array_equal(seen.image, values.transpose(1, 2, 0))
    assert seen.grid.transform.almost_equals(Affine(10, 0, 500_000, 0, -10, 5_000_000))


def test_altitude_and_ground_sample_distance_are_inverse():
    camera = Camera(1000, 500, 90.0)
    assert camera.gsd_m(500.0) == pytest.approx(1.0)
    assert camera.altitude_m(camera.gsd_m(123.4)) == pytest.approx(123.4)
    with pytest.raises(PlanError, match="180 degrees"):
        Camera(10, 10, 180.0)


def test_the_lowest_altitude_that_is_told_can_be_flown(small_model, make_raster, tmp_path):
    plan = plan_world(values_of(small_model, make_raster(), stages=1), str(tmp_path))
    assert sight(plan, CAMERA, 500_120, 4_999_900, lowest_altitude_m(plan, CAMERA)).stage == 1
    with pytest.raises(PlanError, match=r"last stage has 2.5 m: fly at (.*) m or higher") as error:
        sight(plan, CAMERA, 500_120, 4_999_900, 10.0)
    told = float(str(error.value).split("fly at ")[1].split()[0])
    assert told == pytest.approx(2.5 * 24 / (2 * math.tan(math.pi / 6)), abs=0.01)
    assert sight(plan, CAMERA, 500_120, 4_999_900, told).stage == 1


@pytest.mark.parametrize(
    ("pixel_m", "stages"), [(10, 3), (0.4, 1), (0.3, 1), (1.6, 2), (1.5, 1), (1000, 6)]
)
def test_a_world_ends_where_the_models_ground_resolution_does(small_model, make_raster, pixel_m, stages):
    source = make_raster(transform=Affine(pixel_m, 0, 500_000, 0, -pixel_m, 5_000_000))
    plan = plan_world(values_of(small_model, source))
    assert len(plan.stages) == stages
    assert plan.folder.parent.name == "worlds"


@pytest.mark.parametrize(
    ("x", "y", "altitude", "error", "sentence"),
    [
        (400_000, 4_999_900, 100, ExtentError, "nothing of the raster is in sight; it covers 500000"),
        (math.inf, 4_999_900, 100, ExtentError, "is no place"),
        (500_100, 4_999_900, 0, PlanError, "above 0 m"),
        (500_100, 4_999_900, math.nan, PlanError, "above 0 m"),
    ],
)
def test_what_cannot_be_seen_is_told(small_model, make_raster, tmp_path, x, y, altitude, error, sentence):
    plan = plan_world(values_of(small_model, make_raster()), str(tmp_path / "world"))
    with pytest.raises(error, match=sentence):
        sight(plan, CAMERA, x, y, altitude)
    assert not (tmp_path / "world").exists()


def stop_after(calls):
    """A check that ends the work at its n-th call."""
    seen = []

    def check():
        seen.append(None)
        if len(seen) > calls:
            raise Cancelled

    return check


def test_a_cancelled_view_leaves_valid_blocks(small_model, scene, tmp_path):
    source, _ = scene
    with world_of(small_model, source, tmp_path / "world") as world:
        with pytest.raises(Cancelled):
            look(world, 500_120, 4_999_900, 0.7, check=stop_after(60))
        assert not list((tmp_path / "world").rglob("*.part*"))
        left = list((tmp_path / "world").rglob("*.tif"))
        made = world.evaluations
        seen = look(world, 500_120, 4_999_900, 0.7)
        after = world.evaluations - made
    assert left
    with world_of(small_model, source, tmp_path / "other") as other:
        expected = look(other, 500_120, 4_999_900, 0.7)
        assert after < other.evaluations
    np.testing.assert_array_equal(seen.image, expected.image)


def test_every_evaluation_can_be_the_last(small_model, scene, tmp_path):
    asked = []
    with world_of(small_model, scene[0], tmp_path / "world") as world:
        look(world, 500_120, 4_999_900, 2.5, check=lambda: asked.append(None))
        assert len(asked) >= world.evaluations > 0


def test_a_world_goes_on_with_the_batch_that_it_was_begun_with(small_model, scene, tmp_path):
    """On a GPU the batch is measured, and may be another the next time."""
    with world_of(small_model, scene[0], tmp_path / "world") as world:
        world.directory.write_plan(dataclasses.replace(world.plan, batch=2))
    with world_of(small_model, scene[0], tmp_path / "world") as again:
        assert again.plan.batch == 2


def test_another_world_in_the_folder_is_refused_by_what_differs(small_model, scene, tmp_path):
    source, _ = scene
    with world_of(small_model, source, tmp_path / "world"):
        pass
    with pytest.raises(PlanError, match=r"a world that differs in seed \(0, now 3\)\. Choose another folder"):
        world_of(small_model, source, tmp_path / "world", seed=3).__enter__()


def test_two_at_one_world_are_told_apart(small_model, scene, tmp_path):
    source, _ = scene
    with (
        world_of(small_model, source, tmp_path / "world"),
        pytest.raises(JobBusyError, match="Another job works on .*world"),
    ):
        world_of(small_model, source, tmp_path / "world").__enter__()


def test_a_world_is_no_unfinished_job(small_model, scene, tmp_path):
    source, _ = scene
    with world_of(small_model, source, tmp_path / "world") as world:
        look(world, 500_120, 4_999_900, 2.5)
    assert str(tmp_path / "world") not in {job.folder for job in unfinished_jobs()}
    with pytest.raises(InputError, match="holds no unfinished job"):
        resume(tmp_path / "world", lambda progress: None, keep_on)
    with pytest.raises(OutputError, match=r"is no job folder: it holds world\.json"):
        run(small_model, source, tmp_path / "out.tif", job_dir=str(tmp_path / "world"))
    with world_of(small_model, source, tmp_path / "world") as world:
        look(world, 500_120, 4_999_900, 2.5)
        assert world.evaluations == 0


def test_the_folder_of_a_job_is_no_world(small_model, scene, small_blocks, tmp_path):
    source, _ = scene
    with pytest.raises(Cancelled):
        run(small_model, source, tmp_path / "out.tif", job_dir=str(tmp_path / "job"), check=stop_after(30))
    assert JobDirectory(tmp_path / "job").has_plan
    with pytest.raises(OutputError, match=r"is no job folder: it holds plan\.json"):
        world_of(small_model, source, tmp_path / "job").__enter__()


def test_a_block_that_is_deleted_meanwhile_is_told(small_model, scene, tmp_path):
    source, _ = scene
    with world_of(small_model, source, tmp_path / "world") as world:
        look(world, 500_120, 4_999_900, 2.5)
        shutil.rmtree(tmp_path / "world" / "blocks")
        with pytest.raises(OutputError, match="is gone or damaged"):
            look(world, 500_120, 4_999_900, 2.5)


def test_blocks_of_a_part_are_those_of_the_whole_that_touch_it(small_model, scene):
    plan = plan_world(values_of(small_model, scene[0], stages=2))
    for part in (Region(0, 0, 1, 1), Region(23, 24, 25, 57), Region(100, 7, 288, 352)):
        expected = [
            block for block in plan.blocks(2)
            if (shared := block.region.intersection(part)).height > 0 and shared.width > 0
        ]
        assert plan.blocks(2, part) == expected
    assert plan.geometry.lattice == Lattice(64, 12, 8)


def test_a_flight_is_even_in_what_it_sees():
    places = along([(0, 0, 1000), (0, 0, 10)], 5)
    assert [p[2] for p in places] == pytest.approx([1000, 1000 / 10**0.5, 100, 10 * 10**0.5, 10])
    slanted = along([(0, 0, 100), (900, 0, 10)], 50)
    for x, _, altitude in slanted:
        assert x == pytest.approx(10 * (100 - altitude))  # a straight line in space
    corner = along([(0, 0, 50), (100, 0, 50), (100, 300, 50)], 5)
    np.testing.assert_allclose([p[:2] for p in corner], [(0, 0), (100, 0), (100, 100), (100, 200), (100, 300)])


def test_a_flight_keeps_its_ends_and_may_hover():
    vertices = [(1.1, 2.2, 33.3), (40.7, 2.9, 7.77), (1.1, 2.2, 33.3)]
    places = along(vertices, 7)
    assert places[0] == places[-1] == vertices[0]
    assert along([(1, 2, 3), (1, 2, 3)], 3) == [(1, 2, 3)] * 3
    with pytest.raises(PlanError, match="two points"):
        along([(1, 2, 3)], 3)
    with pytest.raises(PlanError, match="above 0 m"):
        along([(1, 2, 3), (1, 2, -3)], 3)


def test_a_loop_ends_where_it_began(small_model, scene, tmp_path):
    source, _ = scene
    heard = []
    values = values_of(
        small_model, source, stages=2, output=str(tmp_path / "loop.gif"), width=24, height=16, frames=6,
        path="500090,4999930,60; 500140.3,4999880,17; 500060,4999860,40; 500090,4999930,60",
        world=str(tmp_path / "world"),
    )
    told = verbs.flythrough(values, lambda *progress: heard.append(progress), keep_on)
    frames = sorted((tmp_path / "loop_frames").iterdir())
    assert [f.name for f in frames] == [f"frame_{k:04d}.png" for k in range(6)]
    images = [np.asarray(Image.open(f)) for f in frames]
    assert images[0].shape == (16, 24, 3) and images[0].any()
    np.testing.assert_array_equal(images[0], images[-1])
    assert (images[0] != images[1]).any()
    with Image.open(tmp_path / "loop.gif") as animation:
        assert (animation.n_frames, animation.size, animation.info["loop"]) == (6, (24, 16), 0)
    assert told["stages"] == [1, 2] and told["frames"] == 6 and told["evaluations"] > 0
    assert "Synthetic detail" in Image.open(frames[0]).text["Description"]
    assert all(0 <= done <= total for done, total, _ in heard)
    assert [done for done, *_ in heard] == sorted(done for done, *_ in heard)
    again = verbs.flythrough({**values, "frames": 3}, quiet, keep_on)
    assert again["evaluations"] == 0
    assert len(list((tmp_path / "loop_frames").iterdir())) == 3
    np.testing.assert_array_equal(np.asarray(Image.open(frames[0])), images[0])


def test_a_flight_in_degrees_takes_its_way_in_metres(small_model, make_raster, tmp_path):
    source = make_raster(crs="EPSG:4326", transform=Affine(1e-4, 0, 10.0, 0, -1e-4, 47.0))
    values = values_of(
        small_model, source, stages=1, output=str(tmp_path / "f.gif"), width=12, height=8, frames=3,
        path="10.0006,46.999,40; 10.0018,46.999,40", world=str(tmp_path / "world"),
    )
    told = verbs.flythrough(values, quiet, keep_on)
    assert told["stages"] == [1] and told["frames"] == 3


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        ({"output": "x.avi"}, OutputError, r"must end in \.gif or \.mp4"),
        ({"path": "500090,4999930,60"}, PlanError, "at least two points"),
        ({"path": "500090,4999930,60; 0,0,60"}, ExtentError, r"Frame \d+ of the path cannot be: .*nothing"),
        ({"path": "500090,4999930,60; 500090,4999930,0.01"}, PlanError, r"Frame \d+ .* or higher"),
        ({"path": "500090,4999930"}, FieldError, "X,Y,ALTITUDE"),
        ({"path": "here; there"}, FieldError, "is not a valid points"),
        ({"frames": 1}, FieldError, "outside 2 to"),
        ({"surprise": 1}, FieldError, "no field named surprise"),
    ],
)
def test_a_flight_that_cannot_be_is_told_before_it_begins(small_model, make_raster, tmp_path, fields, error, sentence):
    values = {"output": str(tmp_path / "f.gif"), "path": "500090,4999930,60; 500090,4999900,60", "frames": 4}
    folder = {"world": str(tmp_path / "world"), "width": 24, "height": 16}
    with pytest.raises(error, match=sentence):
        verbs.flythrough(values_of(small_model, make_raster(), **folder) | values | fields, quiet, keep_on)
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]


def test_an_mp4_without_ffmpeg_names_the_two_ways_out(small_model, make_raster, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    values = values_of(small_model, make_raster(), output=str(tmp_path / "f.mp4"), path="0,0,1; 1,1,1")
    with pytest.raises(OutputError, match=r"install it, or choose a name that ends in \.gif"):
        verbs.flythrough(values, quiet, keep_on)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")
def test_an_mp4_is_made_by_ffmpeg(small_model, make_raster, tmp_path):
    values = values_of(
        small_model, make_raster(), output=str(tmp_path / "f.mp4"), width=25, height=17, frames=4,
        path="500090,4999930,500; 500150,4999900,500", world=str(tmp_path / "world"),
    )
    verbs.flythrough(values, quiet, keep_on)
    assert (tmp_path / "f.mp4").read_bytes()[4:8] == b"ftyp"


def test_view_writes_a_georeferenced_image(small_model, scene, tmp_path, capsys):
    source, _ = scene
    command = ["view", source, tmp_path / "view.tif", "40", "--centre", "500120", "4999900", "--width", "24",
               "--height", "16", "--stages", "2", "--model", small_model.folder, "--world", tmp_path / "world",
               "--device", "cpu", "--precision", "float32", "--json"]
    assert main([str(part) for part in command]) == 0
    told = json.loads(capsys.readouterr().out)
    gsd_m = 2 * 40 * math.tan(math.pi / 6) / 24
    assert told["stage"] == 2 and told["grid"]["pixel_size_m"] == pytest.approx(gsd_m) and told["evaluations"] > 0
    with rasterio.open(tmp_path / "view.tif") as made:
        assert made.crs.to_epsg() == 32633 and (made.width, made.height, made.count) == (24, 16, 4)
        assert made.colorinterp[3] == ColorInterp.alpha and (made.read(4) == 255).all()
        assert made.transform.a == pytest.approx(gsd_m)
        assert made.transform @ (12, 8) == pytest.approx((500_120, 4_999_900), abs=gsd_m)
        assert made.tags()["METAEARTH_SYNTHETIC"] == "YES"
    command[-1:] = ["--seed", "1"]
    assert main([str(part) for part in command]) == 1
    assert "differs in seed (0, now 1)" in capsys.readouterr().err


def picture(path, mode="RGB", size=(30, 20)):
    """A picture file of random colours, and what they are as RGBA."""
    rng = np.random.default_rng(3)
    values = rng.integers(0, 255, (size[1], size[0], 4)).astype(np.uint8)
    values[..., 3] = np.where(values[..., 3] > 60, 255, 0)
    image = Image.fromarray(values)
    image = image.convert("RGB").quantize(16) if mode == "P" else image.convert(mode)
    image.save(path)
    return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize(("mode", "bands"), [("RGB", 3), ("RGBA", 4), ("P", 3), ("L", 3), ("LA", 4)])
def test_a_placed_picture_keeps_its_colours(tmp_path, mode, bands):
    colours = picture(tmp_path / "p.png", mode)
    place_picture(str(tmp_path / "p.png"), tmp_path / "map.tif", 10.0)
    with rasterio.open(tmp_path / "map.tif") as made:
        assert made.count == bands
        np.testing.assert_array_equal(made.read(), colours.transpose(2, 0, 1)[:bands])
        assert (ColorInterp.alpha in made.colorinterp) == (bands == 4)


def test_a_picture_lies_to_the_pixel_in_metres(tmp_path):
    picture(tmp_path / "p.png")
    place_picture(str(tmp_path / "p.png"), tmp_path / "map.tif", 8.0, "EPSG:32633", 500_000, 5_000_000)
    with rasterio.open(tmp_path / "map.tif") as made:
        assert made.bounds == (500_000 - 120, 5_000_000 - 80, 500_000 + 120, 5_000_000 + 80)
        assert made.crs.to_epsg() == 32633


def test_a_picture_lies_to_the_pixel_in_degrees(tmp_path):
    picture(tmp_path / "p.png")
    place_picture(str(tmp_path / "p.png"), tmp_path / "map.tif", 100.0, "EPSG:4326", 11.0, 60.0)
    with rasterio.open(tmp_path / "map.tif") as made:
        box = made.bounds
        assert ((box.left + box.right) / 2, (box.bottom + box.top) / 2) == pytest.approx((11.0, 60.0))
        xs, ys = transform_points(
            made.crs, "EPSG:32632", [box.left, box.right, 11.0, 11.0], [60.0, 60.0, box.bottom, box.top]
        )
    assert math.dist((xs[0], ys[0]), (xs[1], ys[1])) == pytest.approx(3000 * 0.9996, rel=2e-3)
    assert math.dist((xs[2], ys[2]), (xs[3], ys[3])) == pytest.approx(2000 * 0.9996, rel=2e-3)


@pytest.mark.parametrize(
    ("crs", "x", "y"),
    [("EPSG:3857", 0, 0), ("EPSG:3857", 1.2e6, 8.4e6), ("EPSG:4326", -70, -45), ("EPSG:2263", 980_000, 190_000)],
)
def test_the_backend_sees_the_metres_that_a_picture_was_given(tmp_path, crs, x, y):
    picture(tmp_path / "p.png")
    place_picture(str(tmp_path / "p.png"), tmp_path / "map.tif", 30.0, crs, x, y)
    with RasterSource(str(tmp_path / "map.tif")) as source:
        assert source.grid.pixel_size_m == pytest.approx(30.0, rel=1e-3)
        col, row = ~source.grid.transform @ (x, y)
    assert (col, row) == pytest.approx((15, 10))


def test_a_painted_map_can_be_flown_over(small_model, tmp_path):
    picture(tmp_path / "p.png", "RGBA")
    told = verbs.place(
        {"input": str(tmp_path / "p.png"), "output": str(tmp_path / "map.tif"), "metres_per_pixel": 64}, quiet, keep_on
    )
    assert told["grid"]["crs"] == "EPSG:3857" and told["grid"]["pixel_size_m"] == 64
    values = values_of(small_model, told["output"], stages=1, output=str(tmp_path / "v.tif"), altitude=400)
    seen = verbs.view({**values, "width": 24, "height": 16, "world": str(tmp_path / "world")}, quiet, keep_on)
    assert seen["stage"] == 1 and seen["evaluations"] > 0
    assert 0 < (read(tmp_path / "v.tif")[3] > 0).mean() < 1


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        ({"crs": "EPSG:999999"}, InputError, "'EPSG:999999' is no known coordinate reference system"),
        ({"crs": "nonsense"}, InputError, "such as EPSG:32633"),
        ({"crs": "EPSG:4978"}, InputError, "neither projected nor geographic"),
        ({"crs": "EPSG:4326", "centre": [0, 95]}, ExtentError, "lies outside"),
        ({"crs": "EPSG:4326", "centre": [10, 90]}, ExtentError, "over a pole"),
        ({"crs": "EPSG:4326", "centre": [400, 10]}, ExtentError, "around the Earth"),
        ({"input": "missing.png"}, MetaEarthError, "There is no file"),
        ({"output": "map.png"}, OutputError, r"must end in \.tif"),
        ({"metres_per_pixel": 0}, FieldError, "outside"),
        ({"centre": "1,2,3"}, FieldError, "two finite numbers"),
    ],
)
def test_a_place_that_cannot_be_is_told(tmp_path, fields, error, sentence):
    picture(tmp_path / "p.png")
    values = {"input": str(tmp_path / "p.png"), "output": str(tmp_path / "map.tif"), "metres_per_pixel": 10}
    with pytest.raises(error, match=sentence):
        verbs.place({**values, **fields}, quiet, keep_on)
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_sixteen_bits_are_no_picture(make_raster, tmp_path):
    with pytest.raises(InputError, match="8 bits a channel"):
        place_picture(make_raster(dtype="uint16"), tmp_path / "map.tif", 10.0)


@pytest.mark.parametrize("fields", [VIEW.fields, FLYTHROUGH.fields, PLACE.fields])
def test_the_tables_of_fields_hold_their_own_defaults(fields):
    assert len({field.name for field in fields}) == len(fields)
    given = {field.name: "1,2,3" if field.kind == "points" else "1" for field in fields if field.required}
    checked = check_fields(fields, given)
    assert all(checked[field.name] == field.default for field in fields if not field.required)
    assert Path(str(checked["input"])).name == "1"


def test_a_flight_may_begin_in_the_west(capsys):
    """What begins with a minus is a path, not an option."""
    assert main(["flythrough", "nowhere.tif", "flight.gif", "-70.1,-33.4,5000;-70.2,-33.5,400"]) == 1
    assert "nowhere.tif" in capsys.readouterr().err
