import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layers_toy import Block, fill_
from torch import Tensor, nn

from lightning_sparse.functional.allocation import allocate
from lightning_sparse.functional.budgets import total_budget
from lightning_sparse.layers import (
    DCTOffset,
    DensePlusSparseConv2d,
    DensePlusSparseLinear,
    NoOffset,
    compact_layers,
    convert_,
    to_dense_,
)
from lightning_sparse.models import LeNet5, LeNet300100, ResNet18

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_all_layers_are_replaced_and_options_kept() -> None:
    net = Block().train()
    biases = {"stem": net.stem.bias, "again": net.again.bias}
    net.depthwise.eval()
    budgets = convert_(net, 0.2)
    layers = compact_layers(net)
    assert list(layers) == ["stem", "depthwise", "point", "attention.out_proj", "again", "head"]
    assert budgets == {f"{name}.weight": layer.nnz for name, layer in layers.items()}
    assert sum(budgets.values()) == total_budget(216 + 120 + 128 + 256 + 256 + 80, 0.2)
    assert (net.stem.padding, net.stem.padding_mode) == ("same", "circular")
    assert (net.depthwise.stride, net.depthwise.padding, net.depthwise.groups) == ((2, 2), (1, 2), 8)
    assert (net.depthwise.training, net.stem.training) == (False, True)
    assert net.depthwise.bias is None
    assert all(getattr(net, name).bias is bias for name, bias in biases.items())
    assert net.twice[0] is net.again is net.twice[2]
    assert not any(layer.values.any() for layer in layers.values())
    assert all(layer.alpha.item() == 1 for layer in layers.values())
    assert isinstance(net.attention.in_proj_weight, nn.Parameter)


def test_dense_layers_have_identical_weights_and_outputs() -> None:
    net = Block().double()
    convert_(net, 0.3, backend="materialize")
    fill_(net)
    compact = copy.deepcopy(net).eval()
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    net.eval()
    y, names = net(x), to_dense_(net)
    assert names == ["stem", "depthwise", "point", "attention.out_proj", "again", "head"]
    assert {type(m) for m in net.modules()} <= {type(m) for m in Block().modules()}
    for name in names:
        old, new = compact.get_submodule(name), net.get_submodule(name)
        assert torch.equal(new.weight, old.weight)
        assert (new.bias is old.bias is None) or torch.equal(new.bias, old.bias)
        images = isinstance(new, nn.Conv2d)
        inputs = torch.randn(2, new.in_channels, 9, 8) if images else torch.randn(2, 6, new.in_features)
        assert torch.equal(new(inputs.double()), old(inputs.double()))
    # `nn.Linear` multiplies three-dimensional inputs that are not contiguous, as in this net, without the
    # bias and adds it afterwards, where ours multiplies and adds in one call: last bits may differ.
    torch.testing.assert_close(net(x), y, rtol=1e-13, atol=1e-12)
    assert {n: p.shape for n, p in net.named_parameters()} == {
        n: p.shape for n, p in Block().named_parameters()
    }
    assert to_dense_(net) == []


def test_a_round_trip_loads_into_the_untouched_module() -> None:
    net = LeNet5()
    convert_(net, 0.05)
    fill_(net)
    to_dense_(net)
    other = LeNet5()
    other.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(x), other(x))


def test_a_second_call_changes_nothing() -> None:
    net = LeNet300100()
    selection: dict[str, Any] = {"include": ["fcs.[02]*"], "exclude": ["fcs.2"]}
    first = convert_(net, 0.1, **selection)
    layers = compact_layers(net)
    assert convert_(net, 0.1, **selection) == first == {"fcs.0.weight": 23_520}
    assert compact_layers(net) == layers
    with pytest.raises(
        ValueError, match=r"`module` must be converted in one call per selection, got 1 layers"
    ):
        convert_(net, 0.1)
    assert list(convert_(net, 0.1, include=["fcs.4"])) == ["fcs.4.weight"]
    assert list(compact_layers(net)) == ["fcs.0", "fcs.4"]


def test_a_head_tied_to_an_embedding_stays_as_it_is() -> None:
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    net[2].weight = net[0].weight
    first = convert_(net, 0.5)
    assert convert_(net, 0.5) == first == {"1.weight": 8}
    assert net[2].weight is net[0].weight


@pytest.mark.parametrize("allocation", ["epl", "epf", "erk", "uniform"])
@pytest.mark.parametrize(
    ("density", "overrides"), [(1e-3, {}), (0.05, {"fcs.2": 0.9}), (0.7, {"fcs.2": 0.9})]
)
def test_supports_have_exactly_the_budgets_of_the_allocation(
    allocation: Any, density: float, overrides: dict[str, float]
) -> None:
    net = LeNet5()
    shapes = {name: p.shape for name, p in net.named_parameters()}
    fixed = {f"{name}.weight": d for name, d in overrides.items()}
    expected = allocate(shapes, density, allocation, fixed=fixed, min_weights=3)
    options: dict[str, Any] = {"density_overrides": overrides, "min_weights_per_layer": 3}
    budgets = convert_(net, density, allocation, **options)
    assert budgets == expected
    assert sum(budgets.values()) == total_budget(61_510, density)
    for name, layer in compact_layers(net).items():
        assert len(layer.indices.unique()) == layer.nnz == budgets[f"{name}.weight"]
        assert int(layer.support().sum()) == layer.nnz


def test_budgets_agree_with_the_reference_code_within_one_per_layer() -> None:
    case = json.loads((GOLDEN / "dctps_allocation.json").read_text())
    counts = np.load(GOLDEN / "dctps_allocation.npz")["resnet18.equal_per_layer.nnz_round"]
    with torch.device("meta"):
        net = ResNet18()
    budgets = convert_(net, 1e-4)
    names = [name for name, _ in case["models"]["resnet18"]["layers"]]
    expected = dict(zip(names, counts[case["densities"].index(1e-4)], strict=True))
    assert budgets.keys() == {f"{name.removesuffix('.weight')}.weight" for name in names}
    for name, count in expected.items():  # nothing saturates here
        assert abs(budgets[f"{name.removesuffix('.weight')}.weight"] - count) <= 1


def test_the_seed_alone_decides_the_support() -> None:
    def supports(dtype: torch.dtype, device: str, **options: Any) -> list[Tensor]:
        torch.manual_seed(torch.randint(1000, ()).item())  # whatever the global generator's state
        with torch.device(device):
            net = LeNet5().to(dtype)
        convert_(net, 0.05, **options)
        return [layer.indices for layer in compact_layers(net).values()][2:]  # the first two are full

    usual = supports(torch.float32, "cpu", generator=3)
    for other in (
        supports(torch.float64, "meta", generator=3, backend="transform", alpha=0.5),
        supports(torch.float32, "cpu", generator=torch.Generator().manual_seed(3), offset="none"),
    ):
        assert all(torch.equal(a, b) for a, b in zip(usual, other, strict=True))
    assert not torch.equal(usual[0], supports(torch.float32, "cpu", generator=4)[0])
    assert usual[0].tolist()[:3] == [137, 226, 247]


def test_conversion_draws_from_its_own_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    net = LeNet300100()
    torch.manual_seed(5)
    convert_(net, 0.1)
    to_dense_(net)
    assert torch.equal(torch.rand(2), expected)


def test_plain_sparse_layers() -> None:
    net = LeNet300100()
    convert_(net, 0.1, offset=NoOffset())
    fill_(net)
    for layer in compact_layers(net).values():
        assert layer.alpha is None
        assert torch.equal(layer.weight != 0, layer.support())


def test_attention_reads_the_weight() -> None:
    for net in (
        nn.MultiheadAttention(16, 4, batch_first=True).double(),
        nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True).double(),
    ):
        convert_(net, 0.3)
        fill_(net)
        dense = copy.deepcopy(net)
        to_dense_(dense)
        x = torch.randn(2, 5, 16, dtype=torch.float64)
        for mode in (True, False):
            for gradients in (True, False):  # PyTorch has a path of its own for inference
                with torch.set_grad_enabled(gradients):
                    inputs = (x, x, x) if isinstance(net, nn.MultiheadAttention) else (x,)
                    y, expected = net.train(mode)(*inputs), dense.train(mode)(*inputs)
                    y, expected = (y[0], expected[0]) if isinstance(y, tuple) else (y, expected)
                    torch.testing.assert_close(y, expected)
        net.train()(*inputs)[0].sum().backward()
        assert all(p.grad is not None for p in net.parameters())


def test_hooks_move_to_the_new_layer() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    seen: list[Any] = []
    net[0].register_forward_hook(lambda m, args, kwargs, out: seen.append(type(m)), with_kwargs=True)
    net[1].register_forward_pre_hook(lambda m, args: seen.append(type(m)))
    net[1].register_full_backward_hook(lambda m, grad_in, grad_out: seen.append("backward"))
    convert_(net, 0.5)
    net(torch.zeros(1, 4)).sum().backward()
    assert seen == [DensePlusSparseLinear, DensePlusSparseLinear, "backward"]


@pytest.mark.parametrize(
    ("net", "arguments", "message"),
    [
        (nn.Linear(4, 4), {}, "`module` must hold the layers to convert, got a bare Linear"),
        (nn.Sequential(nn.ReLU()), {}, "No weight is selected"),
        (
            nn.Sequential(nn.ConvTranspose1d(2, 2, 1)),
            {},
            r"`include` must name weights of linear and convolutional layers \(Linear, Conv1d, Conv2d, "
            r"Conv3d\) themselves, got '0\.weight' of ConvTranspose1d",
        ),
        (
            nn.Sequential(nn.LSTM(2, 2)),
            {"include": ["*weight_ih*"]},
            "`include` must name weights of linear and convolutional layers .*, got '0.weight_ih_l0' of LSTM",
        ),
        (LeNet300100(), {"density": 1e-9}, "`density` must keep at least 3 weights"),
        (LeNet300100(), {"density_overrides": {"x": 0.1}}, "`density_overrides` pattern 'x' matches none"),
        (
            LeNet300100(),
            {"allocation": "rule"},
            "`allocation` must be one of uniform, erk, epl, epf, got 'rule'",
        ),
        (LeNet300100(), {"alpha": {"x": 1.0}}, "`alpha` pattern 'x' must match a converted weight, such as"),
        (
            LeNet300100(),
            {"alpha": float("nan")},
            "`alpha` must be a finite number, .* or 'lsuv', got nan",
        ),
        (LeNet300100(), {"alpha": True}, "`alpha` must be a finite number, .* or 'lsuv', got True"),
        (LeNet300100(), {"density": True}, r"`density` must be in \(0, 1\], got True"),
        (LeNet300100(), {"include": "fcs*"}, r"`include` must be a list of patterns, got 'fcs\*'"),
        (LeNet300100(), {"min_weights_per_layer": 1.5}, "`min_weights_per_layer` must be an integer"),
        (LeNet300100(), {"generator": "0"}, "`generator` must be an integer of at least 0, got '0'"),
        (
            LeNet300100(),
            {"offset": "dft"},
            r"`offset` must be one of dct, .*none, .*got 'dft'; did you mean dct\?",
        ),
        (
            LeNet300100(),
            {"alpha": "norm"},
            "`alpha` must be a finite number, .* or 'lsuv', got 'norm'",
        ),
        (
            nn.Sequential(nn.Linear(4, 4, device="meta")),
            {"alpha": "match_norm"},
            "`alpha` must be a number on",
        ),
        (
            LeNet300100(),
            {"backend": "fft"},
            "`backend` must be one of auto, kernels, materialize, transform, got 'fft'",
        ),
    ],
)
def test_what_is_refused_and_leaves_the_module_alone(
    net: nn.Module, arguments: dict[str, Any], message: str
) -> None:
    before = dict(net.named_modules())
    with pytest.raises(ValueError, match=message):
        convert_(net, **({"density": 0.5} | arguments))
    assert dict(net.named_modules()) == before


def test_shared_weights_are_refused_and_subclasses_stay_dense() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), Scaled(4, 4), nn.ConvTranspose1d(4, 4, 1))
    with pytest.warns(UserWarning, match=r"dense: 2\.weight, 3\.weight \(2 in all, 50% of the selected"):
        assert list(convert_(copy.deepcopy(net), 0.5)) == ["0.weight", "1.weight"]
    net[1].weight = net[0].weight
    with pytest.raises(ValueError, match=r"`exclude` must name weights that layers share, got '0\.weight'"):
        convert_(net, 0.5, exclude=["2", "3"])
    with pytest.raises(ValueError, match="got a bare DensePlusSparseLinear"):
        to_dense_(DensePlusSparseLinear(3, 3, torch.arange(2)))


def test_types_of_what_is_made() -> None:
    net = LeNet5()
    convert_(net, 0.1, backend="transform", offset=DCTOffset())
    types = [type(layer) for layer in compact_layers(net).values()]
    assert types == [DensePlusSparseConv2d] * 3 + [DensePlusSparseLinear] * 2
    assert {layer.backend for layer in compact_layers(net).values()} == {"transform"}
