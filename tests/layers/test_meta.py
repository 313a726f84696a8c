import math
import subprocess
import sys
import textwrap

import pytest
import torch
from layers_toy import Block
from torch import nn

from lightning_sparse.layers import compact_layers, convert_, materialize_
from lightning_sparse.models import FixupResNet110


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_modules_on_the_meta_device() -> None:
    with torch.device("meta"):
        net = Block().double()
    budgets = convert_(net, 0.2)
    assert not net.stem.values.is_meta
    assert net.norm.weight.is_meta
    assert 0 < net.stem.bias.abs().max() <= 1 / math.sqrt(27)
    assert net.stem.bias.dtype == torch.float64
    biases = net.stem.bias.clone()
    materialize_(net)
    assert torch.equal(net.stem.bias, biases)
    assert net.norm.weight.eq(1).all()
    assert net(torch.randn(2, 3, 9, 8, dtype=torch.float64)).isfinite().all()
    real = Block()
    assert convert_(real, 0.2) == budgets
    assert all(torch.equal(net.get_submodule(n).indices, x.indices) for n, x in compact_layers(real).items())


def test_what_cannot_initialise_itself_must_be_made_elsewhere() -> None:
    with torch.device("meta"):
        net = FixupResNet110()
    convert_(net, 0.01)
    with pytest.raises(ValueError, match="`module` must hold only submodules with `reset_parameters"):
        materialize_(net)
    with torch.device("meta"):
        tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="`module` must not share parameters on the meta device"):
        materialize_(tied)


def test_a_huge_layer_is_never_stored_densely() -> None:
    script = """
        import resource, torch
        from torch import nn
        from lightning_sparse.layers import convert_
        def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        convert_(nn.Sequential(nn.Linear(64, 64)), 0.1)
        before = peak()
        with torch.device("meta"):
            net = nn.Sequential(nn.Linear(16384, 16384))
        budgets = convert_(net, 1e-4, backend="transform")
        made = peak() - before
        net(torch.ones(2, 16384)).sum().backward()
        print(budgets["0.weight"], net[0].values.grad.numel(), made, peak() - before)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    k, gradients, made, trained = run.stdout.split()
    assert int(k) == int(gradients) == 26_844
    assert float(made) < 100  # MiB; the dense weight would be 1024
    assert float(trained) < 100
