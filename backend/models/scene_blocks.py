"""The transformer blocks of MetaEarth-MM: scene inference over all streams, and generation a stream by its modality.

The parts are those of the paper's figure (arXiv 2605.20090); rotary positions, what is beside the attention, and
attention within a stream in the generator are choices of this project.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models.scene_config import SceneNetworkConfig


class RoutedLinear(nn.Module):
    """A linear map with weights of its own for each modality."""

    def __init__(self, modalities: int, inputs: int, outputs: int, zero: bool = False) -> None:
        super().__init__()
        bound = 0.0 if zero else inputs**-0.5
        self.weight = nn.Parameter(torch.empty(modalities, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(modalities, outputs))

    def forward(self, x: Tensor, modalities: Tensor) -> Tensor:
        """(batch, streams, tokens, inputs) -> (batch, streams, tokens, outputs)."""
        product = torch.einsum("bsni,bsoi->bsno", x, self.weight[modalities])
        return product + self.bias[modalities][:, :, None].to(product.dtype)


class FeedForward(nn.Sequential):
    """Two linear maps."""

    def __init__(self, width: int, ratio: float) -> None:
        hidden = round(width * ratio)
        super().__init__(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))


class RoutedFeedForward(nn.Module):
    """One expert a modality [figure: five experts, chosen by modality]."""

    def __init__(self, modalities: int, width: int, ratio: float) -> None:
        super().__init__()
        self.experts = nn.ModuleList(FeedForward(width, ratio) for _ in range(modalities))

    def forward(self, x: Tensor, modalities: Tensor) -> Tensor:
        """(batch, streams, tokens, width) -> the same, each stream by its modality's expert."""
        made = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            chosen = modalities == number
            if bool(chosen.any()):
                made[chosen] = expert(x[chosen]).to(made.dtype)
        return made


class Place(NamedTuple):
    """Where tokens lie: cosines and sines of their rotary positions (tokens, channels / 2), tokens down and across."""

    cosines: Tensor
    sines: Tensor
    grid: tuple[int, int]

    def repeated(self, streams: int) -> Place:
        """Tokens of all streams that show one place have one position."""
        return Place(self.cosines.repeat(streams, 1), self.sines.repeat(streams, 1), self.grid)


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve training too
def place_of(rows: int, cols: int, channels: int, device: torch.device) -> Place:
    """The rotary positions of rows x cols tokens, for heads of so many channels; half of them turn with the row."""
    frequencies = 100.0 ** (-torch.arange(channels // 4, device=device, dtype=torch.float32) / (channels // 4))
    row = torch.arange(rows, device=device).repeat_interleave(cols)
    col = torch.arange(cols, device=device).repeat(rows)
    angles = torch.cat([place[:, None] * frequencies for place in (row, col)], dim=1)
    return Place(angles.cos(), angles.sin(), (rows, cols))


def rotated(x: Tensor, place: Place) -> Tensor:
    """Pairs of channels of (..., tokens, channels) turned by their angles."""
    (a, b), (cosines, sines, _) = x.float().chunk(2, dim=-1), place
    return torch.cat([a * cosines - b * sines, a * sines + b * cosines], dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys and rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q, self.norm_k = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, place: Place) -> Tensor:
        """(batch, tokens, width) -> the same."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = (rotated(_normalised(t, norm), place) for norm, t in ((self.norm_q, q), (self.norm_k, k)))
        h = F.scaled_dot_product_attention(q, k, v)
        return self.out(h.transpose(1, 2).reshape(batch, tokens, width))


def _normalised(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """The norm with its weights in the type of ``x``."""
    return F.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer normalisation without weights, then scale and shift from the condition."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class Neighbours(nn.Module):
    """A weighted sum of the 3x3 tokens around each, channel by channel: patches fit each other sooner [ours]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(batch, streams, tokens, width), tokens down and across -> the same."""
        flat = x.flatten(0, 1).unflatten(1, grid).permute(0, 3, 1, 2)
        return self.conv(flat).permute(0, 2, 3, 1).reshape(x.shape)


class InferenceBlock(nn.Module):
    """Partition AdaLN, joint attention over the tokens of all streams, partition AdaLN, one shared feed-forward.

    Beside the attention each token is given the mean of the streams at its own place and its neighbours [ours]: a small
    network need not learn first that the same place is where to look.
    """

    def __init__(self, config: SceneNetworkConfig) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(config.width, 6 * config.width))
        self.attention = Attention(config.width, config.heads)
        self.here = nn.Linear(config.width, config.width)
        self.near = Neighbours(config.width)
        self.feed_forward = FeedForward(config.width, config.mlp_ratio)

    def forward(self, x: Tensor, condition: Tensor, place: Place) -> Tensor:
        """(batch, streams, tokens, width) and (batch, streams, 1, width) -> the tokens."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition)).chunk(6, dim=-1)
        streams = x.shape[1]
        seen = modulated(x, shift1, scale1)
        joint = self.attention(seen.flatten(1, 2), place.repeated(streams)).unflatten(1, (streams, -1))
        beside = self.here(seen.mean(dim=1, keepdim=True)) + self.near(seen, place.grid)
        x = x + gate1 * (joint + beside)
        return x + gate2 * self.feed_forward(modulated(x, shift2, scale2))


class GeneratorBlock(nn.Module):
    """Token-wise AdaLN, attention within a stream, token-wise AdaLN, the modality's own feed-forward."""

    def __init__(self, config: SceneNetworkConfig) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(config.width, 6 * config.width))
        self.attention = Attention(config.width, config.heads)
        self.near = Neighbours(config.width)
        self.feed_forward = RoutedFeedForward(len(config.modalities), config.width, config.expert_ratio)

    def forward(self, x: Tensor, condition: Tensor, place: Place, modalities: Tensor) -> Tensor:
        """(batch, streams, tokens, width), a condition a token -> the tokens."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition)).chunk(6, dim=-1)
        seen = modulated(x, shift1, scale1)
        own = self.attention(seen.flatten(0, 1), place).unflatten(0, x.shape[:2])
        x = x + gate1 * (own + self.near(seen, place.grid))
        return x + gate2 * self.feed_forward(modulated(x, shift2, scale2), modalities)


def zeroed(linear: nn.Linear) -> nn.Linear:
    """The map with weights of zero: what it gives counts for nothing at first."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
