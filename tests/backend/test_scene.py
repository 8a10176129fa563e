"""MetaEarth-MM: modalities, network, windows, jobs."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from affine import Affine

from backend.__main__ import main
from backend.diffusion.flow import adams_bashforth, noised
from backend.errors import DeviceError, InputError, Interrupted, ModelError
from backend.jobs.directory import JobDirectory
from backend.jobs.engines import open_scene_engine
from backend.jobs.scene_plan import SceneInput, SceneRequest, check_resolution, make_scene_plan
from backend.jobs.scene_verbs import generate_pair, wanted_modalities
from backend.models.bundle import find_scene_bundle, save_bundle
from backend.models.pixel_guess import PixelGuess
from backend.models.scene_config import VaeConfig
from backend.models.scene_network import SceneNetwork, Streams
from backend.models.spectral_prior import SpectralPrior, band_members, cosines
from backend.models.vae import PrincipalBlocks
from backend.progress import go_on, silent
from backend.protocol import MODALITIES, MODALITY_BANDS, TRANSLATE, check_fields
from backend.raster.grid import Region
from backend.raster.pixels import Pixels
from backend.raster.source import RasterSource
from backend.scene.drawing import draw_map
from backend.scene.engine import Observed, SceneEngine, Window
from backend.scene.modality import find_modality, known_modalities, modality_as_known
from backend.scene.reading import ModalityRaster
from backend.scene.windows import observe
from backend.training.scene_objective import ExpectationObjective, FlowObjective, SceneBatch, scene_inconsistency

from .conftest import SMALL_SCENE, read

CPU = torch.device("cpu")


def streams(batch=2, modalities=(0, 1), times=(1.0, 0.3), side=8, seed=0) -> Streams:
    torch.manual_seed(seed)
    latents = torch.randn(batch, len(modalities), SMALL_SCENE.vae.channels, side, side)
    return Streams(latents, torch.tensor([modalities] * batch), torch.tensor([times] * batch), torch.ones(batch))


def lively(seed=0, **fields) -> SceneNetwork:
    """A network none of whose weights are zero, that knows nothing of single pixels."""
    torch.manual_seed(seed)
    network = SceneNetwork(dataclasses.replace(SMALL_SCENE, **fields))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    network.pixels = PixelGuess(len(SMALL_SCENE.modalities))
    return network.eval()


def test_pictures_and_rasters_of_every_modality_are_each_others_inverse():
    rng = np.random.default_rng(0)
    for modality in known_modalities().values():
        numbers = [c.value for c in modality.classes]
        values = (
            rng.choice(numbers, (1, 9, 7)).astype(np.float32)
            if modality.is_map
            else np.rint(rng.uniform(modality.low, modality.high, (modality.band_count, 9, 7))).astype(np.float32)
        )
        picture = modality.to_picture(values)
        assert picture.shape == (3, 9, 7) and np.abs(picture).max() <= 1
        np.testing.assert_allclose(modality.from_picture(picture), values, atol=1e-4)


def test_the_door_names_the_modalities_that_the_backend_knows(tmp_path, monkeypatch):
    monkeypatch.setenv("METAEARTH_HOME", str(tmp_path))
    known = known_modalities()
    assert tuple(known) == MODALITIES
    assert {name: m.band_count for name, m in known.items() if not m.is_map} == MODALITY_BANDS


def test_a_user_adds_a_modality_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("METAEARTH_HOME", str(tmp_path))
    (tmp_path / "modalities").mkdir()
    text = '[[modality]]\nid = "dem"\ntitle = "Heights"\nkind = "image"\nbands = ["m"]\nlow = -10.0\nhigh = 4000.0\n'
    (tmp_path / "modalities" / "dem.toml").write_text(text)
    assert find_modality("dem").high == 4000 and find_modality("dem").dtype == "float32"
    (tmp_path / "modalities" / "dem.toml").write_text(text.replace("4000.0", "-20.0"))
    with pytest.raises(InputError, match=r"dem.toml.*high must be above low"):
        known_modalities()


def test_a_map_of_other_classes_under_a_known_name_is_refused(tmp_path, monkeypatch):
    config = dataclasses.replace(find_scene_bundle("metaearth-mm-lite").config, classes={"osm": (0, 1)})
    assert [c.value for c in modality_as_known("osm", config).classes] == [0, 1]
    monkeypatch.setenv("METAEARTH_HOME", str(tmp_path))
    (tmp_path / "modalities").mkdir()
    (tmp_path / "modalities" / "osm.toml").write_text(
        '[[modality]]\nid = "osm"\ntitle = "Land use"\nkind = "classes"\n'
        '[[modality.class]]\nvalue = 1\nname = "field"\ncolour = "#ffff00"\n'
    )
    with pytest.raises(ModelError, match=r"Land use lacks classes that .* \(0, 1\)"):
        modality_as_known("osm", config)


def test_a_map_is_drawn_from_features_by_their_tags(make_raster):
    from backend.raster.source import RasterSource

    with RasterSource(make_raster(height=40, width=40)) as source:
        grid = source.grid
    from rasterio.warp import transform

    def corner(x, y):
        (lon,), (lat,) = transform(grid.crs, "EPSG:4326", [x], [y])
        return [lon, lat]

    west, south, east, north = grid.bounds()
    middle = (west + east) / 2
    square = [corner(*p) for p in ((west, south), (middle, south), (middle, north), (west, north), (west, south))]
    features = [
        {"properties": {"building": "yes"}, "geometry": {"type": "Polygon", "coordinates": [square]}},
        {"properties": {"building": "no"}, "geometry": {"type": "Polygon", "coordinates": [square]}},
        {"properties": {"tags": {"natural": "water"}}, "geometry": {"type": "LineString", "coordinates": square[1:3]}},
    ]
    drawn = draw_map(features, find_modality("osm"), grid)
    assert (drawn[:, :18] == 1).all() and (drawn[:, 23:] == 0).all() and 3 in drawn[:, 18:22]


def test_the_sizes_of_the_bundles():
    with torch.device("meta"):
        xl = find_scene_bundle("metaearth-mm-xl").config.build()
        lite = find_scene_bundle("metaearth-mm-lite").config.build()
    assert lite.count_parameters() <= 8_000_000
    assert find_scene_bundle("metaearth-mm-lite").weights.stat().st_size <= 16_000_000
    own = xl.count_parameters() - sum(p.numel() for p in xl.vae.parameters())
    # 22 blocks of 19 d^2, 6 of (4 + 6 + 5 x 8) d^2, embeddings aside
    assert own == pytest.approx((22 * 19 + 6 * 50) * 1152**2, rel=0.02)


def test_scene_tokens_need_all_streams_and_a_stream_knows_its_modality():
    network, given = lively(), streams()
    scene, velocity = network(given)
    assert scene.shape == (2, 2, 16, 32) and velocity.shape == given.latents.shape
    other = given.latents.clone()
    other[:, 0] += 1
    assert not torch.allclose(network(given._replace(latents=other))[0][:, 1], scene[:, 1])
    swapped = network(given._replace(modalities=torch.tensor([[0, 3]] * 2)))[1]
    assert not torch.allclose(swapped[:, 1], velocity[:, 1])


def test_the_order_of_the_streams_does_not_matter():
    network, given = lively(), streams()
    given = given._replace(more=torch.randn_like(given.latents))
    turned = Streams(*(part.flip(1) if part is not None and part.ndim > 1 else part for part in given))
    for a, b in zip(network(given), network(turned)):
        torch.testing.assert_close(a, b.flip(1), atol=1e-5, rtol=1e-4)


def guessed(prior, images, numbers, times):
    """E[z - noise] of a flow."""
    z, noise = prior.parts(images, numbers, times, 1 - times)
    return z - noise


def related(rng, count):
    """Places of three modalities, (3, 2, 16, 16) each: smooth, what a linear map makes of it, and what one of that."""
    maps = np.random.default_rng(7).standard_normal((2, 2, 2))
    basis, fall = cosines(16, CPU).numpy(), np.zeros(256)
    for band, members in enumerate(band_members(16, 16, CPU)):
        fall[members] = 0.6**band
    fall, found = fall.reshape(16, 16), []
    for _ in range(count):
        first = 2 + basis.T @ (8 * fall * rng.standard_normal((2, 16, 16))) @ basis
        second = np.einsum("ij,jkl->ikl", maps[0], first) + 0.1 * rng.standard_normal((2, 16, 16))
        third = np.einsum("ij,jkl->ikl", maps[1], second) - 5
        found.append(torch.from_numpy(np.stack([first, second, third])))
    return found


@pytest.fixture(scope="module")
def fitted_prior():
    rng, prior = np.random.default_rng(0), SpectralPrior(3, 2)
    assert not prior.is_fitted
    pairs = [(0, 1), (1, 2)]
    prior.fit([{m: place[m] for m in pairs[k % 2]} for k, place in enumerate(related(rng, 400))])
    return prior


def test_the_linear_guess_is_better_than_least_squares_by_pixel(fitted_prior):
    """Of the second modality from the first and its own noisy self: the spectrum tells more than pixels alone."""
    torch.manual_seed(0)
    places = torch.stack(related(np.random.default_rng(1), 40))
    noise = torch.randn(40, 2, 16, 16, dtype=torch.float64)
    for time in (0.0, 0.6):
        first, second = places[:, 0], places[:, 1]
        noisy = time * second + (1 - time) * noise
        times = torch.tensor([[1.0, time]] * 40)
        made = guessed(fitted_prior, torch.stack([first, noisy], dim=1), torch.tensor([[0, 1]] * 40), times)[:, 1]
        columns = torch.cat([torch.ones(40, 1, 16, 16), first, noisy], dim=1).movedim(1, -1).reshape(-1, 5)
        wanted = (second - noise).movedim(1, -1).reshape(-1, 2)
        best = columns @ torch.linalg.lstsq(columns, wanted).solution
        error = (second - noise - made).square().mean()
        assert error < 1.01 * (wanted - best).square().mean()
    alone = guessed(fitted_prior, noisy[:, None], torch.tensor([[1]] * 40), torch.full((40, 1), 0.6))[:, 0]
    columns = torch.cat([torch.ones(40, 1, 16, 16), noisy], dim=1).movedim(1, -1).reshape(-1, 3)
    best = columns @ torch.linalg.lstsq(columns, wanted).solution
    assert (second - noise - alone).square().mean() < 0.9 * (wanted - best).square().mean()


def test_what_the_linear_guess_leaves_is_foretold(fitted_prior):
    """In every band of frequencies, whether the other modality is known or nothing but noise is."""
    torch.manual_seed(0)
    images = torch.stack(related(np.random.default_rng(1), 200))[:, :2]
    noise, numbers, basis = torch.randn(200, 2, 2, 16, 16).double(), torch.tensor([[0, 1]] * 200), cosines(16, CPU)
    for known, time in ((1.0, 0.0), (1.0, 0.6), (0.3, 0.6)):
        times = torch.tensor([[known, time]] * 200)
        t = times.double()[..., None, None, None]
        error = images - noise - guessed(fitted_prior, t * images + (1 - t) * noise, numbers, times)
        seen = (basis @ error[:, 1] @ basis.T).square().flatten(2).mean(dim=(0, 1))
        told = fitted_prior.left_over(numbers, times, 1 - times, 16, 16)[0, 1].flatten(1).mean(dim=0)
        for members in band_members(16, 16, CPU)[1:]:
            if len(members):
                assert float(seen[members].mean()) == pytest.approx(float(told[members].mean()), rel=0.25, abs=0.02)


def test_few_places_tell_of_brightness_what_holds_for_others():
    """Of twenty channels one says half of it: what the others say by chance must not count."""
    rng, prior = np.random.default_rng(0), SpectralPrior(2, 20)

    def place():
        image = rng.standard_normal((2, 20, 8, 8)) * 0.1
        image[:, 1:] -= image[:, 1:].mean(axis=(2, 3), keepdims=True) * 0.84
        image[:, 0] += rng.standard_normal()
        image[1, 0] += rng.standard_normal()
        return torch.from_numpy(image)

    prior.fit([{0: image[0], 1: image[1]} for image in (place() for _ in range(60))])
    others = torch.stack([place() for _ in range(400)])
    made = prior.expected(others[:, :1], torch.tensor([[0, 1]] * 400), 1)[:, 0, 0].mean(dim=(1, 2))
    assert float((made - others[:, 1, 0].mean(dim=(1, 2))).square().mean()) < 1.15


def test_places_of_one_modality_may_be_brighter_than_those_of_others():
    """The second modality is the first plus 1 wherever both are seen; where it is seen alone it is dark."""
    rng, prior = np.random.default_rng(0), SpectralPrior(2, 1)
    images = [torch.from_numpy(rng.standard_normal((1, 8, 8)) + rng.standard_normal()) for _ in range(200)]
    prior.fit([{0: image, 1: image + 1} for image in images] + [{1: image - 5} for image in images])
    image = torch.ones(1, 1, 1, 8, 8, dtype=torch.float64)
    assert float(prior.expected(image, torch.tensor([[0, 1]]), 1).mean()) == pytest.approx(2, abs=0.05)
    assert float(prior.mean[0]) == pytest.approx(-3, abs=0.4)  # dark places are dark in the first, too


def test_modalities_never_seen_together_are_related_by_what_both_were_seen_with(fitted_prior):
    places = torch.stack(related(np.random.default_rng(1), 20))
    made = fitted_prior.expected(places[:, :1], torch.tensor([[0, 2]] * 20), 1)[:, 0]
    assert np.corrcoef(made.flatten(), places[:, 2].flatten())[0, 1] > 0.98


def test_a_guess_from_nothing_ends_in_what_the_prior_describes(fitted_prior):
    torch.manual_seed(0)
    numbers = torch.tensor([[0, 1]] * 100)
    made = adams_bashforth(
        lambda x, time: guessed(fitted_prior, x, numbers, torch.full((100, 2), time)),
        torch.randn(100, 2, 2, 16, 16).double(), 100,
    )
    real = torch.stack(related(np.random.default_rng(1), 100))[:, :2]
    basis = cosines(16, CPU)
    spectra = [(basis @ (x - x.mean(dim=(0, 3, 4), keepdim=True)) @ basis.T).flatten(3) for x in (made, real)]
    for members in band_members(16, 16, CPU):
        if len(members):
            made_power, real_power = (float(s[..., members].square().mean()) for s in spectra)
            assert made_power == pytest.approx(real_power, rel=0.3)
    flat_made, flat_real = (x.movedim(1, 0).movedim(2, 1).reshape(4, -1) for x in (made, real))
    torch.testing.assert_close(torch.corrcoef(flat_made), torch.corrcoef(flat_real), atol=0.2, rtol=0)
    torch.testing.assert_close(flat_made.mean(dim=1), flat_real.mean(dim=1), atol=0.5, rtol=0)


def test_principal_blocks_keep_what_varies_and_what_is_linear():
    """Pictures of three components: all of them comes back, and half a picture has half the latents."""
    rng, vae = np.random.default_rng(0), PrincipalBlocks(VaeConfig(fold=2, channels=3))
    basis = rng.standard_normal((3, 12))
    blocks = torch.from_numpy(rng.standard_normal((6, 8, 8, 3)) @ basis + 0.3).float()
    pictures = F.pixel_shuffle(blocks.movedim(-1, 1), 2)
    vae.fit([pictures])
    latents = vae.encode(pictures)
    assert latents.shape == (6, 3, 8, 8) and float(latents.var()) == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(vae.decode(latents), pictures, atol=1e-4, rtol=0)
    grey = pictures.mean(dim=0, keepdim=True)
    torch.testing.assert_close(vae.encode((pictures[:1] + grey) / 2), (latents[:1] + vae.encode(grey)) / 2,
                               atol=1e-4, rtol=0)


def test_the_regression_adds_nothing_to_what_is_known_nor_where_nothing_is_nor_to_brightness():
    network = lively()
    numbers = torch.tensor([[0, 1], [0, 1], [0, 0]])
    observed = torch.tensor([[True, False], [False, False], [True, False]])
    pictures, resolution = torch.rand(3, 2, 3, 32, 32) * 2 - 1, torch.ones(3)
    network.vae = PrincipalBlocks(VaeConfig(fold=4, channels=6))
    linear, guess, more = network.expectation(pictures, numbers, observed, resolution)
    assert linear.shape == guess.shape == more.shape == (3, 2, 6, 8, 8) and torch.equal(linear, guess)
    assert more[0, 1].abs().max() > 0.01 and more[0, 1].mean(dim=(1, 2)).abs().max() < 1e-5
    assert not more[0, 0].any() and not more[1].any() and not more[2].any()
    without = pictures.clone()
    without[:, 1] = 0  # what is not observed is not looked at
    torch.testing.assert_close(network.expectation(without, numbers, observed, resolution).more, more)
    assert network.expectation(pictures, numbers, torch.zeros_like(observed), resolution) is None
    torch.testing.assert_close(network.more_expected(pictures[:, :1], numbers, resolution)[0], more[0])


def curved(rng, count=40):
    """Places of a modality, its square, and a third one that has little to do with either."""
    for _ in range(count):
        first, noise = (torch.from_numpy(rng.uniform(-1, 1, (1, 16, 16))).float() for _ in range(2))
        grey = {0: first, 1: first.square() - 0.3, 2: 0.3 * first + noise}
        yield {number: image.expand(3, -1, -1) for number, image in grey.items()}


def test_a_pixel_tells_what_is_no_straight_line_and_pairs_never_seen_tell_nothing():
    rng, guess = np.random.default_rng(0), PixelGuess(4)
    assert not guess.is_fitted
    guess.fit(curved(rng))
    assert guess.is_fitted and not guess.explained[3].any() and not guess.explained[:, 3].any()
    place = next(curved(rng))
    pictures = torch.stack([place[0], place[1], place[2], torch.zeros(3, 16, 16)])[None]
    known = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    told, found = guess(pictures, known)
    assert found.tolist() == [[True, True, True, False]] and guess.best(known)[0, 1] == 0
    torch.testing.assert_close(told[0, 1], place[1], atol=0.01, rtol=0)
    assert not guess(pictures, torch.zeros(1, 4))[1].any()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(guess(pictures, known)[0], told, atol=0, rtol=0)


def test_the_guess_has_what_the_best_pixel_tells_and_beside_it_what_is_linear_in_the_others():
    network = lively(vae=VaeConfig(fold=4, channels=48))
    network.vae = PrincipalBlocks(VaeConfig(fold=4, channels=48))
    network.pixels.fit(curved(np.random.default_rng(0)))
    place = next(curved(np.random.default_rng(1), 1))
    pictures = F.interpolate(torch.stack([place[2], place[0], place[1]]), (32, 32))[None]
    numbers, resolution = torch.tensor([[2, 0, 1]]), torch.ones(1)
    alone = network.expectation(pictures[:, 1:], numbers[:, 1:], torch.tensor([[True, False]]), resolution)
    torch.testing.assert_close(network.vae.decode(alone.guess[:, 1]), pictures[:, 2], atol=0.02, rtol=0)
    both = network.expectation(pictures, numbers, torch.tensor([[True, True, False]]), resolution)
    torch.testing.assert_close(
        both.guess[:, 2] - both.linear[:, 2], alone.guess[:, 1] - alone.linear[:, 1], atol=1e-3, rtol=0
    )
    more = network.more_expected(pictures[:, :2], numbers, resolution)
    torch.testing.assert_close(more, both.guess - both.linear + both.more)


def test_what_given_pixels_tell_all_of_is_computed_and_the_rest_is_made():
    network, place = lively(), next(curved(np.random.default_rng(1), 1))
    given = torch.stack([place[0], place[2]])[None]
    latents = torch.randn(1, 4, SMALL_SCENE.vae.channels, 4, 4)
    forth, back = torch.tensor([[0, 2, 3, 1]]), torch.tensor([[1, 2, 3, 0]])
    before = [network.pictures(latents, given, numbers) for numbers in (forth, back)]
    network.pixels.fit(curved(np.random.default_rng(0)))
    made = network.pictures(latents, given, forth)
    torch.testing.assert_close(made[0, 1], place[1], atol=0.01, rtol=0)
    assert torch.equal(made[:, 0], before[0][:, 0]) and not torch.equal(made[:, 1], before[0][:, 1])
    assert torch.equal(network.pictures(latents, given, back), before[1])  # a square tells little of its root
    sure = torch.ones(1, 2, 16, 16, dtype=torch.bool)
    sure[0, 0, :, 8:] = False
    partly = network.pictures(latents, given, forth, sure)
    assert torch.equal(partly[0, 1, :, :, :8], made[0, 1, :, :, :8])
    assert torch.equal(partly[0, 1, :, :, 8:], before[0][0, 1, :, :, 8:])


def test_what_is_computed_costs_no_evaluation(scene_model, monkeypatch):
    engine, told = open_scene_engine(scene_model, "cpu", "float32"), []
    network = scene_model.load().eval()
    network.pixels = PixelGuess(len(engine.config.network.modalities))
    network.pixels.fit(curved(np.random.default_rng(0)))
    monkeypatch.setattr(engine, "network", network)
    monkeypatch.setattr(engine, "on_evaluation", told.append)
    side, names = engine.config.network.tile, engine.config.network.modalities
    place = F.interpolate(torch.stack(list(next(curved(np.random.default_rng(1), 1)).values())), (side, side)).numpy()
    known = np.ones((side, side), bool)

    def made(*targets, known=known):
        noises = [engine.window_noise(0, name, 0, 0) for name in targets]
        return engine.windows([Window([Observed(names[0], place[0], known)], noises)], list(targets), 1.0)[0]

    np.testing.assert_allclose(made(names[1])[0], place[1], atol=0.01)
    assert engine.evaluations == 0 and sum(told) == engine.steps
    made(names[1], names[2])
    assert engine.evaluations == engine.steps
    made(names[1], known=np.indices(known.shape)[0] > 5)
    assert engine.evaluations == 2 * engine.steps and sum(told) == 3 * engine.steps


def test_what_is_expected_moves_the_guess_and_leaves_its_noise():
    """Streams as much brighter as is expected of them: the same noise is found, and latents as much brighter."""
    network, given = lively(), streams(times=(1.0, 0.4))
    more = torch.zeros_like(given.latents)
    more[:, 1] = torch.randn_like(more[:, 1])
    moved = given._replace(latents=given.latents + 0.4 * more, more=more)
    torch.testing.assert_close(network.guess(moved), network.guess(given) + more, atol=1e-5, rtol=1e-5)


def test_the_regression_learns_what_is_not_linear_and_nothing_else_changes():
    """Of a modality that is the square of the other."""
    network = SceneNetwork(SMALL_SCENE)
    network.vae = PrincipalBlocks(VaeConfig(fold=4, channels=6))
    rng = np.random.default_rng(0)

    def batch():
        smooth = F.interpolate(torch.from_numpy(rng.uniform(-1, 1, (4, 1, 8, 8)).astype(np.float32)), (32, 32))
        pictures = torch.stack([smooth.expand(-1, 3, -1, -1), smooth.square().expand(-1, 3, -1, -1)], dim=1)
        numbers, times = torch.tensor([[0, 1]] * 4), torch.tensor([[1.0, 0.5]] * 4)
        return SceneBatch(pictures, numbers, times, torch.randn(4, 2, 6, 8, 8), torch.ones(4))

    network.vae.fit(batch().pictures.flatten(0, 1) for _ in range(4))
    network.prior.fit([dict(enumerate(network.vae.encode(p))) for _ in range(20) for p in batch().pictures])
    objective = ExpectationObjective(network)
    before = float(objective(batch()).detach())
    optimiser = torch.optim.Adam(network.regression.parameters(), lr=3e-3)
    for _ in range(150):
        optimiser.zero_grad()
        objective(batch()).backward()
        optimiser.step()
    assert float(objective(batch()).detach()) < 0.3 * before
    assert all(p.grad is None for name, p in network.named_parameters() if not name.startswith("regression."))


def test_what_the_autoencoder_loses_of_a_given_picture_comes_back_in_the_others():
    """A picture and half of its negative, through an autoencoder that keeps blurred pictures only."""
    network, rng = lively(), np.random.default_rng(0)

    class Blurred(torch.nn.Module):
        encode = staticmethod(lambda pictures: F.avg_pool2d(pictures, 4))
        decode = staticmethod(lambda latents: F.interpolate(latents, scale_factor=4))

    network.vae, numbers = Blurred(), torch.tensor([[0, 1]])
    pictures = torch.from_numpy(rng.uniform(-0.9, 0.9, (1, 1, 3, 32, 32)).astype(np.float32))
    both = torch.cat([pictures, -pictures / 2], dim=1)
    latents = network.vae.encode(both.flatten(0, 1)).unflatten(0, (1, 2))
    lost = both[0] - network.vae.decode(latents[0])
    before = network.pictures(latents, pictures, numbers)
    network.lost.fit([dict(enumerate(lost))])
    made = network.pictures(latents, pictures, numbers)
    assert made.shape == (1, 1, 3, 32, 32)
    torch.testing.assert_close(made[:, 0], both[:, 1], atol=1e-3, rtol=0)
    assert (before[:, 0] - both[:, 1]).abs().mean() > 0.1


def test_scene_consistency_is_nothing_for_equal_tokens_and_one_for_unrelated():
    tokens = torch.randn(4, 1, 64, 128)
    assert float(scene_inconsistency(tokens.repeat(1, 3, 1, 1))) == pytest.approx(0, abs=1e-5)
    assert float(scene_inconsistency(torch.randn(4, 3, 64, 128))) == pytest.approx(1, abs=0.05)


def test_only_streams_that_are_not_observed_count():
    objective = FlowObjective(lively(), 0.0)
    torch.manual_seed(3)
    pictures, noise = torch.rand(2, 2, 3, 32, 32) * 2 - 1, torch.randn(2, 2, 6, 8, 8)
    batch = SceneBatch(pictures, torch.tensor([[0, 1]] * 2), torch.tensor([[1.0, 0.5]] * 2), noise, torch.ones(2))
    before = float(objective(batch).detach())
    noise[:, 0] += 5  # an observed stream has no noise
    assert float(objective(batch).detach()) == pytest.approx(before)
    noise[:, 1] += 5
    assert float(objective(batch).detach()) != pytest.approx(before)


def test_the_flow_reaches_its_end_in_straight_lines_and_bends_with_second_order():
    noise, z = torch.zeros(1), torch.tensor([2.0])
    assert float(adams_bashforth(lambda x, t: z - noise, noise, 4)) == pytest.approx(2.0)
    errors = [abs(float(adams_bashforth(lambda x, t: x, torch.ones(1), n)) - np.e) for n in (20, 40)]
    assert errors[1] < errors[0] / 3.3
    times = torch.tensor([[0.0, 1.0]])
    mixed = noised(torch.ones(1, 2, 3), torch.zeros(1, 2, 3), times)
    assert mixed[0, 0].sum() == 0 and mixed[0, 1].sum() == 3


def translate(*arguments):
    assert main(["translate", "--device", "cpu", "--precision", "float32", *map(str, arguments)]) == 0


@pytest.fixture
def rgb(make_raster):
    return make_raster("rgb.tif", height=150, width=170)


def test_results_lie_on_the_first_rasters_grid_and_say_what_they_are(rgb, scene_model, tmp_path, capsys):
    translate("--rgb", rgb, "--targets", "nir", "sar", "--output", tmp_path / "out", "--model", scene_model.folder)
    told = capsys.readouterr()
    assert "SAR backscatter (VV) were never seen together" in told.err and "nir.tif" in told.out
    with rasterio.open(rgb) as source, rasterio.open(tmp_path / "out" / "nir.tif") as made:
        assert made.shape == source.shape and made.transform == source.transform and made.crs == source.crs
        tags = made.tags()
    assert tags["METAEARTH_SYNTHETIC"] == "YES" and tags["METAEARTH_MODALITY"] == "nir" and made.dtypes == ("uint8",)
    assert (tags["METAEARTH_INPUTS"], tags["METAEARTH_SOURCE"]) == ("rgb: rgb.tif", "rgb.tif")
    assert read(tmp_path / "out" / "sar.tif").std() > 0
    assert not (tmp_path / "out").joinpath("nir.tif.metaearth-job").exists()


def test_samples_of_a_scene_make_means_and_votes(make_raster, scene_model, tmp_path):
    source = make_raster(height=70, width=64, nodata=0)
    with rasterio.open(source, "r+") as opened:
        pixels = opened.read()
        pixels[:, 5:9, 3:8] = 0
        opened.write(pixels)
    config = dataclasses.replace(scene_model.config, untrained=())
    save_bundle(tmp_path / "maps", config, scene_model.load().state_dict())
    common = ("--rgb", source, "--targets", "nir", "osm", "--steps", 2, "--model", tmp_path / "maps")
    translate(*common, "--output", tmp_path / "all", "--samples", 3, "--seed", 4)
    for k in range(3):
        translate(*common, "--output", tmp_path / str(k), "--seed", 4 + k)
    nir, maps = (np.stack([read(tmp_path / str(k) / f"{m}.tif")[0] for k in range(3)]) for m in ("nir", "osm"))
    np.testing.assert_array_equal(read(tmp_path / "all" / "nir.tif")[0], nir[0])
    hole = np.zeros((70, 64), bool)
    hole[5:9, 3:8] = True
    mean, deviation, share = (read(tmp_path / "all" / f"{name}.tif")[0] for name in ("nir_mean", "nir_std", "osm_std"))
    for found in (mean, deviation, share):
        np.testing.assert_array_equal(np.isnan(found), hole)
    np.testing.assert_allclose(mean[~hole], nir.mean(axis=0)[~hole], rtol=1e-5)
    np.testing.assert_allclose(deviation[~hole], nir.std(axis=0, ddof=1)[~hole], rtol=1e-4, atol=1e-4)
    with rasterio.open(tmp_path / "all" / "osm_mean.tif") as opened:
        usual, tags = opened.read(1), opened.tags()
        assert opened.dtypes[0] == "uint8" and opened.colormap(1)
        np.testing.assert_array_equal(opened.dataset_mask() == 0, hole)
    assert tags["METAEARTH_STATISTIC"] == "most frequent class of 3 samples" and tags["METAEARTH_MODALITY"] == "osm"
    agree = (maps == usual).sum(axis=0)
    assert all((agree >= (maps == maps[k]).sum(axis=0))[~hole].all() for k in range(3)) and share[~hole].max() > 0
    np.testing.assert_allclose(share[~hole], 1 - agree[~hole] / 3, atol=1e-6)


def test_an_extent_gives_the_same_pixels_and_another_seed_others(rgb, scene_model, tmp_path):
    translate("--rgb", rgb, "--targets", "nir", "--output", tmp_path / "all", "--model", scene_model.folder)
    whole = read(tmp_path / "all" / "nir.tif")
    with rasterio.open(rgb) as source:
        xmin, ymin = source.transform @ (31, 141)
        xmax, ymax = source.transform @ (130, 50)
    translate("--rgb", rgb, "--targets", "nir", "--output", tmp_path / "part", "--model", scene_model.folder,
              "--extent", xmin, ymin, xmax, ymax)
    np.testing.assert_array_equal(read(tmp_path / "part" / "nir.tif"), whole[:, 50:141, 31:130])
    translate("--rgb", rgb, "--targets", "nir", "--output", tmp_path / "other", "--model", scene_model.folder,
              "--seed", 3)
    assert (read(tmp_path / "other" / "nir.tif") != whole).mean() > 0.5


def test_what_is_known_stays_when_a_modality_is_completed(rgb, make_raster, scene_model, tmp_path):
    values = np.full((1, 150, 170), 90.0)
    values[:, :, 80:] = 0
    nir = make_raster("nir.tif", bands=1, height=150, width=170, values=values, nodata=0)
    translate("--rgb", rgb, "--nir", nir, "--targets", "nir", "--output", tmp_path / "out", "--model",
              scene_model.folder)
    made = read(tmp_path / "out" / "nir.tif")[0]
    assert (made[:, :80] == 90).all() and (made[:, 80:] != 90).mean() > 0.5


def test_measured_decibels_stay_beyond_what_pictures_can_show(rgb, make_raster, scene_model, tmp_path):
    values = np.full((1, 150, 170), -31.5)
    values[:, 80:], values[:, :, 80:] = 4.25, np.nan
    sar = make_raster("sar.tif", bands=1, dtype="float32", values=values)
    model = tmp_path / "calibrated"
    save_bundle(model, dataclasses.replace(scene_model.config, relative=()), scene_model.load().state_dict())
    translate("--rgb", rgb, "--sar", sar, "--targets", "sar", "--output", tmp_path / "out", "--model", model)
    made = read(tmp_path / "out" / "sar.tif")[0]
    np.testing.assert_array_equal(made[:, :80], values[0, :, :80])
    assert made[:, 80:].min() >= -25 and made[:, 80:].max() <= 0


def test_scaled_numbers_are_read_in_the_modalitys_unit(make_raster):
    hundredths = make_raster(bands=1, dtype="int16", values=np.full((1, 8, 8), -1250))
    with rasterio.open(hundredths, "r+") as dataset:
        dataset.scales = (0.01,)
    with ModalityRaster(hundredths, find_modality("sar")) as raster:
        assert raster.read(raster.source.grid.region).values == pytest.approx(-12.5)


def test_rasters_of_other_grids_are_laid_onto_the_first(rgb, make_raster, scene_model, tmp_path):
    finer = rasterio.Affine(5, 0, 500_000, 0, -5, 5_000_000)
    smooth = np.linspace(10, 240, 340)[None, None].repeat(300, axis=1)
    other = make_raster("pan.tif", bands=1, height=300, width=340, transform=finer, values=smooth)
    same = make_raster("pan2.tif", bands=1, height=150, width=170,
                       values=smooth.reshape(1, 150, 2, 170, 2).mean((2, 4)))
    for name, path in (("a", other), ("b", same)):
        translate("--rgb", rgb, "--pan", path, "--targets", "nir", "--output", tmp_path / name, "--model",
                  scene_model.folder)
    a, b = (read(tmp_path / name / "nir.tif").astype(float) for name in "ab")
    assert a.shape == b.shape and np.abs(a - b).mean() < 1


def test_bad_requests_get_a_sentence(rgb, make_raster, scene_model, tmp_path, capsys):
    far = make_raster("far.tif", bands=1, transform=Affine(10, 0, 900_000, 0, -10, 1_000_000))
    common = ["--output", str(tmp_path / "out"), "--model", str(scene_model.folder), "--device", "cpu"]
    cases = [
        (["--targets", "nir"], "at least one raster"),
        (["--rgb", rgb, "--targets", "osm"], "not trained on any imagery of Map"),
        (["--rgb", rgb, "--targets", "lidar"], "lidar is not among"),
        (["--nir", rgb, "--targets", "rgb"], "shows 3 band"),
        (["--rgb", rgb, "--targets", "nir", "--band-choice", "pan=1"], "no raster of pan"),
        (["--rgb", rgb, "--targets", "nir", "--band-choice", "rgb=0,1,2"], "count from 1"),
        (["--rgb", rgb, "--pan", far, "--targets", "nir"], "far.tif shows nothing of the place"),
        (["--rgb", rgb, "--targets", "nir", "--model", "metaearth-lite"], "knows no modalities"),
    ]
    for arguments, sentence in cases:
        assert main(["translate", *common, *arguments]) in (1, 2)
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="makes no raster finer"):
        from backend.models.bundle import find_bundle

        find_bundle(str(scene_model.folder))


def test_a_scene_from_nothing_is_aligned_and_repeatable(scene_model, small_model, tmp_path, capsys):
    def make(name, *more):
        assert main(["generate-pair", "--targets", "rgb", "nir", "--metres-per-pixel", "5", "--output",
                     str(tmp_path / name), "--model", str(scene_model.folder), "--device", "cpu", "--json",
                     "--precision", "float32", "--crs", "EPSG:32633", "--centre", "500000", "5000000", *more]) == 0
        return json.loads(capsys.readouterr().out)

    told = make("a", "--width", "64", "--height", "48")
    assert told["evaluations"] == 3
    with rasterio.open(tmp_path / "a" / "rgb.tif") as a, rasterio.open(tmp_path / "a" / "nir.tif") as b:
        assert a.transform == b.transform and a.shape == b.shape == (48, 64) and (a.count, b.count) == (3, 1)
    make("b", "--width", "64", "--height", "48")
    np.testing.assert_array_equal(read(tmp_path / "a" / "rgb.tif"), read(tmp_path / "b" / "rgb.tif"))
    make("large", "--width", "160", "--height", "128", "--cascade", str(small_model.folder))
    with rasterio.open(tmp_path / "large" / "rgb.tif") as a, rasterio.open(tmp_path / "large" / "nir.tif") as b:
        assert a.transform == b.transform and a.shape == b.shape == (128, 160) and a.res == (5, 5)


def test_a_dry_run_tells_the_cost_of_what_is_then_done(rgb, scene_model, small_model, tmp_path, capsys):
    common = ["--model", str(scene_model.folder), "--device", "cpu", "--precision", "float32"]
    scene = ["generate-pair", "--targets", "rgb", "nir", "pan", "--metres-per-pixel", "5", "--cascade",
             str(small_model.folder), *common]
    cases = {
        "known": (["translate", "--rgb", rgb, "--targets", "nir", "pan", "--extent", "500100", "4999500",
                  "500500", "4999900", *common], (40, 40), 2),
        "window": ([*scene, "--width", "64", "--height", "48"], (48, 64), 5),
        "large": ([*scene, "--width", "80", "--height", "72"], (72, 80), 5),
    }
    for name, (arguments, shape, bands) in cases.items():
        arguments += ["--output", str(tmp_path / name)]
        assert main([*arguments, "--dry-run"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert not (tmp_path / name).exists()
        grid = summary["stages"][-1]
        assert (grid["height"], grid["width"]) == shape and 0 < summary["seconds"] < 600 and summary["windows"] > 0
        assert summary["output_bytes"] == bands * shape[0] * shape[1] <= summary["disk_bytes"] / 2
        assert main([*arguments, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["evaluations"] == summary["evaluations"] > 0


def test_a_large_scene_goes_on_where_it_was_stopped(scene_model, small_model, tmp_path):
    values = {"targets": ["rgb", "nir"], "metres_per_pixel": 5, "width": 80, "height": 72, "steps": 1, "device": "cpu",
              "precision": "float32", "model": str(scene_model.folder), "cascade": str(small_model.folder)}
    made = {name: {**values, "output": str(tmp_path / name)} for name in ("whole", "halted")}

    def stop_in_the_third():
        if (tmp_path / "halted" / "rgb.tif").exists():
            raise Interrupted

    needed = generate_pair(made["whole"], silent, go_on)["evaluations"]
    with pytest.raises(Interrupted):
        generate_pair(made["halted"], silent, stop_in_the_third)
    assert not (tmp_path / "halted" / "nir.tif").exists()
    rest = generate_pair(made["halted"], silent, go_on)
    assert 0 < rest["evaluations"] < needed
    for name in ("rgb.tif", "nir.tif"):
        np.testing.assert_array_equal(read(tmp_path / "halted" / name), read(tmp_path / "whole" / name))
    assert generate_pair(made["halted"], silent, go_on)["evaluations"] == 0
    assert generate_pair({**made["halted"], "seed": 7}, silent, go_on)["evaluations"] == needed


def test_warnings_come_before_the_work_and_once(rgb, scene_model, tmp_path, capsys):
    arguments = ["translate", "--model", str(scene_model.folder), "--device", "cpu", "--output", str(tmp_path / "out"),
                 "--rgb", rgb, "--targets", "sar"]
    result = str(tmp_path / "out" / "sar.tif")
    with JobDirectory(tmp_path / "other").locked([result]):
        assert main(arguments) == 1
        told = capsys.readouterr().err
        assert 0 <= told.index("were never seen together") < told.index("Another job works on")
    assert main(arguments) == 0
    assert capsys.readouterr().err.count("were never seen together") == 1


def test_what_will_not_be_made_is_told_before_the_start(make_raster, scene_model, tmp_path, capsys):
    west, whole = make_raster("west.tif", width=40, height=40), make_raster("whole.tif", bands=1, width=80, height=40)
    common = ["translate", "--model", str(scene_model.folder), "--device", "cpu", "--output", str(tmp_path / "out"),
              "--dry-run", "--rgb", west]
    beyond = ["--nir", whole, "--extent", "500000", "4999600", "500800", "5000000"]

    def warnings(*arguments):
        assert main([*common, *arguments]) == 0
        return " ".join(json.loads(capsys.readouterr().out)["warnings"])

    assert "reaches beyond west.tif" in warnings(*beyond, "--targets", "rgb")
    assert "holes" not in warnings("--targets", "rgb")
    common[-1] = make_raster("holes.tif", width=40, height=40, nodata=0)
    assert "its holes stay" in warnings("--targets", "rgb")
    inside = warnings("--nir", whole, "--extent", "500000", "4999600", "500400", "5000000", "--targets", "rgb")
    assert "beyond" not in inside and "holes" not in inside


def test_a_large_scene_that_cannot_be_made_is_refused_before_the_first_job(scene_model, small_model, tmp_path, capsys):
    common = ["generate-pair", "--metres-per-pixel", "5", "--width", "160", "--height", "128", "--model",
              str(scene_model.folder), "--device", "cpu", "--output", str(tmp_path / "out")]
    small = ["--cascade", str(small_model.folder)]
    (tmp_path / "out" / "nir.tif").mkdir(parents=True)
    for arguments, sentence in (
        (["--cascade", "metaearth-600m"], "has no weights"),
        ([*small, "--targets", "rgb", "nir"], "nir.tif is a folder"),
        ([*small, "--targets", "pan", "rgb", "--width", "60000", "--height", "60000"],
         "Make a smaller scene"),
    ):
        for how in ([], ["--dry-run"]):
            assert main([*common, *arguments, *how]) == 1
            assert sentence in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["nir.tif"]
    zero_shot = [*common[:-1], str(tmp_path / "new"), *small, "--targets", "nir", "pan", "--dry-run"]
    assert main(zero_shot) == 0
    assert any("zero-shot" in warning for warning in json.loads(capsys.readouterr().out)["warnings"])


@pytest.mark.parametrize(
    ("size_m", "told"),
    [(0.6, ""), (0.8, ""), (10, "Map (OpenStreetMap): the pixels"), (0.1, "SAR"), (500, "The pixels are 500 m")],
)
def test_what_a_modality_was_not_trained_at_is_told(scene_model, size_m, told):
    """``size_m``: pixels of a scene of RGB and a map, or of RGB and SAR where they are fine."""
    config = dataclasses.replace(scene_model.config, ground_resolution_m=(0.07, 90.0),
                                 resolutions={"osm": (0.075, 0.6), "sar": (10.0, 20.0)})
    warned = check_resolution(config, ["rgb", "sar" if size_m == 0.1 else "osm"], size_m)
    assert warned == [] if not told else len(warned) == 1 and warned[0].startswith(told)


def test_the_usual_modalities_are_made_only_where_none_are_named():
    def wanted(**values):
        return wanted_modalities(check_fields(TRANSLATE.fields, {"output": "o", **values}), ("nir",))

    assert wanted() == wanted(targets=[]) == ("nir",)
    assert wanted(other_targets="dem") == ("dem",)
    assert wanted(targets=["rgb"], other_targets=["dem", "rgb"]) == ("rgb", "dem")


HALF = np.zeros((64, 64), bool)
HALF[:, :32] = True


def scene_engine(bundle, batch=1, dtype=torch.float32) -> SceneEngine:
    return SceneEngine(bundle, bundle.sha256(), 2, "cpu", dtype, batch)


@pytest.fixture
def windows(scene_model) -> list[Window]:
    """Seven, of two kinds in turns: RGB guides, and beside it half of the near infrared is known."""
    rng, engine = np.random.default_rng(0), scene_engine(scene_model)

    def window(number):
        pictures = rng.uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)
        observed = [Observed("rgb", pictures[0], np.ones((64, 64), bool))]
        if number % 2:
            observed.append(Observed("nir", pictures[1], HALF))
        return Window(observed, [engine.window_noise(number, m, 0, 0) for m in ("nir", "pan")])

    return [window(number) for number in range(7)]


def test_windows_are_the_same_in_any_company(scene_model, windows):
    """Windows of several kinds at once, in batches of three, one of which is filled up."""
    engines = [scene_engine(scene_model, batch) for batch in (1, 3)]
    alone, together = (engine.windows(windows, ["nir", "pan"], 5.0) for engine in engines)
    np.testing.assert_allclose(alone, together, atol=2e-5)
    np.testing.assert_array_equal(together[1, 0][:, HALF], windows[1].observed[1].picture[:, HALF])
    assert [engine.evaluations for engine in engines] == [14, 14]


@pytest.mark.parametrize("limit", [2, 0])
def test_too_small_memory_halves_the_batch_down_to_a_sentence(scene_model, windows, monkeypatch, limit):
    engine, velocity = scene_engine(scene_model, 4), SceneNetwork.forward
    expected = scene_engine(scene_model, 2).windows(windows, ["nir", "pan"], 5.0)

    def small(network, streams):
        if len(streams.latents) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return velocity(network, streams)

    monkeypatch.setattr(SceneNetwork, "forward", small)
    if limit == 0:
        with pytest.raises(DeviceError, match="too small for one window"):
            engine.windows(windows, ["nir", "pan"], 5.0)
        return
    np.testing.assert_array_equal(engine.windows(windows, ["nir", "pan"], 5.0), expected)
    assert engine.batch == limit


def test_what_is_no_number_in_bfloat16_is_made_in_float32(scene_model, windows, monkeypatch):
    """Only those windows, and only they: the next ones are tried in bfloat16 again."""
    expected = scene_engine(scene_model).windows(windows, ["nir", "pan"], 5.0)
    engine, original = scene_engine(scene_model, dtype=torch.bfloat16), SceneEngine._one_batch
    usual = engine.windows(windows, ["nir", "pan"], 5.0)
    overflows = windows[2]

    def overflowing(self, some, *arguments):
        made = original(self, some, *arguments)
        return made * np.nan if some[0] is overflows and self.dtype == torch.bfloat16 else made

    monkeypatch.setattr(SceneEngine, "_one_batch", overflowing)
    made = engine.windows(windows, ["nir", "pan"], 5.0)
    np.testing.assert_array_equal(made[2], expected[2])
    others = [0, 1, 3, 4, 5, 6]
    np.testing.assert_array_equal(made[others], usual[others])
    assert not np.array_equal(usual[others], expected[others]) and engine.dtype == torch.bfloat16


def test_a_picture_of_a_map_is_no_map(make_raster):
    path = make_raster(height=64, width=64)
    with pytest.raises(InputError, match="has 3 bands, as a picture of a map has"):
        RasterSource(path, classes=True)
    with RasterSource(path, bands=[2], classes=True) as chosen:
        assert chosen.bands == [2]


def test_files_of_one_name_in_different_folders_are_different_inputs(make_raster, scene_model, tmp_path):

    for year in ("2019", "2020"):
        (tmp_path / year).mkdir()
    early, late = (make_raster(f"{year}/t.tif", bands=1) for year in ("2019", "2020"))

    def hash_of(*given):
        inputs = tuple(SceneInput(name, path) for name, path in zip(("nir", "pan"), given))
        return make_scene_plan(
            SceneRequest(inputs, ("rgb",), str(tmp_path / "out"), str(scene_model.folder), device="cpu")
        ).sha256

    assert hash_of(early, late) == hash_of(early, late) != hash_of(late, early)
    assert hash_of(early, early) not in (hash_of(early, late), hash_of(late, late))


def test_a_hole_in_a_map_gets_no_classes_of_its_own():
    """Halfway between wood and road there is no third class: what is filled are colours."""
    osm = find_modality("osm")
    wood, road = osm.classes[-1].value, osm.classes[2].value
    values = np.full((1, 8, 24), wood, np.float32)
    values[:, :, 16:] = road
    valid = np.ones((8, 24), bool)
    valid[:, 8:16] = False
    crop = Region(0, 0, 8, 24)
    seen = observe({"osm": (osm, lambda region: Pixels(values, valid))}, crop)[0].picture
    colours = osm.to_picture(values)
    low, high = colours.min(axis=(1, 2), keepdims=True), colours.max(axis=(1, 2), keepdims=True)
    assert (seen >= low - 1e-4).all() and (seen <= high + 1e-4).all()
    np.testing.assert_array_equal(seen[..., :8], colours[..., :8])
    np.testing.assert_array_equal(seen[..., 16:], colours[..., 16:])


def test_a_network_that_was_used_can_be_trained():
    """What is remembered between calls was first made without gradients."""
    network, given = lively(), streams(side=16)
    with torch.inference_mode():
        network(given)
    network(given)[1].square().mean().backward()


def test_an_interrupted_translation_is_resumed(rgb, scene_model, tmp_path, capsys):
    from backend.errors import Interrupted
    from backend.jobs.runner import JobRun, resume

    def plan(name):
        wanted = SceneRequest((SceneInput("rgb", rgb),), ("nir",), str(tmp_path / name), str(scene_model.folder),
                              device="cpu", precision="float32", job_dir=str(tmp_path / f"{name}.job"))
        return dataclasses.replace(make_scene_plan(wanted), block_windows=1)

    whole = JobRun(plan("whole"), lambda p: None, lambda: None).run()
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 60:
            raise Interrupted

    with pytest.raises(Interrupted):
        JobRun(plan("cut"), lambda p: None, check).run()
    result = resume(tmp_path / "cut.job", lambda p: None, lambda: None)
    assert 0 < result.evaluations < whole.evaluations
    np.testing.assert_array_equal(read(tmp_path / "cut" / "nir.tif"), read(tmp_path / "whole" / "nir.tif"))
