"""Nets of 1-d and of 3-d convolutions through all that those of 2-d convolutions go through."""

import copy
import pickle

import pytest
import pytorch_lightning as pl
import torch
from layers_toy import fill_
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toy import assert_equal, trainer

from lightning_sparse import DCTpSConversion, RigLCallback, load_from_checkpoint
from lightning_sparse.layers import (
    DensePlusSparseConv,
    DensePlusSparseConv1d,
    DensePlusSparseConv3d,
    compact_layers,
    convert_,
    materialize_,
    to_dense_,
)


class Task(pl.LightningModule):
    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, *_):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def test_step(self, batch, *_):
        self.log("test_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.05)


class Sequences(Task):
    """Dilated, grouped and pointwise, each with another padding."""

    compact, ordinary, sides = DensePlusSparseConv1d, nn.Conv1d, (12,)

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(3, 8, 3, padding="same", dilation=2),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Conv1d(8, 8, 5, stride=2, padding=2, groups=2, padding_mode="reflect", bias=False),
            nn.Conv1d(8, 16, 1),
            nn.Flatten(),
            nn.Linear(96, 4),
        )


class Volumes(Task):
    """Sides of the kernels differ, as in nets that part space and time."""

    compact, ordinary, sides = DensePlusSparseConv3d, nn.Conv3d, (3, 4, 5)

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1)),
            nn.BatchNorm3d(8),
            nn.ReLU(),
            nn.Conv3d(8, 8, (3, 1, 2), stride=(1, 2, 1), groups=2, padding_mode="circular", bias=False),
            nn.Conv3d(8, 16, 1),
            nn.Flatten(),
            nn.Linear(128, 4),
        )


MEMBERS = [Sequences, Volumes]
CONVERTED = ["net.0", "net.3", "net.4", "net.6"]


def make(kind):
    torch.manual_seed(0)
    return kind()


def batches(kind, count=4):
    x = torch.randn(8 * count, 3, *kind.sides, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, torch.arange(len(x)) % 4), 8)


def values_of(module):
    return {path: layer.values.detach().clone() for path, layer in compact_layers(module).items()}


@pytest.mark.parametrize("offset", ["dct", "none", "pretrained"])
@pytest.mark.parametrize("backend", ["materialize", "transform"])
@pytest.mark.parametrize("kind", MEMBERS)
def test_conversion_and_back(kind, backend, offset):
    module, before = make(kind), make(kind)
    budgets = convert_(module, 0.2, offset=offset, backend=backend)
    layers = compact_layers(module)
    assert list(layers) == CONVERTED
    assert budgets == {f"{path}.weight": layer.nnz for path, layer in layers.items()}
    assert [type(layer) for layer in layers.values()][:3] == [kind.compact] * 3
    fill_(module)
    compact = pickle.loads(pickle.dumps(copy.deepcopy(module))).double().eval()
    assert to_dense_(module) == CONVERTED
    options = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "in_channels")
    for path in CONVERTED[:3]:
        new, old = module.get_submodule(path), before.get_submodule(path)
        assert type(new) is kind.ordinary
        assert [getattr(new, name) for name in options] == [getattr(old, name) for name in options]
    x = next(iter(batches(kind)))[0].double()
    torch.testing.assert_close(module.double().eval()(x), compact(x), rtol=1e-6, atol=1e-6)
    before.double().load_state_dict(module.state_dict())
    assert torch.equal(before.eval()(x), module(x))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", MEMBERS)
def test_the_callback_trains_and_checkpoints_come_back(tmp_path, kind, precision):
    module, convert = make(kind), DCTpSConversion(0.2, seed=3)
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    runner = trainer(tmp_path, convert, checkpoint, enable_checkpointing=True, precision=precision)
    runner.fit(module, batches(kind))
    values = values_of(module)
    assert list(values) == CONVERTED
    assert all(value.any() and value.isfinite().all() for value in values.values())
    for path in CONVERTED:
        assert 0 < runner.callback_metrics[f"trainable_sparsity_layers/{path}"] < 1
    loaded = load_from_checkpoint(kind, tmp_path / "last.ckpt")
    assert_equal(values_of(loaded), values)
    x = next(iter(batches(kind)))[0]
    assert torch.equal(loaded.eval()(x), module.eval()(x))
    fresh = make(kind)
    trainer(tmp_path, DCTpSConversion(0.2, seed=3)).test(fresh, batches(kind), tmp_path / "last.ckpt")
    assert_equal(values_of(fresh), values)


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_resumed_run_is_the_undisturbed_one(tmp_path, kind):
    whole, half, resumed = make(kind), make(kind), make(kind)
    trainer(tmp_path, DCTpSConversion(0.2), max_epochs=3).fit(whole, batches(kind))
    first = trainer(tmp_path, DCTpSConversion(0.2), max_epochs=1)
    first.fit(half, batches(kind))
    first.save_checkpoint(tmp_path / "half.ckpt")
    again = trainer(tmp_path, DCTpSConversion(0.2), max_epochs=3)
    again.fit(resumed, batches(kind), ckpt_path=tmp_path / "half.ckpt")
    assert_equal(dict(resumed.state_dict()), dict(whole.state_dict()))


@pytest.mark.parametrize("kind", MEMBERS)
def test_connections_move(tmp_path, kind):
    module = make(kind)
    supports = {}

    class Start(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            supports.update({p: layer.indices.clone() for p, layer in compact_layers(pl_module).items()})

    trainer(tmp_path, DCTpSConversion(0.2), RigLCallback(every_n_steps=2, stop_at=8), Start()).fit(
        module, batches(kind)
    )
    for path, layer in compact_layers(module).items():
        assert len(layer.indices) == len(supports[path])
        assert not torch.equal(layer.indices, supports[path])


@pytest.mark.parametrize("kind", MEMBERS)
def test_the_meta_device(kind):
    with torch.device("meta"):
        module = kind()
    convert_(module, 0.2)
    materialize_(module)
    real = make(kind)
    convert_(real, 0.2)
    for path, layer in compact_layers(real).items():
        assert torch.equal(layer.indices, module.get_submodule(path).indices)
        assert torch.equal(layer.weight, module.get_submodule(path).weight)
    assert module(next(iter(batches(kind)))[0]).isfinite().all()


@pytest.mark.parametrize("kind", MEMBERS)
def test_frozen_copies_are_converted_alike(kind):
    pair = nn.ModuleDict({"online": make(kind).net, "target": make(kind).net.requires_grad_(False)})
    with pytest.warns(UserWarning, match="Frozen copies of layers are converted alike: 4"):
        budgets = convert_(pair, 0.2)
    assert len(budgets) == 4
    layers = compact_layers(pair)
    for path in ("0", "3", "4", "6"):
        assert torch.equal(layers[f"online.{path}"].indices, layers[f"target.{path}"].indices)


def test_the_kinds_are_one_class_apart_from_their_dimensions():
    with pytest.raises(TypeError, match="abstract"):
        DensePlusSparseConv(4, 8, 3, torch.arange(3))
    assert [kind.compact.dimensions for kind in MEMBERS] == [1, 3]


def test_what_stays_dense_is_named_with_its_share():
    net = nn.Sequential(
        nn.Conv1d(4, 4, 5), nn.ConvTranspose1d(4, 2, 1), *(nn.ConvTranspose3d(2, 2, 1) for _ in range(3))
    )
    text = (
        r"other types than linear and convolutional layers \(Linear, Conv1d, Conv2d, Conv3d\) stay dense: "
        r"1\.weight, 2\.weight, 3\.weight, \.\.\. \(4 in all, 20% of the selected weights\); name them"
    )
    with pytest.warns(UserWarning, match=text):
        assert list(convert_(net, 0.5)) == ["0.weight"]
