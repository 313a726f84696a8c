"""What is measured, logged and saved is what is in the parameters, whoever has written to them meanwhile."""

import copy
import gc
import warnings
import weakref

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from toy import loader, make_toy, sgd, trainer

from lightning_sparse import (
    ASNISigmoidPruner,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparsityMonitor,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.weights.state import state_of

NAMES = ["net.0.weight", "net.6.weight"]
BUDGET = 203  # 0.2 of 1,016


def nonzero(values):
    return sum(int(values[name].count_nonzero()) for name in NAMES)


class Act(pl.Callback):
    """Does something with the module at one hook, at one step; validation counts what it sees."""

    def __init__(self, hook, action, step=2):
        self.action, self.step, self.validated = action, step, []
        setattr(self, hook, self._act)

    def _act(self, trainer, pl_module, *_):
        if trainer.global_step >= self.step:
            self.step = 10**9
            self.action(trainer, pl_module)

    def on_validation_batch_start(self, trainer, pl_module, *_):
        if not trainer.sanity_checking:
            self.validated.append(nonzero(pl_module.state_dict()))


def assign(trainer, toy):
    toy.load_state_dict(
        {
            name: torch.full_like(value, 0.1)
            for name, value in toy.state_dict().items()
            if "causal" not in name
        },
        assign=True,
        strict=False,
    )


def assign_and_set_up(trainer, toy):
    for p in toy.parameters():
        assert p.requires_grad
    toy.load_state_dict(copy.deepcopy(make_toy().state_dict()), assign=True)
    trainer.strategy.setup_optimizers(trainer)


def replace_layer(trainer, toy):
    toy.net[6] = nn.Linear(200, 4)


def replace_net(trainer, toy):
    toy.net = make_toy().net
    trainer.strategy.setup_optimizers(trainer)


def set_data(trainer, toy):
    toy.net[6].weight.data = torch.full((4, 200), 0.1)


def write_to_data(trainer, toy):
    toy.net[6].weight.data.copy_(torch.full((4, 200), 0.1))


@torch.no_grad()
def add_noise(trainer, toy):
    for parameter in toy.parameters():
        parameter.add_(1e-3)


CHANGES = [assign, assign_and_set_up, replace_layer, replace_net, set_data, add_noise, write_to_data]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_start", "on_validation_start"])
def test_measured_and_saved_weights_are_sparse(tmp_path, change, hook):
    toy = make_toy()
    act = Act(hook, change)
    saved = ModelCheckpoint(tmp_path, save_last=True)
    callbacks = [act, PruneAtInit("erk", 0.2), SparsityMonitor(), saved]
    fit = trainer(tmp_path, *callbacks, enable_checkpointing=True, max_epochs=3)
    fit.fit(toy, loader(), loader(2))
    assert act.step == 10**9
    assert max(act.validated) == BUDGET
    assert nonzero(toy.state_dict()) == BUDGET
    weights = torch.load(saved.last_model_path)["state_dict"]
    assert nonzero(weights) == BUDGET
    logged = float(fit.callback_metrics["sparsity/total"])
    assert logged == pytest.approx(1 - BUDGET / 1016)


@pytest.mark.parametrize("change", [set_data, write_to_data, add_noise])
@pytest.mark.parametrize("weights_only", [False, True])
def test_a_checkpoint_right_after_the_change_is_sparse(tmp_path, change, weights_only):
    """In the same hook, before anybody else has a turn."""
    path = tmp_path / "now.ckpt"

    def change_and_save(trainer, toy):
        change(trainer, toy)
        trainer.save_checkpoint(path, weights_only=weights_only)

    act = Act("on_train_batch_end", change_and_save)
    toy = make_toy()
    trainer(tmp_path, PruneAtInit("erk", 0.2), act).fit(toy, loader())
    assert nonzero(torch.load(path)["state_dict"]) == BUDGET
    assert not toy._state_dict_pre_hooks


@pytest.mark.parametrize("change", [assign, replace_layer, set_data, add_noise])
def test_training_sees_sparse_weights(tmp_path, change):
    """The very next batch, not only the next validation."""
    toy, seen = make_toy(), []
    step = toy.training_step
    toy.training_step = lambda *batch: (seen.append(nonzero(toy.state_dict())), step(*batch))[1]
    trainer(tmp_path, PruneAtInit("erk", 0.2), Act("on_train_batch_end", change)).fit(toy, loader())
    assert set(seen) == {BUDGET}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda _, toy: toy.net.__setitem__(6, nn.Linear(200, 5)), "net.6.weight"),
        (lambda _, toy: toy.net.__setitem__(0, nn.Identity()), "net.0.weight"),
    ],
)
def test_a_layer_that_takes_no_mask_any_more_is_an_error(tmp_path, change, name):
    act = Act("on_train_batch_end", change)
    with pytest.raises(SparsityError, match=f"mask of '{name}'"):
        trainer(tmp_path, PruneAtInit("erk", 0.2), act).fit(make_toy(), loader())


def test_weights_tied_meanwhile_are_an_error(tmp_path):
    class Tied(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def training_step(self, batch, *_):
            return self.b(self.a(batch[0].flatten(1)[:, :8])).square().mean()

        def configure_optimizers(self):
            return sgd(self.parameters())

    def tie(_, module):
        module.b.weight = module.a.weight

    with pytest.raises(SparsityError, match=r"mask of 'b\.weight'"):
        trainer(tmp_path, PruneAtInit("erk", 0.2), Act("on_train_batch_end", tie)).fit(Tied(), loader())


class TiedBefore(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight

    def training_step(self, batch, *_):
        return self.b(self.a(batch[0].flatten(1)[:, :8])).square().mean()

    def configure_optimizers(self):
        return sgd(self.parameters())


def test_weights_untied_meanwhile_are_an_error(tmp_path):
    """The one that leaves would train dense, and nobody would count it."""

    def untie(_, module):
        module.b.weight = nn.Parameter(module.a.weight.detach().clone())

    with pytest.raises(SparsityError, match=r"'b\.weight' was tied"):
        trainer(tmp_path, PruneAtInit("erk", 0.2), Act("on_train_batch_end", untie)).fit(
            TiedBefore(), loader()
        )


@pytest.mark.parametrize("hook", ["on_before_zero_grad", "on_before_backward"])
def test_a_state_dict_between_forward_and_backward(tmp_path, hook):
    """As averages of weights take one; needless writes would be in autograd's way."""
    seen = []
    act = pl.Callback()
    setattr(act, hook, lambda trainer, toy, *_: seen.append(nonzero(toy.state_dict())))
    trainer(tmp_path, PruneAtInit("erk", 0.2), act).fit(make_toy(), loader())
    assert set(seen) == {BUDGET}


@pytest.mark.parametrize(
    "make", [lambda: PruneAtInit("erk", 0.2), lambda: RigLCallback(0.2, every_n_steps=2)]
)
def test_a_layer_that_refers_to_the_module_does_not_keep_it(tmp_path, make):
    toy = make_toy()
    toy.net[0].whole = [toy]
    trainer(tmp_path, make()).fit(toy, loader())
    left = weakref.ref(toy)
    del toy
    gc.collect()
    assert left() is None


def test_a_trainer_that_could_not_say_that_it_ended_is_not_running(tmp_path):
    """Another callback fails while it is told of an error: ours is not told."""

    class Fails(pl.Callback):
        def on_train_batch_end(self, *_):
            raise KeyError("first")

        def on_exception(self, *_):
            raise KeyError("second")

    toy, callback = make_toy(), PruneAtInit("erk", 0.2)
    failed = trainer(tmp_path, Fails(), callback)
    with pytest.raises(KeyError, match="second"):
        failed.fit(toy, loader())
    trainer(tmp_path, callback).fit(toy, loader())
    assert nonzero(toy.state_dict()) == BUDGET
    assert failed.interrupted


# From one fit to the next.


@pytest.mark.parametrize("kind", [RigLCallback, SETCallback])
@pytest.mark.parametrize(
    "earlier", [lambda: PruneAtInit("erk", 0.2, seed=7), lambda: RigLCallback(0.2, every_n_steps=2)]
)
def test_a_new_callback_has_its_own_density(tmp_path, kind, earlier):
    """Masks of an earlier fit are not taken for those that are asked for; what they left at zero is told."""
    toy = make_toy()
    trainer(tmp_path, earlier()).fit(toy, loader())
    with pytest.warns(UserWarning, match="drawn masks of its own"):
        trainer(tmp_path, kind(0.05, every_n_steps=3, stop_at=99, verify=True)).fit(toy, loader())
    assert sum(int(mask.sum()) for mask in state_of(toy).masks.values()) == 51
    assert nonzero(toy.state_dict()) <= 51


@pytest.mark.parametrize("kind", [RigLCallback, SETCallback])
def test_nothing_is_told_of_zeros_where_there_are_none(tmp_path, kind):
    toy = make_toy()
    trainer(tmp_path, PruneAtInit("erk", 0.2)).fit(toy, loader())
    for parameter in toy.parameters():
        nn.init.normal_(parameter)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, kind(0.05, every_n_steps=3, stop_at=99)).fit(toy, loader())
    assert not [w for w in caught if "drawn masks of its own" in str(w.message)]


@pytest.mark.parametrize("kind", [RigLCallback, SETCallback])
def test_without_a_density_earlier_masks_go_on(tmp_path, kind):
    toy = make_toy()
    trainer(tmp_path, PruneAtInit("erk", 0.2)).fit(toy, loader())
    trainer(tmp_path, kind(every_n_steps=3, stop_at=99)).fit(toy, loader())
    assert sum(int(mask.sum()) for mask in state_of(toy).masks.values()) == BUDGET


def test_a_new_head_is_masked_in_the_next_fit(tmp_path):
    toy, rigl = make_toy(), RigLCallback(0.2, every_n_steps=3, stop_at=99, verify=True)
    trainer(tmp_path, rigl).fit(toy, loader())
    toy.net[6] = nn.Linear(200, 4)
    trainer(tmp_path, rigl).fit(toy, loader())
    mask = state_of(toy).masks["net.6.weight"]
    assert not toy.net[6].weight[~mask].any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: IterativeMagnitudePruning(0.2, rounds=2, epochs_per_round=1),
        lambda: ASNISigmoidPruner(0.2, search_epochs=2),
        lambda: GradualMagnitudePruning(0.2, stop=6, every_n_steps=2),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_callback_on_several_modules(tmp_path, make):
    """Rounds are counted for one module: another one begins anew, and so does the first after that."""
    callback, one, other = make(), make_toy(), make_toy()
    trainer(tmp_path, callback, max_epochs=1).fit(one, loader())
    trainer(tmp_path, callback, max_epochs=3).fit(other, loader())
    trainer(tmp_path, callback, max_epochs=3).fit(one, loader())
    for toy in (one, other):
        assert sum(int(mask.sum()) for mask in state_of(toy).masks.values()) == BUDGET
        assert nonzero(toy.state_dict()) <= BUDGET


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_second_fit_of_one_module_goes_on(tmp_path):
    callback, toy = IterativeMagnitudePruning(0.2, rounds=2, epochs_per_round=1), make_toy()
    trainer(tmp_path, callback, max_epochs=1).fit(toy, loader())
    trainer(tmp_path).test(make_toy(), loader(2), verbose=False)
    trainer(tmp_path, callback, max_epochs=2).fit(toy, loader())
    assert callback.prunings == 2


# A Trainer inside another one's hook.


def test_a_trainer_inside_may_measure(tmp_path):
    toy, seen = make_toy(), []

    def measure(_, module):
        trainer(tmp_path).validate(module, loader(2), verbose=False)
        module.trainer = outer
        seen.append(nonzero(module.state_dict()))

    outer = trainer(tmp_path, PruneAtInit("erk", 0.2, verify=True), Act("on_train_batch_end", measure))
    outer.fit(toy, loader())
    assert seen == [BUDGET]
    assert nonzero(toy.state_dict()) == BUDGET


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_a_trainer_inside_with_callbacks_is_refused(tmp_path, same, stage):
    """It would change or end what the outer fit has begun; the outer one goes on as if it had not been."""
    toy, callback, errors = make_toy(), PruneAtInit("erk", 0.2, verify=True), []

    def use(_, module):
        inner = trainer(tmp_path, callback if same else PruneAtInit("erk", 0.5), max_epochs=1)
        with pytest.raises(SparsityError, match="another Trainer") as error:
            getattr(inner, stage)(module, loader(2))
        errors.append(error)
        module.trainer = outer

    outer = trainer(tmp_path, callback, Act("on_train_batch_end", use))
    outer.fit(toy, loader())
    assert len(errors) == 1
    assert nonzero(toy.state_dict()) == BUDGET
    assert not state_of(toy).enforced


def test_a_trainer_inside_may_fit_another_module(tmp_path):
    outer_toy, inner_toy = make_toy(), make_toy()

    def fit_other(*_):
        trainer(tmp_path, PruneAtInit("erk", 0.1), max_epochs=1).fit(inner_toy, loader(2))

    trainer(tmp_path, PruneAtInit("erk", 0.2), Act("on_train_batch_end", fit_other)).fit(outer_toy, loader())
    assert nonzero(outer_toy.state_dict()) == BUDGET
    assert nonzero(inner_toy.state_dict()) == 102


# Verified in every forward.


def test_forwards_are_verified(tmp_path):
    """A forward of pruned weights that are not zero is an error where it happens, not after the step."""
    toy = make_toy()
    step = toy.training_step

    def spoil(*batch):
        if toy.trainer.global_step == 2:
            with torch.no_grad():
                toy.net[6].weight.add_(1.0)
        return step(*batch)

    toy.training_step = spoil
    with pytest.raises(RuntimeError, match=r"pruned weights of 'net.6.weight' are not zero in a forward"):
        trainer(tmp_path, PruneAtInit("erk", 0.2, verify=True)).fit(toy, loader())
    assert not toy.net[6]._forward_pre_hooks
