"""The benchmark of sharded masks: what it counts, in one process. Nothing is timed."""

import pytest
import torch

from benchmarks.speed import sharded


@pytest.fixture
def group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_what_is_sent_to_move_does_not_grow_with_the_net(group):
    small, large = (sharded.measure(width, 0.25, repeats=1) for width in (8, 16))
    assert [found["weights"] for found in (small, large)] == [2 * 8 * 8, 2 * 16 * 16]
    assert small["bytes of masks per process"] == small["bytes of weights per process"] == 4 * 2 * 8 * 8
    assert small["bytes summed at an update"] == large["bytes summed at an update"] > 0
    assert small["collectives of an update"] == large["collectives of an update"] > 0
    assert torch.distributed.all_reduce.__module__ != sharded.__name__, "the count is left behind"
