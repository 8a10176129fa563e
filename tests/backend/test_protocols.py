"""The evaluation's protocols end to end, on a little random imagery and a network with random weights."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image

from backend.cascade.engine import Engine, Sampling
from backend.cascade.picture import Manner, picture_lattice, render_picture, render_stages
from backend.errors import InputError, ModelError, PlanError
from backend.evaluation.chips import chips_of, coarse_crops, held_out_chips, lon_lat_of, low_resolution
from backend.evaluation.feature_training import FeatureSettings, train_features
from backend.evaluation.features import load_extractor
from backend.evaluation.makers import whole
from backend.evaluation.protocols.ablations import AblationSettings, ablations
from backend.evaluation.protocols.diversity import DiversitySettings, diversity
from backend.evaluation.protocols.fid import FidSettings, distance_columns, fid, longitude_band
from backend.evaluation.protocols.seams import SeamSettings, seams
from backend.evaluation.protocols.spectrum import SpectrumSettings, spectrum
from backend.models.bundle import open_bundle, save_bundle
from backend.models.cascade_network import CascadeNetwork
from backend.models.feature_network import FeatureConfig, FeatureNetwork, save_features
from backend.progress import go_on, silent
from backend.tiling.lattice import Lattice
from backend.training.chips import DATASET_FILE, ChipFacts, CutChip, write_shard
from backend.training.data import Picture, load_pictures
from backend.training.places import place_of


def texture(side, grain, seed):
    """(side, side, 3): random blocks of ``grain`` pixels with some noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(40, 200, (side // grain + 1, side // grain + 1, 3))
    values = blocks.repeat(grain, axis=0).repeat(grain, axis=1)[:side, :side] + rng.integers(-30, 30, (side, side, 3))
    return values.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def imagery(tmp_path_factory):
    """Names that the split knows: 10 m in the Amazon, drone chips of Kampala, and a georeferenced scene of 150 m."""
    root = tmp_path_factory.mktemp("imagery")
    names = {
        "train/s2_amazon_10m/amazon_1_1.jpg": 4,
        "train/s2_amazon_10m/amazon_1_2.jpg": 4,
        "train/oam_kampala_0.07-0.3m/OAM-309608-262133-19.jpg": 16,
        "train/s2_amazon_10m/test_3.jpg": 4,
        "train/s2_amazon_10m/test_4.jpg": 4,
        "train/oam_kampala_0.07-0.3m/OAM-309614-262133-19.jpg": 16,
        "train/oam_kampala_0.07-0.3m/OAM-1238456-1048576-21.jpg": 16,
    }
    for seed, (name, grain) in enumerate(names.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = texture(512 if "test_" in name else 256, grain, seed)
        red_earth = (1, 2, 3) if "OAM" in name else (1, 1, 1)
        Image.fromarray(pixels // np.array(red_earth, np.uint8)).save(path, quality=95)
    scene = root / "train/scenes_rgb8/l8_rockymountain_co_150m.tif"
    scene.parent.mkdir(parents=True)
    with rasterio.open(
        scene, "w", driver="GTiff", width=192, height=192, count=3, dtype="uint8", crs="EPSG:4326",
        transform=Affine(0.001, 0, -105.7, 0, -0.001, 40.5),
    ) as dataset:
        dataset.write(texture(192, 8, 9).transpose(2, 0, 1))
    return root


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A feature network with random weights: distances on it are distances all the same."""
    folder = tmp_path_factory.mktemp("features")
    torch.manual_seed(0)
    config = FeatureConfig(("a",), (0,), widths=(8, 16), features=8)
    save_features(folder, FeatureNetwork(config), config)
    return folder


def figures(folder):
    """The rows of a finished table; every estimate in them has its n and an interval around its value."""
    rows = json.loads((folder / "table.json").read_text())["rows"]
    assert rows and (folder / "table.md").read_text().count("\n|") >= len(rows)
    found = [v for row in rows for v in row.values() if isinstance(v, dict)]
    assert found and all(v["n"] >= 1 for v in found)
    assert all(v["low"] <= v["value"] <= v["high"] for v in found if v["low"] is not None)
    return rows


def test_the_spectrum_protocol_ends_in_a_table_and_pictures(small_model, imagery, tmp_path):
    said = []
    settings = SpectrumSettings(imagery, tmp_path, str(small_model.folder), limit=4, device="cpu")
    table = spectrum(settings, lambda *r: said.append(r), go_on)
    rows = figures(tmp_path)
    assert {r["output m/px"] for r in rows} >= {"0.3", "10", "20", "150"}
    assert table.facts["evaluations a pixel"] == 3.0 and said[-1][0] == said[-1][1]
    assert (tmp_path / "10m.png").is_file()


def test_the_fid_protocol_compares_models_by_place_and_resolution(small_model, imagery, features, tmp_path):
    settings = FidSettings(
        imagery, tmp_path, str(small_model.folder), str(small_model.folder), limit=9, features=str(features),
        device="cpu",
    )
    fid(settings, silent, go_on)
    rows = figures(tmp_path)
    groups = {(r["by"], r["group"]) for r in rows}
    assert {("all", "all"), ("hemisphere", "north"), ("longitude", "0 to 60"), ("output m/px", "10")} <= groups
    assert ("source", "s2_amazon_10m") in groups
    starred = [r for r in rows if r["group"] == "30*"]  # from the scene of 150 m
    assert len(starred) == 3 and starred[0]["n"] == 9 and starred[0]["places"] == 1
    assert not any("kernel" in name for row in starred for name in row)  # of a single place
    made_by = [r["made by"] for r in rows if r["by"] == "all"]
    assert made_by == ["bicubic", "small", "small, without resolution branch"]
    title = "Fréchet distance (metaearth-features)"
    assert all(title in r and not any("FID" in name or "KID" in name for name in r) for r in rows)
    same = next(r for r in rows if r["made by"] == "small")["less that without branch"]
    assert same["value"] == 0 and (tmp_path / "samples.png").is_file()


@pytest.fixture(scope="module")
def one_shot(small_model, tmp_path_factory):
    """Scales of 16 and 64 at one go, without context, random weights."""
    bundles = {}
    for scale, tile in ((16, 64), (64, 256)):
        network = dataclasses.replace(small_model.config.network, scale=scale, tile=tile, context=0)
        config = dataclasses.replace(small_model.config, id=f"shot{scale}", network=network)
        folder = tmp_path_factory.mktemp(f"shot{scale}")
        torch.manual_seed(2)
        save_bundle(folder, config, CascadeNetwork(network).state_dict())
        bundles[scale] = open_bundle(folder)
    return bundles


def engine_of(bundle):
    return Engine(bundle, bundle.sha256(), Sampling("dpm-solver++", 2), "cpu", torch.float32)


def test_one_shot_of_scale_64_without_context_makes_256_of_4_pixels(one_shot):
    low = texture(4, 1, 0).transpose(2, 0, 1).astype(np.float32)
    made = render_picture(engine_of(one_shot[64]), whole(low), 1.0)
    assert made.shape == (3, 256, 256)
    assert np.abs(made.reshape(3, 4, 64, 4, 64).mean(axis=(2, 4)) - low).mean() < 0.1 * low.std()


def test_stages_of_a_picture_are_those_of_its_parts(small_model):
    engine = engine_of(small_model)
    low = whole(texture(9, 1, 0).transpose(2, 0, 1))
    first, second = render_stages(engine, low, 2, 2.5, Manner(seed=4))
    np.testing.assert_array_equal(first, render_picture(engine, low, 10.0, Manner(seed=4), 1))
    np.testing.assert_array_equal(second, render_picture(engine, whole(first), 2.5, Manner(seed=4), 2))
    assert second.shape == (3, 144, 144)


def test_a_picture_of_one_window_is_one_window(small_model):
    assert picture_lattice(small_model.config, 64, 40) == Lattice(64, 0, 0)
    assert picture_lattice(small_model.config, 68, 40).margin == 12


def test_the_ablations_compare_one_shot_and_degradation(small_model, one_shot, imagery, features, tmp_path):
    model = str(small_model.folder)
    settings = AblationSettings(
        imagery, tmp_path, model, str(one_shot[16].folder), 2, model, model, limit=2, features=str(features),
        device="cpu",
    )
    ablations(settings, silent, go_on)
    rows = figures(tmp_path)
    assert [(r["ablation"], r["input"], r["made by"]) for r in rows] == [
        ("cascade", "4 px", "bicubic"),
        ("cascade", "4 px", "small, 2 stages"),
        ("cascade", "4 px", "shot16, one shot"),
        ("degradation", "clean", "bicubic"),
        ("degradation", "clean", "small"),
        ("degradation", "clean", "small"),
        ("degradation", "degraded", "bicubic"),
        ("degradation", "degraded", "small"),
        ("degradation", "degraded", "small"),
    ]
    assert [r["evaluations a pixel"] for r in rows[:5]] == [0.0, 6.0, 3.0, 0.0, 3.0]
    assert rows[7]["consistency dB"]["value"] < rows[4]["consistency dB"]["value"]
    less = [r.get("Fréchet, less the line above") for r in rows]
    assert [k for k, found in enumerate(less) if found] == [2, 5, 8] and less[5]["value"] == 0
    distance = next(name for name in rows[0] if name.startswith("Fréchet distance"))
    assert less[2]["value"] == pytest.approx(rows[2][distance]["value"] - rows[1][distance]["value"])
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "cascade-4-px.png", "degradation-clean.png", "degradation-degraded.png"
    }


def test_models_of_other_scales_are_not_compared(small_model, one_shot, imagery, features, tmp_path):
    settings = AblationSettings(
        imagery, tmp_path, str(small_model.folder), str(one_shot[64].folder), 2, limit=1, features=str(features),
        device="cpu",
    )
    with pytest.raises(PlanError, match="shot64 makes pixels 64 times finer, but 2 stages of small 16 times"):
        ablations(settings, silent, go_on)


def test_diversity_grows_with_the_number_of_stages(small_model, imagery, features, tmp_path):
    settings = DiversitySettings(
        imagery, tmp_path, str(small_model.folder), 2, 3, limit=2, features=str(features), device="cpu"
    )
    diversity(settings, silent, go_on)
    one, two = figures(tmp_path)
    assert (one["stages"], one["input px"], two["input px"], one["seeds"]) == (1, 16, 4, 3)
    assert two["standard deviation"]["value"] > one["standard deviation"]["value"] > 0
    assert (tmp_path / "seeds.png").is_file()


def test_the_seams_protocol_measures_the_paper_s_variants_and_ours(small_model, imagery, tmp_path):
    settings = SeamSettings(imagery, tmp_path, str(small_model.folder), limit=2, side=128, device="cpu")
    seams(settings, silent, go_on)
    rows = figures(tmp_path)
    assert [(r["overlap"], r["noise"]) for r in rows] == [
        ("half a window", "repeated-block"),
        ("half a window", "independent"),
        ("none", "repeated-block"),
        ("none", "independent"),
        ("12 px dropped, 8 px blended", "field"),
    ]
    assert all(r["seam ratio"]["n"] == r["images"] == 2 for r in rows)
    assert rows[0]["repetition"]["low"] > rows[4]["repetition"]["high"]
    assert min(rows[k]["evaluations a pixel"] for k in (0, 1, 4)) > rows[2]["evaluations a pixel"] > 3


def test_places_are_read_from_georeference_and_tile_numbers(imagery):
    kampala = lon_lat_of(imagery / "train/oam_kampala_0.07-0.3m/OAM-309608-262133-19.jpg")
    assert kampala == pytest.approx((32.59, 0.006), abs=0.01)
    scene = lon_lat_of(imagery / "train/scenes_rgb8/l8_rockymountain_co_150m.tif")
    assert scene == pytest.approx((-105.604, 40.404))
    assert lon_lat_of(imagery / "train/s2_amazon_10m/test_3.jpg") is None


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("chico_2018_1.jpg", "chico_1"),
        ("chico_2020_1.jpg", "chico_1"),
        ("naip_northdakota_20090818_5m.tif", "naip_northdakota_5m"),
        ("s2_redclover_ca_20210708_10m.tif", "s2_redclover_ca_10m"),
        ("test_3.jpg", "test_3"),
    ],
)
def test_one_place_at_two_dates_is_one_place(name, place, tmp_path):
    assert place_of(tmp_path / name) == place


@pytest.mark.parametrize(
    ("lon", "band"), [(-180, "-180 to -120"), (-105.6, "-120 to -60"), (0, "0 to 60"), (180, "-180 to -120")]
)
def test_longitude_bands_cover_the_world(lon, band):
    assert longitude_band(lon) == band


def test_real_pictures_of_a_coarser_sensor_are_inputs_as_they_are(tmp_path):
    coarse = Picture(texture(80, 4, 0), 10.0, "a", tmp_path)
    fine = Picture(texture(256, 4, 1), 2.5, "b", tmp_path)
    crops = coarse_crops([coarse, fine], 2.5, 4, 256, 3)
    assert [c.pixels.shape for c in crops] == [(3, 64, 64)] * 3
    assert not np.array_equal(crops[0].pixels, crops[1].pixels)
    windows = np.lib.stride_tricks.sliding_window_view(coarse.pixels.transpose(2, 0, 1), (64, 64), (1, 2))
    assert any(np.array_equal(crops[0].pixels, w) for row in windows.transpose(1, 2, 0, 3, 4) for w in row)


def test_where_more_pictures_fit_than_are_wanted_they_are_of_all_sources(tmp_path):
    pictures = [Picture(texture(64, 4, n), 10.0, "abc"[n // 4], tmp_path / f"{n}.png") for n in range(12)]
    assert [c.place for c in coarse_crops(pictures, 2.5, 4, 256, 3)] == ["a/0", "b/6", "c/11"]


def test_pictures_of_one_name_and_two_sources_are_two_places(tmp_path):
    pictures = [Picture(texture(64, 4, n), 0.2, name, tmp_path / name / "ortho.tif") for n, name in enumerate("ab")]
    assert {c.place for c in chips_of(pictures, 64, 9)[0.2]} == {"a/ortho", "b/ortho"}


def test_a_chip_of_one_colour_shows_nothing(tmp_path):
    plain = np.full((64, 64, 3), (20, 45, 70), np.float32)
    found = chips_of([Picture(np.concatenate([plain, texture(64, 4, 0)]), 0.2, "a", tmp_path)], 64, 9)
    assert len(found[0.2]) == 1


def test_images_of_other_places_have_a_kernel_distance_without_bias():
    rng = np.random.default_rng(0)
    extractor = SimpleNamespace(frechet="frechet", kernel="kernel")
    values = []
    for _ in range(40):
        centres = rng.standard_normal((24, 6)) * 2
        rows = np.repeat(centres, 3, axis=0) + rng.standard_normal((72, 6)) / 2
        places = [str(n // 3) for n in range(72)]
        row = distance_columns(extractor, rows[:36], rows[36:], places[:36], places[36:])
        values.append(row["kernel"].value)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_chips_say_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="at least 256 pixels"):
        chips_of([Picture(texture(80, 4, 0), 10.0, "a", tmp_path)], 256, 3)


@pytest.mark.parametrize("kernel", ["area", "bicubic"])
def test_coarser_pictures_keep_place_and_brightness(kernel):
    ramp = np.add.outer(np.arange(64), np.arange(64))[..., None].repeat(3, axis=2).astype(np.float32)
    low = low_resolution(ramp, 4, kernel)
    inner = (np.add.outer(np.arange(16), np.arange(16)) * 4 + 3)[2:-2, 2:-2]
    np.testing.assert_allclose(low[0, 2:-2, 2:-2], inner, atol=0.01)


def test_a_feature_network_learns_what_texture_and_resolution_tell(imagery, tmp_path):
    settings = FeatureSettings(imagery, tmp_path / "net", steps=40, batch=8, crop=48, device="cpu", examples=40)
    config = train_features(settings, silent, go_on)
    assert config.measured["scene accuracy"] > 0.8 and config.measured["crops"] > 5
    extract = load_extractor(str(tmp_path / "net"))
    images = np.stack([p.pixels[:64, :64].transpose(2, 0, 1) for p in load_pictures(imagery, "train")])
    found = extract(images)
    assert found.shape == (3, 64) and found.dtype == np.float64
    assert 0.2 < found.std() < 3  # in units of the standard deviation over training crops
    assert extract.frechet == "Fréchet distance (metaearth-features)" and len(extract.weights_sha256) == 64


def test_features_of_an_image_do_not_depend_on_its_batch(features):
    extract = load_extractor(str(features))
    images = np.stack([texture(64, 4, s).transpose(2, 0, 1) for s in range(20)])
    np.testing.assert_allclose(extract(images)[17], extract(images[17:18])[0], rtol=1e-4, atol=1e-5)


def test_metaearth_features_is_small():
    network = FeatureNetwork(FeatureConfig(tuple("abcdefghijklmnopqrstuvwxyz"), tuple(range(14))))
    assert sum(p.numel() for p in network.parameters()) < 1_000_000


def test_without_weights_or_torch_fidelity_the_way_out_is_told(tmp_path):
    with pytest.raises(ModelError, match="train-features"):
        load_extractor("no-such-network")
    missing = tmp_path / "inception.pth"
    with pytest.raises(ModelError, match=r"pip install torch-fidelity|Name a file of them"):
        load_extractor(str(missing))


def test_settings_of_a_protocol_do_not_change(imagery, tmp_path):
    with pytest.raises(dataclasses.FrozenInstanceError):
        SpectrumSettings(imagery, tmp_path).limit = 3


def test_a_prepared_set_can_be_measured_too(imagery, tmp_path):
    """Its chips in RGB, not those in other modalities; with their places and where they lie."""
    chips = [
        CutChip(f"chip_{n}", texture(256, 4, n),
                ChipFacts(10.0, 12.5, 47.0, "mine", "", f"valley{n}_20200711.tif", (0, 0), "", (), modality), {})
        for n, modality in enumerate(("rgb", "nir", "rgb"))
    ]
    write_shard(tmp_path / "validation" / "000000.tar", chips)
    (tmp_path / DATASET_FILE).write_text("{}")
    found = held_out_chips(tmp_path, "validation", 64, 99)
    assert {gsd: len(some) for gsd, some in found.items()} == {10.0: 32, 20.0: 8, 30.0: 2}
    assert {chip.place for chip in found[10.0]} == {"mine/valley0", "mine/valley2"}
    assert {(chip.source, chip.lon_lat) for chip in found[10.0]} == {("mine", (12.5, 47.0))}
    np.testing.assert_array_equal(found[10.0][0].pixels, chips[0].pixels[:64, :64])
    with pytest.raises(InputError, match="no RGB imagery of this split"):
        held_out_chips(tmp_path, "test", 64, 99)


def test_chips_of_a_prepared_set_count_for_their_own_resolution(tmp_path):
    """64 m is near none of the tables' resolutions, and 4 m is not 5 m; what is nearly the same counts together."""
    for number, gsd_m in enumerate((64.0, 4.0, 4.3)):
        facts = ChipFacts(gsd_m, None, None, "mine", "", f"place{number}.tif", (0, 0), "", (), "rgb")
        chip = CutChip("chip", texture(64, 4, number), facts, {})
        write_shard(tmp_path / "validation" / f"00000{number}.tar", [chip])
    (tmp_path / DATASET_FILE).write_text("{}")
    assert {gsd: len(some) for gsd, some in held_out_chips(tmp_path, "validation", 64, 99).items()} == {4.0: 2, 64.0: 1}
