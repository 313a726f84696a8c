"""Nets out of the folders of finished runs."""

import shutil

import pytest
import torch
from short_runs import DCTPS, MASKED, short_runs

from lightning_sparse import load_masks, masks_of
from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.nets import trained_net
from lightning_sparse.layers import DensePlusSparse


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with two short runs: masked weights, and layers of DCTpS."""
    return short_runs(tmp_path_factory.mktemp("runs"), {"masked": MASKED, "dctps": DCTPS})


def saved(net):
    return torch.load(net.checkpoint, weights_only=True)["state_dict"]


@pytest.mark.parametrize("name", ["masked", "dctps"])
def test_a_net_is_built_with_its_weights(runs, name):
    net = trained_net(runs / name)
    state = net.module.state_dict()
    assert state.keys() == saved(net).keys()
    assert all(torch.equal(state[key], value) for key, value in saved(net).items())
    assert not net.module.training
    converted = [m for m in net.module.modules() if isinstance(m, DensePlusSparse)]
    assert len(converted) == (3 if name == "dctps" else 0)
    assert net.data().batch_size == 32


def test_masks_are_in_force(runs):
    masks = load_masks(trained_net(runs / "masked").checkpoint)
    found = masks_of(trained_net(runs / "masked").module)
    assert found.keys() == masks.keys()
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())


def test_a_checkpoint_stands_for_its_run(runs):
    (checkpoint,) = (runs / "masked").rglob("*.ckpt")
    assert trained_net(checkpoint).checkpoint == checkpoint


def test_what_cannot_be_built_is_refused(runs, tmp_path):
    (checkpoint,) = (runs / "masked").rglob("*.ckpt")
    alone = shutil.copy(checkpoint, tmp_path / "alone.ckpt")
    with pytest.raises(SparsityError, match=r"`RUN` must lie in the folder of a run with the config\.yaml"):
        trained_net(alone)
    (tmp_path / "config.yaml").write_text("model: {lr: 0.1}")
    with pytest.raises(SparsityError, match=r"`RUN` must have a config\.yaml that names the class"):
        trained_net(alone)
    other = (runs / "masked" / "version_0" / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(other.replace("in_features: 64", "in_features: 63"))
    with pytest.raises(SparsityError, match="weights are of another net than the recipe's"):
        trained_net(alone)
    (tmp_path / "config.yaml").write_text(other.replace("lightning_sparse.models.LeNet", "nowhere.LeNet"))
    with pytest.raises(
        SparsityError, match=r"`RUN` must have a config\.yaml whose `model` can be built here: .*No mod"
    ):
        trained_net(alone)
    with pytest.raises(SparsityError, match="`RUN` must be a folder of one run"):
        trained_net(tmp_path / "nothing")


def test_what_a_class_raises_is_said_in_a_line(runs, tmp_path, monkeypatch):
    """Not a traceback: other parts of a summary or a report need no net."""
    (checkpoint,) = (runs / "masked").rglob("*.ckpt")
    alone = shutil.copy(checkpoint, tmp_path / "alone.ckpt")
    config = (runs / "masked" / "version_0" / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(config.replace("in_features: 64", "in_features: -1"))
    with pytest.raises(SparsityError, match=r"whose `model` can be built here: `in_features` must"):
        trained_net(alone)
    (tmp_path / "broken_net.py").write_text(
        "import pytorch_lightning as pl\n\n"
        "class Net(pl.LightningModule):\n    def __init__(self):\n        raise OSError('no table.')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "config.yaml").write_text("model: {class_path: broken_net.Net}")
    with pytest.raises(SparsityError, match=r"whose `model` can be built here: OSError: no table\.$"):
        trained_net(alone)
    (tmp_path / "config.yaml").write_text(config.replace("val_fraction: 0.1", "val_fraction: 7.0"))
    net = trained_net(alone)
    with pytest.raises(SparsityError, match=r"whose `data` can be built here: `val_fraction` must"):
        net.data()
    assert net.input((1, 1, 8, 8)).shape == (1, 1, 8, 8)  # takes no data
    (tmp_path / "config.yaml").write_text(f"{config}\n  half: [")
    with pytest.raises(SparsityError, match=r"names the class .*\(config\.yaml cannot be read\)"):
        trained_net(alone)
