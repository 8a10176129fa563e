"""Bundles: what is damaged, foreign or hostile is refused with a sentence."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.errors import ModelError
from backend.models.bundle import find_bundle, list_bundles, open_bundle


@pytest.fixture
def copy(small_model, tmp_path):
    shutil.copytree(small_model.folder, tmp_path / "copy")
    return open_bundle(tmp_path / "copy")


def test_weights_survive_half_precision(small_model):
    state = load_file(small_model.weights)
    assert {t.dtype for t in state.values()} == {torch.float16}
    assert small_model.load().unet.out.weight.dtype == torch.float32


def test_both_embedded_models_are_listed():
    assert {"metaearth-lite", "metaearth-600m"} <= {b.config.id for b in list_bundles()}


def test_a_users_model_of_the_same_name_comes_first(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("METAEARTH_HOME", str(tmp_path / "home"))
    shutil.copytree(copy.folder, tmp_path / "home" / "models" / "metaearth-lite")
    assert find_bundle("metaearth-lite").folder == tmp_path / "home" / "models" / "metaearth-lite"


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(ModelError, match="no model 'nonsense'.*metaearth-lite"):
        find_bundle("nonsense")


def test_a_truncated_file_is_refused(copy):
    copy.weights.write_bytes(copy.weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        copy.load()


def test_a_pickle_is_refused(copy):
    torch.save({"a": torch.zeros(1)}, copy.weights)
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        copy.load()


def test_wrong_shapes_are_refused(copy):
    state = load_file(copy.weights)
    state["unet.out.bias"] = torch.zeros(7)
    save_file(state, copy.weights)
    with pytest.raises(ModelError, match=r"does not fit its config.json: unet.out.bias"):
        copy.load()


def test_weights_that_are_not_finite_are_refused(copy):
    state = load_file(copy.weights)
    state["unet.out.bias"][0] = float("nan")
    save_file(state, copy.weights)
    with pytest.raises(ModelError, match="not finite"):
        copy.load()


def test_a_bundle_without_weights_can_only_be_trained():
    with pytest.raises(ModelError, match="can be trained, but not run"):
        find_bundle("metaearth-600m").load()


def test_the_hash_covers_configuration_and_weights(copy):
    before = copy.sha256()
    config = copy.folder / "config.json"
    config.write_text(config.read_text().replace('"steps": 3', '"steps": 4'))
    assert open_bundle(copy.folder).sha256() != before
