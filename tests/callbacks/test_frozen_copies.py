"""Target nets of momentum methods: frozen copies of what is converted are converted alike, or refused."""

import copy
import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from toy import loader, sgd, trainer

from lightning_sparse import DCTpSConversion, PruneAtInit, RigLCallback, SETCallback, load_from_checkpoint
from lightning_sparse.checks import SparsityError
from lightning_sparse.layers import compact_layers, convert_, to_dense_
from lightning_sparse.layers.copies import converted_copies

ALIKE = "Frozen copies of layers are converted alike"


def net():
    layers = [
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 6),
        nn.Linear(6, 6),
    ]
    nn.init.zeros_(layers[-1].weight)
    return nn.Sequential(*layers)


def frozen(module):
    return copy.deepcopy(module).requires_grad_(False)


class Byol(pl.LightningModule):
    """An online net with a head, and a target that follows it, made in `__init__`."""

    def __init__(self, same=True, names=("online", "target")):
        super().__init__()
        self.names = names
        online = net()
        target = frozen(online) if same else net().requires_grad_(False)
        pairs = [(names[0], online), (names[1], target)]
        for name, part in pairs if names[0] < names[1] else pairs[::-1]:
            self.add_module(name, part)
        self.head = nn.Linear(6, 6)

    def both(self):
        return tuple(getattr(self, name) for name in self.names)

    def training_step(self, batch, *_):
        online, target = self.both()
        return nn.functional.mse_loss(self.head(online(batch[0])), target(batch[0].flip(3)) + 1)

    def on_train_batch_end(self, *_):
        online, target = self.both()
        with torch.no_grad():
            for q, p in zip(target.parameters(), online.parameters(), strict=True):
                assert q.shape == p.shape
                q.lerp_(p, 0.5)

    def configure_optimizers(self):
        return sgd([*self.both()[0].parameters(), *self.head.parameters()])


def make(**arguments):
    torch.manual_seed(0)
    return Byol(**arguments)


@pytest.mark.parametrize("names", [("online", "target"), ("student", "a_teacher")], ids=["after", "before"])
def test_a_target_net_follows_the_converted_one(tmp_path, names):
    module = make(names=names)
    with pytest.warns(UserWarning, match=f"{ALIKE}: 3, such as one of '{names[0]}.0'"):
        trainer(tmp_path, DCTpSConversion(0.1)).fit(module, loader())
    online, target = (compact_layers(part) for part in module.both())
    assert list(online) == list(target) == ["0", "4", "5"]
    for name, layer in online.items():
        assert torch.equal(layer.indices, target[name].indices)
        assert target[name].values.any(), "it has followed"
        assert not target[name].values.requires_grad
        assert not target[name].alpha.requires_grad
        expected = target[name].weight.lerp(layer.weight, 0.5)
        with torch.no_grad():
            target[name].values.lerp_(layer.values, 0.5)
            target[name].alpha.lerp_(layer.alpha, 0.5)
        torch.testing.assert_close(target[name].weight, expected)


def test_copies_count_for_no_budget():
    module, alone = make(), make()
    del alone.target
    callback = DCTpSConversion(0.1)
    assert list(callback.select(module)) == list(callback.select(alone))
    with pytest.warns(UserWarning, match=ALIKE):
        budgets = convert_(module, 0.1, "erk")
    assert budgets == convert_(alone, 0.1, "erk") == convert_(module, 0.1, "erk")
    for name, layer in compact_layers(alone).items():
        assert torch.equal(layer.indices, compact_layers(module)[name].indices), "as without copies"


def test_a_layer_of_zeros_stays_one_in_both():
    module = make()
    with pytest.warns(UserWarning, match=ALIKE):
        convert_(module, 0.1)
    assert float(module.online[5].alpha.detach()) == float(module.target[5].alpha) == 0.0
    assert torch.equal(module.online[5].indices, module.target[5].indices)
    assert float(module.target[4].alpha) == 1.0


@pytest.mark.parametrize("include", [None, ["*"], ["online.*", "head"]])
def test_whatever_selects_the_originals(include):
    module = make()
    with pytest.warns(UserWarning, match=ALIKE):
        budgets = convert_(module, 0.1, include=include)
    assert list(budgets) == ["online.0.weight", "online.4.weight", "online.5.weight", "head.weight"]
    assert converted_copies(module) == {f"target.{i}": f"online.{i}" for i in (0, 4, 5)}


def test_excluded_copies_stay_dense_without_a_word():
    module = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_(module, 0.1, exclude=["target.*"])
    assert isinstance(module.target[0], nn.Conv2d)
    assert isinstance(module.target[4], nn.Linear)


def test_other_frozen_nets_stay_dense():
    module = make(same=False)
    with pytest.warns(UserWarning, match="Frozen weights stay dense: target.0.weight"):
        convert_(module, 0.1)
    assert all(path.startswith(("online", "head")) for path in compact_layers(module))


def test_a_single_layer_and_its_namesake():
    torch.manual_seed(0)
    module = nn.Module()
    module.predictor = nn.Linear(8, 4)
    module.predictor_momentum, module.unlike = frozen(module.predictor), frozen(module.predictor)
    with pytest.warns(UserWarning, match="Frozen weights stay dense: unlike.weight"):
        convert_(module, 0.2)
    assert sorted(compact_layers(module)) == ["predictor", "predictor_momentum"]
    assert torch.equal(module.predictor.indices, module.predictor_momentum.indices)


@pytest.mark.parametrize("init", [nn.init.zeros_, nn.init.eye_, nn.init.ones_])
def test_equal_weights_that_tell_nothing_make_no_copy(init):
    torch.manual_seed(0)
    module = nn.ModuleDict({"a": nn.Sequential(nn.Linear(5, 5)), "b": nn.Sequential(nn.Linear(5, 5))})
    init(module["a"][0].weight)
    init(module["b"][0].weight)
    module["b"].requires_grad_(False)
    with pytest.warns(UserWarning, match="Frozen weights stay dense: b.0"):
        convert_(module, 0.2)
    assert list(compact_layers(module)) == ["a.0"]


def test_other_options_make_no_copy():
    torch.manual_seed(0)
    module = nn.ModuleDict(
        {"a": nn.Sequential(nn.Conv2d(3, 4, 3)), "b": nn.Sequential(nn.Conv2d(3, 4, 3, stride=2))}
    )
    module["b"][0].load_state_dict(module["a"][0].state_dict())
    module["b"].requires_grad_(False)
    with pytest.warns(UserWarning, match="Frozen weights stay dense: b.0"):
        convert_(module, 0.2)


def test_on_the_meta_device_nobody_can_tell():
    with torch.device("meta"):
        module = make()
    with pytest.raises(SparsityError, match=r"may be copies on a real device.*Name it in `exclude`"):
        convert_(module, 0.1)


def test_resumed_and_loaded_as_trained(tmp_path):
    callbacks = lambda: (DCTpSConversion(0.1, seed=1), ModelCheckpoint(tmp_path, save_last=True))  # noqa: E731

    def fit(epochs, path=None):
        module = make()
        with pytest.warns(UserWarning, match=ALIKE):
            trainer(tmp_path, *callbacks(), max_epochs=epochs, enable_checkpointing=True).fit(
                module, loader(), ckpt_path=path
            )
        return module

    whole = fit(2)
    (tmp_path / "last.ckpt").unlink()
    fit(1)
    again = fit(2, tmp_path / "last.ckpt")
    loaded = load_from_checkpoint(Byol, tmp_path / "last.ckpt")
    for other in (again, loaded):
        assert converted_copies(other) == converted_copies(whole)
        for name, value in other.state_dict().items():
            assert torch.equal(value, whole.state_dict()[name]), name
    trainer(tmp_path, DCTpSConversion(0.1, seed=1), max_epochs=1).fit(whole, loader())  # a second stage
    assert to_dense_(whole) == to_dense_(loaded)


@pytest.mark.parametrize("mover", [RigLCallback, SETCallback])
def test_what_moves_supports_is_refused(tmp_path, mover):
    module = make()
    with (
        pytest.warns(UserWarning, match=ALIKE),
        pytest.raises(SparsityError, match=f"{mover.__name__} cannot move the support of 'online.0'"),
    ):
        trainer(tmp_path, DCTpSConversion(0.1), mover(every_n_steps=2, stop_at=4)).fit(module, loader())


def test_averaging_a_state_dict_is_found_out(tmp_path):
    class Averages(Byol):
        def on_train_batch_end(self, *_):
            online, target = (part.state_dict() for part in self.both())
            for q, p in zip(target.values(), online.values(), strict=True):  # as timm's ModelEmaV2
                q.copy_(0.996 * q + (1 - 0.996) * p)

    torch.manual_seed(0)
    with (
        pytest.warns(UserWarning, match=ALIKE),
        pytest.raises(
            SparsityError, match=r"`indices` of the frozen copy 'target.0' must stay those of 'online.0'"
        ),
    ):
        trainer(tmp_path, DCTpSConversion(0.1)).fit(Averages(), loader())


def test_a_copy_that_is_not_frozen_is_in_no_optimizer(tmp_path):
    module = make()
    module.target.requires_grad_(True)
    with pytest.raises(SparsityError, match=r"6 of 14 in no optimizer, such as 'target.0.values'"):
        trainer(tmp_path, DCTpSConversion(0.1)).fit(module, loader())


def test_masked_nets_are_as_they_were(tmp_path):
    module = make()
    with pytest.warns(UserWarning, match="Frozen weights stay dense: target.0.weight"):
        trainer(tmp_path, PruneAtInit("erk", 0.3)).fit(module, loader())
