"""What windows leave in held-out scenes: seams and repetition, by mode of noise and overlap."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio

from backend.cascade.planning import stage_regions
from backend.errors import InputError
from backend.evaluation.seams import Pairs, repetition, seam_pairs, seam_ratio, unpaired_seam_ratio
from backend.evaluation.spectrum import octave_power
from backend.evaluation.table import Row
from backend.jobs.plan import JobPlan, make_plan
from backend.jobs.runner import JobRun
from backend.jobs.scene_plan import SceneInput, SceneRequest, make_scene_plan
from backend.protocol import DEFAULT_SCENE_MODEL, Job, JobResult
from backend.tiling.geometry import WindowGeometry
from backend.tiling.lattice import Lattice

LITE = "metaearth-lite"
SEED = 3


@dataclasses.dataclass(frozen=True)
class Scene:
    """A held-out place: a square of ``side`` source pixels around the middle of a file, ``stages`` stages of it."""

    name: str
    file: str
    side: int
    stages: int
    shift: int = 0
    """Columns from the middle of the file."""

    def path(self, data: Path) -> Path:
        """The file; `InputError` if it is not there."""
        path = data / self.file
        if not path.is_file():
            raise InputError(f"The scene {self.name} is not there: {path}.")
        return path

    def extent(self, data: Path, side: int, multiple: int = 1) -> tuple[float, float, float, float]:
        """The middle ``side`` pixels, or up to ``multiple`` before, in the file's coordinates."""
        half = side // 2
        with rasterio.open(self.path(data)) as dataset:
            col, row = dataset.width // 2 + self.shift, dataset.height // 2
            col, row = col - col % multiple, row - row % multiple
            corners = [dataset.transform @ (col + s * half, row + s * half) for s in (-1, 1)]
        (x0, y0), (x1, y1) = corners
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)

    def job(self, data: Path, output: Path, side: int | None = None, **fields: object) -> Job:
        """A job on the scene; ``side`` takes fewer pixels of its middle."""
        extent = list(self.extent(data, side or self.side))
        values = {"input": str(self.path(data)), "output": str(output), "extent": extent, "stages": self.stages,
                  "seed": SEED}
        return Job.from_dict({**values, **fields})


SCENES = (
    Scene("Cape Lookout", "train/scenes_rgb8/s2_capelookout_nc_10m.tif", 1024, 1, 400),
    Scene("Cape Lookout, west", "train/scenes_rgb8/s2_capelookout_nc_10m.tif", 256, 2, -400),
    Scene("Red Clover Valley 2020", "train/scenes_rgb8/s2_redclover_ca_20200802_10m.tif", 256, 2),
    Scene("Red Clover Valley 2021", "train/scenes_rgb8/s2_redclover_ca_20210708_10m.tif", 256, 2),
    Scene("Olinda", "train/scenes_rgb8/l7_olinda_br_28.5m.tif", 256, 2),
    Scene("Beaufort", "samples/sentinel2_beaufort_rgb_10m_epsg4326.tif", 256, 2),
)
"""Places that no embedded model was trained on; 4096 output pixels a side each."""

TRANSLATED_SCENES, TRANSLATED_SIDE = SCENES[:1] + SCENES[2:4], 600
"""Their own pixels, so many a side, in other modalities."""
TRANSLATED = ("nir", "sar")

MODES: dict[str, dict[str, object]] = {
    "default": {},
    "independent noise": {"noise": "independent"},
    "paper (half overlap, repeated block, DDIM-50)": {
        "noise": "repeated-block",
        "overlap": "paper",
        "sampler": "ddim",
        "steps": 50,
    },
}


def run_plan(plan: JobPlan) -> JobResult:
    """A whole job without anybody watching."""
    return JobRun(plan, lambda progress: None, lambda: None).run()


def with_offset(plan: JobPlan, offset: int) -> JobPlan:
    """The same job with all windows moved by ``offset`` pixels."""
    lattice = dataclasses.replace(plan.geometry.lattice, offset=offset)
    geometry = WindowGeometry(lattice, plan.geometry.scale, plan.geometry.context)
    regions = stage_regions(plan.area, plan.source_grid, len(plan.stages), geometry)
    stages = tuple(dataclasses.replace(s, region=r) for s, r in zip(plan.stages, regions))
    return dataclasses.replace(plan, geometry=geometry, stages=stages)


def read_image(path: str) -> np.ndarray:
    """(rows, cols, bands) of a raster."""
    with rasterio.open(path) as dataset:
        return np.moveaxis(dataset.read(), 0, -1)


def seams(data: Path, kept: Path, progress: Callable[[str], None], side: int = 4096) -> list[Row]:
    """The default mode on every scene."""
    return [seam_row("default", data, SCENES, 4096 // side, kept, progress)]


def modes(data: Path, kept: Path, progress: Callable[[str], None]) -> list[Row]:
    """All modes on the same scenes, at a quarter of the size: the paper's takes 200 evaluations a pixel.

    Octave power is that over the default's: there is no finer photograph of these scenes.
    """
    rows = [seam_row(mode, data, SCENES[:3:2], 4, kept, progress) for mode in MODES]
    default = np.array(rows[0]["octave power"])
    return [row | {"octave power": (np.array(row["octave power"]) / default).round(2).tolist()} for row in rows]


def translations(data: Path, kept: Path, progress: Callable[[str], None]) -> list[Row]:
    """MetaEarth-MM: modalities made of the scenes' own pixels. Maps are left out: classes have no gradient.

    What of a joint scene is larger than a window is made by the cascade or translated: these are its seams.
    """
    rows = []
    for target in TRANSLATED:
        found = []
        for scene in TRANSLATED_SCENES:
            progress(f"{target}, {scene.name}, {TRANSLATED_SIDE} px")
            inputs = (SceneInput("rgb", str(scene.path(data)), (1, 2, 3)),)
            extent = scene.extent(data, TRANSLATED_SIDE, Lattice.multiple)  # so that lattices fit into the crop
            with tempfile.TemporaryDirectory() as folder:
                plan = make_scene_plan(
                    SceneRequest(inputs, (target,), folder, DEFAULT_SCENE_MODEL, extent=extent, seed=SEED)
                )
                found.append(_kept_traces(plan, data, scene, kept))
        rows.append({"from": "rgb", "to": target, "pixels a side": TRANSLATED_SIDE, **columns(found)})
    return rows


@dataclasses.dataclass(frozen=True)
class Traces:
    """What the windows left in one scene, and what it cost; ``pairs`` are those of `seam_pairs`.

    ``consistency_psnr``: None for translations. ``octave_power``: of the top three octaves, low to high; None in files
    of earlier versions.
    """

    pairs: list[list[float]]
    repetition_at_stride: float
    repetition_at_128: float
    photograph: float
    evaluations_per_pixel: float
    seconds_total: float
    seconds_network: float
    consistency_psnr: float | None
    octave_power: list[float] | None = None


def seam_row(
    mode: str, data: Path, scenes: tuple[Scene, ...], shrink: int, kept: Path, progress: Callable[[str], None]
) -> Row:
    """Paired seam ratio, repetition and cost of one mode; scenes that an earlier run has measured are in ``kept``."""
    found = []
    for scene in scenes:
        progress(f"{mode}, {scene.name}, {4096 // shrink} px")
        with tempfile.TemporaryDirectory() as folder:
            job = scene.job(data, Path(folder) / "a.tif", scene.side // shrink, model=LITE, **MODES[mode])
            found.append(_kept_traces(make_plan(job), data, scene, kept))
    return {"mode": mode, "pixels a side": 4096 // shrink, **columns(found)}


def columns(found: list[Traces]) -> Row:
    """What the windows left in some scenes, all together."""
    pairs: list[Pairs] = [np.array(t.pairs) for t in found]
    ratio, low, high = seam_ratio(pairs)
    whole, network = (sum(getattr(t, name) for t in found) for name in ("seconds_total", "seconds_network"))
    consistency = [t.consistency_psnr for t in found if t.consistency_psnr is not None]
    return {
        "scenes": len(found),
        "seam ratio": round(ratio, 4),
        "interval": [round(low, 4), round(high, 4)],
        "photographs": round(float(np.mean([t.photograph for t in found])), 3),
        "repetition at the stride": round(max(t.repetition_at_stride for t in found), 4),
        "repetition at 128": round(max(t.repetition_at_128 for t in found), 4),
        "evaluations a pixel": round(float(np.mean([t.evaluations_per_pixel for t in found])), 1),
        "whole time / network": round(whole / network, 3),
        "consistency dB": round(float(np.mean(consistency)), 1) if consistency else None,
        "octave power": np.sum([t.octave_power for t in found if t.octave_power], axis=0).round(3).tolist(),
    }


def _kept_traces(plan: JobPlan, data: Path, scene: Scene, kept: Path) -> Traces:
    """The traces of a scene, from an earlier run if that made the same pixels."""
    path = kept / f"{plan.sha256}.json"
    if path.is_file():
        return Traces(**json.loads(path.read_text(encoding="utf-8")))
    traces = _traces(plan, real_photograph(data, scene))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(traces)), encoding="utf-8")
    return traces


def _traces(plan: JobPlan, photograph: np.ndarray) -> Traces:
    """A scene made twice, with two lattices, and compared."""
    shifted = with_offset(plan, plan.geometry.lattice.stride // 2)
    first = run_plan(plan)
    a = read_image(first.outputs[-1])
    b = read_image(run_plan(shifted).outputs[-1])
    of_a, of_b = plan.geometry.lattice, shifted.geometry.lattice
    return Traces(
        _pairs_of(plan, shifted, a, b).tolist(),
        repetition(a, of_a.stride),
        repetition(a, 128),
        unpaired_seam_ratio(photograph, of_a, of_b),
        first.evaluations_per_pixel,
        first.seconds_total,
        first.seconds_network,
        first.consistency_psnr,
        octave_power(a).tolist(),
    )


def _seen_from(lattice: Lattice, top: int, left: int) -> tuple[Lattice, Lattice]:
    """(for rows, for columns): the lattice as it lies in a crop whose corner is at (top, left)."""
    return (
        dataclasses.replace(lattice, offset=(lattice.offset - top) % lattice.stride),
        dataclasses.replace(lattice, offset=(lattice.offset - left) % lattice.stride),
    )


def _pairs_of(plan: JobPlan, shifted: JobPlan, a: np.ndarray, b: np.ndarray) -> Pairs:
    """The pairs of two runs' results, along rows and columns."""
    asked = plan.stages[-1].asked
    here = [_seen_from(p.geometry.lattice, asked.top, asked.left) for p in (plan, shifted)]
    (rows_a, cols_a), (rows_b, cols_b) = here
    along_cols = seam_pairs(a, b, cols_a, cols_b)
    along_rows = seam_pairs(a.swapaxes(0, 1), b.swapaxes(0, 1), rows_a, rows_b)
    return np.concatenate([along_cols, along_rows])


def real_photograph(data: Path, scene: Scene) -> np.ndarray:
    """The scene's own source pixels, up to 1024 a side."""
    with rasterio.open(data / scene.file) as dataset:
        side = min(dataset.height, dataset.width, 1024)
        col, row = dataset.width // 2 + (scene.shift if side == 1024 else 0), dataset.height // 2
        rows, cols = ((n - side // 2, n - side // 2 + side) for n in (row, col))
        return np.moveaxis(dataset.read([1, 2, 3], window=(rows, cols)), 0, -1)
