"""`make demo-mm`: a held-out scene in other modalities, and a scene from nothing, by `qgis_process`; with a picture."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image, ImageDraw, ImageFont

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "scripts")]

from demo import environment, qgis_process  # noqa: E402

SCENE = CHECKOUT / "resources" / "sample" / "sentinel2_redclover_rgb_10m.tif"
OUTPUT = CHECKOUT / "build" / "demo-mm"
TARGETS = ("nir", "pan", "sar", "osm")
PAIR = ("rgb", "nir")
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


def shown(path: Path) -> Image.Image:
    """A raster as a square picture: maps in their colours, one band as grey."""
    with rasterio.open(path) as dataset:
        side = min(dataset.width, dataset.height)
        values = dataset.read(window=((0, side), (0, side)))
    if path.stem == "osm":
        pixels = np.array(CLASS_COLOURS, np.uint8)[values[0]]
    else:
        pixels = np.moveaxis(values[:3] if len(values) >= 3 else values[[0, 0, 0]], 0, -1).astype(np.uint8)
    return Image.fromarray(pixels).resize((PANEL, PANEL), Image.Resampling.LANCZOS)


def sheet(rows: list[list[tuple[Path, str]]]) -> Image.Image:
    """The rasters with their captions."""
    columns = max(len(row) for row in rows)
    canvas = Image.new("RGB", (columns * (PANEL + 8) - 8, len(rows) * (PANEL + CAPTION)), "white")
    draw = ImageDraw.Draw(canvas)
    for r, row in enumerate(rows):
        for c, (path, caption) in enumerate(row):
            left, top = c * (PANEL + 8), r * (PANEL + CAPTION)
            draw.text((left + 4, top + 4), caption, fill="black", font=ImageFont.load_default(18))
            canvas.paste(shown(path), (left, top + CAPTION))
    return canvas


def main() -> int:
    """0 when pictures and rasters are there."""
    began = time.monotonic()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    translated, made = OUTPUT / "translated", OUTPUT / "generated"
    run("metaearth:translatemodality", f"RGB={SCENE}", f"TARGETS={','.join(TARGETS)}", f"SEED={SEED}",
        f"OUTPUT={translated}")
    run("metaearth:generatepaired", f"TARGETS={','.join(PAIR)}", f"SEED={SEED}", "METRES_PER_PIXEL=10",
        f"OUTPUT={made}")
    rows = [[(SCENE, "RGB, real, 10 m"), *((translated / f"{t}.tif", f"{t}, made (synthetic)") for t in TARGETS)],
            [(made / f"{t}.tif", f"{t}, from nothing (synthetic)") for t in PAIR]]
    sheet(rows).save(OUTPUT / "modalities.png")
    print(f"build/demo-mm/modalities.png; done in {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
