"""Nets at their start: Jacobians by hand in every storage, what is empty, signals, no trace of the look."""

import copy
import csv
import itertools
import json
import math

import pytest
import torch
from torch import nn

from lightning_sparse import sparsify_
from lightning_sparse.checks import SparsityError
from lightning_sparse.layers import convert_
from lightning_sparse.reporting.diagnosis import Diagnosis, diagnose
from lightning_sparse.reporting.diagnosis.compared import Seen, compared, write_tables
from lightning_sparse.reporting.diagnosis.figures import draw_layers, draw_signals, draw_spectra


def linear(*sizes, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))


def convnet(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(54, 4),
    )


def product(net):
    """The Jacobian of a net of linear layers: the product of what they multiply by."""
    result = None
    for layer in net:
        weight = layer.weight.detach().double()
        result = weight if result is None else weight @ result
    return result


STORAGES = {
    "dense": lambda net: net,
    "masked": lambda net: sparsify_(net, "erk", density=0.3) and net,
    "compact": lambda net: convert_(net, 0.3, offset="none") and net,
    "dctps": lambda net: convert_(net, 0.3) and net,
}


def filled(net):
    """Values of compact layers start at zero: as after training."""
    for layer in net.modules():
        if hasattr(layer, "values"):
            layer.values.data.normal_()
    return net


@pytest.mark.parametrize("storage", STORAGES)
def test_singular_values_of_a_linear_net_are_those_of_its_product(storage):
    net = filled(STORAGES[storage](linear(12, 9, 5)))
    found = diagnose(net, torch.randn(3, 12)).spectrum
    expected = torch.linalg.svdvals(product(net)).tolist()
    assert found.dtype == "float64"
    assert found.outputs == 5
    assert found.inputs == 12
    assert found.statistics == ""
    assert len(found.values) == 3
    assert len(found.mean) == 5
    assert found.mean == pytest.approx(expected, rel=1e-5)  # offsets of compact layers are built in float32
    assert found.values[0] == pytest.approx(found.values[1], rel=1e-12)  # the same at every input


@pytest.mark.parametrize("storage", ["dense", "masked"])
def test_a_net_without_a_way_through_is_exactly_zero(storage):
    net = STORAGES[storage](linear(12, 9, 5))
    with torch.no_grad():
        net[0].weight[4:] = 0  # the first four units see the input,
        net[1].weight[:, :4] = 0  # and the last layer reads the others
    found = diagnose(net, torch.randn(2, 12))
    assert not found.connected
    assert found.spectrum.mean == (0.0,) * 5
    assert found.spectrum.reached == 0
    assert found.empty == ()
    assert "Connected: NO" in str(found)
    with torch.no_grad():
        net[1].weight[2, 0] = 1e-30
    again = diagnose(net, torch.randn(2, 12))
    assert again.connected
    assert again.spectrum.reached == 1
    assert 0 < again.spectrum.largest < 1e-28


def test_layers_of_which_nothing_is_kept_are_named_unless_they_have_a_dense_part():
    net = linear(12, 9, 5)
    masks = {"0.weight": torch.zeros(9, 12), "1.weight": torch.ones(5, 9)}
    net[0].weight.data.zero_()
    assert diagnose(net, torch.randn(1, 12)).empty == ("0",)
    assert masks  # the same by masks: in the tests of the callback
    converted = linear(12, 9, 5)
    convert_(converted, 0.05, min_weights_per_layer=0, density_overrides={"0": 0.0001})
    found = diagnose(converted, torch.randn(1, 12))
    assert found.layers[0].kept == 0
    assert found.layers[0].is_dense
    assert found.empty == ()
    assert found.connected


def test_batch_normalisation_uses_the_statistics_that_are_asked_for():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4))
    net[1].running_var.fill_(4.0)
    net[1].weight.data = torch.tensor([1.0, 2.0, 0.5, -1.0])
    x, weight = torch.randn(16, 6), net[0].weight.detach().double()
    running = diagnose(net, x).spectrum
    expected = net[1].weight.detach().double()[:, None] / math.sqrt(4 + 1e-5) * weight
    assert running.statistics == "running"
    assert running.mean == pytest.approx(torch.linalg.svdvals(expected).tolist())
    batch = diagnose(net, x, statistics="batch").spectrum
    var = (x.double() @ weight.t()).var(dim=0, correction=0)
    expected = (net[1].weight.detach().double() / (var + 1e-5).sqrt())[:, None] * weight
    assert batch.statistics == "batch"
    assert batch.mean == pytest.approx(torch.linalg.svdvals(expected).tolist())
    assert torch.equal(net[1].running_var, torch.full((4,), 4.0))
    assert net[1].running_mean.any().item() is False


def test_normalisation_without_running_statistics_has_those_of_the_batch():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False))
    x = torch.randn(16, 6)
    assert diagnose(net, x).spectrum.mean == diagnose(net, x, statistics="batch").spectrum.mean
    assert net[1].running_mean is None


def test_scales_of_signals_and_gradients_worked_by_hand():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(inplace=True), nn.Linear(2, 1, bias=False))
    net[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    net[2].weight.data = torch.tensor([[3.0, 5.0]])
    x = torch.tensor([[2.0, 4.0]])
    found = diagnose(net, x, lambda: net(x).sum())
    first, last = found.layers
    assert first.output == 3.0  # of 2 and -4, before the activation writes over them
    assert first.gradient == 1.5  # of 3 and, as that unit is off, 0
    assert (last.output, last.gradient, found.loss, found.classes) == (0.0, 0.0, 6.0, None)
    assert [row.output for row in diagnose(net, x).layers] == [None, None]


def test_the_first_loss_is_compared_with_that_of_a_guess():
    net, x, y = linear(6, 4), torch.randn(8, 6), torch.arange(8) % 4
    for layer in net:
        nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    found = diagnose(net, x, lambda: nn.functional.cross_entropy(net(x), y))
    assert found.loss_ratio == pytest.approx(1.0)
    assert "near log(4)" in str(found)
    net[0].bias.data[0] = 20.0
    found = diagnose(net, x, lambda: nn.functional.cross_entropy(net(x), y))
    assert found.loss_ratio > 10
    assert "11 times log(4)" in str(found)


def everything(net):
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [layer.training for layer in net.modules()]
    gradients = [p.grad for p in net.parameters()]
    hooks = [(len(layer._forward_hooks), len(layer._forward_pre_hooks)) for layer in net.modules()]
    return state, modes, gradients, hooks, torch.get_rng_state()


@pytest.mark.parametrize("statistics", ["running", "batch"])
@pytest.mark.parametrize("storage", STORAGES)
def test_the_look_leaves_no_trace(storage, statistics):
    net = STORAGES[storage](convnet())
    net[3].eval()
    x = torch.randn(4, 2, 5, 5)
    before = everything(net)
    diagnose(net, x, lambda: net(x).square().mean(), statistics=statistics)
    after = everything(net)
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][k], after[0][k]) for k in before[0])
    assert before[1:4] == after[1:4]
    assert torch.equal(before[4], after[4])
    assert all(p.grad is None and p.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_nets_of_any_precision(dtype):
    net = convnet().to(dtype)
    found = diagnose(net, torch.randn(2, 2, 5, 5))
    assert found.spectrum.dtype == "float64"
    assert found.connected
    assert net[0].weight.dtype == dtype


class Casts(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(x.float())


def test_a_net_that_casts_inside_is_taken_in_its_own_type():
    found = diagnose(Casts(), torch.randn(2, 6)).spectrum
    assert found.dtype == "float32"
    assert found.outputs == 3


@pytest.mark.parametrize(
    ("net", "inputs", "said"),
    [
        (nn.Linear(3, 2), torch.randn(1, 4), "`inputs` must fit Linear, got (1, 4) float32: "),
        (nn.Linear(3, 2), torch.ones(1, 3, dtype=torch.long), "must be real numbers"),
        (nn.Linear(3, 2), torch.tensor(1.0), "must be a batch of one or more"),
        (nn.Linear(3, 2), torch.ones(0, 3), "must be a batch of one or more"),
        (nn.Linear(3, 5000), torch.ones(1, 3), "at most 4096 outputs, got 5,000"),
        (nn.Flatten(0), torch.ones(2, 3), "one item for each of 2 inputs, got (6,)"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(net, inputs, said):
    with pytest.raises(SparsityError) as refused:
        diagnose(net, inputs)
    assert said in str(refused.value)


def test_a_bare_layer_and_tied_weights():
    assert [row.kept for row in diagnose(nn.Linear(3, 2), torch.randn(1, 3)).layers] == [6]
    net = linear(4, 4, 4)
    net[1].weight = net[0].weight
    found = diagnose(net, torch.randn(1, 4)).spectrum
    assert found.mean == pytest.approx(torch.linalg.svdvals(product(net)).tolist())


def seen_of(density, method="erk", net=None):
    net = net or STORAGES["masked"](linear(12, 9, 5))
    x = torch.randn(2, 12)
    return Seen(method, density, diagnose(net, x, lambda: net(x).square().mean()))


def test_content_is_plain_and_comes_back():
    found = seen_of(0.3).found
    assert Diagnosis.from_content(json.loads(json.dumps(found.content()))) == found


def test_nets_side_by_side(tmp_path):
    cut = linear(12, 9, 5)
    cut[0].weight.data.zero_()
    seen = [seen_of(0.3), seen_of(0.001, "cut", cut), Seen("force", 0.1, None, "all scores are zero.")]
    lines = compared(seen).splitlines()
    assert lines[0] == "Connected: 1 of 2 nets. NOT connected, the Jacobian is exactly zero: cut at 0.1%."
    assert lines[1] == "Empty layers: in 1 of 2 nets: cut at 0.1% (1)."
    assert lines[-1] == "Failed: force at 10%: all scores are zero."
    assert compared(seen[2:]) == lines[-1]
    paths = [*write_tables(seen, tmp_path), draw_spectra(seen, tmp_path / "a b.png")]
    paths += [draw_layers(seen, tmp_path / "l.png"), draw_signals(seen, tmp_path / "s.png")]
    assert all(path.stat().st_size > 0 for path in paths)
    with (tmp_path / "spectrum.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "erk"]
    assert [float(row["mean"]) for row in rows] == pytest.approx(seen[0].found.spectrum.mean)
    assert copy.copy(seen[0].found) == seen[0].found
