"""Whole jobs on real files with a small network: pixels, places, tags, and what bad input leaves behind."""

import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from backend.errors import (
    Cancelled,
    DiskFullError,
    ExtentError,
    InputError,
    MetaEarthError,
    MissingCrsError,
    ModelError,
    PlanError,
)
from backend.jobs.inspection import inspect_raster
from backend.jobs.plan import make_plan
from backend.jobs.runner import JobRun
from backend.protocol import Job
from backend.raster.placement import place_picture

from .conftest import keep_on, read, run, small_job


def test_equal_seeds_make_equal_pixels_and_others_do_not(small_model, make_raster, tmp_path):
    source = make_raster()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(small_model, source, tmp_path / f"{name}.tif", seed=seed)
    a, b, c = (read(tmp_path / f"{n}.tif") for n in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).mean() > 0.5


@pytest.mark.parametrize("noise", ["field", "repeated-block", "independent"])
@pytest.mark.parametrize("overlap", ["default", "paper"])
def test_a_part_equals_the_same_part_of_the_whole(small_model, make_raster, tmp_path, noise, overlap):
    source = make_raster(height=19, width=17)
    whole = run(small_model, source, tmp_path / "whole.tif", stages=2, noise=noise, overlap=overlap)
    part = run(
        small_model,
        source,
        tmp_path / "part.tif",
        stages=2,
        noise=noise,
        overlap=overlap,
        extent=[500_051, 4_999_873, 500_133, 4_999_932],
    )
    for k, factor in ((0, 4), (1, 16)):
        rows, cols = slice(6 * factor, 13 * factor), slice(5 * factor, 14 * factor)
        np.testing.assert_array_equal(read(part.outputs[k]), read(whole.outputs[k])[:, rows, cols])


TRANSFORMS = {
    "north-up": Affine(10, 0, 500_000, 0, -10, 5_000_000),
    "south-up": Affine(10, 0, 500_000, 0, 10, 4_999_000),
    "rotated": Affine.translation(500_000, 5_000_000) @ Affine.rotation(30) @ Affine.scale(10, -10),
    "geographic": Affine(1e-4, 0, 10.0, 0, -8e-5, 47.0),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_corners_stay_where_they_were(small_model, make_raster, tmp_path, name):
    source = make_raster(
        height=7, width=9, transform=TRANSFORMS[name], crs="EPSG:4326" if name == "geographic" else "EPSG:32633"
    )
    result = run(small_model, source, tmp_path / "out.tif", stages=2)
    with rasterio.open(source) as before:
        for stage, path in enumerate(result.outputs, start=1):
            with rasterio.open(path) as after:
                assert after.crs == before.crs
                assert (after.width, after.height) == (before.width * 4**stage, before.height * 4**stage)
                for col, row in ((0, 0), (before.width, 0), (0, before.height), (before.width, before.height)):
                    there = ~after.transform @ (before.transform @ (col, row))
                    assert there == pytest.approx((col * 4**stage, row * 4**stage), abs=1e-6)


def test_16_bit_data_keep_their_type_and_range(small_model, make_raster, tmp_path):
    source = make_raster(dtype="uint16", bands=4)
    result = run(small_model, source, tmp_path / "out.tif", bands=[3, 2, 1])
    with rasterio.open(source) as before, rasterio.open(result.outputs[0]) as after:
        assert after.dtypes == ("uint16",) * 3
        down = after.read().reshape(3, 20, 4, 24, 4).mean(axis=(2, 4))
        assert np.abs(down - before.read([3, 2, 1])).mean() < 0.05 * before.read().mean()
    assert result.consistency_psnr > 20


def test_one_band_in_one_band_out(small_model, make_raster, tmp_path):
    result = run(small_model, make_raster(bands=1, dtype="float32"), tmp_path / "out.tif")
    with rasterio.open(result.outputs[0]) as after:
        assert after.count == 1 and after.dtypes == ("float32",) and after.colorinterp[0].name == "gray"


@pytest.mark.parametrize("nodata", [0, math.nan])
def test_holes_stay_holes_four_times_finer(small_model, make_raster, tmp_path, nodata):
    values = np.full((3, 20, 24), 100.0) + np.arange(24)
    values[:, 5:8, 3:9] = nodata
    source = make_raster(values=values, dtype="uint8" if nodata == 0 else "float32", nodata=nodata)
    result = run(small_model, source, tmp_path / "out.tif")
    with rasterio.open(result.outputs[0]) as after:
        expected = np.ones((80, 96), bool)
        expected[20:32, 12:36] = False
        np.testing.assert_array_equal(after.read_masks(1) > 0, expected)
        assert after.nodata == nodata or math.isnan(after.nodata)
        # what was filled in for the network's eyes must not be seen around the hole
        assert abs(after.read(1)[18:20, 12:36].astype(float).mean() - 105.5) < 25


def test_transparency_stays_transparency(small_model, make_raster, tmp_path):
    values = np.full((4, 20, 24), 90.0)
    values[3, :10] = 0
    values[3, 10:] = 255
    source = make_raster(values=values, photometric="rgb", alpha="yes")
    result = run(small_model, source, tmp_path / "out.tif")
    with rasterio.open(result.outputs[-1]) as after:
        assert [c.name for c in after.colorinterp] == ["red", "green", "blue", "alpha"]
        assert (after.read(4)[:40] == 0).all() and (after.read(4)[40:] == 255).all()


def test_one_pixel_becomes_four_by_four(small_model, make_raster, tmp_path):
    result = run(small_model, make_raster(height=1, width=1), tmp_path / "out.tif")
    assert read(result.outputs[0]).shape == (3, 4, 4)


def test_back_projection_makes_the_result_true_to_its_source(small_model, make_raster, tmp_path):
    source = make_raster()
    free, held = (run(small_model, source, tmp_path / f"{c}.tif", consistency=c).consistency_psnr for c in (0.0, 1.0))
    assert held > free + 5


def test_target_resolutions_are_reached_exactly(small_model, make_raster, tmp_path):
    result = run(small_model, make_raster(), tmp_path / "out.tif", resolution=2.0)
    assert result.grid.pixel_size_m == pytest.approx(2.0)
    assert result.grid.transform[0] == pytest.approx(2.0) and result.grid.transform[4] == pytest.approx(-2.0)
    assert (result.grid.transform[2], result.grid.transform[5]) == (500_000, 5_000_000)


def test_results_say_what_they_are(small_model, make_raster, tmp_path):
    result = run(small_model, make_raster(), tmp_path / "out.tif", seed=7)
    with rasterio.open(result.outputs[0]) as dataset:
        tags = dataset.tags()
    assert tags["METAEARTH_SYNTHETIC"] == "YES" and tags["METAEARTH_SEED"] == "7"
    assert tags["METAEARTH_MODEL_SHA256"] == result.model_sha256 == small_model.sha256()
    assert tags["METAEARTH_SOURCE"] == "in.tif" and "3 steps" in tags["METAEARTH_SAMPLER"]


def test_figures_of_the_result_add_up(small_model, make_raster, tmp_path):
    seen = []
    result = run(small_model, make_raster(), tmp_path / "out.tif", report=seen.append)
    windows = result.evaluations // result.steps
    assert seen[-1].windows == windows
    assert result.evaluations_per_pixel == pytest.approx(result.evaluations * 64**2 / (80 * 96), rel=1e-3)
    assert 0 < result.seconds_network < result.seconds_total
    assert result.peak_memory_bytes > 1 << 20


def test_earlier_stages_lie_beside_the_last(small_model, make_raster, tmp_path):
    run(small_model, make_raster(height=6, width=6), tmp_path / "new" / "stage2.tif", stages=2)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["stage1.tif", "stage2.tif"]


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        (dict(input="missing.tif"), InputError, "There is no file missing.tif"),
        (dict(extent=[0, 0, 1, 1]), ExtentError, "outside the raster"),
        (dict(extent=[500_010, 4_999_900, 500_010, 4_999_950]), ExtentError, "is empty"),
        (dict(model="nonsense"), ModelError, "no model 'nonsense'"),
        (dict(model="metaearth-600m"), ModelError, "has no weights yet"),
        (dict(resolution=20.0), PlanError, "not finer"),
        (dict(bands=[7]), InputError, "Band 7 was asked for"),
    ],
)
def test_bad_input_gets_a_sentence_and_leaves_nothing(small_model, make_raster, tmp_path, fields, error, sentence):
    source = make_raster()
    before = sorted(tmp_path.rglob("*"))
    values = {"source": source, **fields}
    source = values.pop("input", values.pop("source"))
    values.pop("source", None)
    with pytest.raises(error, match=sentence):
        run(small_model, source, tmp_path / "out.tif", **values)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_raster_without_crs_is_refused_and_accepted_with_a_resolution(small_model, make_raster, tmp_path):
    source = make_raster(crs=None)
    with pytest.raises(MissingCrsError):
        run(small_model, source, tmp_path / "out.tif")
    assert run(small_model, source, tmp_path / "out.tif", source_resolution=10.0).grid.pixel_size_m == 2.5


@pytest.mark.parametrize("size", [None, 10.0])
def test_a_raster_that_control_points_place_is_refused_with_what_helps(small_model, make_raster, tmp_path, size):
    source = make_raster(crs=None, transform=Affine.identity())
    points = [GroundControlPoint(row, col, 25 + col / 100, 58 - row / 100) for row in (0, 9) for col in (0, 9)]
    with rasterio.open(source, "r+") as dataset:
        dataset.gcps = points, CRS.from_epsg(4326)
    with pytest.raises(InputError, match="control points .* gdalwarp"):
        run(small_model, source, tmp_path / "out.tif", source_resolution=size)
    place_picture(source, tmp_path / "placed.tif", 10.0)  # its user says where it lies


def scaled(path, scale, offset):
    """The raster as one whose numbers are in tenths or thousandths of its unit, as reflectances often are."""
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (scale,) * dataset.count, (offset,) * dataset.count
    return path


def test_scale_and_offset_of_the_source_are_the_results(small_model, make_raster, tmp_path):
    """QGIS shows numbers times scale plus offset; the stretch is told as QGIS shows them."""
    values = np.random.default_rng(3).integers(1000, 5000, (3, 20, 24))
    plain = make_raster("plain.tif", values=values, dtype="int16")
    source = scaled(make_raster("scaled.tif", values=values, dtype="int16"), 0.0001, -0.1)
    result = run(small_model, source, tmp_path / "out.tif", stretch=[0.0, 0.4], samples=2)
    run(small_model, plain, tmp_path / "plain_out.tif", stretch=[1000.0, 5000.0], samples=2)
    np.testing.assert_array_equal(read(tmp_path / "out.tif"), read(tmp_path / "plain_out.tif"))
    for path, offset in ((result.outputs[-1], -0.1), (result.statistics[0], -0.1), (result.statistics[1], 0.0)):
        with rasterio.open(path) as made:
            assert made.scales == (0.0001,) * 3 and made.offsets == (offset,) * 3
    with rasterio.open(tmp_path / "plain_out.tif") as made:
        assert made.scales == (1.0,) * 3 and made.offsets == (0.0,) * 3
    told = inspect_raster(source, None)
    assert told.stretch_low == pytest.approx([v * 0.0001 - 0.1 for v in inspect_raster(plain, None).stretch_low])


ROTATED_POLE = (
    'GEOGCRS["rotated",BASEGEOGCRS["WGS 84",DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",6378137,298.257223563'
    ']]],DERIVINGCONVERSION["rotated",METHOD["PROJ ob_tran o_proj=longlat"],PARAMETER["o_lon_p",0,ANGLEUNIT["degree",'
    '0.0174532925199433]],PARAMETER["o_lat_p",39.25,ANGLEUNIT["degree",0.0174532925199433]],PARAMETER["lon_0",18,'
    'ANGLEUNIT["degree",0.0174532925199433]]],CS[ellipsoidal,2],AXIS["longitude",east],AXIS["latitude",north],'
    'ANGLEUNIT["degree",0.0174532925199433]]'
)


def test_what_gdal_keeps_beside_a_result_comes_with_it_and_what_was_there_goes(small_model, make_raster, tmp_path):
    """A GeoTIFF has no keys for a rotated pole: GDAL writes it into a sidecar. Statistics of an earlier result lie."""
    source = make_raster(crs=ROTATED_POLE, transform=Affine(0.001, 0, 1, 0, -0.001, 2))
    (tmp_path / "out.tif.aux.xml").write_text("<PAMDataset/>")
    run(small_model, source, tmp_path / "out.tif")
    with rasterio.open(source) as before, rasterio.open(tmp_path / "out.tif") as after:
        assert after.crs is not None and after.crs == before.crs
    run(small_model, make_raster("usual.tif"), tmp_path / "out.tif")
    assert not (tmp_path / "out.tif.aux.xml").exists()
    assert not list(tmp_path.glob("*.part*"))


def test_the_source_is_never_overwritten(small_model, make_raster):
    source = make_raster()
    before = Path(source).read_bytes()
    with pytest.raises(MetaEarthError, match="is the source itself"):
        run(small_model, source, source)
    assert Path(source).read_bytes() == before


def test_a_link_to_the_source_is_the_source(small_model, make_raster, tmp_path):
    source = make_raster()
    (tmp_path / "link.tif").symlink_to(source)
    with pytest.raises(MetaEarthError, match="is the source itself"):
        run(small_model, source, tmp_path / "link.tif")


def test_a_folder_named_like_a_file_is_refused_before_the_run(small_model, make_raster, tmp_path):
    (tmp_path / "out.tif").mkdir()
    with pytest.raises(MetaEarthError, match="is a folder"):
        run(small_model, make_raster(), tmp_path / "out.tif")


def test_64_bit_integers_are_written_as_such(small_model, make_raster, tmp_path):
    result = run(small_model, make_raster(dtype="int64", bands=1), tmp_path / "out.tif")
    with rasterio.open(result.outputs[0]) as after:
        assert after.dtypes == ("int64",)


def test_a_part_equals_the_whole_after_resampling_too(small_model, make_raster, tmp_path):
    source = make_raster(height=40, width=40)
    whole = run(small_model, source, tmp_path / "whole.tif", resolution=2.0)
    extent = [500_080, 4_999_760, 500_240, 4_999_920]
    part = run(small_model, source, tmp_path / "part.tif", resolution=2.0, extent=extent)
    np.testing.assert_array_equal(read(part.outputs[0]), read(whole.outputs[0])[:, 40:120, 40:120])


def test_what_ends_at_180_degrees_is_told(small_model, make_raster, tmp_path):
    def warnings(name, west, pixel, extent=None):
        source = make_raster(name, height=24, width=40, crs="EPSG:4326", transform=Affine(pixel, 0, west, 0, -0.01, 10))
        return " ".join(make_plan(small_job(small_model, source, tmp_path / "o.tif", extent=extent)).warnings)

    around, beyond = "goes around the world", "where longitudes end"
    assert around in warnings("world.tif", -180, 9)
    assert around not in warnings("italy.tif", -180, 9, [9, 9.9, 18, 10])
    assert beyond in warnings("east.tif", 179.6, 0.01, [179.8, 9.8, 180.2, 10])
    assert beyond in warnings("greenwich.tif", 0, 9, [-10, 9.9, 10, 10])
    inside = warnings("inside.tif", 179.6, 0.01, [179.8, 9.8, 180, 10])
    assert around not in inside and beyond not in inside


def test_a_target_less_than_one_stage_away_warns(small_model, make_raster, tmp_path):
    result = run(small_model, make_raster(height=8, width=8), tmp_path / "out.tif", resolution=5.0)
    assert "first averaged from 10 to 20 m" in result.warnings[0]


def test_a_cancelled_job_leaves_nothing(small_model, make_raster, tmp_path):
    source = make_raster()
    asked = []

    def check():
        asked.append(None)
        if len(asked) > 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(small_model, source, tmp_path / "out.tif", check=check)
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]
    assert len(asked) == 5


def test_too_little_space_is_told_before_the_start(small_model, make_raster, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskFullError, match="needs up to .* GB of disk space"):
        run(small_model, make_raster(), tmp_path / "out.tif")


def test_a_source_that_changes_meanwhile_is_never_mixed(small_model, make_raster, tmp_path):
    source = make_raster()

    def touch(progress):
        make_raster(height=21)

    with pytest.raises(InputError, match="changed while the job ran"):
        run(small_model, source, tmp_path / "out.tif", report=touch, stages=2)
    assert not (tmp_path / "out.tif").exists()


def test_the_plan_is_hashed_by_what_decides_the_pixels(small_model, make_raster, tmp_path):
    source = make_raster()

    def plan(**fields):
        values = {"input": source, "output": str(tmp_path / "o.tif"), "model": str(small_model.folder), **fields}
        return make_plan(Job.from_dict(values)).sha256

    assert plan() == plan(output=str(tmp_path / "other.tif"))
    assert (
        len({plan(), plan(seed=1), plan(steps=5), plan(noise="independent"), plan(overlap="paper"), plan(stages=2)})
        == 6
    )


def test_a_summary_counts_what_the_run_does(small_model, make_raster, tmp_path):
    source = make_raster(height=10, width=10)
    job = Job.from_dict(
        {"input": source, "output": str(tmp_path / "o.tif"), "model": str(small_model.folder), "stages": 2}
    )
    summary = make_plan(job).summary()
    result = JobRun(make_plan(job), lambda p: None, keep_on).run()
    assert summary.evaluations == result.evaluations
    assert summary.stages[-1] == result.grid
    assert summary.evaluations_per_pixel == pytest.approx(result.evaluations_per_pixel, rel=1e-3)
    assert dataclasses.asdict(summary)["output_bytes"] == 3 * (40**2 + 160**2)
