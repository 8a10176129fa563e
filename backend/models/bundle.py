"""Model bundles: a folder with ``config.json``, ``model.safetensors`` and ``README.md`` (the card)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from backend.diffusion.schedules import NoiseSchedule
from backend.digest import sha256_of
from backend.errors import ModelError
from backend.files import complete_file, to_disk
from backend.models.cascade_network import CascadeNetwork
from backend.models.config import NetworkConfig
from backend.models.scene_config import SceneNetworkConfig
from backend.models.scene_network import SceneNetwork
from backend.models.scene_regression import SceneRegression
from backend.protocol import CASCADE, SCENE, data_home

EMBEDDED = Path(__file__).resolve().parents[2] / "resources" / "models"
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


@dataclass(frozen=True)
class Profile:
    """How a model is run: window geometry in output pixels, and the default sampler."""

    margin: int = 20
    ramp: int = 8
    sampler: str = "dpm-solver++"
    steps: int = 12


@dataclass(frozen=True)
class ModelConfig:
    """All of the ``config.json`` of a cascade's bundle."""

    id: str
    title: str
    network: NetworkConfig
    schedule: NoiseSchedule
    prediction: str
    ground_resolution_m: tuple[float, float]
    """The finest and the coarsest metres per output pixel seen in training."""
    profile: Profile
    licence: str
    training: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The configuration in ``values``; `ModelError` if a part is missing or unknown."""
        try:
            config = cls(
                id=str(values["id"]),
                title=str(values["title"]),
                network=NetworkConfig.from_dict(values["network"]),
                schedule=NoiseSchedule(**values["schedule"]),
                prediction=str(values["prediction"]),
                ground_resolution_m=(float(values["ground_resolution_m"][0]), float(values["ground_resolution_m"][1])),
                profile=Profile(**values["profile"]),
                licence=str(values["licence"]),
                training=dict(values.get("training", {})),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelError(f"The model's config.json is incomplete or has unknown parts: {error}") from error
        if config.prediction not in ("eps", "v"):
            raise ModelError(f"The model predicts {config.prediction!r}; only eps and v are known.")
        return config

    def build(self) -> CascadeNetwork:
        """The network, its weights random."""
        return CascadeNetwork(self.network, self.schedule, self.prediction)


@dataclass(frozen=True)
class SceneModelConfig:
    """All of the ``config.json`` of a MetaEarth-MM bundle.

    ``relative``: modalities that it knows without their unit, because it was trained on imagery that had none; what it
    makes of them is of 8 bits. ``untrained``: modalities that it has parts for, but saw no imagery of. ``pairs``:
    those that it saw of one place. ``classes``: the classes that it saw of maps, by modality, where not all.
    ``resolutions``: the finest and the coarsest metres per pixel that it saw a modality at.
    """

    id: str
    title: str
    network: SceneNetworkConfig
    ground_resolution_m: tuple[float, float]
    profile: Profile
    licence: str
    training: dict[str, Any]
    relative: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    classes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    resolutions: dict[str, tuple[float, float]] = field(default_factory=dict)
    kind: str = SCENE
    """Written into the file, by which it is told from a cascade's, which has none."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SceneModelConfig:
        """The configuration in ``values``; `ModelError` if a part is missing or unknown."""
        try:
            finest, coarsest = values["ground_resolution_m"]
            return cls(
                id=str(values["id"]),
                title=str(values["title"]),
                network=SceneNetworkConfig.from_dict(values["network"]),
                ground_resolution_m=(float(finest), float(coarsest)),
                profile=Profile(**values["profile"]),
                licence=str(values["licence"]),
                training=dict(values.get("training", {})),
                relative=tuple(values.get("relative", ())),
                untrained=tuple(values.get("untrained", ())),
                pairs=tuple((str(a), str(b)) for a, b in values.get("pairs", ())),
                classes={str(m): tuple(map(int, seen)) for m, seen in values.get("classes", {}).items()},
                resolutions={str(m): (float(a), float(b)) for m, (a, b) in values.get("resolutions", {}).items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"The model's config.json is incomplete or has unknown parts: {error}") from error

    @property
    def trained(self) -> tuple[str, ...]:
        """The modalities that it saw imagery of."""
        return tuple(name for name in self.network.modalities if name not in self.untrained)

    @property
    def is_regression(self) -> bool:
        """Whether it is the baseline, trained with objective=l1: another network of the same modalities."""
        return self.training.get("objective") == "l1"

    def saw_together(self, one: str, other: str) -> bool:
        """Whether it was trained on places in both modalities."""
        return (one, other) in self.pairs or (other, one) in self.pairs

    def build(self) -> SceneNetwork:
        """The network, its weights random."""
        return SceneNetwork(self.network)

    def build_regression(self) -> SceneRegression:
        """The baseline's network, its weights random."""
        return SceneRegression(len(self.network.modalities), self.network.regression, self.network.tile)


AnyConfig = ModelConfig | SceneModelConfig
Config = TypeVar("Config", bound=AnyConfig, covariant=True)


def build_any(config: AnyConfig) -> torch.nn.Module:
    """The network that a configuration describes, its weights random."""
    if isinstance(config, SceneModelConfig) and config.is_regression:
        return config.build_regression()
    return config.build()


@dataclass(frozen=True)
class Bundle(Generic[Config]):
    """A bundle on disk, its configuration read, its weights not."""

    folder: Path
    config: Config

    @property
    def weights(self) -> Path:
        """Where the weights are, if there are any."""
        return self.folder / WEIGHTS

    @property
    def kind(self) -> str:
        """What kind of model it is, as the protocol calls it."""
        return SCENE if isinstance(self.config, SceneModelConfig) else CASCADE

    @property
    def has_weights(self) -> bool:
        """A bundle without weights can only be trained."""
        return self.weights.is_file()

    def need_weights(self) -> None:
        """`ModelError` if there are none."""
        if not self.has_weights:
            raise ModelError(f"The model {self.config.id} has no weights yet: it can be trained, but not run.")

    def sha256(self) -> str:
        """SHA-256 of configuration and weights together, in hexadecimal."""
        return sha256_of(self.folder / CONFIG, self.weights)

    @overload
    def load(self: Bundle[ModelConfig], dtype: torch.dtype = ...) -> CascadeNetwork: ...

    @overload
    def load(self: Bundle[SceneModelConfig], dtype: torch.dtype = ...) -> SceneNetwork: ...

    @overload
    def load(self: Bundle[AnyConfig], dtype: torch.dtype = ...) -> torch.nn.Module: ...

    def load(self, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
        """The network with its weights, in evaluation mode; names, shapes and finiteness are checked first."""
        self.need_weights()
        with torch.device("meta"):
            network = build_any(self.config)
        state = read_weights(self.weights, {k: tuple(v.shape) for k, v in network.state_dict().items()})
        network.load_state_dict({k: v.to(dtype) for k, v in state.items()}, assign=True)
        return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def read_weights(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; `ModelError` unless exactly ``shapes`` and all values finite."""
    try:
        with safe_open(path, framework="pt") as opened:
            found = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
            if found != shapes:
                wrong = sorted(set(found.items()) ^ set(shapes.items()))[0]
                raise ModelError(f"{path} does not fit its config.json: {wrong[0]} has shape {list(wrong[1])}.")
            state = {name: opened.get_tensor(name).clone() for name in shapes}  # not mapped: see load_state
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from error
    if not all(bool(torch.isfinite(t).all()) for t in state.values()):
        raise ModelError(f"{path} is damaged: some weights are not finite numbers.")
    return state


def write_weights(path: Path, state: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Write tensors as safetensors of ``dtype``; the file appears whole."""
    partial = path.with_name(path.name + ".part")
    typed = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    save_file(typed, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    to_disk(partial)
    partial.replace(path)


def open_bundle(folder: Path) -> Bundle[AnyConfig]:
    """The bundle in ``folder``, of whatever kind."""
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} is no model bundle: its {CONFIG} cannot be read ({error}).") from error
    return Bundle(folder, (SceneModelConfig if values.get("kind") == SCENE else ModelConfig).from_dict(values))


def model_folders() -> list[Path]:
    """Where bundles are looked for: the user's models first, then the embedded ones."""
    return [data_home() / "models", EMBEDDED]


def list_bundles() -> list[Bundle[AnyConfig]]:
    """Every readable bundle; of two with one id, the user's own."""
    found: dict[str, Bundle[AnyConfig]] = {}
    for root in model_folders():
        for folder in sorted(root.glob("[!.]*")) if root.is_dir() else []:
            if (folder / CONFIG).is_file() and folder.name not in found:
                try:
                    found[folder.name] = open_bundle(folder)
                except ModelError:
                    continue
    return list(found.values())


def find_any_bundle(id_or_folder: str) -> Bundle[AnyConfig]:
    """The bundle with that id, or in that folder; `ModelError` names the known ones."""
    for root in model_folders():
        if "/" not in id_or_folder and "\\" not in id_or_folder and (root / id_or_folder / CONFIG).is_file():
            return open_bundle(root / id_or_folder)
    if (Path(id_or_folder) / CONFIG).is_file():
        return open_bundle(Path(id_or_folder))
    known = ", ".join(b.config.id for b in list_bundles()) or "none"
    raise ModelError(f"There is no model {id_or_folder!r}. Known models: {known}; or name the folder of a bundle.")


def find_bundle(id_or_folder: str) -> Bundle[ModelConfig]:
    """The cascade's bundle with that id, or in that folder; `ModelError` if there is none."""
    return as_cascade(find_any_bundle(id_or_folder))


def as_cascade(bundle: Bundle[AnyConfig]) -> Bundle[ModelConfig]:
    """The bundle itself, if it makes rasters finer; else `ModelError`."""
    if not isinstance(bundle.config, ModelConfig):
        raise ModelError(f"The model {bundle.config.id} translates between modalities; it makes no raster finer.")
    return Bundle(bundle.folder, bundle.config)


def as_scene(bundle: Bundle[AnyConfig]) -> Bundle[SceneModelConfig]:
    """The bundle itself, if it translates between modalities; else `ModelError`."""
    if not isinstance(bundle.config, SceneModelConfig):
        raise ModelError(f"The model {bundle.config.id} makes rasters finer; it knows no modalities.")
    if bundle.config.is_regression:
        raise ModelError(f"{bundle.config.id} is a baseline to measure models against; it makes no rasters.")
    return Bundle(bundle.folder, bundle.config)


def find_scene_bundle(id_or_folder: str) -> Bundle[SceneModelConfig]:
    """MetaEarth-MM's bundle with that id, or in that folder; `ModelError` if there is none."""
    return as_scene(find_any_bundle(id_or_folder))


def save_bundle(folder: Path, config: AnyConfig, state: dict[str, torch.Tensor]) -> None:
    """Write configuration and fp16 weights; the card is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with complete_file(folder / CONFIG) as partial:
        partial.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        to_disk(partial)
    write_weights(folder / WEIGHTS, state, torch.float16)


def copy_bundle(folder: Path, target: Path) -> None:
    """Copy a bundle's own files, not what a training has left beside them; they are on the disk then."""
    target.mkdir(parents=True)
    for name in (CONFIG, CARD, WEIGHTS):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
            to_disk(target / name)
