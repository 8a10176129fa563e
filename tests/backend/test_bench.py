"""What the bench measures that no other test does."""

import torch

from backend.evaluation.bench import evaluation_flops, product_flops, speeds


def test_speeds_have_a_line_a_format_and_batch(small_model):
    told = []
    rows = speeds(small_model, "cpu", told.append)
    assert [(row["format"], row["batch"]) for row in rows] == [
        ("float32", 1), ("float32", 4), ("bfloat16", 1), ("bfloat16", 4)]
    assert len(told) == 4
    for row in rows:
        assert row["windows a second"] > 0 and row["share of a matrix product's speed"] > 0


def test_operations_are_counted_from_shapes_alone(small_model):
    """As many as a run on real tensors has."""
    config = small_model.config
    network = config.build()
    side, tile = config.network.tile // config.network.scale + 2 * config.network.context, config.network.tile
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        condition = network.encode(torch.zeros(1, 3, side, side), torch.zeros(1))
        before = counter.get_total_flops()
        network(torch.zeros(1, 3, tile, tile), torch.zeros(1), condition)
    assert evaluation_flops(small_model) == counter.get_total_flops() - before > 0
    assert product_flops("cpu", torch.float32) > 1e6
