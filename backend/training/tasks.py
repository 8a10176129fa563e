"""What the trainer trains: a cascade's network, or MetaEarth-MM's. All that differs between the two is here."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from backend.errors import PlanError
from backend.models.bundle import AnyConfig, ModelConfig, SceneModelConfig
from backend.models.cascade_network import CascadeNetwork
from backend.models.scene_config import SceneNetworkConfig
from backend.models.scene_network import SceneNetwork
from backend.models.scene_regression import SceneRegression
from backend.models.unet import Step
from backend.scene.modality import Modality, find_modality
from backend.training.chips import ChipSet, is_chip_set
from backend.training.data import Picture, Pool, training_pool, validation_pool
from backend.training.examples import Cropping, Examples
from backend.training.first_stage import require_first_stage
from backend.training.objective import Objective, folded_images
from backend.training.scene_examples import MODES, RandomScenes, SceneExamples, ScenePool, TuplePool
from backend.training.scene_objective import (
    ExpectationObjective,
    FlowObjective,
    RegressionObjective,
    VaeObjective,
    latents_and_losses,
)
from backend.training.settings import TrainingSettings
from backend.training.validation import scene_picture, validation_picture

PRIOR_EXAMPLES = 800
"""What linear guesses are fitted to."""


class Task(Protocol):
    """A network, its loss, its examples, and pictures of what it can."""

    def network(self) -> nn.Module:
        """The network with random weights; what is not trained asks for no gradient."""

    def prepare(self, network: Any, examples: Any) -> None:
        """What a new run finds out of its examples before the first step."""

    def objective(self, network: Any) -> nn.Module:
        """The loss of a batch, as a module."""

    def training_pool(self, data: Path) -> Any:
        """What is trained on."""

    def described(self, pool: Any, start: Any) -> AnyConfig:
        """The model as it is after training on a pool, beginning with the weights of the model ``start`` or none."""

    def validation_pool(self, data: Path) -> Any:
        """What it is looked at with meanwhile; None if there is none."""

    def random_pool(self) -> Any:
        """Nonsense to train on, to see whether it runs."""

    def examples(self, pool: Any, seed: int) -> Dataset:
        """Numbered examples of a pool."""

    def picture(self, objective: Any, examples: Any, device: torch.device) -> Image.Image:
        """What the network makes of held-out examples."""


def task_of(config: AnyConfig, settings: TrainingSettings) -> Task:
    """The task for a model."""
    return CascadeTask(config, settings) if isinstance(config, ModelConfig) else SceneTask(config, settings)


Network = TypeVar("Network", bound=nn.Module)


def with_recompute(network: Network, recompute: bool) -> Network:
    """The network itself, its U-Net's activations kept for the gradient or computed again."""
    for module in network.modules():
        if isinstance(module, Step):
            module.recompute = recompute
    return network


class CascadeTask:
    """MetaEarth's cascade, or its regression baseline."""

    def __init__(self, config: ModelConfig, settings: TrainingSettings) -> None:
        self.config, self.settings = config, settings
        require_crop(settings.crop, math.lcm(config.network.scale, config.network.total_downsampling))

    def network(self) -> CascadeNetwork:
        """See `Task`."""
        network = self.config.build().channels_last()
        if network.guess:
            network.guess.requires_grad_(False)
        return with_recompute(network, self.settings.gradient_checkpointing)

    def prepare(self, network: CascadeNetwork, examples: Examples) -> None:
        """Fit the linear guess, if there is one and the weights that the run begins with have none."""
        if network.guess and not network.guess.prior.is_fitted:
            count = min(PRIOR_EXAMPLES, max(len(examples.pool), 1))
            network.guess.prior.fit(folded_images(network, examples, count))

    def objective(self, network: CascadeNetwork) -> Objective:
        """See `Task`."""
        return Objective(network, self.config, self.settings.objective, self.settings.loss_weighting)

    def training_pool(self, data: Path) -> Pool:
        """See `Task`."""
        return training_pool(data, self.settings.crop, self.settings.seed)

    def described(self, pool: Pool, start: ModelConfig | None) -> ModelConfig:
        """With the ground resolutions that it has seen then."""
        return dataclasses.replace(
            self.config, ground_resolution_m=reach(pool.resolutions, *([start.ground_resolution_m] if start else ())))

    def validation_pool(self, data: Path) -> Pool | None:
        """See `Task`."""
        return validation_pool(data, self.settings.crop)

    def random_pool(self) -> Pool:
        """See `Task`."""
        return RandomPictures(self.settings.crop)

    def examples(self, pool: Pool, seed: int) -> Examples:
        """See `Task`."""
        network, s = self.config.network, self.settings
        cropping = Cropping(s.crop, network.scale, network.context, s.degradation, s.second_stage)
        if s.second_stage and s.objective == "l1":
            raise PlanError("second_stage needs a network that is trained to sample: objective=diffusion.")
        if s.second_stage:
            require_first_stage(network, cropping.low_side)
        return Examples(pool, cropping, self.config.schedule, s.times, seed)

    def picture(self, objective: Objective, examples: Examples, device: torch.device) -> Image.Image:
        """See `Task`."""
        return validation_picture(objective, examples, device)


class SceneTask:
    """MetaEarth-MM: with ``objective = vae`` its picture autoencoder, ``expectation`` its regression, ``flow`` all the
    rest; ``l1`` the baseline."""

    def __init__(self, config: SceneModelConfig, settings: TrainingSettings) -> None:
        self.config, self.settings = config, settings
        if settings.objective not in MODES:
            raise PlanError(f"{config.id} is trained with objective={' or '.join(MODES)}, not {settings.objective}.")
        if settings.objective == "vae" and not config.network.vae.widths:
            raise PlanError(f"{config.id} has no autoencoder to train: principal components are fitted in its place.")
        if settings.objective == "expectation" and config.network.expectation is None:
            raise PlanError(f"{config.id} has no regression to train.")
        require_crop(settings.crop, _fitting(config.network))

    def network(self) -> SceneNetwork | SceneRegression:
        """See `Task`."""
        if self.settings.objective == "l1":
            return with_recompute(self.config.build_regression(), self.settings.gradient_checkpointing)
        network = self.config.build()
        network.recompute = self.settings.gradient_checkpointing
        part = {"vae": "vae", "expectation": "regression"}.get(self.settings.objective, "")
        for name, parameter in network.named_parameters():
            statistics = name in ("vae.mean", "vae.deviation") or name.startswith(("prior.", "lost.", "pixels."))
            own = name.split(".")[0] if name.startswith(("vae.", "regression.")) else ""
            parameter.requires_grad_(own == part and not statistics)
        return with_recompute(network, self.settings.gradient_checkpointing)

    def prepare(self, network: Any, examples: SceneExamples) -> None:
        """Fit what is linear, unless the weights that the run begins with know it."""
        count = min(PRIOR_EXAMPLES, len(examples.pool))
        if self.settings.objective not in ("expectation", "flow"):
            return
        if not network.vae.is_fitted:
            network.vae.fit(examples[number].pictures for number in range(count))
        if network.pixels is not None and not network.pixels.is_fitted:
            network.pixels.fit(examples.whole_pictures())
        if not network.prior.is_fitted:
            for prior, found in zip((network.prior, network.lost), latents_and_losses(network, examples, count)):
                prior.fit(found)

    def objective(self, network: Any) -> nn.Module:
        """See `Task`."""
        s = self.settings
        if s.objective == "l1":
            return RegressionObjective(network)
        if s.objective == "expectation":
            return ExpectationObjective(network)
        return VaeObjective(network) if s.objective == "vae" else FlowObjective(network, s.scene_weight)

    def training_pool(self, data: Path) -> TuplePool:
        """See `Task`."""
        return TuplePool(ChipSet(data, "train"), self.config.network.modalities)

    def described(self, pool: TuplePool, start: SceneModelConfig | None) -> SceneModelConfig:
        """With the pairs, resolutions, units and classes of maps that it has seen then; an autoencoder saw none."""
        knew = start if start and start.training.get("objective") == self.settings.objective else None
        pairs = tuple(sorted({(min(pair), max(pair)) for pair in (knew.pairs if knew else ())} | pool.pairs))
        untrained = tuple(m for m in self.config.network.modalities if not any(m in pair for pair in pairs))
        resolutions = dict(knew.resolutions) if knew else {}
        for name, (finest, coarsest) in pool.resolutions(self.settings.crop).items():
            resolutions[name] = reach((finest, coarsest), resolutions.get(name, (finest, coarsest)))
        classes = dict(knew.classes) if knew else {}
        for name in self.config.network.modalities:
            modality = find_modality(name)
            if modality.is_map and name not in untrained:
                classes[name] = seen_classes(modality, classes.get(name, ()), pool.classes(name))
        relative = tuple(sorted(set(knew.relative if knew else ()) | pool.relative()))
        return dataclasses.replace(
            self.config, pairs=pairs, untrained=untrained, classes=classes, resolutions=resolutions, relative=relative,
            ground_resolution_m=reach(*resolutions.values()),
        )  # fmt: skip

    def validation_pool(self, data: Path) -> TuplePool | None:
        """See `Task`."""
        if not is_chip_set(data) or not len(chips := ChipSet(data, "validation")):
            return None
        return TuplePool(chips, self.config.network.modalities)

    def random_pool(self) -> ScenePool:
        """See `Task`."""
        return RandomScenes(self.settings.crop, self.config.network.modalities)

    def examples(self, pool: ScenePool, seed: int) -> SceneExamples:
        """See `Task`."""
        network, s = self.config.network, self.settings
        modalities = {name: find_modality(name) for name in network.modalities}
        return SceneExamples(pool, network, modalities, s.crop, seed, s.batch)

    def picture(self, objective: Any, examples: SceneExamples, device: torch.device) -> Image.Image:
        """See `Task`."""
        return scene_picture(objective, examples, device)


def reach(*ranges: tuple[float, float]) -> tuple[float, float]:
    """From the least to the largest of some ranges."""
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def require_crop(crop: int, unit: int) -> None:
    """`PlanError` unless a crop of so many pixels fits the network."""
    if crop < unit or crop % unit:
        raise PlanError(
            f"A crop of {crop} pixels does not fit the network: it must be a multiple of {unit}; choose another crop."
        )


def _fitting(network: SceneNetworkConfig) -> int:
    """What a crop is a multiple of, of MetaEarth-MM: a token's pixels, and those of its U-Nets' coarsest level."""
    sizes = [network.regression, *([network.expectation] if network.expectation else [])]
    return math.lcm(network.pixels_a_token, *(s.unet(network.tile).total_downsampling for s in sizes))


def seen_classes(modality: Modality, *some: tuple[int, ...]) -> tuple[int, ...]:
    """The classes of a map that are in any of ``some``, in the modality's order; unknown numbers count as the first."""
    known = [c.value for c in modality.classes]
    seen = {value if value in known else known[0] for values in some for value in values}
    return tuple(value for value in known if value in seen)


class RandomPictures:
    """Pictures of nothing, to see whether a configuration runs."""

    def __init__(self, side: int) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        self.resolutions = 1.0, 1.0

    def __len__(self) -> int:
        return 1

    def draw(self, index: int, rng: np.random.Generator) -> tuple[Picture, int]:
        """Always the same."""
        return Picture(self.pixels, 1.0, "random", Path("random")), 1
