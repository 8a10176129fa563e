"""Writing: types, nodata, mosaics and finished files."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from backend.errors import DiskFullError, OutputError
from backend.files import writing
from backend.raster.grid import Grid, Region
from backend.raster.output import colour_interpretation, to_type, valid_block, write_block, write_cog, write_mosaic
from backend.raster.pixels import Pixels

GRID = Grid(300, 400, Affine(2.5, 0, 500_000, 0, -2.5, 5_000_000), CRS.from_epsg(32633), 2.5)


RGB, GREY = (list(enumerate(colour_interpretation(bands, False), start=1)) for bands in (3, 1))


def random_pixels(region, bands=3):
    rng = np.random.default_rng(region.top * 1000 + region.left)
    values = rng.uniform(1, 255, (bands, region.height, region.width)).astype(np.float32)
    return Pixels(values, rng.random((region.height, region.width)) > 0.1)


def test_values_are_rounded_and_clipped():
    values = np.array([[[-3.0, 0.4, 0.6, 254.6, 300.0]]], np.float32)
    typed = to_type(values, np.ones((1, 5), bool), np.dtype("uint8"), None)
    assert typed.ravel().tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize(("nodata", "expected"), [(0, [1, 0]), (255, [0, 255])])
def test_no_valid_pixel_looks_like_a_hole(nodata, expected):
    values = np.array([[[0.0, 77.0]]], np.float32)
    typed = to_type(values, np.array([[True, False]]), np.dtype("uint8"), nodata)
    assert typed.ravel().tolist() == expected


def test_a_mosaic_of_blocks_becomes_one_finished_file(tmp_path):
    regions = [Region(0, 0, 200, 256), Region(0, 256, 200, 400), Region(200, 0, 300, 256), Region(200, 256, 300, 400)]
    blocks, truth = [], np.zeros((3, 300, 400), np.uint8)
    for number, region in enumerate(regions):
        pixels = random_pixels(region)
        write_block(tmp_path / f"{number}.tif", pixels, GRID.crop(region), np.dtype("uint8"), 0, False)
        blocks.append((tmp_path / f"{number}.tif", region))
        rows, cols = region.slices()
        truth[:, rows, cols] = to_type(pixels.values, pixels.valid, np.dtype("uint8"), 0)
    asked = Region(10, 20, 290, 380)
    write_mosaic(
        tmp_path / "m.vrt", blocks, asked, GRID, np.dtype("uint8"), 0, RGB, {"A": "b & <c>"}
    )
    write_cog(tmp_path / "m.vrt", tmp_path / "out.tif", np.dtype("uint8"))
    with rasterio.open(tmp_path / "out.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), truth[:, 10:290, 20:380])
        assert dataset.transform == GRID.crop(asked).transform
        assert dataset.crs.to_epsg() == 32633 and dataset.nodata == 0 and dataset.tags()["A"] == "b & <c>"
        assert dataset.profile["tiled"] and dataset.profile["compress"] == "deflate"
        assert [c.name for c in dataset.colorinterp] == ["red", "green", "blue"]


def test_large_files_have_overviews(tmp_path):
    region = Region(0, 0, 1100, 1200)
    grid = Grid(1100, 1200, GRID.transform, GRID.crs, 2.5)
    write_block(tmp_path / "b.tif", random_pixels(region, 1), grid, np.dtype("float32"), float("nan"), False)
    write_mosaic(
        tmp_path / "m.vrt",
        [(tmp_path / "b.tif", region)],
        region,
        grid,
        np.dtype("float32"),
        float("nan"),
        GREY,
        {},
    )
    write_cog(tmp_path / "m.vrt", tmp_path / "out.tif", np.dtype("float32"))
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.overviews(1)
        assert np.isnan(dataset.nodata) and dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_a_full_disk_is_told_and_leaves_nothing_that_looks_finished(tiny_disk):
    region = Region(0, 0, 1024, 1024)
    grid = Grid(1024, 1024, GRID.transform, GRID.crs, 2.5)
    with pytest.raises(DiskFullError, match="disk is full while writing b.tif"):
        write_block(tiny_disk / "b.tif", random_pixels(region), grid, np.dtype("uint8"), 0, False)
    assert not (tiny_disk / "b.tif").exists()


def test_a_full_disk_while_finishing_is_told(tiny_disk, tmp_path):
    region = Region(0, 0, 1024, 1024)
    grid = Grid(1024, 1024, GRID.transform, GRID.crs, 2.5)
    write_block(tmp_path / "b.tif", random_pixels(region), grid, np.dtype("uint8"), 0, False)
    mosaic = tiny_disk / "m.vrt"
    (tiny_disk / "b.tif").symlink_to(tmp_path / "b.tif")
    write_mosaic(
        mosaic, [(tiny_disk / "b.tif", region)], region, grid, np.dtype("uint8"), 0, RGB, {}
    )
    with pytest.raises(DiskFullError, match=r"disk is full while writing out\.tif \(up to [23] MB are missing\)"):
        write_cog(mosaic, tiny_disk / "out.tif", np.dtype("uint8"))
    assert sorted(path.name for path in tiny_disk.iterdir()) == ["b.tif", "m.vrt"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"), writing(tmp_path / "file" / "out.tif"):
        (tmp_path / "file" / "sub").mkdir()


def test_a_damaged_overview_of_a_block_is_of_no_consequence(tmp_path):
    """Of a block, only the pixels are checked; a mosaic of one block shows its overviews as its own."""
    region, block = Region(0, 0, 600, 600), tmp_path / "b.tif"
    write_block(block, random_pixels(region), GRID.crop(region), np.dtype("uint8"), 0, False)
    whole = block.read_bytes()

    def damages_an_overview_alone(at):
        block.write_bytes(whole[:at] + bytes(255 - n for n in whole[at:at + 8]) + whole[at + 8:])
        try:
            with rasterio.open(block, overview_level=0) as dataset:
                dataset.read()
            return False
        except rasterio.errors.RasterioError:
            return valid_block(block, {}, GRID.crop(region))

    assert any(map(damages_an_overview_alone, range(len(whole) - 8, 0, -4001)))
    write_mosaic(tmp_path / "m.vrt", [(block, region)], region, GRID, np.dtype("uint8"), 0, RGB, {})
    write_cog(tmp_path / "m.vrt", tmp_path / "out.tif", np.dtype("uint8"))
    with rasterio.open(tmp_path / "out.tif", overview_level=0) as dataset:
        assert dataset.read().any()


@pytest.mark.slow
def test_results_beyond_4_gb_are_bigtiff(tmp_path):
    side, block = 37_000, 18_500
    grid = Grid(side, side, GRID.transform, GRID.crs, 2.5)
    region = Region(0, 0, side, side)
    pixels = Pixels(np.full((1, block, block), 7, np.float32), np.ones((block, block), bool))
    write_block(tmp_path / "b.tif", pixels, grid.crop(Region(0, 0, block, block)), np.dtype("uint8"), None, False)
    places = [Region(r, c, r + block, c + block) for r in (0, block) for c in (0, block)]
    blocks = [(tmp_path / "b.tif", place) for place in places]
    colours = RGB
    write_mosaic(tmp_path / "m.vrt", blocks, region, grid, np.dtype("uint8"), None, colours[:1] * 3, {})
    text = (tmp_path / "m.vrt").read_text()
    for band in (2, 3):  # three bands of the one block
        text = text.replace(f"<SourceBand>{band}<", "<SourceBand>1<")
    (tmp_path / "m.vrt").write_text(text)
    write_cog(tmp_path / "m.vrt", tmp_path / "out.tif", np.dtype("uint8"))
    assert (tmp_path / "out.tif").read_bytes()[:4] == b"II+\0"
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.count * dataset.width * dataset.height > 4e9
        assert (dataset.read(3, window=((side - 10, side), (side - 10, side))) == 7).all()
