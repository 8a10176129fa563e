"""docs/science.md: what the checkpoints in resources/science show of the paper's claims, in small.

    science.py train DATA       make the checkpoints (hours on two cores; goes on where it stopped)
    science.py evaluate DATA    measure them and write docs/science.md

DATA is a folder of imagery laid out as backend/training/split.toml says.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
ARMS = ROOT / "resources" / "science"
FEATURES = ROOT / "resources" / "models" / "metaearth-features"
BUILD = ROOT / "build" / "science"
RUNS = {
    "full": ["degradation=high-order"],
    "bicubic": ["degradation=bicubic"],
    "no-resolution": ["degradation=high-order", "network.resolution_guidance=false"],
    "one-shot": ["degradation=bicubic", "network.scale=64", "network.context=0"],
}
"""Arms of the ablations, all of one network, one seed and equal steps. One-shot is compared with bicubic."""
SEVEN = ["beach", "agricultural", "forest", "denseresidential", "mediumresidential", "storagetanks", "chaparral"]
"""Classes of UC Merced nearest to the paper's seven: it has no desert, mountain or industrial area."""
LONGEST = "data-engine"
LARGEST = (1280, 1536)
"""Pixels of a picture on the page."""
COLOURS = ("#1b6ca8", "#c44536", "#2a9d63", "#8d5fb0")


LANES = 2
"""Protocols that are measured side by side: two processes of one thread do more than one of two."""


def backend(*arguments: object, lanes: int = 1) -> None:
    """Run a verb of the backend on its share of the cores; its progress is seen."""
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // lanes))}
    command = [sys.executable, "-m", "backend", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, **threads})


def train(data: Path) -> None:
    """Chips, the four arms, and the network that distances are measured on."""
    chips = BUILD / "chips"
    backend("prepare", data, "--output", chips, "--collection", ROOT / "backend/training/split.toml",
            "--halvings", 3, "--max-cloud", 1)
    for name, settings in RUNS.items():
        backend("train", "--config", ARMS / "arm", "--start", "none", "--data", chips, "--output", BUILD / name,
                "--set", *settings)
        publish(name)
    backend("evaluate", "train-features", "--data", data, "--output", FEATURES)


def publish(name: str) -> None:
    """Keep an arm's weights and loss curve."""
    (ARMS / name).mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "model.safetensors", "log.jsonl"):
        shutil.copy(BUILD / name / file, ARMS / name / file)
    path = ARMS / name / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values.update(id=f"arm-{name}", title=f"Ablation, {name}")
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def evaluate(data: Path) -> None:
    """Every protocol on the arms, then the page."""
    shared = ["--data", data, "--split", "validation"]
    runs = {
        "fid": ["fid", "--model", ARMS / "full", "--without", ARMS / "no-resolution", "--limit", 40, *shared],
        "seams": ["seams", "--model", "metaearth-lite", "--limit", 8, "--side", 512, *shared],
        "ablations": ["ablations", "--model", ARMS / "bicubic", "--one-shot", ARMS / "one-shot", "--robust",
                      ARMS / "full", "--plain", ARMS / "bicubic", "--limit", 16, *shared],
        "diversity": ["diversity", "--model", ARMS / "bicubic", "--limit", 2, *shared],
        "data-engine": ["data-engine", "--data", data / "train/ucmerced_usgs_0.3m", "--classes", *SEVEN, "--limit", 50,
                        "--variants", 5, "--seeds", 3, "--steps", 300, "--size", 56, "--source-resolution", 0.3],
        "spectrum": ["spectrum", "--model", "metaearth-lite", "--limit", 8, *shared],
    }
    pictures = ROOT / "docs" / "science"
    pictures.mkdir(parents=True, exist_ok=True)
    degradations(data).save(pictures / "degradation.jpg", quality=88)
    loss_curves().save(pictures / "loss.png")
    with ThreadPoolExecutor(LANES) as lanes:
        done = [
            lanes.submit(backend, "evaluate", *runs[name], "--output", BUILD / "tables" / name, lanes=LANES)
            for name in sorted(runs, key=lambda name: name != LONGEST)
        ]
    for lane in done:
        lane.result()
    write_page(list(runs))


def write_page(names: list[str]) -> None:
    """docs/science.md from the tables, and its pictures."""
    pictures = ROOT / "docs" / "science"
    parts = [(ROOT / "scripts" / "science_head.md").read_text(encoding="utf-8").rstrip()]
    for name in names:
        folder = BUILD / "tables" / name
        table = (folder / "table.md").read_text(encoding="utf-8").strip()
        parts.append("#" + table)
        for picture in sorted(folder.glob("*.png")):
            target = pictures / f"{name}-{picture.stem}.jpg"
            shown = Image.open(picture).convert("RGB")
            shown.thumbnail(LARGEST)
            shown.save(target, quality=85)
            parts.append(f"![{name}, {picture.stem}](science/{target.name})")
    (ROOT / "docs" / "science.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def degradations(data: Path, chips: int = 5, draws: int = 5) -> Image.Image:
    """Held-out chips, what area averaging makes of them, and some high-order degradations, enlarged fourfold."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from backend.evaluation.chips import spread
    from backend.evaluation.held_out import judged_chips
    from backend.training.degradation import degrade, draw

    rng = np.random.default_rng(4)
    found = [some[len(some) // 2] for some in judged_chips(data, "validation", 192, 16).values()]
    lines = []
    for chip in spread(found, chips):
        real = torch.from_numpy(chip.pixels.copy()).permute(2, 0, 1) / 255
        lows = [F.avg_pool2d(real[None], 4)[0], *(degrade(real, 4, draw(rng), rng) for _ in range(draws))]
        enlarged = [low.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2) for low in lows]
        lines.append(torch.cat([real, *enlarged], dim=2))
    pixels = (torch.cat(lines, dim=1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())


def loss_curves(width: int = 900, height: int = 420) -> Image.Image:
    """Loss (of the objective, and on held-out places as dots) by step, one colour an arm."""
    rows = {name: [json.loads(line) for line in (ARMS / name / "log.jsonl").read_text().splitlines()] for name in RUNS}
    found = {n: [(r["step"], r[k]) for r in of for k in ("loss",) if k in r] for n, of in rows.items()}
    last = max(step for curve in found.values() for step, _ in curve)
    high = max(sorted(loss for curve in found.values() for _, loss in curve)[-4], 1e-6)
    image = Image.new("RGB", (width, height), "white")
    drawing = ImageDraw.Draw(image)

    def place(step: float, loss: float) -> tuple[float, float]:
        return 50 + step / last * (width - 70), height - 30 - min(loss, high) / high * (height - 50)

    for k in range(5):
        y = place(0, high * k / 4)[1]
        drawing.line([(50, y), (width - 20, y)], fill="#dddddd")
        drawing.text((8, y - 6), f"{high * k / 4:.2f}", fill="#555555")
        drawing.text((place(last * k / 4, 0)[0] - 12, height - 22), f"{last * k // 4}", fill="#555555")
    for (name, curve), colour in zip(found.items(), COLOURS):
        drawing.line([place(*point) for point in curve], fill=colour, width=2)
        for r in rows[name]:
            if "validation_loss" in r:
                x, y = place(r["step"], r["validation_loss"])
                drawing.ellipse([x - 4, y - 4, x + 4, y + 4], outline=colour, width=2)
        drawing.text((width - 140, 16 + 16 * list(found).index(name)), name, fill=colour)
    return image


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("train", "evaluate"):
        sys.exit(__doc__)
    sys.path.insert(0, str(ROOT))
    {"train": train, "evaluate": evaluate}[sys.argv[1]](Path(sys.argv[2]).absolute())
