"""Layers that train a sparse change of the weight they had, and plain sparse layers that start from it."""

import copy

import pytest
import torch
from torch import nn

from lightning_sparse import convert_, to_dense_
from lightning_sparse.checks import SparsityError
from lightning_sparse.layers import compact_layers


def net(dtype=torch.float64):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    return nn.Sequential(*layers).to(dtype)


def on_sequences():
    torch.manual_seed(0)
    layers = (nn.Conv1d(3, 8, 3, padding=2, dilation=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    return nn.Sequential(nn.Flatten(2), *layers).double()


def on_volumes():
    torch.manual_seed(0)
    layers = (nn.Conv3d(3, 8, (1, 3, 2), padding=(0, 1, 0)), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 30, 10))
    return nn.Sequential(nn.Unflatten(2, (1, 6)), *layers).double()


def images(dtype=torch.float64, batch=5):
    return torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=dtype)


def changed(module):
    """Give the values something to say."""
    for layer in compact_layers(module).values():
        nn.init.normal_(layer.values, generator=torch.Generator().manual_seed(2))
    return module


def gradients(module, x):
    x = x.clone().requires_grad_()
    module.zero_grad()
    module(x).square().sum().backward()
    return x.grad, {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def test_nothing_changes_at_first():
    plain, tuned = net(), net()
    convert_(tuned, 0.1, offset="pretrained")
    torch.testing.assert_close(tuned(images()), plain(images()))


@pytest.mark.parametrize("make", [net, on_sequences, on_volumes])
@pytest.mark.parametrize("backend", ["materialize", "transform", "auto"])
def test_output_and_gradients_are_those_of_the_sum(backend, make):
    tuned = make()
    convert_(tuned, 0.1, offset="pretrained", backend=backend)
    changed(tuned)
    dense = to_dense_copy(tuned)
    d_x, of_tuned = gradients(tuned, images())
    expected, of_dense = gradients(dense, images())
    torch.testing.assert_close(tuned(images()), dense(images()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(d_x, expected, rtol=1e-12, atol=1e-12)
    for path, layer in compact_layers(tuned).items():
        assert layer.base.grad is None
        support = of_dense[f"{path}.weight"].flatten()[layer.indices.long()]
        torch.testing.assert_close(of_tuned[f"{path}.values"], support, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(of_tuned[f"{path}.bias"], of_dense[f"{path}.bias"], rtol=1e-12, atol=1e-12)


def to_dense_copy(module):
    dense = copy.deepcopy(module)
    to_dense_(dense)
    return dense


def test_only_values_and_biases_are_trained():
    tuned = net()
    weights = {name: p for name, p in tuned.named_parameters() if name.endswith("weight")}
    convert_(tuned, 0.1, offset="pretrained")
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert trained == {"0.values", "0.bias", "3.values", "3.bias"}
    assert tuned[0].base is weights["0.weight"]  # kept, not copied
    assert tuned[0].alpha is None


def test_values_of_frozen_layers_are_trained():
    tuned = net().requires_grad_(False)
    convert_(tuned, 0.1, offset="pretrained", include=["*.weight"])
    assert {name for name, p in tuned.named_parameters() if p.requires_grad} == {"0.values", "3.values"}


def test_the_sum_comes_back_bit_for_bit():
    tuned = net(torch.float32)
    before = {name: tensor.clone() for name, tensor in tuned.state_dict().items()}
    convert_(tuned, 0.1, offset="pretrained")
    changed(tuned)
    parts = {path: (layer.indices.long(), layer.values) for path, layer in compact_layers(tuned).items()}
    to_dense_(tuned)
    assert tuned.state_dict().keys() == before.keys()
    for path, (indices, values) in parts.items():
        weight = before[f"{path}.weight"]
        weight.view(-1)[indices] += values.detach()
        assert torch.equal(tuned.state_dict()[f"{path}.weight"], weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_weights_are_kept_as_they_are_and_trained_in_float32(dtype):
    tuned = net(dtype)
    before = tuned[3].weight.detach().clone()
    convert_(tuned, 0.1, offset="pretrained")
    layer = tuned[3]
    assert torch.equal(layer.base, before)
    assert layer.base.dtype == dtype
    assert layer.values.dtype == torch.float32
    changed(tuned)
    dense = to_dense_copy(tuned)
    assert dense[3].weight.dtype == dtype
    y = tuned(images(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), dense(images(dtype)).float(), rtol=0.05, atol=0.2)
    y.float().sum().backward()
    assert layer.values.grad.dtype == torch.float32


def test_inputs_of_another_dtype_are_refused():
    tuned = net(torch.bfloat16)
    convert_(tuned, 0.1, offset="pretrained")
    with pytest.raises(TypeError, match=r"`input` must be torch.bfloat16"):
        tuned(images(torch.float32))


def test_autocast_goes_by_its_own_dtype():
    tuned = net(torch.float32)
    convert_(tuned, 0.1, offset="pretrained")
    with torch.autocast("cpu", torch.bfloat16):
        assert tuned(images(torch.float32)).dtype == torch.bfloat16


def test_weights_assigned_by_a_state_dict_are_used():
    tuned = net()
    convert_(tuned, 0.1, offset="pretrained", backend="transform")
    before = tuned(images())
    state = {name: tensor * 2 if "base" in name else tensor for name, tensor in tuned.state_dict().items()}
    tuned.load_state_dict(state, assign=True)
    other = net()
    other.load_state_dict(
        {name.replace("base", "weight"): state[name] for name in state if "base" in name}
        | {name: state[name] for name in state if "bias" in name}
    )
    assert not torch.allclose(tuned(images()), before)
    torch.testing.assert_close(tuned(images()), other(images()))


def test_compiled():
    tuned = net(torch.float32)
    convert_(tuned, 0.1, offset="pretrained")
    changed(tuned)
    compiled = torch.compile(tuned, backend="aot_eager")
    torch.testing.assert_close(compiled(images(torch.float32)), tuned(images(torch.float32)))


def test_a_scale_is_refused():
    with pytest.raises(SparsityError, match=r"'pretrained' has nothing to scale"):
        convert_(net(), 0.1, offset="pretrained", alpha=0.5)


def test_the_meta_device_is_refused():
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(10, 10))
    with pytest.raises(SparsityError, match=r"'pretrained' needs weights"):
        convert_(module, 0.1, offset="pretrained")
    assert type(module[0]) is nn.Linear


# Without an offset.


def test_sparse_layers_start_with_what_the_weight_has_there():
    plain, sparse = net(), net()
    convert_(sparse, 0.1, offset="none")
    for path, layer in compact_layers(sparse).items():
        weight = plain.get_submodule(path).weight
        assert torch.equal(layer.weight, torch.where(layer.support(), weight, 0))


def test_sparse_layers_on_the_meta_device_are_drawn_as_ordinary_ones():
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(400, 50))
    convert_(module, 0.5, offset="none")
    values = module[0].values
    assert values.abs().max() <= 1 / 20
    assert abs(values.std().item() - 1 / 20 / 3**0.5) < 0.001
