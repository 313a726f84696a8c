"""Smaller nets in files, and back in the class that they are of."""

import pytest
import torch
from torch import nn
from units_toy import Residual, convs, depthwise, sparse

from lightning_sparse.checks import SparsityError
from lightning_sparse.export import export, load_small_, smaller

SHAPE = (1, 2, 6, 6)


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    net, told = sparse(Residual(3), 0.15, 0), []
    path = tmp_path_factory.mktemp("small") / "net"
    path = export(net, path, "dense-small", told.append, example_input=torch.zeros(SHAPE))
    return net, path, told


def test_a_file_loads_back_into_its_class(residual):
    net, path, told = residual
    images = torch.randn(3, *SHAPE[1:], dtype=torch.float64)
    fresh = Residual(3).double()
    assert load_small_(fresh, path) is fresh
    torch.testing.assert_close(fresh(images), net(images), rtol=1e-9, atol=1e-9)
    assert sum(p.numel() for p in fresh.parameters()) < sum(p.numel() for p in net.parameters())
    assert told == smaller(net, input_size=SHAPE).lines()


def test_and_without_this_package_in_five_lines(residual):
    net, path, _ = residual
    fresh = Residual(3).double().eval()
    for name, tensor in torch.load(path, weights_only=True).items():
        layer, _, key = name.rpartition(".")
        layer = fresh.get_submodule(layer)
        buffer = key in layer._buffers
        setattr(layer, key, tensor if buffer else nn.Parameter(tensor))
    images = torch.randn(3, *SHAPE[1:], dtype=torch.float64)
    torch.testing.assert_close(fresh(images), net(images), rtol=1e-9, atol=1e-9)


def test_groups_and_new_biases_are_read_off_the_shapes(tmp_path):
    for make in (depthwise, convs):
        net = sparse(make(), 0.3, 3)
        path = export(net, tmp_path / "net", "dense-small", example_input=torch.zeros(1, 2, 8, 8))
        fresh = load_small_(make().double(), path)
        images = torch.randn(3, 2, 8, 8, dtype=torch.float64)
        torch.testing.assert_close(fresh(images), net(images), rtol=1e-9, atol=1e-9)
        assert list(fresh.state_dict()) == list(smaller(net, input_size=(1, 2, 8, 8)).module.state_dict())


def test_a_file_of_another_net_changes_nothing(residual, tmp_path):
    _, path, _ = residual
    for other, place in ((convs(), "'0.weight'"), (Residual(1), "'a1.weight'")):
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        with pytest.raises(SparsityError, match=rf"^`path` must be a file .* does not fit at {place}"):
            load_small_(other, path)
        torch.testing.assert_close(dict(other.state_dict()), before, equal_nan=True)
    with pytest.raises(SparsityError, match="`path` must"):
        load_small_(convs(), tmp_path / "nothing.pt")


def test_no_input_or_other_outputs_leave_no_file(tmp_path):
    class Counts(nn.Linear):
        def forward(self, x):
            return super().forward(x) * len(self.weight)

    net = nn.Sequential(Counts(3, 4), nn.Linear(4, 2))
    nn.init.zeros_(net[1].weight[:, 0])
    for inputs, said in {
        None: "must be given",
        (1, 3): "the same outputs",
        (1, 9): "be what the net",
    }.items():
        example = None if inputs is None else torch.zeros(inputs)
        with pytest.raises(SparsityError, match=said):
            export(net, tmp_path / "net", "dense-small", example_input=example)
    assert not list(tmp_path.iterdir())
