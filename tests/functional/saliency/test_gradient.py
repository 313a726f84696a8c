"""The size of the gradient as a score."""

import pytest
import torch
from torch import nn

from lightning_sparse import Gradient, PruningProblem
from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.pruning import prune_along
from lightning_sparse.functional.saliency import method_from_name
from lightning_sparse.functional.saliency.gradient import gradient


def test_by_hand():
    """Losses 2 a + 3 b - c and -4 a + 3 b + 2 c: the mean gradient is (-1, 3, 0.5)."""
    weights = {"w": torch.tensor([[5.0, 0.0, 7.0]], requires_grad=True)}
    rows = [torch.tensor([[2.0, 3.0, -1.0]]), torch.tensor([[-4.0, 3.0, 2.0]])]
    losses = [lambda row=row: (weights["w"] * row).sum() for row in rows]
    assert gradient(weights, losses)["w"].tolist() == [[1.0, 3.0, 0.5]]  # the mean first, then the size


def test_the_mean_over_processes_comes_before_the_absolute_value():
    weights = {"w": torch.tensor([[1.0, 1.0]], requires_grad=True)}
    losses = [lambda: (weights["w"] * torch.tensor([[2.0, -2.0]])).sum()]
    other = torch.tensor([[-2.0, -4.0]])  # of another process
    assert gradient(weights, losses, lambda mine: (mine + other) / 2)["w"].tolist() == [[0.0, 3.0]]


class Net(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)
        )
        self.to(dtype)


def problem(net, batches, generator):
    draws = torch.Generator().manual_seed(1)
    dtype = next(net.parameters()).dtype
    data = [
        (torch.randn(5, 6, generator=draws).to(dtype), torch.randint(0, 3, (5,), generator=draws))
        for _ in range(batches)
    ]
    losses = [lambda x=x, y=y: nn.functional.cross_entropy(net.layers(x), y) for x, y in data]
    weights = {f"layers.{i}.weight": net.layers[i].weight for i in (0, 4)}
    asked = []
    made = PruningProblem(net, weights, generator, losses=lambda count: asked.append(count) or losses[:count])
    return made, data, asked


def test_it_is_what_backward_gathers():
    net = Net(torch.float64)
    made, data, asked = problem(net, 4, torch.Generator().manual_seed(2))
    scores = Gradient(scoring_mode="eval").scores(made)
    assert asked == [4]
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    net.eval()
    for x, y in data:
        (nn.functional.cross_entropy(net.layers(x), y) / 4).backward()
    for name, score in scores.items():
        torch.testing.assert_close(score, net.get_parameter(name).grad.abs(), rtol=1e-12, atol=1e-12)


def test_frozen_weights_have_scores_and_stay_frozen():
    net, frozen = Net(torch.float64), Net(torch.float64).requires_grad_(False)
    mine = Gradient(2).scores(problem(net, 2, torch.Generator().manual_seed(2))[0])
    its = Gradient(2).scores(problem(frozen, 2, torch.Generator().manual_seed(2))[0])
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_half_precision_is_summed_in_float32():
    made, *_ = problem(Net(torch.bfloat16), 2, torch.Generator().manual_seed(2))
    assert {score.dtype for score in Gradient(2).scores(made).values()} == {torch.float32}


@pytest.mark.parametrize("allocation", ["global", "erk"])
def test_as_a_pruning_method(allocation):
    made, *_ = problem(Net(torch.float32), 4, torch.Generator().manual_seed(2))
    [masks] = prune_along(Gradient(allocation=allocation), made, 0.5)
    assert sum(int(mask.sum()) for mask in masks.values()) == 36
    assert method_from_name("gradient") == Gradient(4, "train", "global")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_batches": 0}, "`num_batches` must be"),
        ({"scoring_mode": "test"}, "`scoring_mode` must be"),
        ({"allocation": "most"}, "`allocation` must be"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(SparsityError, match=message):
        Gradient(**arguments)
