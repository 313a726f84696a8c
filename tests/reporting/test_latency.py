"""How long nets take: what is called, how often, and what it says."""

import pytest
import torch

from lightning_sparse.reporting.latency import measure_latency


def test_the_slower_net_takes_longer_and_the_last_is_the_measure():
    small, large = torch.ones(8, 8), torch.ones(700, 700)
    found = measure_latency(
        {"small": lambda _: small @ small, "large": lambda _: large @ large}, None, rounds=5
    )
    assert [one.name for one in found] == ["small", "large"]
    assert found[1].ratio == 1.0
    assert found[0].ratio < 0.5
    assert found[0].ratio == found[0].milliseconds / found[1].milliseconds
    for one in found:
        assert one.low <= one.milliseconds <= one.high
        assert one.rounds == 5


def test_nets_take_turns_in_one_thread_without_gradients():
    calls, threads = [], torch.get_num_threads()

    def net(name):
        def call(x):
            assert torch.get_num_threads() == 1
            assert not torch.is_grad_enabled()
            calls.append(name)
            return (x @ x.new_ones(400, 4000)).sum()  # long enough to be called once a round

        return call

    measure_latency({"a": net("a"), "b": net("b")}, torch.ones(400, 400), rounds=4)
    assert "".join(calls[-4:]) == "abab"
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("inputs", [torch.ones(2), (torch.ones(2),), {"x": torch.ones(2)}])
def test_inputs_of_every_kind(inputs):
    found = measure_latency({"net": lambda x: x + 1}, inputs, rounds=1)
    assert found[0].rounds == 3  # a median of fewer would say nothing


def test_time_runs_out():
    found = measure_latency({"net": lambda: torch.ones(2)}, (), rounds=10**6, seconds=0.01)
    assert 3 <= found[0].rounds < 10**4
