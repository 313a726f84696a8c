"""What layers multiply with is looked at: zeros of a parameter may be none of the weight computed from it."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from lightning_sparse import convert_, sparsify_
from lightning_sparse.weights.multiplied import dense_products, news_of_dense_products


def standardised(weight):
    dims = tuple(range(1, weight.ndim))
    return (weight - weight.mean(dims, keepdim=True)) / (weight.std(dims, keepdim=True) + 1e-5)


class StandardisedConv(nn.Conv2d):
    """As timm's StdConv2d."""

    def forward(self, x):
        return F.conv2d(
            x, standardised(self.weight), self.bias, self.stride, self.padding, groups=self.groups
        )


class StandardisedInside(nn.Conv2d):
    """The other method that torch lets children change."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, standardised(weight), bias)


class Transposed(nn.ConvTranspose2d):
    def forward(self, x, output_size=None):
        return F.conv_transpose2d(x, self.weight.tanh() + 0.1, self.bias, self.stride, self.padding)


class Shifted(nn.Linear):
    """A weight of which another parameter is a part, by the operator in place of the function."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.shift = nn.Parameter(torch.full((sizes[1], 1), 0.5))

    def forward(self, x):
        return x @ (self.weight + self.shift).T + self.bias


class Quantised(nn.Linear):
    """Levels -0.15, -0.05, 0.05, ...: zero is none of them."""

    def forward(self, x):
        return torch.einsum("bi,oi->bo", x, (self.weight * 10).floor() / 10 + 0.05)


class Merged(nn.Linear):
    """A low-rank part added to the weight."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.down, self.up = nn.Parameter(torch.ones(1, sizes[0])), nn.Parameter(torch.ones(sizes[1], 1))

    def forward(self, x):
        return F.linear(x, self.weight + self.up @ self.down, self.bias)


class Own(nn.Module):
    """A layer that inherits from no other."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        return x @ self.matrix.softmax(0).T


def equalised():
    """The learning rate equalised by a hook, and badly: as StyleGAN's first code, but for the sum."""
    layer = nn.Linear(4, 6)
    layer.weight_orig = nn.Parameter(layer.weight.detach())
    del layer.weight
    layer.register_forward_pre_hook(lambda made, _: setattr(made, "weight", made.weight_orig * 2 + 0.1))
    return layer


class Gained(nn.Conv2d):
    """As timm's ScaledStdConv2d, with a gain that is zero at first, as that of a block's last layer is."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return F.conv2d(x, standardised(self.weight) * self.gain, self.bias)


class LowRank(Merged):
    """A low-rank part that is zero before the first step."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        nn.init.zeros_(self.up)


def zero_at_first():
    layer = StandardisedConv(4, 6, 3)
    nn.init.zeros_(layer.weight)
    return layer


def by_hand():
    """A forward put on one object."""
    layer = nn.Linear(4, 6)
    layer.forward = lambda x: F.linear(x, layer.weight.exp())
    return layer


DENSE = {
    "standardised convolution": (lambda: StandardisedConv(4, 6, 3, padding=1), None),
    "in groups": (lambda: StandardisedConv(4, 6, 3, groups=2), None),
    "inside of forward": (lambda: StandardisedInside(4, 6, 3, padding=2, padding_mode="reflect"), None),
    "transposed": (lambda: Transposed(4, 6, 3, 2, 1), None),
    "shifted": (lambda: Shifted(4, 6), None),
    "one output": (lambda: Shifted(4, 1), None),
    "square": (lambda: Shifted(5, 5), None),
    "quantised": (lambda: Quantised(4, 6), None),
    "merged": (lambda: Merged(4, 6), None),
    "compiled": (lambda: torch.compile(StandardisedConv(4, 6, 3), backend="eager"), None),
    "gain of zero": (lambda: Gained(4, 6, 3), None),
    "low rank, zero at first": (lambda: LowRank(4, 6), None),
    "zero at first": (zero_at_first, None),
    "own class": (Own, ["*.matrix"]),
    "hook": (equalised, ["*.weight_orig"]),
    "one object": (by_hand, None),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(6, 6)), ["*.original"]),
}


class Subclass(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class Scaled(nn.Conv2d):
    """Scaled per filter: zeros stay."""

    def forward(self, x):
        return F.conv2d(x, self.weight / self.weight.norm(), self.bias)


class Frozen(LowRank):
    """A part that stays zero, as nothing trains it."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.up.requires_grad_(False)


class Unknown(nn.Linear):
    def forward(self, x, mode):
        return F.linear(x, self.weight.exp() * mode)


class Embedded(nn.Embedding):
    def forward(self, x):
        return F.embedding(x.long(), self.weight)


class Pair(nn.Module):
    """Two weights of one shape: each is compared with its own mask."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return x @ self.first.clone() @ self.second.clone()


SPARSE = {
    "linear": (lambda: nn.Linear(4, 6), None),
    "subclass": (lambda: Subclass(4, 6), None),
    "scaled": (lambda: Scaled(4, 6, 3), None),
    "frozen part": (lambda: Frozen(4, 6), None),
    "cannot be called": (lambda: Unknown(4, 6), None),
    "attention": (lambda: nn.MultiheadAttention(8, 2), ["*proj*weight"]),
    "recurrent": (lambda: nn.LSTM(4, 6), ["*.weight*"]),
    "embedding": (lambda: Embedded(4, 6), ["*.weight"]),
    "two of one shape": (Pair, ["*.first", "*.second"]),
    "spectral norm by hooks": (lambda: spectral_norm(nn.Conv2d(4, 6, 3)), ["*.weight_orig"]),
    "weight norm by hooks": (lambda: weight_norm(nn.Linear(20, 6)), ["*.weight_v"]),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(4, 6)), ["*.original"]),
    "prune": (lambda: prune.random_unstructured(nn.Linear(4, 6), "weight", 0.2), ["*.weight_orig"]),
}
FUTURE = pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*deprecated:FutureWarning")


def net_with(make, include, density=0.3):
    torch.manual_seed(0)
    net = nn.Sequential(make(), nn.Identity())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sparsify_(net, "epl" if density < 1 else "magnitude", density, include=include, seed=0)
    return net, [str(warning.message) for warning in caught if "dense in the product" in str(warning.message)]


@pytest.mark.parametrize(("make", "include"), DENSE.values(), ids=DENSE)
def test_a_dense_product_is_named(make, include):
    net, told = net_with(make, include)
    assert len(told) == 1
    assert told[0].startswith("Sparse in the parameter, dense in the product: 0")
    assert all(there > 0 for there, _ in dense_products(net).values())


@FUTURE
@pytest.mark.parametrize(("make", "include"), SPARSE.values(), ids=SPARSE)
def test_a_sparse_product_is_not(make, include):
    net, told = net_with(make, include)
    assert told == []
    assert dense_products(net) == {}


@pytest.mark.parametrize("name", ["standardised convolution", "shifted", "hook"])
def test_masks_that_prune_nothing_yet_are_looked_at_too(name):
    _, told = net_with(*DENSE[name], density=1.0)
    assert len(told) == 1


@FUTURE
@pytest.mark.parametrize("name", [*DENSE, *SPARSE])
def test_nothing_changes_by_looking(name):
    make, include = {**DENSE, **SPARSE}[name]
    net, _ = net_with(make, include)
    layers = list(net.modules())

    def found():
        state = {key: (id(t), t.clone()) for key, t in net.state_dict(keep_vars=True).items()}
        return state, [(set(vars(x)), x.training) for x in layers], torch.get_rng_state()

    before, after = found(), (dense_products(net), found())[1]
    assert before[1] == after[1]
    assert torch.equal(before[2], after[2])
    for key, (number, content) in before[0].items():
        assert after[0][key][0] == number, key
        assert torch.equal(after[0][key][1], content), key


class Restless(nn.Linear):
    """Changes whatever it can when it is called."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("grown", torch.zeros(0))
        self.history = []

    def forward(self, x):
        self.calls += 1
        self.grown.resize_(3).fill_(1.0)
        self.history.append(torch.rand(()))
        self.weight.data = self.weight.data * 0.5
        return F.linear(x, self.weight + 1)


def test_a_layer_that_changes_itself_is_given_back():
    net, told = net_with(lambda: Restless(4, 6), None)
    assert len(told) == 1
    torch.manual_seed(0)
    fresh = Restless(4, 6)
    kept = net[0].weight != 0
    assert torch.equal(net[0].weight[kept], fresh.weight[kept])
    assert net[0].calls.item() == 0
    assert net[0].grown.shape == (0,)
    assert net[0].history == []


def test_hooks_of_others_are_not_run():
    calls = []
    net = nn.Sequential(Subclass(4, 6))
    net[0].register_forward_pre_hook(lambda *_: calls.append("before"))
    net[0].register_forward_hook(lambda *_: calls.append("after"))
    sparsify_(net, "epl", 0.3)
    assert calls == []


def test_shares_are_counted_and_the_same_is_told_once():
    net = nn.Sequential(*(Shifted(4, 4) for _ in range(4)))
    with pytest.warns(UserWarning, match=r"product: 0, 1, 2, \.\.\. \(4 in all\).* 100% is not zero"):
        sparsify_(net, "epl", 0.25)
    assert dense_products(net)["3.weight"] == (12, 12)
    assert news_of_dense_products(net) == ""
    with pytest.warns(UserWarning, match=r"product: 0 \(1 in all\)"):
        sparsify_(net, "epl", 0.5, include=["0.weight"])


def test_layers_without_masks_are_not_called():
    net = nn.Sequential(Restless(4, 4), nn.Linear(4, 4))
    convert_(net, 0.5, include=["1.weight"])
    assert dense_products(net) == {}


class OfTokens(nn.Linear):
    """Takes batches of sequences only."""

    def forward(self, x):
        batch, tokens, _ = x.shape
        return F.linear(x, standardised(self.weight), self.bias).view(batch, tokens, self.out_features)


class OwnOfTokens(nn.Module):
    """The same, of no known class."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, x):
        batch, tokens, _ = x.shape
        return (x.reshape(batch * tokens, -1) @ self.weight.softmax(1).T).view(batch, tokens, -1)


@pytest.mark.parametrize("kind", [OfTokens, OwnOfTokens])
def test_layers_that_take_sequences_only(kind):
    net = nn.Sequential(kind(6, 5))
    sparsify_(net, "epl", 0.5, include=["0.weight"])
    assert dense_products(net).keys() == {"0.weight"}
