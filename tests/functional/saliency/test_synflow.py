import copy
import math

import pytest
import torch
from saliency_golden import case
from torch import nn
from torch.nn import functional as F

from lightning_sparse import SynFlow
from lightning_sparse.functional.masks import global_masks
from lightning_sparse.functional.pruning import prune_along
from lightning_sparse.functional.saliency.iterative import density_path
from lightning_sparse.functional.saliency.score_check import ScoreCheck, count_nonzero_scores, pruned_last
from lightning_sparse.functional.saliency.synflow import synflow

NAMES = ["synflow_mlp_fresh", "synflow_conv_fresh", "synflow_conv_warm"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reference_conformance(name, dtype):
    reference = case(name)
    net = reference.net(dtype)
    problem = reference.problem(net)
    before = copy.deepcopy(net.state_dict())
    key, tolerance = ("score_first", 1e-5) if dtype == torch.float32 else ("score_first_f64", 1e-8)
    for layer, values in SynFlow(conformance="reference").scores(problem).items():
        expected = reference.tensor(f"{key}.{layer}")
        assert values.dtype == dtype
        assert (values - expected).abs().max() <= tolerance * expected.max(), layer
    for run, about in reference.about["runs"].items():
        method = SynFlow(about["iterations"], schedule=about["schedule"], conformance="reference")
        steps = prune_along(method, problem, about["density"], min_weights=0)
        for step, masks in enumerate(steps):
            expected = reference.masks(f"{run}.maskbits_steps", net, step)
            assert all(torch.equal(masks[layer], expected[layer]) for layer in masks), (run, step)
        assert step + 1 == about["iterations"]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def weights_of(net):
    return {name: p for name, p in net.named_parameters() if p.ndim > 1}


def test_two_layers_by_hand():
    """R = sum of |b| |a| 1: with a = (1, -2; 3, 4), b = (-5, 6): R = 5 * 3 + 6 * 7."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        net[1].weight.copy_(torch.tensor([[-5.0, 6.0]]))
        net[0].bias.fill_(100.0)
    scores = synflow(net, weights_of(net), torch.zeros(1, 2))
    assert scores["0.weight"].tolist() == [[5.0, 10.0], [18.0, 24.0]]
    assert scores["1.weight"].tolist() == [[15.0, 42.0]]


def test_flow_is_conserved_between_layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
    totals = [score.sum() for score in synflow(net, weights_of(net), torch.zeros(1, 9)).values()]
    torch.testing.assert_close(totals, [totals[0]] * 3)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(8),
        nn.LayerNorm(8),
        nn.GroupNorm(2, 8),
        nn.RMSNorm(8),
        nn.LayerNorm(8, bias=False),
        nn.BatchNorm1d(8, affine=True, track_running_stats=False),
    ],
)
def test_norms_scale_and_do_nothing_else(norm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), norm, nn.Linear(8, 2)).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.uniform_(-2, 2)
        gamma = norm.weight.abs()
        if norm.__dict__.get("_buffers", {}).get("running_var") is not None:
            norm.running_var.uniform_(0.5, 2)
            gamma = gamma / (norm.running_var + norm.eps).sqrt()
    a, b = net[0].weight.detach().abs(), net[2].weight.detach().abs()
    scores = synflow(net, {"0.weight": net[0].weight, "2.weight": net[2].weight}, torch.zeros(1, 4))
    torch.testing.assert_close(scores["0.weight"], (b.sum(0) * gamma)[:, None] * a)
    torch.testing.assert_close(scores["2.weight"], b * (gamma * a.sum(1)))


def test_norms_over_positions_and_norms_without_a_layer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 1), nn.InstanceNorm2d(4, affine=True)
            self.scale = nn.Parameter(torch.tensor([1.0, -2.0, 3.0, 4.0]))

        def forward(self, x):
            x = self.norm(self.conv(x)).permute(0, 2, 3, 1)  # as torchvision's LayerNorm2d does
            return F.layer_norm(x, (4,), self.scale).permute(0, 3, 1, 2)

    net = Net()
    with torch.no_grad():
        net.norm.weight.copy_(torch.tensor([-1.0, 1.0, 2.0, 0.5]))
    score = synflow(net, {"conv.weight": net.conv.weight}, torch.zeros(3, 1, 2, 2))["conv.weight"]
    weight = net.conv.weight.detach().abs().double()
    torch.testing.assert_close(score.flatten(), weight.flatten() * 4 * torch.tensor([1.0, 2.0, 6.0, 2.0]))


def test_inputs_by_position_and_by_keyword():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(4, 3)

        def forward(self, x, y, keep):
            return {"sum": (self.a(x) + self.b(y)) * keep, "step": 7}

    net = Two()
    x, y, keep = torch.zeros(5, 2), torch.zeros(5, 4), torch.ones(5, 3, dtype=torch.bool)
    by_position = synflow(net, weights_of(net), (x, y, keep))
    by_keyword = synflow(net, weights_of(net), {"keep": keep, "y": y, "x": x})
    for name, weight in weights_of(net).items():
        torch.testing.assert_close(by_position[name], weight.detach().abs().double())
        assert torch.equal(by_position[name], by_keyword[name])


def test_tokens_are_refused_with_advice():
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"SynFlow needs an input that can be all ones.*example_input_array"):
        synflow(net, {"1.weight": net[1].weight}, torch.zeros(1, 3, dtype=torch.int64))


def test_buffers_of_any_type_are_left_alone():
    class Buffers(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.register_buffer("causal_mask", torch.tensor([True, False, True]))
            self.register_buffer("index", torch.tensor([2, 0, 1]), persistent=False)
            self.register_buffer("shift", torch.tensor([-1.0, -1.0, -1.0]))

        def forward(self, x):
            return (self.fc(x)[:, self.index] * self.causal_mask, self.shift)

    net = Buffers()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    scores = synflow(net, weights_of(net), torch.zeros(1, 3))
    assert scores["fc.weight"][0].eq(0).all()  # output 0 is placed where the mask is off
    assert scores["fc.weight"][1:].gt(0).all()
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


def test_half_precision_nets_are_scored_in_float64():
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)).bfloat16()
    scores = synflow(net, weights_of(net), torch.zeros(1, 4))
    assert all(score.dtype == torch.float64 for score in scores.values())
    assert net[0].weight.dtype == torch.bfloat16


def test_pruned_weights_score_nothing():
    net = nn.Linear(3, 2)
    mask = torch.tensor([[True, False, True], [True, True, False]])
    scores = synflow(net, {"weight": net.weight}, torch.zeros(1, 3), {"weight": mask})
    assert scores["weight"][~mask].eq(0).all()
    assert scores["weight"][mask].gt(0).all()


def test_density_path():
    assert density_path(0.1, 1) == [0.1]
    assert density_path(0.5, 2, "linear") == [0.75, 0.5]
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 1, got 0"):
        density_path(0.1, 0)


def test_nonzero_scores_are_counted():
    assert count_nonzero_scores(torch.tensor([[0.0, -1.0], [2.0, -torch.inf]]), "w") == 3
    long = torch.zeros(3, 2**17)  # looked at in pieces
    long[2, -1] = 1
    assert count_nonzero_scores(long, "w") == 1


def test_layers_that_may_keep_zeros_are_unclear():
    check = ScoreCheck(4)
    scores = {"a": torch.tensor([1.0, 2.0, 3.0, 0.0]), "b": torch.tensor([0.0, 5.0]), "c": torch.zeros(3)}
    with pytest.warns(UserWarning, match="All scores of c are zero"):
        check.check(scores, 4)
    assert check.unclear(4, 0) == []
    assert check.unclear(4, 1) == ["c"]
    assert check.unclear(4, 2) == ["b", "c"]
    assert check.unclear(5, 0) == ["a", "b", "c"]


@pytest.mark.filterwarnings("ignore:All scores of")
@pytest.mark.parametrize("min_weights", [0, 1, 3])
@pytest.mark.parametrize("seed", range(20))
def test_masks_are_those_that_clear_layers_have_anyway(seed, min_weights):
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(4, generator=generator) / 2
    kept = {str(i): torch.rand(30, generator=generator) < 0.6 for i in range(4)}
    scores = {
        name: torch.rand(30, generator=generator) * mask * (torch.rand(30, generator=generator) < share)
        for (name, mask), share in zip(kept.items(), shares, strict=True)
    }
    check, k = ScoreCheck(0), max(12, sum(int(score.count_nonzero()) for score in scores.values()) - seed % 3)
    check.check(scores, k)
    unclear = pruned_last({name: scores[name] for name in check.unclear(k, min_weights)}, kept)
    every = global_masks(pruned_last(scores, kept), k, min_weights=min_weights)
    for name, mask in global_masks(scores | unclear, k, min_weights=min_weights).items():
        assert torch.equal(mask, every[name])


@pytest.mark.parametrize("shape", [(3,), (3, 2**17)])
def test_scores_that_are_no_numbers(shape):
    scores = torch.ones(shape)
    scores.view(-1)[-1] = math.inf
    with pytest.raises(ValueError, match="1 scores of 'w' are not finite"):
        count_nonzero_scores(scores, "w")
    scores.view(-1)[0] = math.nan
    with pytest.raises(ValueError, match="2 scores of 'w' are not finite"):
        count_nonzero_scores(scores, "w")


def of(nonzero, size=10):
    return {"w": torch.arange(size).lt(nonzero).float()}


def test_too_few_scores():
    with pytest.raises(ValueError, match="Only 0 scores are not zero, but 2"):
        ScoreCheck(2).check(of(0), 2)
    with pytest.raises(ValueError, match="Only 1 scores are not zero, but 3"):
        ScoreCheck(3).check(of(1), 9)
    check = ScoreCheck(2)
    check.check(of(4), 9)  # more are kept for now, but they may be zero from the start
    check.check(of(2), 8)
    with pytest.raises(ValueError, match="Only 1 scores are not zero, but 4"):
        check.check(of(1), 7)
    check.check({"w": torch.tensor([-1.0, 0.0, 0.0])}, 2)
    with pytest.warns(UserWarning, match="Only 1 scores are not zero, but 2 weights are kept"):
        check.sum_up()


def test_nothing_but_finite_scores_asked_for():
    check = ScoreCheck(0)
    check.check(of(0), 9)
    check.check(of(0), 0)
    check.sum_up()
    with pytest.raises(ValueError, match="not finite"):
        check.check({"w": torch.tensor([math.nan])}, 0)


def test_of_zero_scores_what_is_left_goes_first():
    scores, masks = {"w": torch.tensor([0.0, 2.0, 0.0])}, {"w": torch.tensor([False, False, True])}
    assert pruned_last(scores, masks)["w"].tolist() == [-math.inf, 2.0, 0.0]


def test_two_weights_that_share_one_gradient():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.tensor([[2.0]])), nn.Parameter(torch.tensor([[-3.0]]))

        def forward(self, x):
            return F.linear(x, self.a + self.b)

    net = Sum()
    scores = synflow(net, dict(net.named_parameters()), torch.zeros(1, 1))
    assert {name: score.item() for name, score in scores.items()} == {"a": 2.0, "b": 3.0}
