"""Classifiers from scratch, and whether generated images help them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.errors import InputError
from backend.evaluation.classification import LabelledImages, Training, read_images, right_answers, trained, turned
from backend.evaluation.classifiers import ARCHITECTURES
from backend.evaluation.protocols.data_engine import DataEngineSettings, data_engine, split_chips
from backend.progress import go_on, silent


def striped(n, size, seed):
    """Two classes that nobody can confuse: fine noise and broad squares."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    fine = rng.integers(0, 255, (n, 3, size, size))
    broad = rng.integers(0, 255, (n, 3, 2, 2)).repeat(size // 2, axis=2).repeat(size // 2, axis=3)
    return LabelledImages(np.where(labels[:, None, None, None], fine, broad).astype(np.uint8), labels)


@pytest.fixture
def classes(tmp_path):
    """A folder of two classes of eight PNG of 64 pixels."""
    for name, images in zip(("calm", "rough"), (striped(16, 64, 0).images[::2], striped(16, 64, 0).images[1::2])):
        (tmp_path / "chips" / name).mkdir(parents=True)
        for k, image in enumerate(images):
            Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "chips" / name / f"{k}.png")
    return tmp_path / "chips"


@pytest.mark.parametrize("architecture", [
    pytest.param(name, marks=pytest.mark.slow) if name.startswith("vit") else name for name in ARCHITECTURES])
def test_every_classifier_learns_what_is_easy(architecture):
    training = Training(steps=30 if architecture == "vit-fine" else 50, batch=12)
    right = right_answers(architecture, striped(40, 32, 0), striped(40, 32, 1), training, 0, go_on)
    assert right.shape == (40,) and right.mean() >= 0.9


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_classifiers_are_small_and_give_one_value_a_class(architecture):
    network = ARCHITECTURES[architecture](7, 112)
    assert network(torch.zeros(2, 3, 112, 112)).shape == (2, 7)
    assert 2e5 < sum(p.numel() for p in network.parameters()) < 3e6


def test_the_two_vit_have_7_and_14_patches_a_side():
    counts = [ARCHITECTURES[name](7, 112).place.shape[1] for name in ("vit-coarse", "vit-fine")]
    assert counts == [49, 196]


def test_training_repeats_by_seed():
    given, training = striped(20, 32, 0), Training(steps=3, batch=8)
    one, again, other = (trained("resnet", 2, given, training, seed, go_on).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_turned_images_have_the_same_pixels():
    images = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).float()
    out = turned(images, np.random.default_rng(1))
    assert torch.equal(out.flatten(2).sort()[0], images.flatten(2).sort()[0]) and not torch.equal(out, images)


def test_a_quarter_of_each_class_is_held_out_and_the_split_repeats(classes):
    files = sorted(p.relative_to(classes) for p in classes.rglob("*.png"))
    training, test = split_chips(files, 8, 3)
    assert (len(training), len(test)) == (12, 4) and not set(training) & set(test)
    assert {f.parent.name for f in test} == {"calm", "rough"}
    assert split_chips(files, 8, 3) == (training, test) != split_chips(files, 8, 4)


def test_what_is_held_out_has_no_neighbours_among_the_rest():
    """Those that follow each other by name, 9 before 10, may be neighbours on the ground."""
    files = [Path("calm") / f"calm{n}.png" for n in range(100)]
    for seed in range(5):
        training, test = (sorted(int(f.stem[4:]) for f in part) for part in split_chips(files, 100, seed))
        assert (len(training), len(test)) == (65, 25)
        apart = [min(abs(a - b), 100 - abs(a - b)) for a in training for b in test]
        assert min(apart) == 6


def test_four_divisions_test_each_chip_once():
    files = [Path(name) / f"{n}.png" for name in ("calm", "rough") for n in range(32)]
    tested = [file for number in range(4) for file in split_chips(files, 32, 3, number, 4)[1]]
    assert sorted(tested) == sorted(files)


def test_images_are_read_with_the_number_of_their_class(classes):
    files = sorted(p.relative_to(classes) for p in classes.rglob("0.png"))
    found = read_images(classes, files, ["calm", "rough"], 32)
    assert found.images.shape == (2, 3, 32, 32) and list(found.labels) == [0, 1]
    assert found.images[1].std() != found.images[0].std()


def test_the_protocol_generates_from_training_images_only_and_ends_in_a_table(classes, small_model, tmp_path):
    settings = DataEngineSettings(
        classes, tmp_path / "out", str(small_model.folder), variants=2, source_resolution=0.3, seeds=2, steps=6,
        size=32, architectures=("resnet", "vit-coarse"), device="cpu",
    )
    table = data_engine(settings, silent, go_on)
    assert [r["classifier"] for r in table.rows] == ["resnet", "vit-coarse", "all"]
    written = json.loads((tmp_path / "out" / "table.json").read_text())
    assert written["training images"] == 12 and written["generated"] == 24 and written["test images"] == 4
    for row in written["rows"]:
        found = row["difference"]
        assert found["n"] == 4 and -1 <= found["low"] <= found["value"] <= found["high"] <= 1
    files = sorted(p.relative_to(classes) for p in classes.rglob("*.png"))
    _, test = split_chips(files, 150, 0)
    generated = {p.name.split("_v")[0] for p in (tmp_path / "out" / "generated" / "calm").glob("*.png")}
    assert len(generated) == 6 and not generated & {f.stem for f in test if f.parent.name == "calm"}
    assert (tmp_path / "out" / "variants.png").is_file()


def test_one_class_is_no_question(classes, tmp_path):
    with pytest.raises(InputError, match="at least two classes"):
        data_engine(DataEngineSettings(classes, tmp_path / "out", classes=("calm",)), silent, go_on)
