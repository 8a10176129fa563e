"""Real parts, small: a network of a few thousand weights and rasters of a few pixels."""

import dataclasses
import os
import subprocess

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in the backend; read when torch is loaded

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from hypothesis import settings

from backend.devices import use_threads
from backend.diffusion.schedules import NoiseSchedule
from backend.jobs import portions
from backend.jobs.plan import make_plan
from backend.jobs.runner import JobRun
from backend.models.bundle import Bundle, ModelConfig, Profile, SceneModelConfig, open_bundle, save_bundle
from backend.models.cascade_network import CascadeNetwork
from backend.models.config import EncoderConfig, NetworkConfig
from backend.models.scene_config import RegressionConfig, SceneNetworkConfig, VaeConfig
from backend.models.scene_network import SceneNetwork
from backend.protocol import Job

# machines are shared: a slow case is no wrong case
settings.register_profile("shared", deadline=None, max_examples=50)
settings.load_profile("shared")

SMALL = NetworkConfig(
    tile=64,
    base_channels=8,
    multipliers=(1, 2),
    blocks_per_level=1,
    embedding_channels=16,
    unshuffle=4,
    context=4,
    residual=True,
    encoder=EncoderConfig(8, 1, 4),
)


SMALL_SCENE = SceneNetworkConfig(
    tile=64, width=32, heads=2, inference_blocks=2, generator_blocks=1, encoding_channels=16,
    vae=VaeConfig(4, 6, (16,), 1), expectation=RegressionConfig(8, (1, 2), 1, 2),
)


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read()


def keep_on():
    """The check of a run that nobody stops."""


def small_job(small_model, source, output, **fields) -> Job:
    """A job on the CPU whose pixels repeat."""
    values = {"input": source, "output": str(output), "model": str(small_model.folder), "device": "cpu"}
    return Job.from_dict({**values, "precision": "float32", **fields})


def run(small_model, source, output, report=lambda p: None, check=keep_on, **fields):
    """A whole job."""
    return JobRun(make_plan(small_job(small_model, source, output, **fields)), report, check).run()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Networks this small lose more by waiting for each other's threads than they gain."""
    use_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory):
    """Calibration, locks and logs of the tests, apart from the user's."""
    os.environ["METAEARTH_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Bundle:
    """A bundle with random weights whose window takes a few milliseconds."""
    folder = tmp_path_factory.mktemp("models") / "small"
    config = ModelConfig(
        "small", "Small", SMALL, NoiseSchedule(), "v", (0.1, 500.0), Profile(steps=3, margin=12), "GPL-2.0-or-later", {}
    )
    torch.manual_seed(1)
    network = CascadeNetwork(SMALL)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_bundle(folder, config, network.state_dict())
    return open_bundle(folder)


@pytest.fixture(scope="session")
def scene_model(tmp_path_factory):
    """A bundle with random weights."""
    folder = tmp_path_factory.mktemp("models") / "scene"
    torch.manual_seed(0)
    network = SceneNetwork(SMALL_SCENE)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        network.vae.deviation.fill_(1)
    config = SceneModelConfig("tiny-mm", "Tiny", SMALL_SCENE, (0.1, 100.0), Profile(margin=16, ramp=8, steps=3), "", {},
                              relative=("sar",), untrained=("osm",), pairs=(("rgb", "nir"),))
    save_bundle(folder, config, network.state_dict())
    return open_bundle(folder)


@dataclasses.dataclass(frozen=True)
class RasterMaker:
    """Writes GeoTIFFs with smooth random content."""

    folder: object

    def __call__(
        self,
        name="in.tif",
        bands=3,
        height=20,
        width=24,
        dtype="uint8",
        crs="EPSG:32633",
        nodata=None,
        transform=None,
        values=None,
        **options,
    ) -> str:
        rng = np.random.default_rng(5)
        if values is None:
            coarse = rng.uniform(20, 200, (bands, height // 4 + 1, width // 4 + 1))
            values = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width] + rng.uniform(
                -8, 8, (bands, height, width)
            )
            if dtype in ("uint16", "int16"):
                values = values * 37 + 300
        transform = transform or Affine(10, 0, 500_000, 0, -10, 5_000_000)
        path = str(self.folder / name)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=values.shape[1],
            width=values.shape[2],
            count=len(values),
            dtype=dtype,
            crs=crs,
            transform=transform,
            nodata=nodata,
            **options,
        ) as dataset:
            dataset.write(values.astype(dtype))
        return path


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of one window, so that small jobs have many."""
    monkeypatch.setattr(portions, "BLOCK_SECONDS", 0.0)


@pytest.fixture(scope="session")
def scene(tmp_path_factory, small_model):
    """(source, its two stages made in one process without interruption, in blocks of one window)."""
    folder = tmp_path_factory.mktemp("scene")
    source = RasterMaker(folder)(height=18, width=22)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portions, "BLOCK_SECONDS", 0.0)
        return source, run(small_model, source, folder / "whole.tif", stages=2)


@pytest.fixture
def make_raster(tmp_path) -> RasterMaker:
    return RasterMaker(tmp_path)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)
