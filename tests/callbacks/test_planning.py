"""What `plan` says of a module before anything is trained, worked out by hand."""

import math

import pytest
import torch
from torch import nn

from lightning_sparse import (
    ASNISigmoidPruner,
    DCTpSConversion,
    ExactResume,
    PruneAtInit,
    RigLCallback,
    SparsityMonitor,
    masks_of,
    plan,
    sparsify_,
    summary,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.main import main
from lightning_sparse.models import ImageClassifier, LeNet300100


class Net(nn.Module):
    """Every kind of product: strided, grouped, transposed, twice with one weight, and never."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 4, bias=False)
        self.unused = nn.Linear(5, 5)

    def forward(self, x):
        return self.head(self.head(self.up(self.grouped(self.first(x))).mean((2, 3))))


def test_products_are_counted_where_and_as_often_as_they_are_made():
    """Images of 12 x 12: 6 x 6 positions, then 4 x 4 of the second and of the input of the third."""
    (part,) = plan(Net(), PruneAtInit("erk", density=0.2), (2, 3, 12, 12)).parts
    rows = {layer.name: layer for layer in part.layers}
    expected = {
        "first": 2 * 36 * (8 * 3 * 9),
        "grouped": 2 * 16 * (8 * 2 * 9),
        "up": 2 * 16 * (8 * 4 * 4),
        "head": 2 * 2 * 16,
        "unused": 0,
    }
    assert {name: row.dense for name, row in rows.items()} == expected
    assert part.flops.dense.forward == 2 * sum(expected.values())
    assert rows["first"].sparse == 72 * rows["first"].kept
    assert rows["first"].dctps == 72 * (27 * math.log2(27) + rows["first"].kept)
    assert part.flops.sparse.forward == pytest.approx(2 * sum(row.sparse for row in rows.values()))


def test_without_an_input_one_product_is_counted():
    for callbacks in ((), PruneAtInit("erk", density=0.2)):
        planned = plan(Net(), callbacks)
        assert [row.dense for row in planned.parts[0].layers] == [216, 144, 128, 16, 25]
        assert planned.parts[0].flops is None
        assert "at one position" in " ".join(str(planned).split())
        assert "name an input, input_size=" in str(planned)


def test_it_is_what_the_sparse_net_will_be():
    """Kept, bytes and FLOPs, as `summary` finds them after."""
    net = Net()
    (part,) = plan(net, PruneAtInit("erk", density=0.2), (1, 3, 12, 12)).parts
    assert not masks_of(net)
    sparsify_(net, "erk", density=0.2)
    found = summary(net, (1, 3, 12, 12))
    for planned, layer in zip(part.layers, found.layers, strict=True):
        assert (planned.name, planned.kept, planned.stored) == (layer.name, layer.kept, layer.stored)
        assert 2 * planned.sparse == pytest.approx(layer.sparse_flops.forward)
    assert part.flops.sparse.forward == pytest.approx(found.flops.sparse.forward)


def test_it_is_what_the_command_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-sparse"])
    main(["plan", "--config", "quickstart"])
    module = ImageClassifier(LeNet300100(in_features=64))
    planned = plan(module, [PruneAtInit("erk", density=0.05), ExactResume()], (1, 1, 8, 8))
    assert capsys.readouterr().out == f"{planned}\n"


def test_nothing_is_changed_and_nothing_drawn():
    net = Net()
    before, state = {name: t.clone() for name, t in net.state_dict().items()}, torch.get_rng_state()
    conversion = DCTpSConversion(0.2, exclude=["grouped.*", "up.*"])
    plan(net, [conversion, RigLCallback()], (1, 3, 12, 12))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_each_callback_has_a_part():
    net = Net()
    conversion = DCTpSConversion(0.2, exclude=["grouped.*", "up.*"])
    made, moved = plan(net, [conversion, SparsityMonitor(), RigLCallback()]).parts
    assert [row.storage for row in made.layers] == ["dct + compact"] * 3
    assert (moved.layers, str(moved)[:14]) == ((), "RigLCallback: ")
    assert plan(net, SparsityMonitor()).parts[0].layers[0].storage == "dense"
    assert "the net stays dense" in str(plan(net, (), (1, 3, 12, 12)))
    assert "sparse by score" not in str(plan(net, (), (1, 3, 12, 12)))


def test_masks_are_smaller_where_they_are_bytes():
    by_device = [plan(Net(), PruneAtInit("erk", 0.2), device=device) for device in (None, "cpu", "cuda")]
    assert [p.parts[0].layers[0].stored for p in by_device] == [216 * 8, 216 * 8, 216 * 5]


def test_scores_share_out_what_is_known_in_all():
    for callback in (PruneAtInit("synflow", 0.2), ASNISigmoidPruner(0.2, search_epochs=4)):
        (part,) = plan(Net(), callback, (1, 3, 12, 12)).parts
        assert part.kept == 106  # of 529
        assert {row.kept for row in part.layers} == {None}
        assert part.flops.sparse is None
        assert "by score" in str(part)


@pytest.mark.parametrize(
    ("callbacks", "how", "message"),
    [
        ("erk", {}, "`callbacks` must be a callback or a list of them, got 'erk'."),
        ([PruneAtInit], {}, "`callbacks` must be a callback or a list of them, got <class"),
        (ASNISigmoidPruner(0.2), {}, "`search_epochs` must be given where no Trainer"),
        ([PruneAtInit("erk", 0.2), DCTpSConversion(0.2)], {}, "cannot run together"),
        (PruneAtInit("erk", 0.001), {}, "`density`"),
        (PruneAtInit("erk", 0.2), {"input_size": (1, 2, 3, 3)}, "`input_size` must be what the net takes"),
        (PruneAtInit("erk", 0.2), {"input_size": [0]}, "`input_size` must be one or more integers"),
        ((), {"input_size": (1,), "example_input": torch.zeros(1)}, "got both"),
        ((), {"example_input": "text"}, "`example_input` must be what the net takes"),
    ],
)
def test_what_is_refused(callbacks, how, message):
    with pytest.raises(SparsityError, match=r"^[`A-Z]") as refused:
        plan(Net(), callbacks, **how)
    assert message in str(refused.value)


def test_modules_without_layers_are_refused():
    with pytest.raises(SparsityError, match="Call its `configure_model` before"):
        plan(nn.ReLU())
    with pytest.raises(SparsityError, match="`module` must be an instance of Module"):
        plan([nn.Linear(2, 2)])
