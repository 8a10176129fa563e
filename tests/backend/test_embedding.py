"""Scene tokens as features: rasters of them, vectors of labelled chips, and what goes wrong."""

import json

import numpy as np
import pytest
import rasterio
from PIL import Image

from backend.__main__ import main
from backend.jobs.engines import open_scene_engine
from backend.scene.embedding import token_lattice
from backend.scene.engine import Observed

from .conftest import read

TOKEN = 8
"""Pixels of the tiny model's tokens."""


@pytest.fixture
def embed(scene_model, capsys):
    """Runs the command; what it tells."""

    def run(*arguments):
        common = ["--model", scene_model.folder, "--device", "cpu", "--precision", "float32", "--json"]
        assert main(["embed", *map(str, [*common, *arguments])]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def chips(tmp_path):
    """Two classes of three chips: one exactly a window, one smaller, one larger."""
    rng = np.random.default_rng(0)
    for name in ("beach", "forest"):
        (tmp_path / "chips" / name).mkdir(parents=True)
        for side in (64, 50, 100):
            picture = Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8))
            picture.save(tmp_path / "chips" / name / f"{side}.png")
    return tmp_path / "chips"


def extent_of(path, rows, cols):
    """XMIN YMIN XMAX YMAX of some pixels."""
    with rasterio.open(path) as source:
        xmin, ymin = source.transform @ (cols[0], rows[1])
        xmax, ymax = source.transform @ (cols[1], rows[0])
    return xmin, ymin, xmax, ymax


def test_features_lie_where_their_pixels_lie_one_band_a_channel(make_raster, embed, scene_model, tmp_path):
    source = make_raster("rgb.tif", height=150, width=170)
    told = embed("--rgb", source, "--output", tmp_path / "f.tif")
    assert (told["features"], told["places"]) == (32, 19 * 22)
    with rasterio.open(source) as rgb, rasterio.open(tmp_path / "f.tif") as made:
        assert made.count == 32 and set(made.dtypes) == {"float32"} and made.shape == (19, 22)
        assert made.crs == rgb.crs and made.res == (TOKEN * rgb.res[0], TOKEN * rgb.res[1])
        for row, col in ((0, 0), (5, 7)):
            assert made.transform @ (col, row) == rgb.transform @ (TOKEN * col, TOKEN * row)
        assert made.tags()["METAEARTH_MODEL_SHA256"] == scene_model.sha256()
        assert np.isfinite(made.read()).all()


def test_a_change_on_the_ground_changes_the_features_there_most(make_raster, embed, tmp_path):
    with rasterio.open(make_raster("a.tif", height=128, width=128)) as source:
        values = source.read()
    values[:, 64:72, 40:48] = 255 - values[:, 64:72, 40:48]
    make_raster("b.tif", height=128, width=128, values=values)
    for name in "ab":
        embed("--rgb", tmp_path / f"{name}.tif", "--output", tmp_path / f"{name}_f.tif")
    change = np.abs(read(tmp_path / "a_f.tif") - read(tmp_path / "b_f.tif")).mean(axis=0)
    assert np.unravel_index(change.argmax(), change.shape) == (8, 5)


def test_an_extent_gives_the_features_of_the_whole(make_raster, embed, tmp_path):
    source = make_raster("rgb.tif", height=150, width=170)
    embed("--rgb", source, "--output", tmp_path / "all.tif")
    whole = read(tmp_path / "all.tif")
    for rows, cols in (((50, 141), (31, 130)), ((0, 20), (160, 170)), ((96, 104), (64, 72))):
        embed("--rgb", source, "--output", tmp_path / "part.tif", "--extent", *extent_of(source, rows, cols))
        tokens = slice(rows[0] // TOKEN, -(-rows[1] // TOKEN)), slice(cols[0] // TOKEN, -(-cols[1] // TOKEN))
        np.testing.assert_array_equal(read(tmp_path / "part.tif"), whole[(slice(None), *tokens)])
        with rasterio.open(tmp_path / "part.tif") as part, rasterio.open(tmp_path / "all.tif") as of_all:
            assert part.transform @ (0, 0) == of_all.transform @ (tokens[1].start, tokens[0].start)


def test_a_token_that_one_window_makes_alone_is_that_windows(make_raster, embed, scene_model, tmp_path):
    source = make_raster("rgb.tif", height=150, width=170)
    embed("--rgb", source, "--output", tmp_path / "f.tif")
    lattice = token_lattice(scene_model.config)
    origin = lattice.origin(2) * TOKEN
    picture = read(source)[:, origin:origin + 64, origin:origin + 64].astype(np.float32) / 127.5 - 1
    engine = open_scene_engine(scene_model, "cpu", "float32")
    tokens = engine.tokens([Observed("rgb", picture, np.ones((64, 64), bool))], 10.0)
    first, stop = lattice.alone(2)
    inside = slice(first - lattice.origin(2), stop - lattice.origin(2))
    assert stop > first
    made = read(tmp_path / "f.tif")[:, first:stop, first:stop]
    np.testing.assert_allclose(made, tokens[:, inside, inside], atol=1e-5)


def test_several_modalities_together_tell_more_than_one(make_raster, embed, tmp_path):
    rgb = make_raster("rgb.tif", height=64, width=64)
    nir = make_raster("nir.tif", bands=1, height=64, width=64)
    embed("--rgb", rgb, "--output", tmp_path / "one.tif")
    embed("--rgb", rgb, "--nir", nir, "--output", tmp_path / "two.tif")
    assert np.abs(read(tmp_path / "one.tif") - read(tmp_path / "two.tif")).mean() > 1e-3


def test_blocks_differ_and_the_last_is_the_default(make_raster, embed, tmp_path):
    rgb = make_raster("rgb.tif", height=64, width=64)
    for name, more in (("all", ()), ("two", ("--block", 2)), ("one", ("--block", 1))):
        embed("--rgb", rgb, "--output", tmp_path / f"{name}.tif", *more)
    last, two, one = (read(tmp_path / f"{name}.tif") for name in ("all", "two", "one"))
    np.testing.assert_array_equal(last, two)
    assert np.abs(one - two).mean() > 1e-3


def test_where_nothing_is_known_there_are_no_features(make_raster, embed, tmp_path):
    values = np.full((3, 64, 160), 90.0)
    values[:, :, 60:] = 0
    embed("--rgb", make_raster("rgb.tif", values=values, nodata=0), "--output", tmp_path / "f.tif")
    made = read(tmp_path / "f.tif")
    assert np.isfinite(made[:, :, :8]).all() and np.isnan(made[:, :, 8:]).all()


def test_a_raster_as_arrays_is_the_geotiff(make_raster, embed, scene_model, tmp_path):
    rgb = make_raster("rgb.tif", height=60, width=80)
    embed("--rgb", rgb, "--output", tmp_path / "f.tif")
    embed("--rgb", rgb, "--output", tmp_path / "f.npz")
    embed("--rgb", rgb, "--output", tmp_path / "G.NPZ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["G.NPZ", "f.npz", "f.tif", "rgb.tif"]
    with np.load(tmp_path / "f.npz") as arrays, rasterio.open(tmp_path / "f.tif") as dataset:
        np.testing.assert_array_equal(arrays["features"].transpose(2, 0, 1), dataset.read())
        assert list(arrays["transform"]) == list(dataset.transform)[:6] and str(arrays["crs"]) == "EPSG:32633"
        assert str(arrays["model_sha256"]) == scene_model.sha256()


def test_labelled_chips_become_vectors_with_labels(chips, embed, scene_model, tmp_path):
    told = embed("--chips", chips, "--output", tmp_path / "f.npz", "--source-resolution", 0.3)
    assert (told["features"], told["places"], told["warnings"]) == (32, 6, [])
    far = embed("--chips", chips, "--output", tmp_path / "far.npz", "--source-resolution", 3000)
    assert len(far["warnings"]) == 1 and "was trained on" in far["warnings"][0]
    with np.load(tmp_path / "f.npz") as arrays:
        assert arrays["features"].shape == (6, 32) and arrays["features"].dtype == np.float32
        assert list(arrays["labels"]) == [0, 0, 0, 1, 1, 1] and list(arrays["classes"]) == ["beach", "forest"]
        assert list(arrays["files"])[:3] == ["beach/100.png", "beach/50.png", "beach/64.png"]
        assert (str(arrays["model"]), str(arrays["model_sha256"])) == ("tiny-mm", scene_model.sha256())
        vector = arrays["features"][2]
    pixels = np.asarray(Image.open(chips / "beach" / "64.png"), np.float32).transpose(2, 0, 1)
    engine = open_scene_engine(scene_model, "cpu", "float32")
    tokens = engine.tokens([Observed("rgb", pixels / 127.5 - 1, np.ones((64, 64), bool))], 0.3)
    np.testing.assert_allclose(vector, tokens.mean(axis=(1, 2)), atol=1e-5)


def test_bad_requests_get_a_sentence(chips, make_raster, scene_model, tmp_path, capsys):
    rgb, model = make_raster("rgb.tif"), str(scene_model.folder)
    cases = [
        (["--output", "f.tif"], "Give either rasters of a scene, or a folder of labelled chips"),
        (["--rgb", rgb, "--chips", chips, "--output", "f.npz"], "Give either rasters"),
        (["--rgb", rgb, "--output", "f.csv"], "f.csv must end in .npz or .tif"),
        (["--chips", chips, "--output", "f.tif"], "f.tif must end in .npz."),
        (["--chips", chips, "--output", "f.npz", "--extent", 0, 0, 1, 1], "leave extent empty"),
        (["--chips", chips, "--output", "f.npz"], "no coordinate reference system"),
        (["--chips", tmp_path / "none", "--output", "f.npz"], "one folder a class"),
        (["--chips", chips, "--output", "f.npz", "--modality", "thermal"], "There is no modality 'thermal'. Known: "),
        (["--rgb", rgb, "--output", "f.tif", "--block", 3], "has 2 blocks; block 3 is none"),
        (["--osm", rgb, "--output", "f.tif"], "not trained on any imagery of Map"),
        (["--nir", rgb, "--output", "f.tif"], "shows 3 band"),
        (["--rgb", rgb, "--output", rgb], "is the source itself"),
        (["--rgb", rgb, "--output", "f.tif", "--extent", 0, 0, 1, 1], "outside the raster"),
        (["--rgb", rgb, "--output", "f.tif", "--model", "metaearth-lite"], "knows no modalities"),
    ]
    for arguments, sentence in cases:
        arguments = [tmp_path / "out" / a if str(a).startswith("f.") else a for a in arguments]
        assert main(["embed", "--device", "cpu", "--model", model, *map(str, arguments)]) in (1, 2)
        assert sentence in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


def test_a_cancelled_run_leaves_nothing(make_raster, scene_model, tmp_path):
    from backend.errors import Cancelled
    from backend.progress import silent
    from backend.verbs import run_verb

    calls = []

    def check():
        calls.append(1)
        if len(calls) > 5:
            raise Cancelled

    rgb = make_raster("rgb.tif", height=150, width=170)
    values = {"rgb": rgb, "output": str(tmp_path / "out" / "f.tif"), "model": str(scene_model.folder), "device": "cpu"}
    with pytest.raises(Cancelled):
        run_verb("embed", values, silent, check)
    assert not list((tmp_path / "out").iterdir())
