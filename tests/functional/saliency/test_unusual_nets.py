"""GraSP where there is no second derivative or no linear layer; scores that are zero as weights are."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_sparse import FORCE, SNIP, GraSP, Magnitude, PruningProblem, sparsify_
from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.pruning import prune_along


def problem_of(net, names, x=None, **options):
    torch.manual_seed(1)
    x = torch.randn(12, 6) if x is None else x
    y = torch.arange(len(x)) % 3
    return PruningProblem(
        net,
        {name: net.get_parameter(name) for name in names},
        torch.Generator(),
        losses=lambda count: [lambda: F.cross_entropy(net(x), y)] * count,
        **options,
    )


# Second derivatives.


class WithoutDouble(torch.autograd.Function):
    """The gradient is right, and cannot be differentiated: what happens then is `kind`."""

    kind = ""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        kind = WithoutDouble.kind
        if not torch.is_grad_enabled():
            return grad * 2
        if kind == "asks":
            raise NotImplementedError
        if kind == "cudnn":
            raise RuntimeError("cudnn RNN backward is not differentiable twice\nmore of it")
        if kind == "type":
            raise TypeError("backward takes no graph")
        if kind == "value":
            raise ValueError("flash attention does not support double backward")
        return Inner.apply(grad)


class Inner(torch.autograd.Function):
    """Fails only when the second derivative is taken."""

    @staticmethod
    def forward(ctx, grad):
        return grad * 2

    @staticmethod
    def backward(ctx, grad):
        raise AssertionError("only once")


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(WithoutDouble.apply(self.a(x)).relu())


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("asks", "NotImplementedError"),
        ("cudnn", "cudnn RNN backward is not differentiable twice"),
        ("type", "backward takes no graph"),
        ("value", "flash attention does not support double backward"),
        ("inner", "only once"),
    ],
)
def test_any_error_of_the_second_derivative_is_explained(monkeypatch, kind, said):
    monkeypatch.setattr(WithoutDouble, "kind", kind)
    problem = problem_of(Custom(), ["a.weight", "b.weight"])
    with pytest.raises(SparsityError, match=rf"GraSP needs second derivatives.*none: {said}\.") as caught:
        GraSP().scores(problem)
    assert "another method (`snip`, `synflow`)" in str(caught.value)
    assert "`SDPBackend.MATH`" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SNIP().scores(problem)["a.weight"].any()  # the gradient itself is there


def test_running_out_of_memory_is_left_as_it_is(monkeypatch):
    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(Inner, "apply", out_of_memory)
    monkeypatch.setattr(WithoutDouble, "kind", "inner")
    with pytest.raises(torch.OutOfMemoryError):
        GraSP().scores(problem_of(Custom(), ["a.weight"]))


# Temperature.


class Conv1D(nn.Module):
    """As in `transformers`: linear, and no `nn.Linear`."""

    def __init__(self, nx, nf):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf) / 4), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 3)

    def forward(self, x):
        return self.lstm(x)[0]


NETS = {
    "Conv1D": (lambda: nn.Sequential(Conv1D(6, 8), nn.ReLU(), Conv1D(8, 3)), ["0.weight", "2.weight"]),
    "LSTM": (Recurrent, ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]),
    "frozen": (lambda: nn.Sequential(Conv1D(6, 3), nn.Linear(3, 3).requires_grad_(False)), ["0.weight"]),
}


@pytest.mark.parametrize("name", NETS)
def test_without_a_linear_layer_nothing_is_divided(name):
    make, names = NETS[name]
    torch.manual_seed(0)
    net = make()
    ours, plain = (GraSP(temperature=t).scores(problem_of(net, names)) for t in (200.0, None))
    assert all(torch.equal(ours[key], plain[key]) for key in names)
    assert any(score.any() for score in ours.values())
    *_, masks = prune_along(GraSP(), problem_of(net, names), 0.5)
    assert sum(int(mask.sum()) for mask in masks.values()) == sum(m.numel() for m in masks.values()) // 2


class Pair(nn.Linear):
    """Returns more than its output."""

    def forward(self, x):
        return super().forward(x), None


class OfPairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), Pair(8, 3)

    def forward(self, x):
        return self.b(self.a(x).relu())[0]


def test_a_last_layer_that_returns_no_tensor():
    problem = problem_of(OfPairs(), ["a.weight", "b.weight"])
    with pytest.warns(
        UserWarning, match="divided nothing: .* is not called by its loss, or returns no tensor"
    ):
        ours = GraSP().scores(problem)
    plain = GraSP(temperature=None).scores(problem)
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


# Zero scores.


class LoRA(nn.Module):
    """``W x + B (A x)`` with B = 0, as in `peft`."""

    def __init__(self, size, out):
        super().__init__()
        self.base = nn.Linear(size, out)
        self.lora_A, self.lora_B = nn.Linear(size, 2, bias=False), nn.Linear(2, out, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x):
        return self.base(x) + self.lora_B(self.lora_A(x))


WHY = r"the weights of 0\.lora_B\.weight, 2\.lora_B\.weight are all zero, as LoRA's B is at first"


@pytest.mark.parametrize("method", [SNIP(), FORCE(2, 1), GraSP(temperature=None)], ids=repr)
def test_scores_of_lora_beside_trained_weights(method):
    torch.manual_seed(0)
    net = nn.Sequential(LoRA(6, 16), nn.ReLU(), LoRA(16, 3))
    names = [name for name, parameter in net.named_parameters() if parameter.ndim > 1]
    # GraSP's Hessian reaches A through B: only B itself scores zero.
    silent = r"lora_A.*\(4 layers\)" if not isinstance(method, GraSP) else r"lora_B.*\(2 layers\)"
    with pytest.warns(UserWarning, match=rf"All scores of 0\.{silent}: {WHY}.*`exclude`"):
        *_, masks = prune_along(method, problem_of(net, names), 0.3)
    assert sum(int(mask.sum()) for mask in masks.values()) == int(
        0.3 * sum(m.numel() for m in masks.values()) + 0.5
    )


@pytest.mark.parametrize("method", [SNIP(), FORCE(2, 1)], ids=repr)
def test_adapters_alone_have_no_score_at_all(method):
    torch.manual_seed(0)
    net = nn.Sequential(LoRA(6, 16), nn.ReLU(), LoRA(16, 3))
    names = [name for name, _ in net.named_parameters() if "lora" in name]
    with pytest.raises(SparsityError, match=rf"Only 0 scores are not zero, but \d+.*{WHY}.*`exclude`.*`erk`"):
        list(prune_along(method, problem_of(net, names), 0.3))


def test_a_layer_of_zeros_under_magnitude():
    net = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 4))
    nn.init.zeros_(net[1].weight)
    with pytest.warns(
        UserWarning, match=r"All scores of 1\.weight are zero.*weights of 1\.weight are all zero"
    ):
        sparsify_(net, Magnitude(), 0.2)


def test_a_layer_that_is_not_called_is_none_of_zeros():
    net = nn.ModuleDict({"a": nn.Linear(6, 3), "unused": nn.Linear(4, 3)})
    net.forward = net["a"].forward
    with pytest.warns(UserWarning, match=r"All scores of unused\.weight are zero.*no signal comes to them"):
        list(prune_along(SNIP(), problem_of(net, ["a.weight", "unused.weight"]), 0.3))
