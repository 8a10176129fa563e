"""The description of a cascade network, as it stands in a bundle's ``config.json``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from backend.errors import ModelError


@dataclass(frozen=True)
class EncoderConfig:
    """RRDBNet's sizes; the defaults are ESRGAN's standard ones (arXiv 1809.00219)."""

    features: int = 64
    blocks: int = 23
    growth: int = 32
    residual_scale: float = 0.2


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of one `CascadeNetwork`; the defaults are MetaEarth's (PAPER section "Network").

    ``unshuffle`` folds blocks of that many pixels a side into channels before the U-Net.
    ``context`` is the number of low-resolution pixels that the encoder sees beyond the window on
    each side. With ``residual`` the network models (x - bicubic(lr)) / (residual_scale + residual_contrast * e),
    where e is the local contrast of the low-resolution image [ours]: detail beyond its Nyquist frequency is
    as strong as its own contrast, and a target of unit variance everywhere leaves no grain where it is smooth.
    With ``linear_guess`` the prediction is what the network adds to that of a Gaussian of the folded pixels [ours].
    With ``pixel_norm`` the channels of each pixel are normalised, not groups of them over the whole window [ours].
    """

    scale: int = 4
    tile: int = 256
    channels: int = 3
    base_channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 8, 8)
    blocks_per_level: int = 3
    attention_multipliers: tuple[int, ...] = (8,)
    head_channels: int = 64
    embedding_channels: int = 512
    unshuffle: int = 1
    context: int = 8
    residual: bool = False
    residual_scale: float = 0.22
    residual_contrast: float = 0.0
    resolution_guidance: bool = True
    linear_guess: bool = False
    pixel_norm: bool = False
    encoder: EncoderConfig = EncoderConfig()

    def __post_init__(self) -> None:
        if self.unshuffle not in (1, 2, 4) or self.scale % self.unshuffle:
            raise ModelError(f"A network cannot fold {self.unshuffle} pixels at a scale of {self.scale}.")
        if self.tile % self.total_downsampling:
            raise ModelError(f"A tile of {self.tile} pixels is no multiple of {self.total_downsampling}.")

    @property
    def total_downsampling(self) -> int:
        """Output pixels per pixel of the U-Net's coarsest level."""
        return self.unshuffle * 2 ** (len(self.multipliers) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """The configuration in ``values``; unknown names raise `ModelError`."""
        values = dict(values)
        try:
            values["encoder"] = EncoderConfig(**values.get("encoder", {}))
            for name in ("multipliers", "attention_multipliers"):
                if name in values:
                    values[name] = tuple(values[name])
            return cls(**values)
        except TypeError as error:
            raise ModelError(f"The model's config.json does not describe a network: {error}") from error
