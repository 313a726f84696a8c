"""Scales of the offset from one batch: hand-worked cases, and what happens where there is none to take."""

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_sparse.layers import convert_, lsuv_

X = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, -1.0, 1.0]])
"""Through the DCT of size 4: (2, 0, 0, 0) and (0, 0, 2, 0)."""


def net(*layers: nn.Module, bias: float = 0.0, **options: Any) -> nn.Sequential:
    """Layers with offsets, whose biases are all the same."""
    made = nn.Sequential(*layers)
    convert_(made, 0.5, **options)
    for layer in made:
        if getattr(layer, "bias", None) is not None:
            nn.init.constant_(layer.bias, bias)
    return made


def outputs(module: nn.Sequential, x: Tensor) -> list[Tensor]:
    """What each converted layer puts out, without its bias."""
    found = []
    for layer in module:
        x = layer(x)
        if hasattr(layer, "alpha"):
            found.append(x if layer.bias is None else x - layer.bias.view(-1, *[1] * (len(layer.shape) - 2)))
    return found


@pytest.mark.parametrize("start", [1.0, 0.01, 30.0])
@pytest.mark.parametrize("bias", [0.0, 100.0])
@pytest.mark.filterwarnings("ignore:`alpha` 30 makes")
def test_two_layers_by_hand(start: float, bias: float) -> None:
    """Outputs are 2, 2 and six zeros: mean 1/2, variance 1 - 1/4, so alpha is 1 / sqrt(3/4).

    The second layer gets them plus the bias, times alpha, and is a row of halves: it adds up the four of each
    image, which gives half of 2 a + 4 b, twice the same: constant.
    """
    made = net(nn.Linear(4, 4), nn.Linear(4, 1, bias=False), bias=bias, alpha=start)
    with pytest.warns(UserWarning, match=r"^`alpha` .*: '1' stays as it was \(constant output\)\.$"):
        alphas = lsuv_(made, lambda: made(X))
    assert list(alphas) == ["0"]
    assert made[0].alpha.item() == pytest.approx(1 / math.sqrt(0.75))
    assert made[1].alpha.item() == pytest.approx(start)


def test_a_layer_sees_what_the_scales_before_it_make() -> None:
    """A ReLU and a bias lie between: no factor of the first layer's output comes through as a factor."""
    made = net(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4, bias=False), bias=-0.5)
    alphas = lsuv_(made, lambda: made(X))
    a = 1 / math.sqrt(0.75)
    hidden = torch.zeros(2, 4)
    hidden[0, 0] = hidden[1, 2] = 2 * a - 0.5
    second = hidden @ made[2].offset.matrix(made[2].shape, torch.float32, torch.device("cpu")).t()
    assert alphas == {"0": pytest.approx(a), "2": pytest.approx(1 / second.std(correction=0).item())}
    assert [y.std(correction=0).item() for y in outputs(made, X)] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("offset", ["dct", "signed_dct", "hadamard"])
def test_all_outputs_have_standard_deviation_1_and_the_last_layer_is_quiet(offset: str) -> None:
    torch.manual_seed(0)
    made = net(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(24, 12), nn.Linear(12, 5)),
        bias=0.3,
        offset=offset,
    )
    x = torch.randn(16, 3, 8, 8) + 1
    alphas = lsuv_(made, lambda: made(x), last_layer_factor=-0.1)
    assert list(alphas) == ["0", "4", "7", "8"]
    assert alphas == {name: pytest.approx(made[int(name)].alpha.item()) for name in alphas}
    assert [y.std(correction=0).item() for y in outputs(made, x)] == pytest.approx([1, 1, 1, 0.1], rel=1e-4)
    assert alphas["8"] < 0


def test_the_order_is_that_of_calls() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(6, 3), nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(input=self.first(input=x))

    made = Backwards()
    convert_(made, 0.5, offset="signed_dct")
    twin = copy.deepcopy(made)
    alphas, quiet = lsuv_(made, lambda: made(X)), lsuv_(twin, lambda: twin(X), last_layer_factor=0.1)
    assert list(alphas) == ["first", "last"]
    assert quiet == {"first": alphas["first"], "last": pytest.approx(0.1 * alphas["last"])}


def test_the_module_is_left_as_it_was() -> None:
    torch.manual_seed(1)
    made = net(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 4), offset="signed_dct")
    for layer in (made[0], made[3]):
        layer.values.data.normal_()
    made.eval()
    made[3].train()
    before, draws = copy.deepcopy(made.state_dict()), torch.get_rng_state()
    parameters, modes = list(made.parameters()), [layer.training for layer in made.modules()]
    alphas = lsuv_(made, lambda: made(X))
    for key, value in made.state_dict().items():
        assert torch.equal(value, before[key]) != key.endswith("alpha"), key
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(a is b for a, b in zip(made.parameters(), parameters, strict=True))
    assert all(p.grad is None and p.grad_fn is None and p.requires_grad for p in made.parameters())
    assert [layer.training for layer in made.modules()] == modes
    assert not any(layer._forward_pre_hooks for layer in made.modules())
    assert list(alphas) == ["0", "3"]


def test_the_module_is_left_as_it_was_where_the_pass_fails() -> None:
    made = net(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 4), bias=0.3, offset="signed_dct", alpha=3.0)
    made[0].values.data.normal_()
    before = copy.deepcopy(made.state_dict())

    def fails() -> None:
        made(X)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lsuv_(made, fails)
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in made.modules())


def test_batch_norm_normalises_by_the_batch() -> None:
    """As in the first step of training: otherwise the second layer would get 10 times as much."""
    made = net(nn.BatchNorm1d(4), nn.Linear(4, 4), offset="signed_dct")
    alphas = [lsuv_(made, lambda x=x: made(x))["1"] for x in (X * 3, X * 30)]  # type: ignore[misc]
    assert alphas[0] == pytest.approx(alphas[1], rel=1e-3)


def test_values_do_not_count() -> None:
    made = net(nn.Linear(4, 4))
    made[0].values.data.fill_(7.0)
    assert lsuv_(made, lambda: made(X)) == {"0": pytest.approx(1 / math.sqrt(0.75))}


# Layers without a scale to take.


class Odd(nn.Module):
    """Layers that are never called, called twice, fed zeros, fed NaN, and start as nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.never, self.twice, self.nothing, self.zeros, self.nan = (
            nn.Linear(4, 4) for _ in range(6)
        )
        nn.init.zeros_(self.nothing.weight)
        convert_(self, 0.5, offset="signed_dct")

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(x)
        x = self.twice(self.twice(x)) + self.nothing(x)
        return x + self.zeros(torch.zeros_like(x)) + self.nan(x * math.nan)


def test_layers_whose_alpha_stays_are_named_once() -> None:
    made = Odd()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        alphas = lsuv_(made, lambda: made(X), last_layer_factor=0.1)
    assert list(alphas) == ["plain", "twice"]
    assert [str(warning.message) for warning in caught] == [
        "`alpha` does not come from data everywhere: 'never' stays as it was (never called), 'nothing' "
        "stays as it was (alpha 0), 'zeros' stays as it was (constant output), 'nan' stays as it was "
        "(output not finite), 'twice' is set by the first of 2 calls."
    ]
    assert [layer.alpha.item() for layer in (made.never, made.nothing, made.zeros, made.nan)] == [1, 0, 1, 1]


def test_some_layers_only() -> None:
    made, all_of_them = (
        net(nn.Linear(4, 4), nn.Linear(4, 4), offset="signed_dct", alpha=3.0) for _ in range(2)
    )
    alphas = lsuv_(made, lambda: made(X), last_layer_factor=0.1, only=["0"])
    assert alphas == {"0": pytest.approx(lsuv_(all_of_them, lambda: all_of_them(X))["0"])}
    assert made[1].alpha.item() == 3.0
    with pytest.raises(
        ValueError, match="`only` must name converted layers with an alpha, got 'a'; there are 0, 1"
    ):
        lsuv_(made, lambda: made(X), only=["0", "a"])


def test_copies_take_the_alpha_of_their_original() -> None:
    class Momentum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.online = nn.Sequential(nn.Linear(4, 4))
            self.target = copy.deepcopy(self.online).requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.online(x) + self.target(x)

    made = Momentum()
    with pytest.warns(UserWarning, match="Frozen copies"):
        convert_(made, 0.5, offset="signed_dct")
    alphas = lsuv_(made, lambda: made(X))
    assert list(alphas) == ["online.0"]
    assert torch.equal(made.online[0].alpha, made.target[0].alpha)


def test_a_pass_that_runs_nothing_is_refused() -> None:
    made = net(nn.Linear(4, 4))
    with pytest.raises(
        ValueError, match=r"`forward` must run a converted .* got '0' stays .* \(never called\)"
    ):
        lsuv_(made, lambda: None)
    with pytest.raises(ValueError, match=r"`forward` must run a converted layer .*, got none"):
        lsuv_(nn.Linear(4, 4), lambda: None)
    for factor in (math.nan, "a", True):
        with pytest.raises(ValueError, match="`last_layer_factor` must be finite"):
            lsuv_(made, lambda: made(X), last_layer_factor=factor)  # type: ignore[arg-type]
