"""``evaluate gallery``: strips of held-out places, to be looked at: source, bicubic, L1 network, generated, real."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from backend.errors import InputError
from backend.evaluation.chips import low_resolution
from backend.evaluation.held_out import held_out_entry, read_entry
from backend.evaluation.makers import Maker, eight_bit
from backend.evaluation.remake import OFF, Values, methods
from backend.jobs.engines import open_engine
from backend.models.bundle import find_bundle
from backend.progress import Check, Report, watched

GAP, HEAD, QUALITY = 4, 20, 88
PICTURES = "gallery"
MARGIN = 64
"""Pixels around a place that are made too and not shown: its windows lie as in a job, not at the picture's edge."""
LEAD = (
    "Places that {model} was not trained on. Each real image (right) was averaged down to the source (left) and made"
    " again, with the default settings and the seed {seed}. **What is finer than the source is synthetic**: compare how"
    " it looks, not where each roof is. Made by `python -m backend evaluate gallery`."
    " Neither ice nor much snow is among the places that were held out; water is in the harbour and at the coast."
)
BASELINE = "L1 network: the same network, trained for {steps} steps for the least mean error, which is without detail."
ATTRIBUTION = (
    "Contains modified Copernicus Sentinel data 2018-2024. Landsat imagery courtesy of the U.S. Geological Survey."
    " NAIP: USDA Farm Service Agency; crops of California: Urban Tree Detection Data, J. Ventura et al., JAG 130,"
    " 103848 (2024), CC BY 4.0. Orthophotos: Estonian Land Board (Maa-amet), via M. Abdurahmanov 2020. Amazon: L."
    " Bragagnolo et al., Zenodo 3233081 (2019), CC BY 4.0."
)


@dataclass(frozen=True)
class Place:
    """A held-out place: ``row`` and ``col`` of the first pixel of a square in ``file``; ``licence`` if no rule says."""

    name: str
    title: str
    file: str
    row: int = 0
    col: int = 0
    stages: int = 1
    licence: str = ""


PLACES = (
    Place("harbour", "Harbour, Estonia", "train/estonia_orthophoto_0.1m/image_10_04_02_0_1000.jpg", 122, 200),
    Place("city", "City, Estonia", "train/estonia_orthophoto_0.2m/image_2_04_05.jpg", 372, 372),
    Place("suburb", "Suburb, Claremont, California", "train/naip_california_0.6m/rgb/claremont_2018_2.jpg"),
    Place("desert", "Desert, Palm Springs, California", "train/naip_california_0.6m/rgb/palm_springs_2018_96.jpg"),
    Place("forest", "Forest and pond, Virginia", "samples/naip_virginia_rgbn_1m.tif", 20, 120,
          licence="public domain (NAIP)"),
    Place("fields", "Fields and prairie potholes, North Dakota", "train/scenes_rgb8/naip_northdakota_20180716_5m.tif",
          200),
    Place("rain-forest", "Rain forest and clearings, Amazon", "train/s2_amazon_10m/test_14.jpg", 128, 128),
    Place("coast", "Barrier island, Cape Lookout, North Carolina", "train/scenes_rgb8/s2_capelookout_nc_10m.tif",
          852, 1586),
    Place("mountain", "Mountain valley, Red Clover, California", "train/scenes_rgb8/s2_redclover_ca_20200802_10m.tif",
          196, 196, stages=2),
    Place("peaks", "Peaks above the tree line, Rocky Mountains, Colorado",
          "train/scenes_rgb8/l8_rockymountain_co_150m.tif", 40, 120),
)


@dataclass(frozen=True)
class GallerySettings:
    """A model, and its L1 twin if there is one; ``output`` gets gallery.md, and in ``gallery`` a picture a place."""

    data: Path
    output: Path
    model: str = "metaearth-lite"
    baseline: str | None = None
    seed: int = 0
    device: str = "auto"


def gallery(settings: GallerySettings, report: Report, check: Check) -> str:
    """What gallery.md says."""
    bundle = find_bundle(settings.model)
    engine = open_engine(bundle, settings.device)
    baseline = open_engine(find_bundle(settings.baseline), settings.device) if settings.baseline else None
    (settings.output / PICTURES).mkdir(parents=True, exist_ok=True)
    parts = ["# Gallery", LEAD.format(model=bundle.config.id, seed=settings.seed)]
    if baseline:
        parts.append(BASELINE.format(steps=baseline.config.training.get("steps", "some")))
    for place in watched(PLACES, "gallery", report, check):
        makers = methods(engine, baseline, place.stages, check)
        del makers[OFF]
        parts.append(_show(place, makers, bundle.config.network.tile, bundle.config.network.scale, settings))
    text = "\n\n".join([*parts, ATTRIBUTION]) + "\n"
    (settings.output / "gallery.md").write_text(text, encoding="utf-8")
    return text


def _show(place: Place, makers: dict[str, Maker], tile: int, scale: int, settings: GallerySettings) -> str:
    """The picture of a place, written, and its part of the text."""
    entry = held_out_entry(settings.data, place.file)
    picture = read_entry(entry)
    factor = scale**place.stages
    real = surroundings(picture.pixels, place, tile)
    low = low_resolution(real, factor)
    made = {name: middle(make(low, picture.gsd_m, settings.seed), MARGIN) for name, make in makers.items()}
    source_m = picture.gsd_m * factor
    columns = {f"source, {source_m:g} m/px": middle(low, MARGIN // factor), **made}
    columns[f"real, {picture.gsd_m:g} m/px"] = middle(real.transpose(2, 0, 1), MARGIN)
    strip(columns).save(settings.output / PICTURES / f"{place.name}.jpg", quality=QUALITY)
    stages = "one stage" if place.stages == 1 else f"{place.stages} stages"
    return (
        f"## {place.title}\n![{', '.join(columns)}]({PICTURES}/{place.name}.jpg)\n\n"
        f"{picture.gsd_m:g} m/px from {source_m:g} m/px in {stages}. Imagery: {place.licence or entry.licence}."
    )


def surroundings(pixels: NDArray[np.uint8], place: Place, side: int) -> Values:
    """The place's square of ``side`` pixels and `MARGIN` around it, mirrored where the file ends: (rows, cols, 3)."""
    if place.row + side > pixels.shape[0] or place.col + side > pixels.shape[1]:
        raise InputError(f"{place.file} has no {side} x {side} pixels from row {place.row}, column {place.col} on.")
    around = np.pad(pixels, [(MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)], mode="symmetric")
    rows, cols = (slice(start, start + side + 2 * MARGIN) for start in (place.row, place.col))
    return around[rows, cols].astype(np.float32)


def middle(image: Values, margin: int) -> Values:
    """(3, rows, cols) without ``margin`` pixels on each side."""
    return image[:, margin:-margin, margin:-margin]


def strip(columns: dict[str, Values]) -> Image.Image:
    """Images (3, rows, cols) side by side under their names, smaller ones enlarged pixel by pixel."""
    side = max(image.shape[1] for image in columns.values())
    drawn = Image.new("RGB", (len(columns) * (side + GAP) - GAP, side + HEAD), "white")
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(13)
    for k, (name, image) in enumerate(columns.items()):
        whole = Image.fromarray(eight_bit(image).astype(np.uint8).transpose(1, 2, 0))
        left = k * (side + GAP)
        drawn.paste(whole.resize((side, side), Image.Resampling.NEAREST), (left, HEAD))
        pen.text((left + 2, 2), name, fill="black", font=font)
    return drawn
