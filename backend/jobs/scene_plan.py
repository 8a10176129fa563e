"""The plan of a MetaEarth-MM job: what is known of a scene, what is wanted, and the one grid of both.

It is a plan of one stage whose result has as many pixels as its input: blocks, resuming, executors and locks are those
of every job. A block holds the bands of all targets, which become one raster each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from backend.cascade.engine import Sampling
from backend.errors import InputError, ModelError, PlanError
from backend.jobs.calibration import SCENE_STREAMS, where_it_runs
from backend.jobs.plan import JobPlan, Product, StagePlan, checked
from backend.jobs.portions import block_windows
from backend.models.bundle import SceneModelConfig, find_scene_bundle
from backend.protocol import Job, statistics_paths
from backend.raster.grid import Grid
from backend.raster.source import RasterSource
from backend.raster.stretch import identity_stretch
from backend.scene.modality import Modality, find_modality, modality_as_known
from backend.scene.reading import ModalityRaster
from backend.tiling.geometry import WindowGeometry
from backend.tiling.lattice import Lattice

ZERO_SHOT = "{} and {} were never seen together in the model's training: what it makes of them is zero-shot."
NEARLY = 1.5
"""Pixels so many times smaller or larger than those of training are still much alike."""


@dataclass(frozen=True)
class SceneInput:
    """A raster of a modality; ``bands`` None: as it is shown."""

    modality: str
    path: str
    bands: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SceneRequest:
    """What a user asks for: rasters of what is known, the modalities wanted, and the folder for these.

    ``grid``: where nothing is known, the pixels to make. ``resolution_m``: else that of the first raster.
    """

    inputs: tuple[SceneInput, ...]
    targets: tuple[str, ...]
    output: str
    model: str
    grid: Grid | None = None
    extent: tuple[float, float, float, float] | None = None
    resolution_m: float | None = None
    source_resolution: float | None = None
    seed: int = 0
    steps: int | None = None
    device: str = "auto"
    precision: str = "auto"
    executor: str = "auto"
    job_dir: str | None = None
    samples: int = 1


@dataclass(frozen=True)
class ScenePlan(JobPlan):
    """A MetaEarth-MM job with all its defaults decided."""

    inputs: tuple[SceneInput, ...]
    targets: tuple[str, ...]
    modalities: tuple[Modality, ...]
    """All that are known or wanted, as the model knows them: with their unit or without."""

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything that decides the pixels."""
        own = {
            "source": [[Path(name).name, self.source[name]] for name in sorted(self.source)],
            "inputs": [[i.modality, sorted({g.path for g in self.inputs}).index(i.path), i.bands] for i in self.inputs],
            "targets": self.targets,
            "modalities": [dataclasses.asdict(modality) for modality in self.modalities],
        }
        return {**super().facts, **own}

    def moved_to(self, other: JobPlan) -> Self:
        """See `JobPlan`."""
        moved = super().moved_to(other)
        return dataclasses.replace(moved, inputs=other.inputs) if isinstance(other, ScenePlan) else moved

    def modality(self, name: str) -> Modality:
        """A modality as the model knows it."""
        return next(modality for modality in self.modalities if modality.id == name)

    @property
    def target_modalities(self) -> tuple[Modality, ...]:
        """The targets in the order of their bands in a block."""
        return tuple(self.modality(name) for name in self.targets)

    def opened(self, given: SceneInput) -> ModalityRaster:
        """An input on the plan's grid."""
        bands = None if given.bands is None else list(given.bands)
        size_m = self.job.source_resolution
        return ModalityRaster(given.path, self.modality(given.modality), bands, self.source_grid, size_m)

    def source_now(self) -> dict[str, list[int]]:
        """What ``source`` would be if the job was planned now."""
        found: dict[str, list[int]] = {}
        for given in self.inputs:
            with self.opened(given) as raster:
                found |= raster.source.fingerprint()
        return found

    @property
    def window_seconds(self) -> float:
        """As `JobPlan.window_seconds`; a network of tokens takes as long as it has streams."""
        streams = {*self.targets, *(given.modality for given in self.inputs)}
        return super().window_seconds * len(streams) / SCENE_STREAMS

    @property
    def products(self) -> list[Product]:
        """One raster a target."""
        found, first = [], 1
        known = ", ".join(f"{i.modality}: {Path(i.path).name}" for i in self.inputs)
        for modality, path in zip(self.target_modalities, self.result_paths):
            tags = {"METAEARTH_MODALITY": modality.id, "METAEARTH_UNIT": modality.unit,
                    "METAEARTH_INPUTS": known or "none: all comes from the seed"}
            colours = {c.value: c.colour for c in modality.classes}
            found.append(Product(path, 1, first, modality.band_count, tags, colours))
            first += modality.band_count
        return found

    @property
    def bands_made(self) -> int:
        """Three a target: windows are pictures."""
        return 3 * len(self.targets)

    @property
    def result_paths(self) -> list[str]:
        """The targets' rasters, in their order, then the statistics of each if there are several samples."""
        paths = [str(Path(self.stages[0].path).with_name(f"{name}.tif")) for name in self.targets]
        return [*paths, *(s for path in paths for s in statistics_paths(path))] if self.job.samples > 1 else paths


def make_scene_plan(wanted: SceneRequest) -> ScenePlan:
    """The plan of a request; raises one of `backend.errors` with a sentence if it cannot be done."""
    return checked(draft_scene_plan(wanted))


def draft_scene_plan(wanted: SceneRequest) -> ScenePlan:
    """The plan of a request, wherever its results would go."""
    bundle = find_scene_bundle(wanted.model)
    config = bundle.config
    known, targets = [i.modality for i in wanted.inputs], list(wanted.targets)
    warnings = check_modalities(config, known, targets)
    if not bundle.has_weights:
        raise ModelError(
            f"The model {config.id} has no weights here: train it, or add a zip of it (Settings > Options > MetaEarth,"
            " or `python -m backend models --add`)."
        )
    grid = wanted.grid or lead_grid(wanted.inputs, wanted.source_resolution, wanted.resolution_m)
    area = grid.region if wanted.extent is None else grid.region_of(wanted.extent)
    warnings += check_resolution(config, [*known, *targets], grid.pixel_size_m) + check_cover(wanted, grid)
    profile, tile = config.profile, config.network.tile
    # what comes from noise alone is one window: several would each invent a scene of their own
    lattice = Lattice(tile, profile.margin, profile.ramp) if wanted.inputs else Lattice(tile, 0, 0)
    geometry = WindowGeometry(lattice, 1, 0)
    job, sampling = _job(wanted), Sampling(profile.sampler, wanted.steps or profile.steps)
    runs, speed = where_it_runs(bundle, wanted.device, wanted.precision)
    plan = ScenePlan(
        job=job,
        **runs,
        source={},  # this, bands, dtype and nodata: see `_with_rasters`
        resample_to_m=None,
        anchor=None,
        stretch=identity_stretch(1),
        scaling=(),
        bands=0,
        dtype="uint8",
        nodata=None,
        alpha=False,
        area=area,
        source_grid=grid,
        stages=(StagePlan(grid, area, area, job.output),),
        geometry=geometry,
        sampling=sampling,
        block_windows=block_windows(job, speed, sampling, geometry.count(area)),
        warnings=tuple(warnings),
        inputs=tuple(dataclasses.replace(i, path=str(Path(i.path).absolute())) for i in wanted.inputs),
        targets=wanted.targets,
        modalities=tuple(_modalities(config, wanted)),
    )
    return _with_rasters(plan)


def _modalities(config: SceneModelConfig, wanted: SceneRequest) -> list[Modality]:
    """What is known and what is wanted, by id."""
    names = sorted({*wanted.targets, *(given.modality for given in wanted.inputs)})
    return [modality_as_known(name, config) for name in names]


def check_modalities(config: SceneModelConfig, known: list[str], targets: list[str]) -> list[str]:
    """Warnings; `PlanError` or `ModelError` if the model cannot do it."""
    if not targets:
        raise PlanError("Name at least one modality to make.")
    for name in dict.fromkeys([*known, *targets]):
        title = find_modality(name).title
        if name not in config.network.modalities:
            raise ModelError(f"The model {config.id} has no part for {title}.")
        if name in config.untrained:
            raise ModelError(f"The model {config.id} was not trained on any imagery of {title}.")
    if len(set(known)) < len(known):
        raise PlanError("Give one raster for each modality.")
    if len(set(targets)) < len(targets):
        raise PlanError("Name each modality to make once.")
    found = []
    for target in targets:
        others = [name for name in (known or targets) if name != target]
        if config.pairs and others and not any(config.saw_together(target, other) for other in others):
            found.append(ZERO_SHOT.format(find_modality(others[0]).title, find_modality(target).title))
    return found


def check_resolution(config: SceneModelConfig, modalities: Iterable[str], pixel_size_m: float) -> list[str]:
    """Warnings if the model was not trained on pixels of about that size, at all or of some of the modalities."""
    for_all = config.ground_resolution_m
    ranges = {f"{find_modality(m).title}: the": config.resolutions.get(m, for_all) for m in modalities}
    if not is_about(pixel_size_m, for_all):
        ranges = {"The": for_all}
    return [
        f"{whose} pixels are {pixel_size_m:.3g} m; {config.id} was trained on {finest:g} to {coarsest:g} m."
        for whose, (finest, coarsest) in ranges.items()
        if not is_about(pixel_size_m, (finest, coarsest))
    ]


def check_cover(wanted: SceneRequest, grid: Grid) -> list[str]:
    """Warnings if a part of the extent will not be made."""
    found = []
    if wanted.extent is not None and len(wanted.inputs) > 1:
        xmin, ymin, xmax, ymax = grid.bounds()
        slack = max(abs(grid.transform.a), abs(grid.transform.e))
        beyond = (xmin - wanted.extent[0], ymin - wanted.extent[1], wanted.extent[2] - xmax, wanted.extent[3] - ymax)
        if max(beyond) > slack:
            name = Path(wanted.inputs[0].path).name
            found.append(f"The extent reaches beyond {name}, on whose grid results lie: nothing is made outside it.")
    return found


def is_about(pixel_size_m: float, trained_on: tuple[float, float]) -> bool:
    """Whether pixels are of a size between the finest and the coarsest of training, or nearly so."""
    return trained_on[0] / NEARLY <= pixel_size_m <= trained_on[1] * NEARLY


def lead_grid(inputs: tuple[SceneInput, ...], source_resolution: float | None, resolution_m: float | None) -> Grid:
    """The grid of the first raster, or its own at another resolution with the same corner."""
    if not inputs:
        raise InputError("Give at least one raster of the scene.")
    with RasterSource(inputs[0].path, None, source_resolution, resolution_m) as source:
        return source.grid


def _job(wanted: SceneRequest) -> Job:
    """The part of the request that every job has."""
    first = wanted.inputs[0].path if wanted.inputs else ""
    job = Job(
        first,
        str(Path(wanted.output) / f"{wanted.targets[0]}.tif"),
        None if wanted.extent is None else list(wanted.extent),
        model=wanted.model,
        source_resolution=wanted.source_resolution,
        seed=wanted.seed,
        steps=wanted.steps,
        device=wanted.device,
        precision=wanted.precision,
        executor=wanted.executor,
        job_dir=wanted.job_dir,
        samples=wanted.samples,
    )
    return job.with_absolute_paths()


def _with_rasters(plan: ScenePlan) -> ScenePlan:
    """The plan with what its rasters and its targets say: fingerprints, number of bands, type and holes."""
    holes = False
    for given in plan.inputs:
        with plan.opened(given) as raster:
            if not raster.source.shows_any_of(plan.source_grid.crop(plan.area)):
                raise InputError(f"{Path(given.path).name} shows nothing of the place that is asked for.")
            holes |= raster.source.needs_alpha or raster.source.nodata is not None
    targets = plan.target_modalities
    eight_bit, warnings = all(m.is_eight_bit for m in targets), plan.warnings
    if holes and len(plan.inputs) == 1 and plan.inputs[0].modality in plan.targets:
        title = find_modality(plan.inputs[0].modality).title
        warnings += (f"{title} is all that is given: its holes stay, since no other raster tells what is there.",)
    return dataclasses.replace(
        plan,
        warnings=warnings,
        source=plan.source_now(),
        bands=sum(m.band_count for m in targets),
        dtype="uint8" if eight_bit else "float32",
        nodata=None if eight_bit else float("nan"),
        alpha=eight_bit and holes,
    )
