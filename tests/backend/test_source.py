"""Reading: masks of every kind, stretches, palettes, edges."""

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.shutil import copy

from backend.errors import InputError, MissingCrsError
from backend.raster.grid import Region
from backend.raster.holes import fill_holes
from backend.raster.pixels import Pixels, symmetric_indices
from backend.raster.source import RasterSource, resolution_without_crs
from backend.raster.stretch import Stretch


@given(st.integers(-300, 300), st.integers(1, 200), st.integers(1, 40))
def test_reflection_agrees_with_numpy(start, length, size):
    before, after = max(0, -start), max(0, start + length - size)
    expected = np.pad(np.arange(size), (before, after), mode="symmetric")[start + before : start + before + length]
    np.testing.assert_array_equal(symmetric_indices(start, start + length, size), expected)


def test_every_hole_of_a_crop_is_filled():
    """Also at the far corner: a value of 0 would be black in elevations, or in a stretch that begins above it."""
    valid = np.zeros((80, 80), bool)
    valid[:3, :3] = True
    filled = fill_holes(Pixels(np.where(valid, 1000.0, 0.0)[None].astype(np.float32), valid))
    assert filled.shape == (1, 80, 80) and filled.min() > 990


def test_a_resolution_for_pictures_without_place_leaves_others_alone(make_raster, tmp_path):
    picture = make_raster("picture.tif", crs=None, transform=Affine.scale(2, -2))
    assert resolution_without_crs(picture, 0.3) == 0.3 and resolution_without_crs(picture, None) is None
    assert resolution_without_crs(make_raster("placed.tif"), 0.3) is None


def test_a_stretch_is_of_the_file_at_whatever_resolution_it_is_read(make_raster):
    path = make_raster(dtype="uint16", height=64, width=64)
    with RasterSource(path) as native, RasterSource(path, resample_to_m=37.0) as coarse:
        assert coarse.stretch() == native.percentiles() != coarse.percentiles()


def test_a_copy_tells_the_stretch_of_its_layer(make_raster):
    path = make_raster(dtype="uint16")
    with rasterio.open(path, "r+") as copy:
        copy.update_tags(METAEARTH_STRETCH="1.5,20 nan,nan 3,40")
    with RasterSource(path, [3, 1]) as told, RasterSource(path) as one_value:
        assert told.stretch() == Stretch((3.0, 1.5), (40.0, 20.0))
        assert one_value.stretch() == one_value.percentiles()


def test_pixels_beyond_the_edge_are_reflections(make_raster):
    with RasterSource(make_raster()) as source:
        inside, wide = source.read(source.grid.region), source.read(Region(-3, -3, 23, 27))
    np.testing.assert_array_equal(wide.values, np.pad(inside.values, [(0, 0), (3, 3), (3, 3)], mode="symmetric"))


def holes(values):
    values = np.array(values, np.float32)
    values[:, 4:6, 4:6] = np.nan
    return values


def read_valid(path):
    with RasterSource(path) as source:
        return source, source.read(source.grid.region)


def expect_holes(valid):
    expected = np.ones_like(valid)
    expected[4:6, 4:6] = False
    np.testing.assert_array_equal(valid, expected)


@pytest.mark.parametrize("nodata", [None, math.nan])
def test_nan_is_a_hole_whether_declared_or_not(make_raster, nodata):
    values = holes(np.full((1, 12, 12), 7.0))
    source, pixels = read_valid(make_raster(values=values, dtype="float32", nodata=nodata))
    expect_holes(pixels.valid)
    assert math.isnan(source.nodata)


def test_a_nodata_value_is_a_hole(make_raster):
    values = np.where(np.isnan(holes(np.full((3, 12, 12), 7.0))), 0, 7)
    source, pixels = read_valid(make_raster(values=values, nodata=0))
    expect_holes(pixels.valid)
    assert source.nodata == 0 and not source.needs_alpha


def test_an_alpha_band_is_a_mask_and_no_colour(make_raster):
    values = np.full((4, 12, 12), 7.0)
    values[3] = np.where(np.isnan(holes(values)[3]), 0, 255)
    path = make_raster(values=values, photometric="rgb", alpha="yes")
    source, pixels = read_valid(path)
    expect_holes(pixels.valid)
    assert source.bands == [1, 2, 3] and source.needs_alpha


def test_a_fourth_band_that_is_not_alpha_is_left_out(make_raster):
    path = make_raster(bands=4)
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
    with RasterSource(path) as source:
        assert source.bands == [3, 2, 1]


def test_a_mask_file_is_a_mask(make_raster):
    path = make_raster(values=np.full((3, 12, 12), 7.0))
    with rasterio.open(path, "r+") as dataset:
        dataset.write_mask(~np.isnan(holes(np.ones((1, 12, 12)))[0]))
    source, pixels = read_valid(path)
    expect_holes(pixels.valid)
    assert source.needs_alpha


def test_a_palette_becomes_its_colours(make_raster):
    path = make_raster(values=np.array([[[0, 1], [1, 0]]]))
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (10, 20, 30, 255), 1: (200, 100, 50, 255)})
    source, pixels = read_valid(path)
    assert source.out_bands == 3
    assert pixels.values[:, 0].T.tolist() == [[10, 20, 30], [200, 100, 50]]


def test_eight_bit_data_are_not_stretched(make_raster):
    with RasterSource(make_raster()) as source:
        assert source.stretch() == Stretch((0.0,) * 3, (255.0,) * 3)


def test_the_stretch_of_16_bit_data_is_invertible(make_raster):
    with RasterSource(make_raster(dtype="uint16")) as source:
        stretch = source.stretch()
        values = source.read(source.grid.region).values
    low, high = (np.array(v)[:, None, None] for v in (stretch.low, stretch.high))
    inside = np.clip(values, low, high)
    np.testing.assert_allclose(stretch.invert(stretch.apply(values)), inside, rtol=1e-4, atol=1)
    assert all(h > lo for lo, h in zip(stretch.low, stretch.high))


def test_complex_data_are_refused(make_raster):
    path = make_raster(values=np.ones((1, 8, 8), np.complex64), dtype="complex64")
    with pytest.raises(InputError, match="complex numbers"):
        RasterSource(path)


def test_without_crs_the_resolution_must_be_given(make_raster):
    path = make_raster(crs=None)
    with pytest.raises(MissingCrsError, match="no coordinate reference system"):
        RasterSource(path)
    with RasterSource(path, pixel_size_m=3.0) as source:
        assert source.grid.pixel_size_m == 3.0


@pytest.mark.parametrize("content", [None, b"", b"no raster at all", b"II*\0broken"])
def test_files_that_are_no_rasters_are_refused(tmp_path, content):
    path = tmp_path / "x.tif"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"There is no file|cannot be read as a raster"):
        RasterSource(str(path))


def test_a_file_that_ends_early_is_told_with_the_place(make_raster, tmp_path):
    """The header is whole, pixels are missing: as of a download that broke off."""
    values = np.random.default_rng(0).integers(0, 255, (3, 600, 600))
    copy(make_raster(values=values), tmp_path / "whole.tif", driver="COG")
    whole = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    sentence = r"cut.tif is damaged: it cannot be read at rows 500 to 600, columns 0 to 600"
    with RasterSource(str(tmp_path / "cut.tif")) as source, pytest.raises(InputError, match=sentence):
        source.read(Region(500, 0, 600, 600))


def test_a_file_of_several_rasters_tells_how_to_get_at_one(make_raster, tmp_path):
    path = tmp_path / "two.gpkg"
    with rasterio.open(make_raster()) as one:
        profile = {**one.meta, "driver": "GPKG"}
        for table, append in (("one", "NO"), ("two", "YES")):
            with rasterio.open(path, "w", RASTER_TABLE=table, APPEND_SUBDATASET=append, **profile) as dataset:
                dataset.write(one.read())
    with pytest.raises(InputError, match=r"holds several rasters.*gdal_translate 'GPKG:.*two.gpkg:one' one.tif"):
        RasterSource(str(path))


def test_bands_that_are_not_there_are_refused(make_raster):
    with pytest.raises(InputError, match="Band 9 was asked for"):
        RasterSource(make_raster(), bands=[1, 2, 9])


def test_a_layer_with_no_valid_pixel_has_no_stretch(make_raster):
    path = make_raster(values=np.zeros((1, 8, 8)), dtype="uint16", nodata=0)
    with RasterSource(path) as source, pytest.raises(InputError, match="no valid pixel"):
        source.stretch()


def test_georeferencing_beside_the_file_is_read(tmp_path):
    path = tmp_path / "plain.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    path.with_suffix(".pgw").write_text("10\n0\n0\n-10\n500005\n4999995\n")
    with RasterSource(str(path), pixel_size_m=10.0) as source:
        assert source.grid.transform == Affine(10, 0, 500_000, 0, -10, 5_000_000)
        assert len(source.files()) == 2


def test_a_mask_beside_the_file_is_read(make_raster):
    path = make_raster(values=np.full((3, 12, 12), 7.0))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(~np.isnan(holes(np.ones((1, 12, 12)))[0]))
    assert Path(path + ".msk").exists()
    expect_holes(read_valid(path)[1].valid)


def test_a_picture_without_place_lies_where_qgis_shows_it(tmp_path):
    """Its rows run down: QGIS counts them from zero to the negative."""
    path = tmp_path / "plain.png"
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(path)
    with RasterSource(str(path), pixel_size_m=0.3) as source:
        assert source.grid.bounds() == (0, -8, 12, 0) and source.grid.transform.e == -1


def separate(folder, *sources):
    """A virtual raster with each of some one-band rasters of 8 x 8 pixels as a band; (path, type, nodata)."""
    bands = "".join(
        f'''<VRTRasterBand dataType="{kind}" band="{number}">
        {"" if nodata is None else f"<NoDataValue>{nodata}</NoDataValue>"}
        <SimpleSource><SourceFilename>{path}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>'''
        for number, (path, kind, nodata) in enumerate(sources, start=1)
    )
    vrt = folder / "separate.vrt"
    vrt.write_text(f'''<VRTDataset rasterXSize="8" rasterYSize="8"><SRS>EPSG:32633</SRS>
        <GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>{bands}</VRTDataset>''')
    return str(vrt)


def test_a_hole_in_a_later_band_is_a_hole(make_raster, tmp_path):
    values = np.full((1, 8, 8), 9)
    values[:, :, 4:] = 0
    full, half = make_raster("full.tif", values=values + 1), make_raster("half.tif", values=values)
    vrt = separate(tmp_path, (full, "Byte", None), (half, "Byte", 0), (full, "Byte", None))
    with RasterSource(vrt) as source:
        assert source.nodata == 0
        np.testing.assert_array_equal(source.read(source.grid.region).valid, values[0] > 0)
    with pytest.raises(InputError, match="by different values"):
        RasterSource(vrt, resample_to_m=7.0)


def test_bands_of_different_types_are_refused(make_raster, tmp_path):
    byte, wide = make_raster("a.tif", values=np.ones((1, 8, 8))), make_raster("b.tif", bands=1, dtype="uint16")
    vrt = separate(tmp_path, (byte, "Byte", None), (wide, "UInt16", None), (byte, "Byte", None))
    with pytest.raises(InputError, match=r"different types \(uint8, uint16\)"):
        RasterSource(vrt)
    with RasterSource(vrt, bands=[2]) as source:
        assert source.dtype == np.uint16


def test_holes_of_a_palette_stay_holes_on_another_grid(make_raster):
    values = np.ones((1, 40, 40), np.uint8)
    values[:, :, 20:] = 3
    path = make_raster(values=values, nodata=3)
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.palette]
        dataset.write_colormap(1, {1: (10, 200, 30), 3: (255, 0, 255)})
    with RasterSource(path, resample_to_m=8.0) as source:
        pixels = source.read(source.grid.region)
    assert pixels.valid.mean() == 0.5 and (pixels.values[:, pixels.valid].T == (10, 200, 30)).all()


def test_overviews_beside_a_raster_are_no_change(make_raster):
    path = make_raster(height=600, width=600)
    with RasterSource(path) as source:
        before = source.fingerprint()
    make_raster("in.tif.ovr", height=300, width=300)
    with RasterSource(path) as source:
        assert path + ".ovr" in source.files()
        assert source.fingerprint() == before


@pytest.mark.parametrize(("east", "south"), [(1, 1), (-1, 1), (-1, -1)])
def test_rasters_whose_rows_go_north_show_their_place(make_raster, east, south):
    turned = make_raster("turned.tif", transform=Affine(10 * east, 0, 500_100, 0, 10 * south, 4_999_900))
    with RasterSource(turned) as source, RasterSource(make_raster()) as usual:
        assert source.shows_any_of(source.grid) and source.shows_any_of(usual.grid)


def test_resampling_makes_no_black_edges(make_raster):
    for factor in (0.8, 0.83, 1.3, 2.7):
        path = make_raster(values=np.full((1, 101, 99), 50.0), dtype="float32")
        with RasterSource(path, resample_to_m=10 * factor) as source:
            pixels = source.read(source.grid.region)
        assert pixels.valid.all()
        np.testing.assert_allclose(pixels.values, 50, atol=1e-3)


@pytest.mark.parametrize(("side", "resolution_m"), [(1500, 9.6), (1000, 6.4), (12, 9.6), (9, 6.0)])
def test_half_a_pixel_more_is_not_made_up(make_raster, side, resolution_m):
    """The size ends in a half: the centres of one more row would lie on the edge of the source, where it has none."""
    path = make_raster(values=np.full((1, side, side), 50), dtype="uint8")
    with RasterSource(path, resample_to_m=resolution_m) as source:
        assert source.grid.height == math.floor(side * 10 / resolution_m)
        assert (source.read(source.grid.region).values == 50).all()


def test_the_world_shows_every_place_and_a_far_one_shows_none(make_raster):
    """The bounds of the world do not exist in the projection of a place."""
    world = make_raster("world.tif", bands=1, height=90, width=180, crs="EPSG:4326",
                        transform=Affine(2, 0, -180, 0, -2, 90))
    far = make_raster("far.tif", bands=1, transform=Affine(10, 0, 500_000, 0, -10, 9_000_000))
    with RasterSource(make_raster()) as place, RasterSource(world) as everything, RasterSource(far) as elsewhere:
        assert everything.shows_any_of(place.grid) and place.shows_any_of(everything.grid)
        assert not elsewhere.shows_any_of(place.grid)


def test_a_stretch_is_read_once_as_long_as_the_file_stays(make_raster):
    path = make_raster(dtype="uint16")
    with RasterSource(path) as first, RasterSource(path) as second:
        assert first.stretch() is second.stretch()
    make_raster(dtype="uint16", height=40)
    with RasterSource(path) as changed:
        assert changed.stretch() == changed.percentiles()
