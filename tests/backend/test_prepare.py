"""Training sets: what is cut, where it goes, and that an interrupted run is finished."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from backend.__main__ import main
from backend.errors import Cancelled, InputError, PlanError
from backend.raster.grid import Region
from backend.training import prepare as prepare_module
from backend.training.chips import SPLITS, ChipSet
from backend.training.places import Cells, split_of, with_neighbours
from backend.training.prepare import Preparation, cut_shard, prepare, unfit


def keep_on():
    """Nobody cancels."""


def silent(done, total, message):
    """Nobody looks."""


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Shards are cut here, so that the tests need not start processes; one test does."""

    def cut(missing, imagery, max_cloud, workers, check):
        for path, candidates in missing:
            check()
            cut_shard(path, candidates, dict(enumerate(imagery)), max_cloud)
            yield len(candidates)

    monkeypatch.setattr(prepare_module, "_cut", cut)


def chips_of(folder):
    return {split: ChipSet(Path(folder), split) for split in SPLITS}


@pytest.fixture
def scene(make_raster):
    """A scene of 12 x 16 chips of 16 pixels, whose pixel values tell their place."""
    rows, cols = np.mgrid[:192, :256]
    values = np.stack([rows, cols, (rows * 7 + cols * 3) % 256])
    return make_raster(values=values)


def wanted(source, tmp_path, **fields):
    return Preparation((str(source),), str(tmp_path / "set"), **{"chip": 16, "halvings": 0, **fields})


ORPHANS = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from backend.training.prepare import end_with_parent
if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, get_context("spawn"), end_with_parent)
    print(*{pool.submit(os.getpid).result() for _ in range(9)}, flush=True)
    os._exit(0)
"""


def is_running(pid):
    """Whether a process is there and no zombie: not every PID 1 buries those that lost their parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_processes_that_cut_end_with_the_one_that_started_them(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    told = subprocess.run([sys.executable, str(tmp_path / "orphans.py")], stdout=subprocess.PIPE, check=True, text=True,
                          env={**os.environ, "PYTHONPATH": os.getcwd()}).stdout
    end = time.monotonic() + 60
    while any(is_running(pid) for pid in told.split()):
        assert told.split() and time.monotonic() < end
        time.sleep(0.1)


def test_what_a_killed_process_left_is_nothing_of_the_set(scene, tmp_path):
    prepare(wanted(scene, tmp_path, cell_km=1000.0), 1, silent, keep_on)
    index = next((tmp_path / "set").glob("*/*.csv"))
    for end in (".csv", ".json", ".tar"):
        index.with_name(f"{index.stem}.host-1.part{end}").touch()
    before = len(ChipSet(tmp_path / "set", index.parent.name))
    assert sum(prepare(wanted(scene, tmp_path, cell_km=1000.0), 1, silent, keep_on)["chips"].values()) == before
    assert not list((tmp_path / "set").rglob("*.part*"))


@pytest.mark.filterwarnings("ignore")
def test_chips_that_reach_off_the_earth_are_left_out(make_raster, tmp_path):
    """The corners of a map of the world in Robinson's projection show nothing."""
    world = make_raster(height=160, width=320, crs="ESRI:54030", transform=Affine(1e5, 0, -16e6, 0, -1e5, 8e6))
    facts = prepare(wanted(world, tmp_path, cell_km=2000.0, max_cloud=1.0), 1, silent, keep_on)
    assert 0 < sum(facts["chips"].values()) < 200


def test_chips_are_the_pixels_of_their_place_without_overlap(scene, tmp_path):
    prepare(wanted(scene, tmp_path, cell_km=1000.0), 1, silent, keep_on)
    found = next(chips for chips in chips_of(tmp_path / "set").values() if len(chips))
    with rasterio.open(scene) as dataset:
        whole, transform = dataset.read().transpose(1, 2, 0), dataset.transform
    seen = np.zeros((192, 256), int)
    for number in range(len(found)):
        facts = found.facts(number)
        top, left = facts["window"]
        np.testing.assert_array_equal(found.read(number), whole[top:top + 16, left:left + 16])
        seen[top:top + 16, left:left + 16] += 1
        assert Affine(*facts["transform"]) == transform @ Affine.translation(left, top)
    assert (seen == 1).all() and len(found) == 12 * 16


def test_every_chip_tells_its_resolution_place_source_and_licence(scene, tmp_path):
    prepare(wanted(scene, tmp_path, cell_km=1000.0, licence="CC0"), 1, silent, keep_on)
    record = next(chips for chips in chips_of(tmp_path / "set").values() if len(chips)).records[0]
    assert record.gsd_m == 10 and record.licence == "CC0" and record.source == Path(scene).parent.name
    assert 14.9 < record.longitude < 15.1 and 45 < record.latitude < 45.3


def test_halvings_are_area_averages_at_twice_the_metres(scene, tmp_path):
    prepare(wanted(scene, tmp_path, cell_km=1000.0, halvings=2), 1, silent, keep_on)
    chips = next(chips for chips in chips_of(tmp_path / "set").values() if len(chips))
    assert {r.gsd_m: sum(s.gsd_m == r.gsd_m for s in chips.records) for r in chips.records} == {
        10.0: 192, 20.0: 48, 40.0: 12}
    with rasterio.open(scene) as dataset:
        whole = dataset.read().transpose(1, 2, 0).astype(float)
    number = next(i for i, r in enumerate(chips.records) if r.gsd_m == 40)
    np.testing.assert_allclose(chips.read(number)[0, 0], whole[:4, :4].mean(axis=(0, 1)), atol=0.51)


@pytest.mark.parametrize("gsd", [15.0, 30.0])
def test_given_resolutions_are_met_whole_factor_or_not(scene, tmp_path, gsd):
    prepare(wanted(scene, tmp_path, cell_km=1000.0, gsd_m=(gsd,)), 1, silent, keep_on)
    chips = next(chips for chips in chips_of(tmp_path / "set").values() if len(chips))
    assert {r.gsd_m for r in chips.records} == {gsd}
    assert len(chips) == int(192 * 10 / gsd) // 16 * (int(256 * 10 / gsd) // 16)


def test_a_resolution_finer_than_the_imagery_is_refused_with_a_reason(scene, tmp_path):
    with pytest.raises(InputError, match="No training chip can be cut"):
        prepare(wanted(scene, tmp_path, gsd_m=(4.0,)), 1, silent, keep_on)


def test_neighbours_are_never_in_different_splits(make_raster, tmp_path):
    rng = np.random.default_rng(0)
    source = make_raster(values=rng.integers(0, 256, (3, 640, 640)))
    told = prepare(wanted(source, tmp_path, cell_km=1.0, halvings=1), 1, silent, keep_on)
    boxes = {
        split: [(*(np.array(facts["window"]) * record.gsd_m).tolist(), record.gsd_m * 16)
                for facts, record in zip(chips.all_facts(), chips.records)]
        for split, chips in chips_of(tmp_path / "set").items()
    }
    assert all(boxes.values()) and told["dropped"]["between splits"] > 0
    for one, other in combinations(SPLITS, 2):
        for top, left, side in boxes[one]:
            for top2, left2, side2 in boxes[other]:
                down = max(top, top2) - min(top + side, top2 + side2)
                gap = max(down, max(left, left2) - min(left + side, left2 + side2))
                assert gap > 0, "a chip touches one of another split"


def test_a_place_at_two_dates_and_two_sensors_is_in_one_split(make_raster, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name, side in (("a.tif", 10), ("b.tif", 10), ("c.tif", 5)):
        values = rng.integers(0, 256, (3, 2400 // side, 2400 // side))
        make_raster(f"in/{name}", values=values, transform=Affine(side, 0, 500_000, 0, -side, 5_000_000))
    prepare(wanted(tmp_path / "in", tmp_path, cell_km=0.9), 1, silent, keep_on)
    places = {s: {(round(r.longitude, 4), round(r.latitude, 4)) for r in c.records} for s, c in
              chips_of(tmp_path / "set").items()}
    assert not (places["train"] & places["test"] or places["train"] & places["validation"])
    assert sum(map(len, places.values())) > 50


def test_pictures_without_place_are_split_by_name(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"picture_{number}.png")
    prepare(wanted(folder, tmp_path, source_resolution=0.3), 1, silent, keep_on)
    for split, chips in chips_of(tmp_path / "set").items():
        assert all(split_of(Path(chips.facts(i)["file"]).stem) == split for i in range(len(chips)))
        assert all(r.gsd_m == 0.3 and r.longitude is None for r in chips.records)
    assert sum(map(len, chips_of(tmp_path / "set").values())) == 40
    assert "split by their names" in (tmp_path / "set" / "README.md").read_text()


def test_pictures_without_place_of_two_dates_are_in_one_split(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(12):
        for year in (2019, 2021):
            picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
            picture.save(tmp_path / "in" / f"farm{number}_{year}.png")
    prepare(wanted(tmp_path / "in", tmp_path, source_resolution=0.3), 1, silent, keep_on)
    names = [{c.facts(i)["file"][:-9] for i in range(len(c))} for c in chips_of(tmp_path / "set").values()]
    assert sum(map(len, names)) == 12 and len(set.union(*names)) == 12


def test_pictures_without_any_resolution_are_skipped_with_a_reason(scene, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(scene, tmp_path / "in")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "in" / "plain.png")
    facts = prepare(wanted(tmp_path / "in", tmp_path, cell_km=1000.0), 1, silent, keep_on)
    (path, reason), = facts["settings"]["skipped"].items()
    assert path.endswith("plain.png") and "metres per pixel are unknown" in reason


def test_16_bit_imagery_is_stretched_over_the_whole_layer(make_raster, tmp_path):
    source = make_raster(height=96, width=96, dtype="uint16")
    prepare(wanted(source, tmp_path, cell_km=1000.0), 1, silent, keep_on)
    chips = next(chips for chips in chips_of(tmp_path / "set").values() if len(chips))
    values = np.concatenate([chips.read(i).ravel() for i in range(len(chips))])
    assert values.min() == 0 and values.max() == 255 and 80 < values.mean() < 180


def test_a_single_band_becomes_grey(make_raster, tmp_path):
    source = make_raster(bands=1, height=32, width=32)
    prepare(wanted(source, tmp_path, cell_km=1000.0), 1, silent, keep_on)
    chips = next(chips for chips in chips_of(tmp_path / "set").values() if len(chips))
    pixels = chips.read(0)
    assert pixels.shape == (16, 16, 3) and (pixels[..., 0] == pixels[..., 2]).all()


def test_clouds_holes_and_blanks_are_dropped():
    rng = np.random.default_rng(0)
    ground = rng.integers(40, 120, (16, 16, 3), np.uint8)
    cloudy = ground.copy()
    cloudy[:12] = rng.integers(230, 250, (12, 16, 1), np.uint8)
    valid = np.ones((16, 16), bool)
    holed = valid.copy()
    holed[3, 3] = False
    assert unfit(ground, valid, 0.5) is None
    assert unfit(cloudy, valid, 0.5) == "cloud" and unfit(cloudy, valid, 1.0) is None
    assert unfit(ground, holed, 0.5) == "nodata"
    assert unfit(np.full((16, 16, 3), 90, np.uint8), valid, 0.5) == "blank"


@pytest.mark.parametrize("value", [0, 255])
def test_the_collar_of_a_mosaic_is_no_imagery(value):
    pixels = np.random.default_rng(0).integers(40, 120, (16, 16, 3), np.uint8)
    valid = np.ones((16, 16), bool)
    pixels[:, :1] = value
    assert unfit(pixels, valid, 1.0) == "collar"
    pixels[4:, :1] = 80
    assert unfit(pixels, valid, 1.0) is None


def test_what_was_dropped_is_counted(make_raster, tmp_path):
    values = np.random.default_rng(0).integers(40, 120, (3, 48, 48))
    values[:, :16, :16] = 7
    values[:, 20, 20] = 0
    source = make_raster(values=values, nodata=0)
    facts = prepare(wanted(source, tmp_path, cell_km=1000.0), 1, silent, keep_on)
    assert facts["dropped"] == {"blank": 1, "nodata": 1, "between splits": 0} and sum(facts["chips"].values()) == 7


def test_shards_are_tars_that_any_tool_reads(scene, tmp_path):
    prepare(wanted(scene, tmp_path, cell_km=1000.0, shard=50), 1, silent, keep_on)
    chips = next(chips for chips in chips_of(tmp_path / "set").values() if len(chips))
    shards = sorted((tmp_path / "set").glob("*/*.tar"))
    assert len(shards) == 4
    with tarfile.open(shards[1]) as tar:
        names = tar.getnames()
        assert names[0].removesuffix(".png") == names[1].removesuffix(".json") and len(names) == 100
        picture = np.asarray(Image.open(io.BytesIO(tar.extractfile(names[0]).read())))
    np.testing.assert_array_equal(picture, chips.read(50))


def test_an_interrupted_run_is_finished_to_the_same_bytes(scene, tmp_path):
    settings = {"cell_km": 1000.0, "shard": 50}
    prepare(wanted(scene, tmp_path, **settings), 1, silent, keep_on)
    calls = []

    def stop_in_the_third_shard():
        calls.append((tmp_path / "again" / "set").exists() and list((tmp_path / "again" / "set").glob("*/*.csv")))
        if calls[-1] and len(calls[-1]) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        prepare(wanted(scene, tmp_path / "again", **settings), 1, silent, stop_in_the_third_shard)
    assert not (tmp_path / "again" / "set" / "dataset.json").exists()
    with pytest.raises(InputError, match="no prepared training set"):
        ChipSet(tmp_path / "again" / "set", "train")
    told = []
    prepare(wanted(scene, tmp_path / "again", **settings), 1, lambda d, t, m: told.append((d, t)), keep_on)
    assert told[1] == (100, 192), "finished shards are kept"
    for path in sorted((tmp_path / "set").glob("*/*.tar")):
        assert path.read_bytes() == (tmp_path / "again" / "set" / path.relative_to(tmp_path / "set")).read_bytes()


def test_another_set_in_the_folder_is_not_mixed_in(scene, tmp_path):
    prepare(wanted(scene, tmp_path, cell_km=1000.0), 1, silent, keep_on)
    with pytest.raises(PlanError, match="differing: chips, halvings"):
        prepare(wanted(scene, tmp_path, cell_km=1000.0, halvings=1), 1, silent, keep_on)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(PlanError, match="not empty"):
        prepare(Preparation((scene,), str(tmp_path / "mine"), chip=16), 1, silent, keep_on)


def test_statistics_a_contact_sheet_and_a_card_are_written(scene, tmp_path):
    facts = prepare(wanted(scene, tmp_path, cell_km=1000.0, halvings=1, licence="CC BY 4.0"), 1, silent, keep_on)
    assert json.loads((tmp_path / "set" / "dataset.json").read_text()) == json.loads(json.dumps(facts))
    card = (tmp_path / "set" / "README.md").read_text()
    assert "CC BY 4.0" in card and "10: 192, 20: 48" in card
    if facts["chips"]["train"]:
        assert Image.open(tmp_path / "set" / "contact_sheet.jpg").size[0] > 500


def test_the_command_line_cuts_with_processes_of_its_own(scene, tmp_path, monkeypatch, capfd):
    monkeypatch.undo()
    status = main(["prepare", str(scene), "--output", str(tmp_path / "set"), "--chip", "32", "--cell-km", "1000",
                   "--halvings", "1", "--workers", "1"])
    assert status == 0 and "| split | chips |" in capfd.readouterr().out
    assert sum(map(len, chips_of(tmp_path / "set").values())) == 48 + 12


def test_a_missing_source_is_told(tmp_path, capfd):
    assert main(["prepare", str(tmp_path / "nothing"), "--output", str(tmp_path / "set")]) == 1
    assert "There is no file or folder" in capfd.readouterr().err


def test_places_are_split_eight_to_one_to_one():
    drawn = [split_of(f"place {n}") for n in range(5000)]
    assert [round(drawn.count(split) / 5000, 2) for split in SPLITS] == [
        pytest.approx(0.8, abs=0.02), pytest.approx(0.1, abs=0.02), pytest.approx(0.1, abs=0.02)]


@given(st.floats(-179.9, 179.9), st.floats(-89, 89), st.floats(0.001, 0.2), st.floats(1000, 200_000))
def test_a_box_touches_the_cells_of_all_its_corners(west, south, size, side_m):
    cells = Cells(side_m)
    touched = cells.touched((west, south, west + size, south + size))
    for corner in ((west, south), (west + size, south), (west, south + size), (west + size, south + size)):
        assert cells.touched((*corner, *corner)) <= touched


def test_cells_meet_across_the_antimeridian():
    cells = Cells(50_000)
    east, west = cells.touched((179.9, 10, 180.1, 10.01)), cells.touched((-180, 10, -179.9, 10.01))
    assert east & west


def test_the_neighbourhood_of_a_chip_is_three_chips_wide():
    assert with_neighbours(Region(16, 32, 32, 48)) == Region(0, 16, 48, 64)
