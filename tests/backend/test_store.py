"""The user's own models: verified before they are there."""

import hashlib
import importlib
import shutil
import zipfile
from pathlib import Path

import pytest

from backend.errors import ModelError
from backend.models import bundle as bundle_module
from backend.models.bundle import find_any_bundle, find_bundle, list_bundles
from backend.models.store import add_model, remove_model


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("METAEARTH_HOME", str(tmp_path / "home"))


def ids():
    return [bundle.config.id for bundle in list_bundles()]


def test_a_folder_is_verified_copied_and_removed(home, small_model):
    digest = hashlib.sha256(small_model.weights.read_bytes()).hexdigest()
    added = add_model(str(small_model.folder), digest)
    assert added.sha256() == small_model.sha256() and added.folder != small_model.folder
    assert find_bundle("small").folder == added.folder
    with pytest.raises(ModelError, match="already"):
        add_model(str(small_model.folder))
    remove_model("small")
    assert "small" not in ids()
    with pytest.raises(ModelError, match="none of your own"):
        remove_model("metaearth-lite")
    with pytest.raises(ModelError, match="none of your own"):
        remove_model("../models/small")


def test_damaged_and_other_weights_are_refused(home, small_model, tmp_path):
    with pytest.raises(ModelError, match="SHA-256 differs"):
        add_model(str(small_model.folder), "0" * 64)
    broken = tmp_path / "broken"
    shutil.copytree(small_model.folder, broken)
    (broken / "model.safetensors").write_bytes(small_model.weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        add_model(str(broken))
    assert "small" not in ids()


def test_a_hub_must_be_pinned(home):
    for source in ("hub:owner/name", "hub:owner/name@main", "https://example.org/model"):
        with pytest.raises(ModelError, match="not pinned"):
            add_model(source)
    with pytest.raises(ModelError, match="64 hexadecimal digits"):
        add_model("hub:owner/name@" + "a" * 40)


def test_a_zip_of_a_bundle_is_added_and_only_its_own_files(home, small_model, tmp_path):
    archive = tmp_path / "small.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for name in ("config.json", "model.safetensors"):
            opened.write(small_model.folder / name, f"small/{name}")
        opened.writestr("../evil.txt", "no")
    assert add_model(str(archive)).sha256() == small_model.sha256()
    assert not list(tmp_path.rglob("evil.txt"))
    remove_model("small")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.write(small_model.folder / "config.json", "small/config.json")
    whole = bytearray(archive.read_bytes())
    whole[60:90] = bytes(30)
    archive.write_bytes(whole)
    with pytest.raises(ModelError, match="cannot be read as a zip"):
        add_model(str(archive))
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be read as a zip"):
        add_model(str(archive))
    assert "small" not in ids()


def test_weights_that_stay_out_of_the_plugin_get_a_zip_that_can_be_added(home, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    package = importlib.import_module("package")
    monkeypatch.setattr(package, "ARCHIVE", tmp_path / "metaearth.zip")
    (written,) = package.build_models()
    assert written.name == "metaearth-mm-lite.zip"
    outside = "resources/models/metaearth-mm-lite/model.safetensors"
    assert outside not in package.packaged_files() and "resources/models/metaearth-mm-lite/config.json" in (
        package.packaged_files())
    embedded = find_any_bundle("metaearth-mm-lite")
    monkeypatch.setattr(bundle_module, "EMBEDDED", tmp_path / "as in the plugin")
    added = add_model(str(written), hashlib.sha256(embedded.weights.read_bytes()).hexdigest())
    assert added.config.id == "metaearth-mm-lite" and added.folder.is_relative_to(tmp_path / "home")
