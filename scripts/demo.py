"""`make demo`: the sample scene made 16 times finer by `qgis_process`, and a picture of what came out."""

from __future__ import annotations

import json
import os
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

from qgis_profile import private_profile  # noqa: E402

from backend.jobs.plan import make_plan  # noqa: E402
from backend.protocol import Job  # noqa: E402

SCENE = CHECKOUT / "resources" / "sample" / "sentinel2_redclover_rgb_10m.tif"
OUTPUT = CHECKOUT / "build" / "demo"
# a meadow with a winding stream and a road: 800 x 800 m
EXTENT = (207500.0, 4426000.0, 208300.0, 4426800.0)
SEED = 7
PANEL = 800
CAPTION = 34


def qgis_process() -> str:
    """The program; Debian's wrapper script fails in some releases, the binary behind it works."""
    for name in ("qgis_process.bin", "qgis_process"):
        if found := shutil.which(name, path="/usr/bin:" + os.environ.get("PATH", "")):
            return found
    sys.exit("qgis_process is missing: install QGIS 3.22 or newer.")


def estimate() -> str:
    """A sentence on how long it will take here, from the calibration of this machine."""
    values = {"input": str(SCENE), "output": str(OUTPUT / "stage2.tif"), "extent": list(EXTENT), "stages": 2}
    summary = make_plan(Job.from_dict(values)).summary()
    return f"{summary.windows} windows on {summary.device_name}: about {max(5, round(summary.seconds))} seconds."


def environment() -> dict[str, str]:
    """Of a headless QGIS with a private profile; its own Python follows PATH and must not meet another one there."""
    return {**os.environ, **private_profile(CHECKOUT / "build" / "profile"), "QT_QPA_PLATFORM": "offscreen",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def run_algorithm() -> None:
    """`qgis_process run metaearth:generatehigherresolution` in a private profile."""
    if OUTPUT.exists():
        shutil.rmtree(OUTPUT)
    OUTPUT.mkdir(parents=True)
    xmin, ymin, xmax, ymax = EXTENT
    command = [qgis_process(), "run", "metaearth:generatehigherresolution", "--", f"INPUT={SCENE}",
               f"EXTENT={xmin},{xmax},{ymin},{ymax} [EPSG:32611]", "STAGES=2", f"SEED={SEED}",
               f"OUTPUT={OUTPUT / 'stage2.tif'}"]
    print(" ".join(command[:4]), *(f"'{a}'" for a in command[4:]), flush=True)
    done = subprocess.run(command, env=environment(), check=False)
    if done.returncode:
        sys.exit(f"qgis_process ended with {done.returncode}.")


def read_rgb(path: Path) -> tuple[Image.Image, float]:
    """(the demo's extent of a raster, metres per pixel)."""
    with rasterio.open(path) as dataset:
        window = from_bounds(*EXTENT, dataset.transform).round_offsets().round_lengths()
        return Image.fromarray(np.moveaxis(dataset.read([1, 2, 3], window=window), 0, -1)), dataset.res[0]


def panel(image: Image.Image, metres_wide: float, caption: str) -> Image.Image:
    """The image with a caption above and a scale bar in its corner."""
    canvas = Image.new("RGB", (PANEL, PANEL + CAPTION), "white")
    canvas.paste(image, (0, CAPTION))
    draw = ImageDraw.Draw(canvas)
    draw.text((6, 6), caption, fill="black", font=ImageFont.load_default(20))
    length_m = 10 ** np.floor(np.log10(metres_wide / 3))
    length_m *= max(f for f in (1, 2, 5) if f * length_m <= metres_wide / 3)
    bar = round(PANEL * length_m / metres_wide)
    bottom = CAPTION + PANEL - 16
    draw.rectangle((13, bottom - 27, 19 + max(bar, 60), bottom + 9), fill="black")
    draw.rectangle((16, bottom, 16 + bar, bottom + 5), fill="white")
    draw.text((16, bottom - 24), f"{length_m:g} m", fill="white", font=ImageFont.load_default(18))
    return canvas


def comparison() -> Path:
    """Source, bicubic and both stages side by side: all of the scene above, its centre below."""
    source, pixel_m = read_rgb(SCENE)
    stages = [read_rgb(OUTPUT / f"stage{k}.tif") for k in (1, 2)]
    finest, finest_m = stages[-1]
    pictures = [
        (source.resize(finest.size, Image.Resampling.NEAREST), f"source, {pixel_m:g} m"),
        (source.resize(finest.size, Image.Resampling.BICUBIC), f"bicubic to {finest_m:g} m"),
        (stages[0][0].resize(finest.size, Image.Resampling.NEAREST), f"generated, stage 1, {stages[0][1]:g} m"),
        (finest, f"generated, stage 2, {finest_m:g} m (synthetic)"),
    ]
    side = min(finest.size)
    rows = []
    for width in (side, 400):
        left, top = (finest.width - width) // 2, (finest.height - width) // 2
        cut = [(i.crop((left, top, left + width, top + width)).resize((PANEL, PANEL), Image.Resampling.LANCZOS), c)
               for i, c in pictures]
        rows.append([panel(image, width * finest_m, caption) for image, caption in cut])
    sheet = Image.new("RGB", (len(pictures) * (PANEL + 8) - 8, len(rows) * (PANEL + CAPTION + 8) - 8), "white")
    for r, row in enumerate(rows):
        for c, part in enumerate(row):
            sheet.paste(part, (c * (PANEL + 8), r * (PANEL + CAPTION + 8)))
    path = OUTPUT / "comparison.png"
    sheet.save(path)
    return path


def main() -> int:
    """0 when pictures and rasters are there."""
    print(f"Scene: {SCENE.relative_to(CHECKOUT)}, Sentinel-2, 10 m; contains modified Copernicus Sentinel data 2021")
    print(estimate(), flush=True)
    began = time.monotonic()
    run_algorithm()
    for name in ("stage1.tif", "stage2.tif"):
        with rasterio.open(OUTPUT / name) as dataset:
            tags = {k: dataset.tags()[f"METAEARTH_{k.upper()}"] for k in ("synthetic", "model", "seed", "sampler")}
            print(f"build/demo/{name}: {dataset.width} x {dataset.height} pixels of {dataset.res[0]:g} m, "
                  + json.dumps(tags))
    print(f"build/demo/{comparison().name}: source, bicubic and generated, side by side")
    print(f"Done in {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
