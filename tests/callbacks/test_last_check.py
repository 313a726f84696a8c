"""The last look at a mask runs the user's step as training does: in eval mode some nets give other things."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from toy import HoldsMasks, Toy, loader, make_toy, masks_of, trainer, weights_of

from lightning_sparse import FORCE, SNIP, GraSP, IterativeSNIP, PruneAtInit, PruningProblem
from lightning_sparse.functional.saliency.connection import check_connected

METHODS = [SNIP(), GraSP(), FORCE(2, 1), IterativeSNIP(2, 1)]


class Auxiliary(Toy):
    """As GoogLeNet: a second head that is there in training only."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        logits = self.net(x)
        return (logits, self.head(logits)) if self.training else logits

    def training_step(self, batch, *_):
        x, y = batch
        logits, second = self(x)
        return F.cross_entropy(logits, y) + 0.3 * F.cross_entropy(second, y)


class Detector(nn.Module):
    """As those of torchvision: losses in training, detections otherwise."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, targets=None):
        logits = self.net(x)
        if self.training:
            return {"class": F.cross_entropy(logits, targets), "size": logits.square().mean()}
        return [{"labels": row.argmax()} for row in logits]


class Detects(Toy):
    def __init__(self):
        super().__init__()
        self.detector = Detector(self.net)
        del self.net

    def training_step(self, batch, *_):
        return sum(self.detector(*batch).values())


class Asks(Toy):
    """Refuses to be used in another way than it was written for."""

    def training_step(self, batch, *_):
        if not self.training or not self.net.training:
            raise RuntimeError("training_step in eval mode")
        return super().training_step(batch, *_)


class Losses(nn.Module):
    """A head without children that gives losses in training only, as those of some detectors."""

    def forward(self, logits, y):
        return {"loss": F.cross_entropy(logits, y)} if self.training else logits.argmax(1)


class HasLosses(Toy):
    def __init__(self):
        super().__init__()
        self.losses = Losses()

    def training_step(self, batch, *_):
        return self.losses(self.net(batch[0]), batch[1])


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("kind", [Auxiliary, Detects, Asks, HasLosses])
def test_steps_that_need_train_mode(tmp_path, kind, method):
    torch.manual_seed(0)
    module = kind()
    trainer(tmp_path, PruneAtInit(method, 0.5), HoldsMasks(), max_epochs=1).fit(module, loader())
    masks = masks_of(module)
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == int(0.5 * total + 0.5)


class AtFirst(pl.Callback):
    """What training finds."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 0:
            self.state = weights_of(pl_module)
            self.modes = [layer.training for layer in pl_module.modules()]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_statistics_and_modes_are_given_back(tmp_path, method):
    module, first = make_toy(), AtFirst()
    before = weights_of(module)
    module.net[3].eval()  # a part that stays so
    trainer(tmp_path, PruneAtInit(method, 0.5), first, max_steps=1).fit(module, loader())
    for name, value in before.items():
        assert torch.equal(first.state[name], value * masks_of(module).get(name, torch.tensor(1))), name
    assert first.modes == [layer is not module.net[3] for layer in module.modules()]


@pytest.mark.parametrize("strict", [True, False])
def test_a_net_that_is_cut_through_is_found_in_spite_of_dropout(strict):
    """Items differ by dropout alone, and batch norm would blow their rounding up."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Sequential(nn.ReLU()), nn.Linear(8, 3)
    )
    x, y = torch.randn(12, 6), torch.arange(12) % 3
    weights = {"0.weight": net[0].weight, "4.weight": net[4].weight}
    problem = PruningProblem(
        net,
        weights,
        torch.Generator(),
        masks={
            "0.weight": torch.zeros(8, 6, dtype=torch.bool),
            "4.weight": torch.ones(3, 8, dtype=torch.bool),
        },
        losses=lambda count: [lambda: F.cross_entropy(net(x), y)] * count,
    )
    says = "The net is cut through: no signal passes what is kept of 0.weight"
    with pytest.raises(ValueError, match=says) if strict else pytest.warns(UserWarning, match=says):
        check_connected(problem, 1, weights, strict)
    assert net[1].num_batches_tracked == 0
    assert all(layer.training for layer in net.modules())


def test_outputs_that_were_equal_before_pruning_are_no_sign_of_a_cut():
    """As in a net whose last layer starts at zero, or whose signal is too small for its biases."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    nn.init.zeros_(net[1].weight)
    x, y = torch.randn(12, 6), torch.arange(12) % 3
    weights = {"0.weight": net[0].weight, "1.weight": net[1].weight}
    problem = PruningProblem(
        net,
        weights,
        torch.Generator(),
        masks={"0.weight": torch.ones(8, 6).bool(), "1.weight": torch.ones(3, 8).bool()},
        losses=lambda count: [lambda: F.cross_entropy(net(x), y)] * count,
    )
    with pytest.warns(UserWarning, match=r"^No signal passes what is kept of 0\.weight"):
        check_connected(problem, 1, weights, strict=True)
