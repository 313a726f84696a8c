"""Random nets: the same outputs, and as many units as are left when every one is tried."""

import pytest
import torch
from units_toy import (
    Concatenated,
    Residual,
    chain,
    convs,
    depthwise,
    grouped,
    grouped_input,
    one_dimensional,
    padded_convs,
    sparse,
)
from units_tried import brute_force

from lightning_sparse.export import smaller

BLOCKS = {"stem": [], "a1": [], "a2": [], "b1": [], "b2": [], "short": [], "fc": []}
BLOCK_TIES = [("stem", "a2"), ("b2", "short")]

CASES = {
    "chain": (chain, (5,), {"0": [], "2": [], "4": [], "6": []}, {"held": ["6"]}),
    "convs": (convs, (2, 8, 8), {"0": [], "4": [], "10": [], "12": []}, {"held": ["12"]}),
    "padded": (
        padded_convs,
        (2, 6, 6),
        {"0": ["3"], "3": ["5"], "5": [], "9": [], "11": []},
        {"held": ["11"]},
    ),
    "residual": (lambda: Residual(1), (2, 4, 4), BLOCKS, {"held": ["fc"], "ties": BLOCK_TIES}),
    "concatenated": (Concatenated, (2, 3, 3), {"a": [], "b": [], "c": [], "fc": []}, {"held": ["fc"]}),
    "depthwise": (
        depthwise,
        (2, 4, 4),
        {"0": [], "3": [], "6": [], "10": []},
        {"held": ["10"], "ties": [("0", "3")]},
    ),
    "grouped": (
        grouped,
        (2, 4, 4),
        {"0": [], "2": [], "4": [], "6": [], "10": []},
        {"held": ["2", "4", "10"]},
    ),
    "one-dimensional": (one_dimensional, (2, 4), {"0": [], "2": [], "5": [], "7": []}, {"held": ["7"]}),
}


DENSITIES = (0.08, 0.2, 0.4)


@pytest.mark.parametrize("case", CASES)
def test_as_many_units_as_brute_force_leaves(case):
    make, shape, readers, rules = CASES[case]
    shares = []
    for seed, density in enumerate(DENSITIES):
        torch.manual_seed(seed)
        net, inputs = sparse(make(), density, seed), torch.randn(4, *shape, dtype=torch.float64)
        small = smaller(net, example_input=inputs[:1])
        torch.testing.assert_close(small.module(inputs), net(inputs), rtol=1e-9, atol=1e-9)
        left = {layer.name: layer.units for layer in small.layers}
        assert left == brute_force(net, inputs, readers, **rules)
        shares += [x.units / x.units_before for x in small.layers if x.name not in rules["held"]]
    assert min(shares) < 0.5, "no units die in these nets, so nothing is tested"
    assert sum(1 / 6 < share < 1 for share in shares) > 1, "all or no units die in these nets"


@pytest.mark.parametrize("seed", range(2))
def test_groups_of_the_input(seed):
    net, inputs = sparse(grouped_input(), 0.2, seed), torch.randn(4, 2, 4, 4, dtype=torch.float64)
    small = smaller(net, example_input=inputs[:1])
    torch.testing.assert_close(small.module(inputs), net(inputs), rtol=1e-9, atol=1e-9)
    left = {layer.name: layer.units for layer in small.layers}
    assert left["0"] == 6
    assert left["4"] == 2 * left["2"] < 12  # two outputs for each input


@pytest.mark.parametrize("seed", range(2))
def test_padded_residual_blocks(seed):
    """A constant in one block arrives at several readers; of these, no count is worked out here."""
    net, inputs = sparse(Residual(3), 0.3, seed), torch.randn(4, 2, 6, 6, dtype=torch.float64)
    small = smaller(net, example_input=inputs[:1])
    torch.testing.assert_close(small.module(inputs), net(inputs), rtol=1e-9, atol=1e-9)
    left = {layer.name: layer.units for layer in small.layers}
    fewest = brute_force(net, inputs, BLOCKS, BLOCK_TIES, ["fc"])
    assert all(left[name] >= fewest[name] for name in left)
    assert left["stem"] == left["a2"]
    assert left["b2"] == left["short"]
