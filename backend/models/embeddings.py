"""Resolution and time embeddings of MetaEarth (section "Resolution-guided generation")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

OMEGA = 10_000.0


def frequency_encoding(values: Tensor, channels: int, omega: float = OMEGA) -> Tensor:
    """[cos(w_i s), sin(w_i s)] with w_i = omega^(-2i/d): (batch,) -> (batch, channels), float32."""
    half = channels // 2
    exponents = torch.arange(half, device=values.device, dtype=torch.float32) * (-2.0 / channels)
    angles = values.float()[:, None] * omega ** exponents[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ScalarEmbedding(nn.Module):
    """Frequency encoding of one scalar a sample, followed by its own two-layer perceptron."""

    def __init__(self, encoding_channels: int, channels: int) -> None:
        super().__init__()
        self.encoding_channels = encoding_channels
        self.mlp = nn.Sequential(nn.Linear(encoding_channels, channels), nn.SiLU(), nn.Linear(channels, channels))

    @property
    def dtype(self) -> torch.dtype:
        """The weights' data type."""
        return next(self.parameters()).dtype

    def forward(self, values: Tensor) -> Tensor:
        """(batch,) -> (batch, channels)."""
        return self.mlp(frequency_encoding(values, self.encoding_channels).to(self.dtype))
