"""Compact storage: the same training as under masks, with nothing stored but what is kept."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from toy import assert_equal, loader, sgd, trainer

from lightning_sparse import (
    SNIP,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    masks_of,
    to_dense_,
)
from lightning_sparse.layers import compact_layers

pytestmark = pytest.mark.filterwarnings("ignore:.*stay dense")


class Perceptron(pl.LightningModule):
    def __init__(self, optimizer=sgd):
        super().__init__()
        layers = nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)
        self.net, self.make_optimizer = nn.Sequential(*layers), optimizer

    def training_step(self, batch, *_):
        return nn.functional.cross_entropy(self.net(batch[0].to(self.dtype)), batch[1])

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())


class ConvNet(Perceptron):
    def __init__(self, optimizer=sgd):
        super().__init__(optimizer)
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),  # before a norm its gradient is nothing but rounding
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AvgPool2d(4),
            nn.Flatten(),
            nn.Linear(8, 4),
        )


MOVING = {"every_n_steps": 10, "stop_at": 160, "seed": 5}
ROWS = {
    "erk": lambda storage: [PruneAtInit("erk", 0.2, seed=3, storage=storage)],
    "synflow": lambda storage: [PruneAtInit("synflow", 0.2, storage=storage)],
    "snip": lambda storage: [PruneAtInit(SNIP(num_batches=2), 0.2, storage=storage)],
    "rigl": lambda storage: [RigLCallback(0.2, storage=storage, **MOVING)],
    "rigl from snip": lambda storage: [
        PruneAtInit(SNIP(num_batches=2), 0.2, storage=storage),
        RigLCallback(grad_average=2, **MOVING),
    ],
    "set": lambda storage: [SETCallback(0.2, storage=storage, **MOVING)],
}
DTYPES = {"32-true": 1e-5, "64-true": 1e-10}


def trained(tmp_path, row, storage, net=ConvNet, optimizer=sgd, steps=200, **arguments):
    pl.seed_everything(1)
    module = net(optimizer)
    runner = trainer(tmp_path, *ROWS[row](storage), max_epochs=-1, max_steps=steps, **arguments)
    runner.fit(module, loader(50, shuffle=True))
    return module


def slow(params):
    return torch.optim.SGD(params, lr=0.02, momentum=0.9, weight_decay=1e-3)


def careful(params):
    return torch.optim.AdamW(params, lr=1e-3, weight_decay=0.1)


@pytest.mark.parametrize(
    ("optimizer", "precision"), [(slow, "32-true"), (careful, "32-true"), (careful, "64-true")]
)
@pytest.mark.parametrize("net", [Perceptron, ConvNet])
@pytest.mark.parametrize("row", ROWS)
def test_the_same_training_as_under_masks(tmp_path, row, net, optimizer, precision):
    nets = [
        trained(tmp_path, row, storage, net, optimizer, precision=precision)
        for storage in ("masked", "compact")
    ]
    assert not compact_layers(nets[0])
    assert len(compact_layers(nets[1])) == 3
    assert_equal(masks_of(nets[0]), masks_of(nets[1]))
    to_dense_(nets[1])
    one, other = (dict(one.state_dict()) for one in nets)
    assert one.keys() == other.keys()
    tolerance = DTYPES[precision]
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance, msg=name)
