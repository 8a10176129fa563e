"""What stands in for a trained network or a photograph where the bench measures something else."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import rasterio
import torch

from backend.cascade.engine import Engine
from backend.diffusion.schedules import NoiseSchedule
from backend.models.bundle import Bundle, ModelConfig, Profile, find_bundle, open_bundle, save_bundle
from backend.models.cascade_network import CascadeNetwork
from backend.models.config import EncoderConfig, NetworkConfig


def random_600m(folder: Path) -> Bundle:
    """metaearth-600m with random weights: for what does not depend on training."""
    config = find_bundle("metaearth-600m").config
    torch.manual_seed(0)
    network = config.build()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # layers that start as zero would hide the rest
                parameter.normal_(0, 0.02)
    save_bundle(folder, config, network.state_dict())
    return open_bundle(folder)


def stand_in(folder: Path) -> Bundle:
    """A bundle with the real windows and next to no work in them."""
    network = NetworkConfig(
        base_channels=8, multipliers=(1,), blocks_per_level=1, embedding_channels=16, unshuffle=4, residual=True,
        encoder=EncoderConfig(8, 1, 4),
    )
    config = ModelConfig("stand-in", "Stand-in", network, NoiseSchedule(), "v", (0.01, 500), Profile(steps=1), "", {})
    torch.manual_seed(0)
    save_bundle(folder, config, CascadeNetwork(network).state_dict())
    return open_bundle(folder)


def synthetic_source(path: Path, side: int) -> str:
    """A smooth random raster of 10 m."""
    rng = np.random.default_rng(0)
    values = rng.integers(40, 200, (3, side // 4 + 1, side // 4 + 1)).astype(np.uint8)
    values = values.repeat(4, axis=1).repeat(4, axis=2)[:, :side, :side]
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8", crs="EPSG:32633",
        transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000),
    ) as dataset:
        dataset.write(values)
    return str(path)


def sleep_instead(seconds: float) -> None:
    """Make this process's networks sleep instead of computing: what is left is the engine around them."""
    from backend.jobs import work

    class SleepingEngine(Engine):
        def _one_batch(self, lows: np.ndarray, noises: np.ndarray, ground_resolution_m: float) -> np.ndarray:
            time.sleep(seconds * len(lows))
            self.seconds_steps += seconds * len(lows)
            self._after(len(lows))
            return noises * np.float32(0.1)

    work.Engine = SleepingEngine  # type: ignore[misc]
