"""The description of a MetaEarth-MM network, as it stands in a bundle's ``config.json``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from backend.errors import ModelError
from backend.models.config import NetworkConfig


@dataclass(frozen=True)
class VaeConfig:
    """Sizes of a picture autoencoder: blocks of ``fold`` pixels a side become ``channels`` latent channels.

    ``widths``, none in `PrincipalBlocks`: channels of each level of a `PictureVae`, the finest first, each but the last
    followed by a 2x step; ``blocks`` residual blocks a level. ``fold`` counts all: pixels folded into channels first,
    and the 2x steps.
    """

    fold: int = 4
    channels: int = 20
    widths: tuple[int, ...] = ()
    blocks: int = 0

    def __post_init__(self) -> None:
        if self.fold % self.steps:
            raise ModelError(f"A VAE with {len(self.widths)} levels cannot fold {self.fold} pixels.")

    @property
    def steps(self) -> int:
        """By how much the 2x steps fold."""
        return 2 ** max(0, len(self.widths) - 1)


@dataclass(frozen=True)
class RegressionConfig:
    """Sizes of a `SceneRegression`, as the cascade's `NetworkConfig` has them; the defaults give 7.8 M weights."""

    base_channels: int = 40
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks_per_level: int = 2
    unshuffle: int = 2

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RegressionConfig:
        """The sizes in ``values``; `TypeError` for unknown names."""
        return cls(**{**values, "multipliers": tuple(values.get("multipliers", cls.multipliers))})

    def unet(self, tile: int) -> NetworkConfig:
        """The U-Net."""
        return NetworkConfig(
            tile=tile,
            base_channels=self.base_channels,
            multipliers=self.multipliers,
            blocks_per_level=self.blocks_per_level,
            attention_multipliers=(),
            embedding_channels=2 * self.base_channels,
            unshuffle=self.unshuffle,
            pixel_norm=True,
        )


@dataclass(frozen=True)
class SceneNetworkConfig:
    """Sizes of one `SceneNetwork`; the defaults are those of DDT-XL (arXiv 2504.05741) [ours].

    ``modalities``: the ids of those that it knows; their order numbers embeddings and experts. ``tile``: pixels along
    a window's side. ``patch``: latent pixels along a token's side. ``expectation``: the network that tells what to
    expect of modalities when others are observed; None: there is none. ``regression``: the baseline of the same
    modalities.
    """

    modalities: tuple[str, ...] = ("rgb", "nir", "sar", "pan", "osm")
    tile: int = 256
    patch: int = 2
    width: int = 1152
    heads: int = 16
    inference_blocks: int = 22
    generator_blocks: int = 6
    mlp_ratio: float = 4.0
    expert_ratio: float = 4.0
    encoding_channels: int = 256
    vae: VaeConfig = VaeConfig(fold=8, channels=4, widths=(128, 256, 512, 512), blocks=2)
    expectation: RegressionConfig | None = None
    regression: RegressionConfig = RegressionConfig()

    def __post_init__(self) -> None:
        if self.tile % self.pixels_a_token:
            raise ModelError(f"A tile of {self.tile} pixels is no multiple of a token's {self.pixels_a_token}.")
        if self.width % (4 * self.heads):
            raise ModelError(f"{self.width} channels in {self.heads} heads leave no whole number for the positions.")

    @property
    def pixels_a_token(self) -> int:
        """Pixels along a token's side."""
        return self.vae.fold * self.patch

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SceneNetworkConfig:
        """The configuration in ``values``; unknown names raise `ModelError`."""
        values = dict(values)
        try:
            vae = dict(values.get("vae", {}))
            if "widths" in vae:
                vae["widths"] = tuple(vae["widths"])
            expectation = values.get("expectation")
            values |= {
                "vae": VaeConfig(**vae),
                "expectation": None if expectation is None else RegressionConfig.from_dict(expectation),
                "regression": RegressionConfig.from_dict(values.get("regression", {})),
            }
            values["modalities"] = tuple(values.get("modalities", cls.modalities))
            return cls(**values)
        except TypeError as error:
            raise ModelError(f"The model's config.json does not describe a scene network: {error}") from error
