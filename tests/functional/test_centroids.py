"""Two numbers per layer, and what starts anew with them."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_sparse.functional.centroids import centroids, reinitialise_, set_by_rule, signs
from lightning_sparse.selection import parameters_by_name

WEIGHT = torch.tensor([[1.0, 3.0, -4.0], [9.0, 0.0, -2.0]])
MASK = torch.tensor([[True, True, True], [False, True, True]])  # 9 is pruned, 0 is not


def test_means_and_signs_by_hand():
    assert centroids({"fc": WEIGHT}, {"fc": MASK})["fc"].tolist() == [2.0, -3.0]
    taken = signs({"fc": WEIGHT}, {"fc": MASK})["fc"]
    assert taken.dtype == torch.int8
    assert taken.tolist() == [1, 1, -1, 0, -1]


@pytest.mark.parametrize(
    ("values", "means"),
    [([1.0, 3.0], [2.0, 0.0]), ([-1.0, -3.0], [0.0, -2.0]), ([0.0, 0.0], [0.0, 0.0]), ([], [0.0, 0.0])],
)
def test_a_sign_that_nobody_has(values, means):
    weight = torch.tensor([*values, 7.0])
    mask = torch.tensor([True] * len(values) + [False])
    assert centroids({"fc": weight}, {"fc": mask})["fc"].tolist() == means
    layer = nn.Linear(len(weight), 1)
    with torch.no_grad():
        layer.weight.copy_(weight)
    taken = signs({"weight": weight[None]}, {"weight": mask[None]})
    reinitialise_(layer, {"weight": mask[None]}, taken, {"weight": torch.tensor(means)})
    assert layer.weight.tolist() == [
        [means[0] if v > 0 else means[1] if v < 0 else 0.0 for v in values] + [0.0]
    ]


def oracle(weight, mask):
    """Replace survivors by the mean of their sign, in float64."""
    w, m = weight.double().numpy(), mask.numpy()
    new = np.zeros_like(w)
    for group in (m & (w > 0), m & (w < 0)):
        if group.any():
            new[group] = w[group].mean()
    return new


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", range(3))
def test_any_layer(dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 40, 3), nn.Linear(60, 50)).to(dtype)
    net[0].to(memory_format=torch.channels_last)
    masks = {n: torch.rand(w.shape, generator=generator) < 0.3 for n, w in weights_of(net).items()}
    before = {name: weight.detach().clone() for name, weight in weights_of(net).items()}
    means, taken = centroids(before, masks), signs(before, masks)
    assert all(pair.dtype == dtype and pair.device.type == "cpu" for pair in means.values())
    reinitialise_(net, masks, taken, means)
    for name, weight in weights_of(net).items():
        expected = torch.from_numpy(oracle(before[name], masks[name]))
        assert torch.equal(weight.detach(), expected.to(dtype)), name
        assert len(weight.unique()) == 3


def weights_of(net):
    return {name: weight for name, weight in net.named_parameters() if weight.ndim > 1}


class Many(nn.Module):
    """Biases under all their names, norms of all kinds, and what belongs to neither."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.fc = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.lstm = nn.LSTM(4, 4)
        self.dense = nn.Linear(4, 4)
        self.embedding = nn.Embedding(4, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.bn = nn.BatchNorm2d(4)
        self.plain_bn = nn.BatchNorm1d(4, affine=False)
        self.batch_bn = nn.BatchNorm1d(4, track_running_stats=False)
        self.instance = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
        self.layer_norm = nn.LayerNorm(4)
        self.no_bias = nn.LayerNorm(4, bias=False)
        self.group = nn.GroupNorm(2, 4)
        self.bare_group = nn.GroupNorm(2, 4, affine=False)
        self.rms = nn.RMSNorm(4)
        self.register_buffer("table", torch.ones(4))
        with torch.no_grad():
            for value in self.state_dict().values():
                value.copy_(torch.randn(value.shape).abs() * 10 + 3)


MASKED = [
    "conv.weight",
    "fc.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "lstm.weight_ih_l0",
    "lstm.weight_hh_l0",
]
BIASES = [
    "conv.bias",
    "fc.bias",
    "attention.in_proj_bias",
    "attention.out_proj.bias",
    "lstm.bias_ih_l0",
    "lstm.bias_hh_l0",
]
LEFT_ALONE = ["dense.weight", "dense.bias", "embedding.weight", "scale", "table"]


@pytest.mark.parametrize("compiled", [False, True])
def test_biases_and_norms_start_as_new_and_all_else_stays(compiled):
    torch.manual_seed(0)
    net = Many()
    if compiled:
        net.conv, net.bn = torch.compile(net.conv), torch.compile(net.bn)
    parameters = parameters_by_name(net)
    weights = {name: parameters[name] for name in MASKED}
    masks = {name: torch.rand(weight.shape) < 0.5 for name, weight in weights.items()}
    before = {name.replace("_orig_mod.", ""): value.clone() for name, value in net.state_dict().items()}
    reinitialise_(net, masks, signs(weights, masks), centroids(weights, masks))
    after = {name.replace("_orig_mod.", ""): value for name, value in net.state_dict().items()}
    for name in BIASES:
        assert after[name].eq(0).all(), name
    for name in LEFT_ALONE:
        assert torch.equal(before[name], after[name]), name
    fresh = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}
    norms = {name for name in after if name not in {*MASKED, *BIASES, *LEFT_ALONE}}
    assert {name.partition(".")[0] for name in norms} == {
        "bn", "plain_bn", "batch_bn", "instance", "layer_norm", "no_bias", "group", "rms",
    }  # fmt: skip
    for name in norms:
        assert after[name].eq(fresh[name.rpartition(".")[2]]).all(), name
    assert set_by_rule(net, MASKED) == {*MASKED, *BIASES, *norms}


def test_a_layer_that_is_the_whole_module():
    layer = nn.Linear(3, 2)
    masks = {"weight": MASK}
    reinitialise_(layer, masks, signs({"weight": WEIGHT}, masks), centroids({"weight": WEIGHT}, masks))
    assert layer.weight.tolist() == [[2.0, 2.0, -3.0], [0.0, 0.0, -3.0]]
    assert layer.bias.tolist() == [0.0, 0.0]
    assert set_by_rule(layer, ["weight"]) == {"weight", "bias"}


class WithBackbone(nn.Module):
    """A part that others have trained, with norms of its own, and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        with torch.no_grad():
            for value in self.state_dict().values():
                value.fill_(3)


HEAD = {"head.0.weight": torch.ones(4, 4, 1, 1, dtype=torch.bool)}


def reinitialised(net, masks):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    weights = parameters_by_name(net)
    reinitialise_(net, masks, signs(weights, masks), centroids(weights, masks))
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert set_by_rule(net, masks) == changed | set(masks)
    return changed


def test_norms_of_a_part_without_masks_stay():
    assert reinitialised(WithBackbone(), HEAD) == {"head.0.bias"} | {f"head.1.{n}" for n in NORM}


def test_frozen_norms_and_biases_stay():
    """Also beside masked weights: who freezes them means them to stay."""
    net = WithBackbone()
    net.head[0].bias.requires_grad_(False)
    net.head[1].requires_grad_(False)
    assert reinitialised(net, HEAD) == set()


NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
