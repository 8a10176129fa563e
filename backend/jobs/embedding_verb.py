"""``embed``: plain values in, plain values out; see `backend.verbs`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

from backend.augmentation import find_chips
from backend.files import complete_file, to_disk, writing
from backend.jobs.checks import check_outputs
from backend.jobs.engines import open_scene_engine
from backend.jobs.scene_plan import SceneInput, check_modalities, check_resolution, lead_grid
from backend.jobs.scene_verbs import known_rasters
from backend.models.bundle import find_scene_bundle
from backend.progress import Check, Report
from backend.protocol import EMBED, FieldError, check_fields
from backend.raster import provenance
from backend.raster.grid import Grid, Region, crs_name
from backend.raster.pixels import Pixels
from backend.raster.source import GDAL_OPTIONS
from backend.scene.embedding import (
    ChipReading,
    TokenWindows,
    check_block,
    count_windows,
    embed_chips,
    strips,
    token_lattice,
)
from backend.scene.engine import SceneEngine
from backend.scene.modality import modality_as_known
from backend.scene.reading import ModalityRaster
from backend.scene.windows import Readers

Values = dict[str, Any]
GEOTIFF, NUMPY = (".tif", ".tiff"), ".npz"


def embed(values: Values, report: Report, check: Check) -> Values:
    """Write the scene tokens of rasters, or of labelled chips; how many features and places there are."""
    given = check_fields(EMBED.fields, values)
    inputs, output = known_rasters(given), Path(given["output"])
    if bool(inputs) == bool(given["chips"]):
        raise FieldError("Give either rasters of a scene, or a folder of labelled chips.")
    if output.suffix.lower() not in ((NUMPY,) if given["chips"] else (*GEOTIFF, NUMPY)):
        raise FieldError(f"Features: {output.name} must end in .npz" + ("." if given["chips"] else " or .tif."))
    config = find_scene_bundle(given["model"]).config
    known = [given["modality"]] if given["chips"] else [i.modality for i in inputs]
    warnings = check_modalities(config, known, known[:1])
    check_outputs([str(output)], [i.path for i in inputs])
    check_block(config, given["block"])
    engine = open_scene_engine(find_scene_bundle(given["model"]), given["device"], given["precision"])
    output.parent.mkdir(parents=True, exist_ok=True)
    told = _chips(engine, given, report, check) if given["chips"] else _raster(engine, given, inputs, report, check)
    text = f"{told['places']} places with {told['features']} features each in {output}"
    return {"output": str(output), "text": text, **told, "warnings": [*warnings, *told["warnings"]]}


def _chips(engine: SceneEngine, given: Values, report: Report, check: Check) -> Values:
    for name in ("extent", "resolution"):
        if given[name] is not None:
            raise FieldError(f"Labelled chips are taken whole, as they are: leave {name} empty.")
    data, output = Path(given["chips"]), Path(given["output"])
    reading = ChipReading(modality_as_known(given["modality"], engine.config), given["source_resolution"])
    found = embed_chips(engine, data, find_chips(data), reading, given["block"], report, check)
    _save(output, features=found.features, labels=found.labels, files=[f.as_posix() for f in found.files],
          classes=found.classes, model=engine.config.id, model_sha256=engine.sha256)
    ends = {found.pixel_sizes_m[0], found.pixel_sizes_m[-1]}
    warnings = [text for size in sorted(ends) for text in check_resolution(engine.config, [given["modality"]], size)]
    return {"features": found.features.shape[1], "places": len(found.files), "warnings": warnings}


def _raster(engine: SceneEngine, given: Values, inputs: tuple[SceneInput, ...], report: Report, check: Check) -> Values:
    grid = lead_grid(inputs, given["source_resolution"], given["resolution"])
    extent, p = given["extent"], engine.config.network.pixels_a_token
    asked = grid.region if extent is None else grid.region_of(extent)
    with ExitStack() as stack:
        readers = {
            i.modality: stack.enter_context(_opened(engine, i, grid, given["source_resolution"])) for i in inputs
        }
        scene = _Scene(engine, readers, grid, asked.scaled_down(p), given["block"])
        write = _write_geotiff if Path(given["output"]).suffix.lower() in GEOTIFF else _write_numpy
        write(Path(given["output"]), scene, _progress(scene, report, check))
    area = scene.area
    return {"features": engine.config.network.width, "places": area.height * area.width,
            "warnings": check_resolution(engine.config, [i.modality for i in inputs], grid.pixel_size_m)}


def _opened(engine: SceneEngine, given: SceneInput, grid: Grid, source_resolution: float | None) -> ModalityRaster:
    bands = None if given.bands is None else list(given.bands)
    modality = modality_as_known(given.modality, engine.config)
    return ModalityRaster(given.path, modality, bands, grid, source_resolution)


@dataclass(frozen=True)
class _Scene:
    """Open rasters on ``grid``, and the tokens asked for."""

    engine: SceneEngine
    rasters: dict[str, ModalityRaster]
    grid: Grid
    tokens: Region
    block: int | None

    @property
    def area(self) -> Grid:
        """The grid of the result."""
        return self.grid.zoom_out(self.engine.config.network.pixels_a_token).crop(self.tokens)

    @property
    def windows(self) -> TokenWindows:
        """What makes the tokens."""
        readers: Readers = {name: (raster.modality, raster.read) for name, raster in self.rasters.items()}
        lattice = token_lattice(self.engine.config)
        return TokenWindows(self.engine, readers, lattice, self.grid.pixel_size_m, self.block)

    def tags(self) -> dict[str, str]:
        """What the features are and were made of."""
        config = self.engine.config
        sources = ", ".join(f"{name}: {Path(raster.source.path).name}" for name, raster in self.rasters.items())
        block = self.block or config.network.inference_blocks
        return {
            "AREA_OR_POINT": "Area",
            "TIFFTAG_IMAGEDESCRIPTION": f"Scene tokens inferred by {config.id}; features, not a measurement.",
            "TIFFTAG_SOFTWARE": provenance.synthetic(config.id)["TIFFTAG_SOFTWARE"],
            "METAEARTH_FEATURES": f"inference block {block} of {config.network.inference_blocks}",
            "METAEARTH_MODEL": config.id,
            "METAEARTH_MODEL_SHA256": self.engine.sha256,
            "METAEARTH_SOURCE": sources,
            "METAEARTH_PIXEL_SIZE_M": f"{self.area.pixel_size_m:.10g}",
        }


def _progress(scene: _Scene, report: Report, check: Check) -> Callable[[], None]:
    """What runs after each window."""
    total, done = count_windows(scene.windows.lattice, scene.tokens), 0
    report(0, total, "embedding")

    def after_window() -> None:
        nonlocal done
        done += 1
        check()
        report(done, total, "embedding")

    return after_window


def _filled(pixels: Pixels) -> np.ndarray:
    return np.where(pixels.valid, pixels.values, np.float32(np.nan))


def _write_geotiff(path: Path, scene: _Scene, after_window: Callable[[], None]) -> None:
    """One band a feature, one pixel a token, NaN where nothing is known; written strip by strip, not compressed."""
    area, bands = scene.area, scene.engine.config.network.width
    needed = 4 * bands * area.height * area.width
    with complete_file(path) as partial, writing(path, needed):
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(
            partial, "w", driver="GTiff", height=area.height, width=area.width, count=bands, dtype="float32",
            crs=area.crs, transform=area.transform, nodata=float("nan"), interleave="band", bigtiff="if_safer",
        ) as dataset:  # fmt: skip
            dataset.update_tags(**scene.tags())
            for place, pixels in strips(scene.windows, scene.tokens, after_window):
                there = place.relative_to(scene.tokens)
                dataset.write(_filled(pixels), window=Window(there.left, there.top, there.width, there.height))
        to_disk(partial)


def _write_numpy(path: Path, scene: _Scene, after_window: Callable[[], None]) -> None:
    """features (rows, cols, features), NaN where nothing is known; transform and crs as GDAL's dataset has them."""
    made = [_filled(pixels) for _, pixels in strips(scene.windows, scene.tokens, after_window)]
    features, config = np.concatenate(made, axis=1).transpose(1, 2, 0), scene.engine.config
    area = scene.area
    _save(path, features=features, transform=list(area.transform)[:6], crs=crs_name(area.crs), model=config.id,
          model_sha256=scene.engine.sha256)


def _save(path: Path, **arrays: Any) -> None:
    whole = {name: np.asarray(values) for name, values in arrays.items()}
    with complete_file(path) as partial, writing(path, sum(a.nbytes for a in whole.values())):
        with partial.open("wb") as stream:  # a path would get another .npz where it ends in .NPZ
            np.savez_compressed(stream, allow_pickle=False, **whole)
        to_disk(partial)
