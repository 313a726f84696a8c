import math
from contextlib import nullcontext

import pytest
import torch
from saliency_golden import case
from torch import nn
from torch.nn import functional as F

from lightning_sparse.functional.isolation import left_as_found
from lightning_sparse.functional.masks import global_masks
from lightning_sparse.functional.saliency.gradients import (
    cooled,
    force,
    grasp,
    iterative_snip,
    mean_gradients,
    snip,
)

ONESHOT = ["oneshot_mlp_fresh", "oneshot_conv_fresh", "oneshot_conv_warm"]
FORCE = ["force_mlp_fresh", "force_conv_warm"]


def batches(case, count, dtype):
    x, y = case.tensor("x").to(dtype), case.tensor("y")
    return list(zip(x.chunk(count), y.chunk(count), strict=True))


def losses(net, pairs):
    return [lambda x=x, y=y: F.cross_entropy(net(x), y) for x, y in pairs]


def normalised(scores, epsilon=0.0):
    total = sum(score.sum() for score in scores.values()).abs()
    return {name: score / (total + epsilon) for name, score in scores.items()}


def close(ours, theirs, tolerance):
    return (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("name", ONESHOT)
@pytest.mark.parametrize("method", ["snip", "grasp"])
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("count", [1, 2])
def test_scores_and_masks_are_the_references(name, method, mode, count):
    reference = case(name)
    run = f"{method}_{mode}_{count}b"
    if f"{run}.score.{reference.order[0]}" not in reference.arrays:
        pytest.skip("no such run")
    for dtype, key, tolerance in ((torch.float32, "score", 1e-5), (torch.float64, "score_f64", 1e-8)):
        if f"{run}.{key}.{reference.order[0]}" not in reference.arrays:
            continue
        if method == "grasp" and mode == "train" and dtype == torch.float32:
            tolerance = 2e-3  # badly conditioned: so far is the reference from itself in float64
        net = reference.net(dtype)
        weights = reference.weights(net)
        with (
            left_as_found(net, mode == "train"),
            cooled(net.get_submodule(last(reference)), 200) if method == "grasp" else nullcontext(),
        ):
            scores = {"snip": snip, "grasp": grasp}[method](
                weights, losses(net, batches(reference, count, dtype))
            )
        # The reference adds 1e-10 to the sum of GraSP's scores, and sums over batches where we take means.
        for layer, score in normalised(scores, 1e-10 / count**2 if method == "grasp" else 0.0).items():
            assert close(score, reference.tensor(f"{run}.{key}.{layer}"), tolerance), layer
        for density in (0.1, 0.01):
            expected = reference.masks(f"{run}_d{density}.maskbits", net)
            kept = reference.about["runs"][f"{run}_d{density}"]["kept"]
            masks = global_masks(scores, kept)
            assert all(torch.equal(masks[layer], expected[layer]) for layer in masks)


def last(reference):
    return reference.order[-1].removesuffix(".weight")


@pytest.mark.parametrize("name", FORCE)
@pytest.mark.parametrize("method", [force, iterative_snip])
def test_every_step_of_the_references_iterations(name, method):
    """From the reference's own masks, one step each, so that one bit cannot spoil all that follow."""
    reference = case(name)
    prefix = {"force": "force", "iterative_snip": "itersnip"}[method.__name__]
    runs = {
        key: run
        for key, run in reference.about["runs"].items()
        if key.startswith(prefix) and run["loss"] == "ce"
    }
    net = reference.net()
    weights = reference.weights(net)
    seen = 0
    for key, run in runs.items():
        kept = reference.arrays[f"{key}.kept"]
        total = sum(weight.numel() for weight in weights.values())
        for step in range(run["steps"]):
            if kept[step] == total or (step and kept[step - 1] == total and prefix == "itersnip"):
                continue  # the reference's fault at threshold zero
            masks = reference.masks(f"{key}.maskbits_steps", net, step - 1) if step else None
            with left_as_found(net, training=True):
                scores = method(weights, losses(net, batches(reference, 1, torch.float32)), masks)
            expected = reference.masks(f"{key}.maskbits_steps", net, step)
            ours = global_masks(scores, int(kept[step]))
            assert all(torch.equal(ours[layer], expected[layer]) for layer in ours), (key, step)
            seen += 1
    assert seen > 100


def test_mean_gradients_by_hand():
    weight = torch.tensor([[1.0, -2.0]], requires_grad=True)
    unused = torch.ones(2, requires_grad=True)
    pairs = [torch.tensor([[3.0, 1.0]]), torch.tensor([[5.0, -7.0]])]
    gradients = mean_gradients({"w": weight, "u": unused}, [lambda x=x: (weight * x).sum() for x in pairs])
    assert gradients["w"].tolist() == [[4.0, -3.0]]
    assert gradients["u"].tolist() == [0.0, 0.0]
    assert weight.grad is None
    # the mean before the absolute value: |4 * 1|, |-3 * -2|
    assert snip({"w": weight}, [lambda x=x: (weight * x).sum() for x in pairs])["w"].tolist() == [[4.0, 6.0]]


def test_grasp_by_hand():
    """L = a^2 b: g = (2ab, a^2), H = ((2b, 2a), (2a, 0)); at (1, 3): g = (6, 1), Hg = (38, 12)."""
    a, b = torch.tensor([1.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    scores = grasp({"a": a, "b": b}, [lambda: (a * a * b).sum()])
    assert scores["a"].item() == 38.0
    assert scores["b"].item() == 36.0


def test_force_lets_weights_return_and_iterative_snip_does_not():
    weight = torch.tensor([2.0, 3.0], requires_grad=True)
    masks = {"w": torch.tensor([True, False])}
    loss = [lambda: (weight * torch.tensor([1.0, 5.0])).sum()]
    assert force({"w": weight}, loss, masks)["w"].tolist() == [2.0, 15.0]
    assert iterative_snip({"w": weight}, loss, masks)["w"].tolist() == [2.0, -math.inf]
    assert weight.tolist() == [2.0, 3.0]


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match="at least one batch"):
        snip({"w": torch.ones(2, requires_grad=True)}, [])


def test_everything_is_left_as_found():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    draw = torch.get_rng_state()
    weights = {"0.weight": net[0].weight}
    masks = {"0.weight": torch.rand(4, 4) < 0.5}
    torch.set_rng_state(draw)

    def fails():
        net(torch.randn(8, 4))
        assert net[1].num_batches_tracked == 1
        assert net[2].training
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), left_as_found(net, training=True):
        force(weights, [fails], masks)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [layer.training for layer in net] == [True, True, False, True]
    assert torch.equal(torch.get_rng_state(), draw)
    assert net[0].weight.grad is None
