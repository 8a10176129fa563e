"""``python -m backend augment``: labelled chips in, several generated variants of each out, ready for training.

Each chip is averaged down by the model's scale, once or more, and generated again with several seeds (the "data engine"
of MetaEarth): the layout stays, so its label does, and the detail is new. Or it is translated into another modality and
back, where what that modality does not show is new [ours].
"""

from __future__ import annotations

import csv
import dataclasses
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from backend.cascade.engine import Sampling
from backend.cascade.picture import Manner, render_stages
from backend.digest import sha256_of
from backend.errors import InputError, OutputError, PlanError
from backend.files import complete_file, make_parent, to_disk, write_text, writing
from backend.jobs.engines import open_engine, open_scene_engine
from backend.jobs.scene_plan import check_modalities
from backend.models.bundle import find_bundle, find_scene_bundle
from backend.progress import Check, Report, watched
from backend.protocol import MAX_SEED
from backend.raster import provenance
from backend.raster.averaging import area_average
from backend.raster.grid import Region
from backend.raster.holes import fill_holes
from backend.raster.output import hole_marks, to_type, write_block
from backend.raster.pixels import Pixels
from backend.raster.source import RasterSource, resolution_without_crs
from backend.raster.stretch import even_stretch
from backend.scene.modality import modality_as_known
from backend.scene.picture import translate_picture

CHIPS = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
GEOTIFF = (".tif", ".tiff")
MANIFEST, SETTINGS = "manifest.csv", "augmentation.json"
COLUMNS = ("file", "class", "source", "variant", "seed", "stages", "through", "model", "model_sha256", "sha256")
LEAD = "rgb"
"""The modality of chips that go through another one."""


@dataclass(frozen=True)
class AugmentSettings:
    """What is made: ``variants`` of each chip under ``data``, averaged down and generated ``stages`` times.

    ``through``: a modality that chips are translated into and back from instead; ``model`` is then MetaEarth-MM's.
    ``source_resolution``: metres per pixel of chips without a CRS. ``only``: the chips to take, relative to ``data``.
    """

    data: Path
    output: Path
    model: str = "metaearth-lite"
    variants: int = 5
    stages: int = 1
    seed: int = 0
    source_resolution: float | None = None
    consistency: float = 1.0
    device: str = "auto"
    precision: str = "auto"
    only: tuple[Path, ...] | None = None
    through: str = ""


@dataclass(frozen=True)
class Variant:
    """One file to make; paths relative to the folders of chips and of results."""

    source: Path
    file: Path
    number: int
    seed: int


@dataclass(frozen=True)
class Maker:
    """A model at work: ``make`` gives the pixels of an open chip's variant, of a seed, on the chip's own grid."""

    model: str
    sha256: str
    sampling: Sampling
    make: Callable[[RasterSource, int, Check], Pixels]


def find_chips(data: Path) -> list[Path]:
    """Every chip in the subfolders of ``data``, relative to it, sorted; `InputError` if there is none."""
    found = sorted(p.relative_to(data) for p in data.rglob("*") if p.suffix.lower() in CHIPS and p.is_file())
    labelled = [p for p in found if len(p.parts) > 1]
    if not labelled:
        raise InputError(f"There is no chip in {data}: it must have one folder a class, of GeoTIFF, PNG or JPEG files.")
    return labelled


def variants_of(chips: list[Path], count: int, seed: int) -> Iterator[Variant]:
    """The files to make, chip by chip; a variant's seed follows from its chip's path: no two chips share one."""
    sharing = Counter(chip.with_suffix("") for chip in chips)
    for chip in chips:
        shared = sharing[chip.with_suffix("")] > 1  # a.png beside a.jpg
        name = chip.name.replace(".", "_") if shared else chip.stem
        suffix = ".tif" if chip.suffix.lower() in GEOTIFF else ".png"
        for number in range(1, count + 1):
            own = zlib.crc32(f"{chip.as_posix()}|{seed}|{number}".encode()) & MAX_SEED
            yield Variant(chip, chip.with_name(f"{name}_v{number}{suffix}"), number, own)


def augment(settings: AugmentSettings, report: Report, check: Check) -> Path:
    """Make what is not there yet, then write the manifest; its path."""
    if settings.data.resolve() in (settings.output.resolve(), *settings.output.resolve().parents):
        raise PlanError(f"{settings.output} lies among the chips: variants would become chips. Choose another folder.")
    maker = translator(settings) if settings.through else cascade(settings)
    chips = find_chips(settings.data) if settings.only is None else list(settings.only)
    wanted = list(variants_of(chips, settings.variants, settings.seed))
    _claim(settings, maker)
    missing = [v for v in wanted if not (settings.output / v.file).is_file()]
    for variant in watched(missing, "generating variants", report, check):
        make_variant(maker, settings, variant, check)
    return write_manifest(settings, maker, wanted)


def _claim(settings: AugmentSettings, maker: Maker) -> None:
    """Note what makes the folder's files; `OutputError` if those that are there were made otherwise."""
    path = settings.output / SETTINGS
    fields = {n: v for n, v in dataclasses.asdict(settings).items()
              if n not in ("output", "variants", "device", "precision", "only") and (v or n != "through")}
    fields |= {"data": str(settings.data.resolve()), "model": maker.model, "model_sha256": maker.sha256}
    if path.is_file() and (there := json.loads(path.read_text(encoding="utf-8"))) != fields:
        changed = ", ".join(sorted(n for n in {*fields, *there} if there.get(n) != fields.get(n)))
        raise OutputError(f"{settings.output} holds variants made with another {changed}. Choose another folder.")
    write_text(path, json.dumps(fields, indent=1) + "\n")


def cascade(settings: AugmentSettings) -> Maker:
    """Averages a chip down and generates it again."""
    engine = open_engine(find_bundle(settings.model), settings.device, settings.precision)

    def make(source: RasterSource, seed: int, check: Check) -> Pixels:
        grid, factor = source.grid, engine.config.network.scale**settings.stages
        covered = Region(0, 0, *(-(-n // factor) * factor for n in (grid.height, grid.width)))
        chip = _shown(source, covered)
        low = area_average(fill_holes(chip), factor)
        manner = Manner(seed, consistency=settings.consistency, stretch=source.stretch())
        everywhere = np.ones(low.shape[1:], bool)
        made = render_stages(engine, Pixels(low, everywhere), settings.stages, grid.pixel_size_m, manner, check)[-1]
        inside = grid.region.slices()
        return Pixels(np.ascontiguousarray(made[(slice(None), *inside)]), chip.valid[inside])

    return Maker(engine.config.id, engine.sha256, engine.sampling, make)


def translator(settings: AugmentSettings) -> Maker:
    """Translates an RGB chip into another modality, and that back into RGB."""
    if settings.through == LEAD:
        raise PlanError("Chips are RGB already: choose another modality for them to go through.")
    if settings.stages > 1:
        raise PlanError("Chips that go through another modality are not averaged down: leave stages at 1.")
    bundle = find_scene_bundle(settings.model)
    check_modalities(bundle.config, [LEAD], [settings.through])
    engine = open_scene_engine(bundle, settings.device, settings.precision)
    rgb, other = (modality_as_known(name, bundle.config) for name in (LEAD, settings.through))
    unit = even_stretch(rgb.low, rgb.high, rgb.band_count)

    def make(source: RasterSource, seed: int, check: Check) -> Pixels:
        chip, size_m = _shown(source, source.grid.region), source.grid.pixel_size_m
        if len(chip.values) != rgb.band_count:
            raise InputError(f"{Path(source.path).name} is no RGB picture, so it cannot go through {other.title}.")
        stretch, everywhere = source.stretch(), np.ones(chip.valid.shape, bool)
        shown = Pixels(unit.invert(stretch.apply(fill_holes(chip))), everywhere)
        seen = Pixels(translate_picture(engine, shown, rgb, other, size_m, seed, check), everywhere)
        back = translate_picture(engine, seen, other, rgb, size_m, seed, check)
        return Pixels(stretch.invert(unit.apply(back)), chip.valid)

    sampling = Sampling(bundle.config.profile.sampler, engine.steps)
    return Maker(bundle.config.id, engine.sha256, sampling, make)


def _shown(source: RasterSource, region: Region) -> Pixels:
    chip = source.read(region)
    if not chip.valid.any():
        raise InputError(f"{source.path} has no valid pixel: all are nodata.")
    return chip


def make_variant(maker: Maker, settings: AugmentSettings, variant: Variant, check: Check) -> None:
    """Make a variant, and write it with the chip's own grid, type and holes."""
    path = settings.data / variant.source
    with RasterSource(str(path), None, resolution_without_crs(path, settings.source_resolution)) as source:
        pixels = maker.make(source, variant.seed, check)
        _write(settings.output / variant.file, pixels, source, _tags(maker, settings, variant))


def _tags(maker: Maker, settings: AugmentSettings, variant: Variant) -> dict[str, str]:
    sampling, way = maker.sampling, {"METAEARTH_STAGE": f"{settings.stages} of {settings.stages}"}
    if settings.through:
        way = {"METAEARTH_THROUGH": settings.through}
    return {
        **provenance.synthetic(maker.model),
        "METAEARTH_SEED": str(variant.seed),
        **way,
        **provenance.made_by(maker.model, maker.sha256, sampling.sampler, sampling.steps, variant.source.as_posix()),
    }


def _write(path: Path, pixels: Pixels, source: RasterSource, tags: dict[str, str]) -> None:
    make_parent(path)
    if path.suffix == ".tif":
        marks = hole_marks(source.dtype, source.nodata, source.needs_alpha)
        write_block(path, pixels, source.grid, source.dtype, *marks, tags)
        return
    if source.dtype != np.uint8:
        raise InputError(f"{source.path} has {source.dtype} pixels; PNG and JPEG chips must have 8 bits.")
    typed = to_type(pixels.values, pixels.valid, source.dtype, None)
    if source.needs_alpha:
        typed = np.concatenate([typed, np.where(pixels.valid, 255, 0).astype(np.uint8)[None]])
    picture = Image.fromarray(typed[0] if len(typed) == 1 else np.ascontiguousarray(typed.transpose(1, 2, 0)))
    with complete_file(path) as partial, writing(path, typed.nbytes):
        picture.save(partial, pnginfo=provenance.png_text(tags))
        to_disk(partial)


def write_manifest(settings: AugmentSettings, maker: Maker, wanted: list[Variant]) -> Path:
    """manifest.csv: one line a variant, with the SHA-256 of the file as it lies there."""
    path = settings.output / MANIFEST
    with complete_file(path) as partial, writing(path), partial.open("w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        lines.writerow(COLUMNS)
        for v in wanted:
            lines.writerow([v.file.as_posix(), v.file.parent.as_posix(), v.source.as_posix(), v.number, v.seed,
                            "" if settings.through else settings.stages, settings.through, maker.model,
                            maker.sha256, sha256_of(settings.output / v.file)])
    return path
