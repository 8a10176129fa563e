"""The network at the paper's size, at full depth, and small."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from backend.diffusion.losses import alpha_sigma_at, data_prediction
from backend.errors import ModelError
from backend.models.bundle import EMBEDDED, find_bundle, open_bundle
from backend.models.cascade_network import CascadeNetwork, upsample
from backend.models.config import EncoderConfig, NetworkConfig
from backend.models.embeddings import frequency_encoding
from backend.models.unet import SelfAttention


@pytest.fixture(scope="module")
def paper_network():
    with torch.device("meta"):
        return CascadeNetwork(find_bundle("metaearth-600m").config.network)


def test_the_papers_network_has_its_size(paper_network):
    unet = sum(p.numel() for p in paper_network.unet.parameters())
    encoder = sum(p.numel() for p in paper_network.encoder.parameters())
    assert 550e6 < unet < 610e6
    assert encoder == pytest.approx(16.7e6, rel=0.02)
    assert 570e6 < paper_network.count_parameters() < 630e6


def test_the_papers_configuration(paper_network):
    config = find_bundle("metaearth-600m").config
    assert config.network.multipliers == (1, 2, 4, 8, 8)
    assert (config.network.blocks_per_level, config.network.base_channels) == (3, 128)
    assert (config.prediction, config.schedule.kind, config.profile.sampler, config.profile.steps) == (
        "eps",
        "linear",
        "ddim",
        50,
    )
    assert not find_bundle("metaearth-600m").has_weights


def test_attention_stands_only_where_the_multiplier_is_eight(paper_network):
    widths = {m.out.in_channels for m in paper_network.modules() if isinstance(m, SelfAttention)}
    assert widths == {1024}


def test_a_narrow_copy_runs_at_full_depth():
    paper = find_bundle("metaearth-600m").config.network
    narrow = dataclasses.replace(
        paper, base_channels=8, embedding_channels=32, head_channels=16, encoder=EncoderConfig(8, 23, 4)
    )
    network = CascadeNetwork(narrow).eval()
    with torch.inference_mode():
        condition = network.encode(torch.zeros(1, 3, 80, 80), torch.tensor([4.0]))
        prediction = network(torch.randn(1, 3, 256, 256), torch.tensor([10.0]), condition)
    assert condition.features.shape == (1, 8, 256, 256)
    assert prediction.shape == (1, 3, 256, 256)
    assert torch.isfinite(prediction).all()


def test_lite_keeps_within_its_limits():
    bundle = open_bundle(EMBEDDED / "metaearth-lite")
    with torch.device("meta"):
        network = CascadeNetwork(bundle.config.network)
    assert network.count_parameters() <= 8_000_000
    assert bundle.weights.stat().st_size <= 16_000_000


def test_frequency_encoding_by_hand():
    encoding = frequency_encoding(torch.tensor([2.0]), 4, omega=100.0)
    expected = torch.tensor([[2.0, 0.2, 2.0, 0.2]])
    expected = torch.cat([expected[:, :2].cos(), expected[:, 2:].sin()], dim=1)
    torch.testing.assert_close(encoding, expected)


def test_time_and_resolution_both_reach_the_output(small_model):
    network = small_model.load()
    x, low = torch.randn(1, 3, 64, 64), torch.rand(1, 3, 24, 24)

    def run(time, gsd):
        with torch.inference_mode():
            return network(x, torch.tensor([time]), network.encode(low, torch.tensor([gsd])))

    assert not torch.equal(run(10.0, 1.0), run(500.0, 1.0))
    assert not torch.equal(run(10.0, 1.0), run(10.0, 4.0))


def test_without_guidance_the_resolution_does_not_matter(small_model):
    config = dataclasses.replace(small_model.config.network, resolution_guidance=False)
    network = CascadeNetwork(config).eval()
    names = [name for name, _ in network.named_parameters()]
    assert not any("resolution" in name for name in names)


def test_model_space_is_invertible(small_model):
    network = small_model.load()
    condition = network.encode(torch.rand(1, 3, 24, 24), torch.tensor([1.0]))
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(network.to_image(network.to_model_space(image, condition), condition), image)


def test_residuals_are_measured_by_the_local_contrast(small_model):
    config = dataclasses.replace(small_model.config.network, residual_scale=0.01, residual_contrast=1.0)
    network = CascadeNetwork(config)
    low = torch.zeros(1, 3, 24, 24)
    low[..., 12:] = 0.5 * torch.tensor([1.0, -1.0]).repeat(6)
    condition = network.encode(low, torch.tensor([1.0]))
    smooth, rough = condition.scale[..., :8], condition.scale[..., 48:]
    torch.testing.assert_close(smooth, torch.full_like(smooth, 0.01))
    assert float(rough.min()) > 0.3
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(network.to_image(network.to_model_space(image, condition), condition), image)


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_a_network_that_adds_nothing_removes_the_noise_that_a_wiener_filter_does(small_model, prediction):
    """The fresh network's last layer is zero: what it predicts is the linear guess, for either prediction alike."""
    torch.manual_seed(0)
    schedule = small_model.config.schedule
    config = dataclasses.replace(small_model.config.network, linear_guess=True)
    network = CascadeNetwork(config, schedule, prediction)
    condition = network.encode(torch.rand(20, 3, 24, 24), torch.ones(20))
    smooth = F.interpolate(torch.randn(20, 3, 16, 16), scale_factor=4, mode="bicubic")
    network.guess.prior.fit([{0: F.pixel_unshuffle(x, config.unshuffle)} for x in smooth[:10] + 1.5])
    time, noise = torch.full((20,), 400.5), torch.randn(20, 3, 64, 64)
    alpha, sigma = (float(v[0]) for v in alpha_sigma_at(schedule, np.array([400.5])))
    noisy = alpha * (smooth + 1.5) + sigma * noise
    with torch.no_grad():
        found = data_prediction(prediction, network(noisy, time, condition), noisy, alpha, sigma)
    error = (found - smooth - 1.5)[10:].square().mean()
    assert error < 0.5 * (sigma / alpha) ** 2 * smooth.var() / (smooth.var() + (sigma / alpha) ** 2)


def test_upsampling_drops_exactly_the_context():
    wide = torch.rand(1, 3, 24, 24)
    inner = upsample(wide, 4, 4)
    whole = torch.nn.functional.interpolate(wide, scale_factor=4, mode="bicubic", align_corners=False)
    torch.testing.assert_close(inner, whole[..., 16:-16, 16:-16])


def test_a_tile_that_the_levels_do_not_divide_is_refused():
    with pytest.raises(ModelError, match="no multiple"):
        NetworkConfig(tile=250)


def test_unknown_parts_of_a_configuration_are_refused():
    values = json.loads((EMBEDDED / "metaearth-lite" / "config.json").read_text())
    with pytest.raises(ModelError, match="does not describe a network"):
        NetworkConfig.from_dict({**values["network"], "surprise": 1})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_no_pixel(dtype):
    config = NetworkConfig(base_channels=32, multipliers=(1,), blocks_per_level=1, embedding_channels=16, unshuffle=4,
                           encoder=EncoderConfig(8, 1, 8))
    torch.manual_seed(0)
    network = CascadeNetwork(config).channels_last().to(dtype).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.05)
    noisy, low = torch.randn(1, 3, 256, 256), torch.rand(1, 3, 64 + 2 * config.context, 64 + 2 * config.context)
    made = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            with torch.inference_mode():
                made.append(network(noisy, torch.tensor([500.0]), network.encode(low, torch.tensor([2.5]))))
    finally:
        torch.set_num_threads(threads)
    assert made[0].std() > 0
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])
