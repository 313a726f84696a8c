"""EPF: within a layer every filter keeps as many weights, wherever the weight keeps its outputs."""

import pytest
import torch
from torch import nn

from lightning_sparse import FORCE, SNIP, Magnitude, PruningProblem, Random, SynFlow, convert_, sparsify_
from lightning_sparse.functional.allocation import allocate, epf
from lightning_sparse.functional.filters import OUTPUTS_FIRST, Filters, equal_mask, filters_of
from lightning_sparse.functional.patterns import NM
from lightning_sparse.functional.pruning import masks_from_scores, prune_along, random_masks
from lightning_sparse.layers.support import draw_equal_rows, draw_support


class Conv1D(nn.Module):
    """As in `transformers`: GPT-2's linear layer, whose weight is ``(in, out)``."""

    def __init__(self, nf, nx):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Child(Conv1D):
    """A layer made from it."""


def per_filter(mask, layer):
    """Count by hand what each output keeps."""
    if isinstance(layer, Conv1D):
        return mask.sum(0).tolist()
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        inputs = mask.shape[0] // layer.groups
        parts = [mask[g * inputs : (g + 1) * inputs].transpose(0, 1).flatten(1) for g in range(layer.groups)]
        return [count for part in parts for count in part.sum(1).tolist()]
    return mask.flatten(1).sum(1).tolist()


LAYERS = [
    nn.Linear(7, 5),
    nn.Conv2d(4, 6, 3, groups=2),
    nn.Conv1d(3, 8, 3),
    nn.ConvTranspose2d(6, 5, 3),
    nn.ConvTranspose1d(6, 4, 3, groups=2),
    Conv1D(6, 9),
    Child(4, 4),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("share", [0.01, 0.2, 0.45, 0.5, 0.83, 1.0])
def test_every_filter_keeps_its_share(layer, share):
    torch.manual_seed(0)
    net = nn.Sequential(layer)
    filters = filters_of(net, ["0.weight"])["0.weight"]
    k = max(1, int(share * layer.weight.numel()))
    for mask in (
        equal_mask(torch.rand_like(layer.weight), k, filters),
        equal_mask(torch.zeros_like(layer.weight), k, filters),  # nothing but ties
    ):
        counts = per_filter(mask, layer)
        assert len(counts) == filters.count(layer.weight.shape)
        assert sum(counts) == k
        assert max(counts) - min(counts) <= 1


def test_the_best_of_each_and_the_rest_to_the_best_of_the_next():
    scores = torch.tensor([[9.0, 8.0, 7.0], [1.0, 2.0, 3.0], [6.0, 4.0, 5.0]])
    assert equal_mask(scores, 4).int().tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert equal_mask(scores.T, 4, Filters(1)).int().T.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert equal_mask(scores, 0).sum() == 0
    assert equal_mask(scores, 9).all()


def test_refusals():
    with pytest.raises(ValueError, match="`k` must be between 0 and the 4 scores, got 5"):
        equal_mask(torch.ones(2, 2), 5)
    with pytest.raises(ValueError, match="must not contain NaN, got 1"):
        equal_mask(torch.tensor([[1.0, float("nan")]]), 1)


def test_layers_that_are_not_known_have_their_outputs_first():
    net = nn.Sequential(nn.MultiheadAttention(4, 2), nn.LSTM(3, 5))
    names = ["0.in_proj_weight", "1.weight_ih_l0", "elsewhere"]
    assert filters_of(net, names) == dict.fromkeys(names, OUTPUTS_FIRST)
    compiled = nn.ModuleDict({"_orig_mod": nn.Sequential(Conv1D(2, 3))})  # so `torch.compile` wraps it
    assert filters_of(compiled, ["0.weight"]) == {"0.weight": Filters(1)}


def weights_of(net):
    return {f"{i}.weight": layer.weight for i, layer in enumerate(net) if hasattr(layer, "weight")}


def assert_equal_per_filter(net, masks, density):
    counts = {name: per_filter(mask, net[int(name[0])]) for name, mask in masks.items()}
    total = sum(mask.numel() for mask in masks.values())
    assert sum(map(sum, counts.values())) == int(density * total + 0.5)
    every = [count for layer in counts.values() for count in layer]
    assert max(every) - min(every) <= 1  # nothing is full here, so all filters of the net have the same
    return every


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3])
def test_the_whole_net_has_as_many_in_every_filter(density):
    torch.manual_seed(0)
    net = nn.Sequential(
        Conv1D(20, 12), nn.Linear(20, 9), Conv1D(30, 9), nn.ConvTranspose1d(30, 12, 3, groups=3)
    )
    draws = torch.Generator().manual_seed(1)
    masks = random_masks(weights_of(net), density, "epf", draws, module=net)
    every = assert_equal_per_filter(net, masks, density)
    assert len(every) == 20 + 9 + 30 + 12
    method = Random("epf")
    [again] = prune_along(method, PruningProblem(net, weights_of(net), draws.manual_seed(1)), density)
    assert all(torch.equal(masks[name], again[name]) for name in masks)


METHODS = [
    Magnitude("epf"),
    SNIP(allocation="epf"),
    FORCE(4, 1, allocation="epf"),
    SynFlow(5, allocation="epf"),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_scores_rank_within_each_filter(method):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8))
    x, y = torch.randn(32, 12), torch.arange(32) % 8
    problem = PruningProblem(
        net,
        weights_of(net),
        torch.Generator(),
        losses=lambda count: [lambda: nn.functional.cross_entropy(net(x), y)] * count,
        inputs=lambda: x,
    )
    before = None
    for masks in prune_along(method, problem, 0.25):
        if before is not None and not isinstance(method, FORCE):
            assert not any((masks[name] & ~before[name]).any() for name in masks)  # what is pruned stays so
        before = masks
    assert_equal_per_filter(net, before, 0.25)
    if isinstance(method, Magnitude):
        for name, mask in before.items():
            for kept, row in zip(mask, weights_of(net)[name].detach().abs(), strict=True):
                assert row[kept].min() >= row[~kept].max()


def test_a_density_of_its_own_is_shared_out_as_well():
    net = nn.Sequential(nn.Linear(10, 6), nn.Linear(6, 5))
    masks = sparsify_(net, "epf", 0.5, density_overrides={"0": 0.5}, seed=3)
    assert per_filter(masks["0.weight"], net[0]) == [5] * 6
    counts = per_filter(masks["1.weight"], net[1])
    assert sum(counts) == 45 - 30
    assert max(counts) - min(counts) <= 1


def test_a_pattern_says_itself_how_many_a_filter_keeps():
    scores = {"w": torch.rand(3, 8)}
    mask = masks_from_scores(scores, 0.5, "epf", pattern=NM(2, 4))["w"]
    assert mask.view(3, 2, 4).sum(2).tolist() == [[2, 2]] * 3


def test_budgets_go_by_the_number_of_filters():
    shapes = {"a": torch.Size([6, 10]), "b": torch.Size([2, 6])}
    assert allocate(shapes, 0.5, "epf", filters={"a": 10}) == {"a": 30, "b": 6}
    assert allocate(shapes, 0.5, "epf") == epf(shapes, 0.5) == {"a": 27, "b": 9}
    assert allocate(shapes, 0.5, "erk", filters={"a": 10}) == allocate(shapes, 0.5, "erk")


# Conversion.


@pytest.mark.parametrize("density", [0.03, 0.2, 0.6, 1.0])
def test_converted_layers(density):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 10))
    budgets = convert_(net, density, "epf", generator=5)
    for name in ("0", "2"):
        layer = net[int(name)]
        rows = (layer.indices // layer.weight.flatten(1).shape[1]).bincount(minlength=len(layer.weight))
        assert int(rows.sum()) == budgets[f"{name}.weight"]
        assert int(rows.max() - rows.min()) <= 1


def test_rows_are_drawn_evenly():
    """Every place has the same chance, and which rows have one more is drawn, too."""
    draws, shape, k, rounds = torch.Generator().manual_seed(0), torch.Size([3, 2, 2]), 5, 1000
    counts = torch.zeros(12)
    for _ in range(rounds):
        support = draw_equal_rows(shape, k, draws)
        assert support.dtype == torch.int64
        assert (support[1:] > support[:-1]).all()
        counts[support] += 1
    assert (counts / rounds - k / 12).abs().max() < 0.06


def test_draws_of_whole_layers_are_what_they_were():
    draws = [torch.Generator().manual_seed(7) for _ in range(2)]
    assert torch.equal(draw_support(torch.Size([10, 20]), 30, draws[0]), draw_support(200, 30, draws[1]))


def test_what_cannot_be_drawn():
    shape = torch.Size([2, 3])
    assert draw_equal_rows(shape, 0, torch.Generator()).tolist() == []
    assert draw_equal_rows(shape, 6, torch.Generator()).tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="`k` must be between 0 and the 6 positions, got 7"):
        draw_equal_rows(shape, 7, torch.Generator())
