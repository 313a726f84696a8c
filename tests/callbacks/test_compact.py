"""Compact storage: the same training as under masks, with nothing stored but what is kept."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from toy import Toy, assert_equal, loader, sgd, trainer, weights_of

from lightning_sparse import (
    SNIP,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparseCheckpoint,
    SparseEarlyStopping,
    SparsityMonitor,
    masks_of,
    summary,
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


# What is logged, and where weights come from.


def metrics(tmp_path, callbacks):
    pl.seed_everything(1)
    logger = CSVLogger(tmp_path)
    saves = SparseCheckpoint(tmp_path, monitor="val_loss")
    stops = SparseEarlyStopping("val_loss", patience=5)
    runner = trainer(
        tmp_path, *callbacks, saves, stops, SparsityMonitor(), logger=logger, enable_checkpointing=True
    )
    toy = Toy()
    runner.fit(toy, loader(), loader(2))
    assert saves.best_model_path
    named = [name for name in runner.callback_metrics if "/" in name]
    return {name: float(runner.callback_metrics[name]) for name in named}, summary(toy)


@pytest.mark.filterwarnings("ignore:.*logging interval", "ignore:Checkpoint directory")
def test_the_same_is_logged_as_under_masks(tmp_path, capsys):
    """But for what was ever active: that takes a bit for each entry of the weight."""
    found = {
        storage: metrics(
            tmp_path / storage, [RigLCallback(0.2, every_n_steps=3, storage=storage, seed=1, stop_at=100)]
        )
        for storage in ("masked", "compact")
    }
    (masked, of_masked), (compact, of_compact) = found.values()
    assert compact == {name: value for name, value in masked.items() if "explored" not in name}
    assert compact["sparsity/total"] == pytest.approx(1 - 203 / 1016)
    assert compact["rigl/moved"] > 0
    tables = capsys.readouterr().out.split("Weights kept:")[1:]
    assert len(tables) == 2
    assert len({table.partition("Checkpoint (")[0] for table in tables}) == 1
    layers = zip(of_masked.layers, of_compact.layers, strict=True)
    assert all(one.stored == 8 * one.weights and two.stored == 8 * two.kept for one, two in layers)


@pytest.mark.parametrize("row", ["erk", "rigl", "set"])
def test_the_dense_net_need_never_be_there(tmp_path, row):
    """The same draws choose the same weights, of a module on the meta device."""
    with torch.device("meta"):
        module = Perceptron(careful)
    runner = trainer(tmp_path, *ROWS[row]("compact"), max_epochs=1)
    at_start = Supports()
    runner.callbacks.append(at_start)
    runner.fit(module, loader())
    real = Supports()
    pl.seed_everything(1)
    trainer(tmp_path, *ROWS[row]("masked"), real, max_epochs=1).fit(Perceptron(careful), loader())
    assert_equal(at_start.masks, real.masks)
    for layer in compact_layers(module).values():
        bound = layer.shape[1] ** -0.5
        assert 0 < layer.values.detach().std() < 2 * bound


class Supports(pl.Callback):
    """Keeps the masks of the first batch."""

    masks = None

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.masks = self.masks or masks_of(pl_module)


@pytest.mark.parametrize("row", ["snip", "rigl"])
def test_weights_of_half_precision(tmp_path, row):
    module = trained(tmp_path, row, "compact", steps=24, precision="bf16-true")
    for layer in compact_layers(module).values():
        assert layer.values.dtype == torch.bfloat16
        assert layer.values.isfinite().all()
        assert layer.indices.dtype == torch.int32
    assert len(masks_of(module)) == 3


def test_a_failure_while_scoring_leaves_the_net_as_it_was(tmp_path):
    class Fails(Perceptron):
        def training_step(self, *arguments):
            if self.fails:
                raise ArithmeticError
            return super().training_step(*arguments)

    module, callbacks = Fails(), ROWS["snip"]("compact")
    module.fails = True
    before = weights_of(module)
    runner = trainer(tmp_path, *callbacks, max_steps=1)
    with pytest.raises(ArithmeticError):
        runner.fit(module, loader())
    assert_equal(before, weights_of(module))
    module.fails = False
    other = trainer(tmp_path, max_steps=1)
    other.fit(module, loader())  # dense, nothing waits any more
    assert not compact_layers(module)
    trainer(tmp_path, *callbacks, max_steps=1).fit(module, loader())
    assert len(compact_layers(module)) == 3
