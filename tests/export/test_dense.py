"""Nets written as if they had never been sparse."""

import copy

import pytest
import torch
from toy import assert_equal, loader, make_toy, trainer

from lightning_sparse import DCTpSConversion, PruneAtInit, RigLCallback, load_exported
from lightning_sparse.checks import SparsityError
from lightning_sparse.export import export
from lightning_sparse.layers import convert_, to_dense_
from lightning_sparse.layers.dense_state import dense_state_dict
from lightning_sparse.models import LeNet5, ResNet18


def trained(tmp_path, *callbacks):
    toy = make_toy()
    trainer(tmp_path, *callbacks, max_epochs=1).fit(toy, loader())
    return toy.eval()


def loaded(path, fresh):
    fresh.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return fresh.eval()


def batch():
    images, _ = next(iter(loader()))
    return images


def same_outputs(net, other, images):
    with torch.no_grad():
        return torch.equal(net(images), other(images))


def kept(net):
    """Return a copy of what a module holds."""
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_a_masked_net(tmp_path):
    toy = trained(tmp_path, PruneAtInit("random", 0.1), RigLCallback(every_n_steps=2, stop_at=4))
    before = kept(toy)
    vanilla = loaded(export(toy, tmp_path / "net.pt"), make_toy())
    assert same_outputs(toy.net, vanilla.net, batch())
    assert_equal(dict(vanilla.state_dict()), before)
    assert_equal(kept(toy), before)
    assert any((value == 0).float().mean() > 0.8 for value in before.values())


@pytest.mark.parametrize("backend", ["materialize", "transform"])
def test_a_converted_net(tmp_path, backend):
    toy = trained(tmp_path, DCTpSConversion(0.1, backend=backend), RigLCallback(every_n_steps=2, stop_at=4))
    before, kinds = kept(toy), [type(layer) for layer in toy.modules()]
    vanilla = loaded(export(toy, tmp_path / "net.pt"), make_toy())
    assert_equal(kept(toy), before)
    assert kinds == [type(layer) for layer in toy.modules()]
    assert not any(name.endswith("values") for name in vanilla.state_dict())
    dense = copy.deepcopy(toy)
    to_dense_(dense)
    assert same_outputs(dense.net, vanilla.net, batch())
    if backend == "materialize":  # the other one adds in another order
        assert same_outputs(toy.net, vanilla.net, batch())


@pytest.mark.parametrize("net", [LeNet5, ResNet18])
def test_convolutions_and_running_statistics(tmp_path, net):
    images = torch.randn(2, 3, 32, 32)
    converted = net()
    convert_(converted, density=0.05, backend="materialize")
    with torch.no_grad():
        for layer in converted.modules():
            if hasattr(layer, "values") and isinstance(layer.values, torch.nn.Parameter):
                layer.values.normal_()
        converted(images)  # moves the running statistics
    vanilla = loaded(export(converted.eval(), tmp_path / "net.pt"), net())
    assert same_outputs(converted, vanilla, images)


def test_attention_and_a_layer_in_two_places(tmp_path):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(8, 2)
            self.first = torch.nn.Linear(8, 8)
            self.again = self.first

        def forward(self, x):
            return self.again(self.first(self.attention(x, x, x)[0]))

    net, x = Net(), torch.randn(5, 3, 8)
    convert_(net, density=0.2, backend="materialize")
    vanilla = loaded(export(net.eval(), tmp_path / "net.pt"), Net())
    assert same_outputs(net, vanilla, x)
    state = dense_state_dict(net)
    assert state["first.weight"] is state["again.weight"] or (
        state["first.weight"].data_ptr() == state["again.weight"].data_ptr()
    )


def test_a_layer_by_itself():
    net = torch.nn.Sequential(torch.nn.Linear(4, 3))
    convert_(net, density=0.5)
    assert sorted(dense_state_dict(net[0])) == ["bias", "weight"]


def test_tied_weights_stay_one_wherever_the_net_is(monkeypatch):
    net = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)])
    net[1].weight = net[0].weight
    monkeypatch.setattr(torch.Tensor, "cpu", torch.Tensor.clone)  # as from a GPU
    state = dense_state_dict(net)
    assert state["1.weight"] is state["0.weight"]
    assert state["1.bias"] is not state["0.bias"]


def test_weights_in_a_sparse_layout_are_dense_again(tmp_path):
    net = torch.nn.Linear(40, 30)
    torch.nn.init.zeros_(net.weight)
    net.weight.data[3, 4] = 2.0
    net.load_state_dict({"weight": net.weight.data.to_sparse_csr(), "bias": net.bias.data}, assign=True)
    for format_ in ("dense", "safetensors"):
        file = export(net, tmp_path / "net", format_)
        state = torch.load(file) if format_ == "dense" else load_exported(file)
        assert torch.equal(state["weight"], net.weight.to_dense())


def test_a_net_without_values_is_refused(tmp_path):
    with torch.device("meta"):
        net = LeNet5()
    with pytest.raises(SparsityError, match=r"`module` must have values, got 'convs.0.weight' on the meta"):
        export(net, tmp_path / "net.pt")
    assert not list(tmp_path.iterdir())
