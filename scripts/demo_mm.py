"""`make demo-mm`: held-out scenes in other modalities, and a scene from nothing, by `qgis_process`; with a picture."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image, ImageDraw, ImageFont
from rasterio.windows import from_bounds

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "scripts")]

from demo import environment, qgis_process  # noqa: E402

SAMPLES = CHECKOUT / "resources" / "sample"
VALLEY = SAMPLES / "sentinel2_redclover_rgb_10m.tif"
# meadow, forest and bare rock: 2 x 2 km
VALLEY_EXTENT = "207000,209000,4425000,4427000 [EPSG:32611]"
TOWN = SAMPLES / "oam_banepa_rgb_0.13m.tif"
# houses, lanes and gardens: 300 x 300 pixels
TOWN_EXTENT = "9520310,9520355,3202818,3202863 [EPSG:3857]"
OUTPUT = CHECKOUT / "build" / "demo-mm"
BANDS, PAIR = ("nir", "pan", "sar"), ("rgb", "nir")
SEED = 7
PANEL, CAPTION = 400, 30
CLASS_COLOURS = ((242, 239, 233), (160, 60, 40), (240, 192, 64), (60, 120, 210), (47, 125, 50))


def run(algorithm: str, *parameters: str) -> None:
    """One algorithm in a private profile."""
    command = [qgis_process(), "run", algorithm, "--", *parameters]
    print(" ".join(command[:4]), *(f"'{p}'" for p in parameters), flush=True)
    done = subprocess.run(command, env=environment(), check=False)
    if done.returncode:
        sys.exit(f"qgis_process ended with {done.returncode}.")


def translate(scene: Path, extent: str, targets: tuple[str, ...], output: Path) -> None:
    """Part of a real RGB scene in other modalities."""
    run("metaearth:translatemodality", f"RGB={scene}", f"EXTENT={extent}", f"TARGETS={','.join(targets)}",
        f"SEED={SEED}", f"OUTPUT={output}")


def shown(path: Path, like: Path) -> Image.Image:
    """The part of a raster that another one covers, as a square picture: maps in their colours, one band as grey."""
    with rasterio.open(like) as other, rasterio.open(path) as dataset:
        values = dataset.read(window=from_bounds(*other.bounds, dataset.transform).round_lengths().round_offsets())
    if path.stem == "osm":
        pixels = np.array(CLASS_COLOURS, np.uint8)[values[0]]
    else:
        pixels = np.moveaxis(values[:3] if len(values) >= 3 else values[[0, 0, 0]], 0, -1).astype(np.uint8)
    return Image.fromarray(pixels).resize((PANEL, PANEL), Image.Resampling.LANCZOS)


def sheet(rows: list[list[tuple[Path, str]]]) -> Image.Image:
    """The rasters with their captions, each row where its last one lies."""
    columns = max(len(row) for row in rows)
    canvas = Image.new("RGB", (columns * (PANEL + 8) - 8, len(rows) * (PANEL + CAPTION)), "white")
    draw = ImageDraw.Draw(canvas)
    for r, row in enumerate(rows):
        for c, (path, caption) in enumerate(row):
            left, top = c * (PANEL + 8), r * (PANEL + CAPTION)
            draw.text((left + 4, top + 4), caption, fill="black", font=ImageFont.load_default(18))
            canvas.paste(shown(path, row[-1][0]), (left, top + CAPTION))
    return canvas


def main() -> int:
    """0 when pictures and rasters are there."""
    began = time.monotonic()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    valley, town, made = OUTPUT / "valley", OUTPUT / "town", OUTPUT / "generated"
    translate(VALLEY, VALLEY_EXTENT, BANDS, valley)
    translate(TOWN, TOWN_EXTENT, ("osm",), town)
    run("metaearth:generatepaired", f"TARGETS={','.join(PAIR)}", f"SEED={SEED}", "METRES_PER_PIXEL=10",
        f"OUTPUT={made}")
    rows = [[(VALLEY, "RGB, real, 10 m"), *((valley / f"{t}.tif", f"{t}, made (synthetic)") for t in BANDS)],
            [(TOWN, "RGB, real, 0.13 m"), (town / "osm.tif", "map, made (synthetic)")],
            [(made / f"{t}.tif", f"{t}, from nothing (synthetic)") for t in PAIR]]
    sheet(rows).save(OUTPUT / "modalities.png")
    print(f"build/demo-mm/modalities.png; done in {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
