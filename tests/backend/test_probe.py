"""The linear probe: logistic regression on frozen features, and the protocol around it."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from backend.errors import InputError, ModelError
from backend.evaluation.commands import PROTOCOLS
from backend.evaluation.logistic import fit_probe, folds_of
from backend.evaluation.protocols.probe import ProbeSettings, probe, with_random_weights
from backend.evaluation.verbs import arguments_of
from backend.jobs.engines import open_scene_engine
from backend.models.feature_network import FeatureConfig, FeatureNetwork, save_features
from backend.models.scene_config import VaeConfig
from backend.models.scene_network import SceneNetwork
from backend.progress import go_on, silent
from backend.protocol import DEFAULT_MODEL
from backend.scene.engine import Observed

from .conftest import SMALL_SCENE


def clouds(n, gap, seed):
    """Two classes of points in 12 dimensions, one of which tells them apart by ``gap`` standard deviations."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    features = rng.standard_normal((n, 12))
    features[:, 3] += gap * labels
    return 1000 + 50 * features, labels


def test_a_probe_finds_classes_that_a_feature_tells_apart():
    (given, labels), (test, truth) = clouds(60, 8, 0), clouds(400, 8, 1)
    assert (fit_probe(given, labels, 2).predict(test) == truth).mean() > 0.99


def test_a_probe_of_labels_that_mean_nothing_guesses():
    (given, labels), (test, truth) = clouds(60, 0, 0), clouds(400, 0, 1)
    found = fit_probe(given, labels, 2)
    assert 0.4 < (found.predict(test) == truth).mean() < 0.6 and found.strength >= 0.1


def test_a_weaker_penalty_is_chosen_where_there_is_more_to_learn():
    strengths = [fit_probe(*clouds(60, gap, 0), 2).strength for gap in (0, 8)]
    assert strengths[1] < strengths[0]


def test_the_fit_is_the_minimum_of_its_own_loss_also_with_fewer_examples_than_dimensions():
    rng = np.random.default_rng(0)
    given, labels = rng.standard_normal((12, 40)), np.arange(12) % 3
    found = fit_probe(given, labels, 3)
    x = (given - found.mean) / found.scale
    scores = x @ found.weights + found.bias
    chance = np.exp(scores - scores.max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    slope = x.T @ (chance - np.eye(3)[labels]) / 12 + found.strength * found.weights
    assert np.abs(slope).max() < 1e-5 and np.abs((chance - np.eye(3)[labels]).mean(axis=0)).max() < 1e-5


def test_a_feature_that_never_changes_does_no_harm():
    given, labels = clouds(60, 8, 0)
    given[:, 0] = 7.0
    found = fit_probe(given, labels, 2)
    assert np.isfinite(found.weights).all() and (found.predict(given) == labels).mean() > 0.99


def test_folds_hold_every_class():
    labels = np.array([0] * 6 + [1] * 4)
    fold = folds_of(labels, 3, 0)
    assert all({0, 1} == set(labels[fold == k]) for k in range(3))


@pytest.fixture
def classes(tmp_path):
    """Two classes of twelve chips that nobody can confuse: dark ones and bright ones."""
    rng = np.random.default_rng(0)
    for name, darkest in (("dark", 0), ("bright", 155)):
        (tmp_path / "chips" / name).mkdir(parents=True)
        for k in range(12):
            picture = Image.fromarray(rng.integers(darkest, darkest + 100, (64, 64, 3), np.uint8))
            picture.save(tmp_path / "chips" / name / f"{k}.png")
    return tmp_path / "chips"


def test_the_probe_protocol_ends_in_a_table(classes, scene_model, tmp_path):
    settings = ProbeSettings(classes, tmp_path / "out", str(scene_model.folder), labels=(3, 20), splits=3,
                             source_resolution=0.3, device="cpu")
    probe(settings, silent, go_on)
    written = json.loads((tmp_path / "out" / "table.json").read_text())
    kinds = ["raw pixels", "metaearth-features", "random weights", "tiny-mm"]
    assert [(r["training chips a class"], r["features"]) for r in written["rows"]] == [
        *((3, kind) for kind in kinds), *(("all (7)", kind) for kind in kinds)]
    for row in written["rows"]:
        found, less = row["accuracy"], row["tiny-mm less these"]
        assert found["low"] <= found["value"] <= found["high"] and 6 < found["n"] <= 18
        assert (less is None) == (row["features"] == "tiny-mm")
    assert written["rows"][0]["dimensions"] == 768 and written["rows"][3]["dimensions"] == 32
    assert written["rows"][7]["accuracy"]["value"] > 0.9 and written["chips"] == 24


def test_another_feature_network_is_compared_if_named(classes, scene_model, tmp_path):
    torch.manual_seed(0)
    config = FeatureConfig(("a",), (0,), widths=(8, 16), features=8)
    save_features(tmp_path / "features", FeatureNetwork(config), config)
    settings = ProbeSettings(classes, tmp_path / "out", str(scene_model.folder), labels=(), splits=2, limit=4,
                             source_resolution=0.3, features=str(tmp_path / "features"), device="cpu")
    rows = probe(settings, silent, go_on).rows
    assert [r["features"] for r in rows] == ["raw pixels", "metaearth-features", "random weights", "tiny-mm"]
    with pytest.raises(ModelError, match="no feature network"):
        probe(dataclasses.replace(settings, features="nowhere"), silent, go_on)


def test_random_weights_are_none_of_the_models_and_repeat(scene_model):
    engine = open_scene_engine(scene_model, "cpu", "float32")
    picture = [Observed("rgb", np.random.default_rng(0).uniform(-1, 1, (3, 64, 64)).astype(np.float32),
                        np.ones((64, 64), bool))]
    own = engine.tokens(picture, 10.0)
    one, again, other = (with_random_weights(engine, seed).tokens(picture, 10.0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).mean() > 1e-3 and np.abs(one - own).mean() > 1e-3
    np.testing.assert_array_equal(engine.tokens(picture, 10.0), own)
    one_block = with_random_weights(engine, 1).tokens(picture, 10.0, 1)
    assert np.abs(one - one_block).mean() > 1e-3


def test_a_network_before_training_has_what_is_fitted_beforehand():
    config = dataclasses.replace(SMALL_SCENE, vae=VaeConfig(4, 6, (), 1))
    own = SceneNetwork(config)
    own.vae.fit([torch.rand(1, 3, 64, 64) * 2 - 1])
    engine = SimpleNamespace(config=SimpleNamespace(network=config), network=own, device="cpu")
    before = with_random_weights(engine, 1).network
    state = before.state_dict()
    assert all(torch.equal(v, state[n]) for n, v in own.state_dict().items() if n.startswith(("vae.", "prior.")))
    assert not torch.equal(own.modality.weight, before.modality.weight)


def test_what_cannot_be_probed_gets_a_sentence(classes, scene_model, tmp_path):
    settings = ProbeSettings(classes, tmp_path / "out", str(scene_model.folder), source_resolution=0.3, device="cpu")
    for change, sentence in (({"classes": ("dark",)}, "at least two classes"), ({"labels": (1,)}, "at least two")):
        with pytest.raises(InputError, match=sentence):
            probe(dataclasses.replace(settings, **change), silent, go_on)


def test_the_verb_takes_the_protocols_own_default_model(classes, tmp_path):
    protocol = next(p for p in PROTOCOLS if p.name == "probe")
    given = {"data": "d", "output": "o", "model": DEFAULT_MODEL, "set": ["labels=2,4"]}
    assert arguments_of(protocol, given).model == "metaearth-mm-lite"
    found = arguments_of(protocol, {**given, "model": "mine"})
    assert found.model == "mine" and found.labels == [2, 4]
