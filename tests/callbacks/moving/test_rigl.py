"""RigL and SET: when connections move, where from, and what is left behind. See also test_every_callback."""

import copy
import gc
from itertools import pairwise
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from optimizers import OPTIMIZERS
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset
from toy import (
    HoldsMasks,
    Rotate,
    Toy,
    adamw,
    assert_equal,
    loader,
    logged,
    make_toy,
    sgd,
    trainer,
    weights_of,
)

from lightning_sparse import (
    ASNISigmoidPruner,
    DCTpSConversion,
    DynamicSparsity,
    ExactResume,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparsityMonitor,
)
from lightning_sparse.data import DigitsDataModule
from lightning_sparse.functional.growth.moves import count_dropped, draws_of, drop_and_grow, move_support
from lightning_sparse.functional.packing import weigh_bits
from lightning_sparse.functional.ranking import first_of_sorted
from lightning_sparse.functional.schedules import cosine
from lightning_sparse.layers import NoOffset, compact_layers, convert_
from lightning_sparse.models import ImageClassifier, LeNet300100
from lightning_sparse.weights.enforcement import as_bit_factor
from lightning_sparse.weights.state import state_of

KINDS = {"rigl": RigLCallback, "set": SETCallback}
STORED = ["masked", "compact"]


def company(stored):
    """A callback that makes a support of the kind, for the others to move."""
    return PruneAtInit("erk", 0.2, seed=1) if stored == "masked" else DCTpSConversion(0.2, seed=1)


def supports(module):
    """Masks by name of the weight, whatever stores them."""
    layers = {f"{path}.weight": layer.support() for path, layer in compact_layers(module).items()}
    return {**state_of(module).masks, **layers}


def values_of(module):
    """Weights, or the sparse part of them in the shape of the weight, by name."""
    found = {name: weight.detach().clone() for name, weight in state_of(module).weights.items()}
    for path, layer in compact_layers(module).items():
        dense = layer.values.new_zeros(layer.shape)
        dense[layer.support()] = layer.values.detach()
        found[f"{path}.weight"] = dense
    return found


class Watch(pl.Callback):
    """Notes supports and weights before and after each batch."""

    def __init__(self):
        self.supports, self.weights = [], []

    def on_train_start(self, trainer, pl_module):
        self.initial = supports(pl_module)

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.weights.append(values_of(pl_module))

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.supports.append(supports(pl_module))

    def moves_at(self):
        """Steps, from 1 on, at which a support changed."""
        pairs = zip([self.initial, *self.supports], self.supports, strict=False)
        return [
            t for t, (a, b) in enumerate(pairs, 1) if any(not torch.equal(a[name], b[name]) for name in a)
        ]


def fit(tmp_path, toy, *callbacks, data=None, **arguments):
    watch = Watch()
    trainer(tmp_path, *callbacks, watch, **arguments).fit(toy, data or loader(), loader(2))
    return watch


# When.


def test_updates_come_at_the_reference_calls(tmp_path):
    """Golden `rigl_schedule`: every 10 steps, T = 40: calls 10, 20 and 30."""
    rigl = RigLCallback(0.2, every_n_steps=10, stop_at=40)
    assert fit(tmp_path, make_toy(), rigl, data=loader(60), max_epochs=1).moves_at() == [10, 20, 30]


def test_a_share_of_all_steps(tmp_path):
    """16 batches in fours make 4 steps, times 5 epochs; of 20, the share 0.5 ends before step 10."""
    rigl = RigLCallback(0.2, every_n_steps=2, stop_at=0.5)
    watch = fit(tmp_path, make_toy(), rigl, data=loader(16), accumulate_grad_batches=4, max_epochs=5)
    assert [t / 4 for t in watch.moves_at()] == [2, 4, 6, 8]


class Endless(IterableDataset):
    def __iter__(self):
        yield from loader().dataset


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("why", ["max_epochs", "iterable", "accumulation"])
def test_a_share_of_an_unknown_number_is_refused(tmp_path, kind, why):
    extra = [GradientAccumulationScheduler({0: 1, 1: 2})] if why == "accumulation" else []
    data = DataLoader(Endless(), 8) if why == "iterable" else loader()
    arguments = {"max_epochs": -1, "max_time": "00:00:01:00"} if why == "max_epochs" else {}
    runner = trainer(tmp_path, KINDS[kind](0.2, stop_at=0.75), *extra, **arguments)
    with pytest.raises(
        ValueError, match=r"`stop_at` must be a number of steps .* got 0.75.* Give an integer"
    ):
        runner.fit(make_toy(), data)
    assert runner.global_step == 0


def test_nothing_to_move_in_time_is_said(tmp_path):
    with pytest.warns(UserWarning, match="RigLCallback moves nothing: `every_n_steps` is 100"):
        fit(tmp_path, make_toy(), RigLCallback(0.2))


class Gan(pl.LightningModule):
    """Two optimizers, of which the second makes every third step only."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.a, self.b = nn.Linear(192, 30), nn.Linear(192, 30)

    def training_step(self, batch, index):
        for optimizer, net, every in zip(self.optimizers(), (self.a, self.b), (1, 3), strict=True):
            if (index + 1) % every == 0:
                optimizer.zero_grad()
                self.manual_backward(net(batch[0].flatten(1)).square().mean())
                optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(net.parameters(), 0.01) for net in (self.a, self.b)]


@pytest.mark.parametrize("stored", STORED)
def test_each_optimizer_has_its_own_time(tmp_path, stored):
    torch.manual_seed(0)
    gan, rigl = Gan(), RigLCallback(every_n_steps=2, stop_at=100)
    watch = fit(tmp_path, gan, company(stored), rigl, data=loader(12), max_epochs=1)
    moved = {name: [] for name in watch.initial}
    for t, (before, after) in enumerate(
        zip([watch.initial, *watch.supports], watch.supports, strict=False), 1
    ):
        for name in moved:
            moved[name] += [] if torch.equal(before[name], after[name]) else [t]
    assert moved == {"a.weight": [2, 4, 6, 8, 10, 12], "b.weight": [6, 12]}


class Adversaries(pl.LightningModule):
    """The first net is trained through the second, whose gradients are then thrown away, or not made."""

    def __init__(self, toggles, raw=False):
        super().__init__()
        self.automatic_optimization = False
        self.a, self.b = nn.Linear(192, 30), nn.Linear(30, 30)
        self.toggles, self.raw = toggles, raw

    def training_step(self, batch, index):
        inner = self.a(batch[0].flatten(1))
        losses = (lambda: self.b(inner).square().mean()), (lambda: self.b(inner.detach()).sub(1).abs().mean())
        for optimizer, loss in zip(self.optimizers(use_pl_optimizer=not self.raw), losses, strict=True):
            if self.toggles:
                self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()
            if self.toggles:
                self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), 0.1) for net in (self.a, self.b)]


@pytest.mark.parametrize("toggles", [True, False])
def test_gradients_of_somebody_elses_loss_do_not_count(tmp_path, toggles):
    """On the support the dense gradient is what the optimizer gets; a layer may be used twice in a pass."""
    seen = []

    class Compares(RigLCallback):
        def _active(self, weight, step):
            gradient = self._sums[weight.name].flatten()[weight.positions]
            assert torch.allclose(gradient, weight.parameter.grad, atol=1e-7)
            seen.append(weight.name)
            return super()._active(weight, step)

    torch.manual_seed(0)
    module = Adversaries(toggles)
    module.b = nn.Sequential(module.b, nn.ReLU(), module.b)
    rigl = Compares(every_n_steps=2, stop_at=100)
    trainer(tmp_path, company("compact"), rigl, max_epochs=1).fit(module, loader())
    assert seen == ["a.weight", "b.0.weight"] * 2


@pytest.mark.parametrize("stored", STORED)
def test_steps_that_nobody_sees_are_told_of(tmp_path, stored):
    rigl = RigLCallback(every_n_steps=2, stop_at=100)
    runner = trainer(tmp_path, company(stored), rigl, max_epochs=1)
    with pytest.warns(UserWarning, match="RigLCallback moves nothing in steps that Lightning does not see"):
        runner.fit(Adversaries(toggles=False, raw=True), loader())


# What.


class Expects(pl.Callback):
    """Works out by hand what RigL must do to masked weights, from gradients as backward leaves them."""

    def __init__(self, updates, stop_at):
        self.updates, self.stop_at, self.seen = updates, stop_at, 0

    def on_after_backward(self, trainer, pl_module):
        self.before, self.weights = state_of(pl_module).masks, values_of(pl_module)
        self.parameters = weights_of(pl_module)
        self.gradients = {name: w.grad.clone() for name, w in state_of(pl_module).weights.items()}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        step, now = trainer.global_step, state_of(pl_module)
        if step not in self.updates:
            assert_equal(self.before, now.masks)
            return
        self.seen += 1
        fraction = cosine(step, self.stop_at, 0.3)
        for name, mask in self.before.items():
            weight, gradient = self.weights[name], self.gradients[name]
            expected = drop_and_grow(mask, weight.abs(), gradient.abs(), fraction)
            assert torch.equal(expected, now.masks[name])
            assert int(expected.sum()) == int(mask.sum())
            assert torch.equal(now.weights[name], weight * expected)  # no step, new weights zero
        biases = [name for name in self.parameters if name.endswith("bias") and "net.1" not in name]
        for name in biases:
            assert torch.equal(weights_of(pl_module)[name], self.parameters[name])


def test_an_update_is_the_papers_and_takes_the_place_of_a_step(tmp_path):
    expects = Expects(updates=(3, 6), stop_at=9)
    fit(tmp_path, make_toy(), RigLCallback(0.2, every_n_steps=3, stop_at=9), expects, max_epochs=3)
    assert expects.seen == 2


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", KINDS)
def test_counts_stay_and_new_weights_are_zero(tmp_path, kind, stored):
    class Frozen(Toy):
        """Steps change nothing, so that what a move has done is seen at the end of the batch."""

        def __init__(self):
            super().__init__(optimizer=lambda p: torch.optim.SGD(p, 0.0))

        def on_train_start(self):  # values of S start at zero: as weights, they would say nothing
            for layer in compact_layers(self).values():
                layer.values.data.copy_(torch.randn(layer.nnz, generator=torch.Generator().manual_seed(3)))

    torch.manual_seed(0)
    toy, mover = Frozen(), KINDS[kind](every_n_steps=2, stop_at=100)
    watch = fit(tmp_path, toy, company(stored), mover, max_epochs=3)
    assert watch.moves_at() == [2, 4, 6, 8, 10, 12]
    for t in range(1, 12):
        for name, mask in watch.supports[t].items():
            before, values = watch.supports[t - 1][name], watch.weights[t + 1][name] if t < 11 else None
            assert int(mask.sum()) == int(watch.initial[name].sum())
            if values is not None:
                assert values[mask & ~before].eq(0).all()
                assert torch.equal(values[mask & before], watch.weights[t][name][mask & before])


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_of_moved_connections_starts_afresh(tmp_path, kind, stored, name):
    if (stored, name) == ("compact", "extra-state"):
        pytest.skip("takes no scalars, such as alpha")

    class Check(pl.Callback):
        """The module's hook comes after ours and before the update."""

        checked = 0

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            now = supports(pl_module)
            for path, layer in pl_module.named_modules():
                key = f"{path}.weight"
                if key not in now or not hasattr(self, "last"):
                    continue
                moved = now[key] ^ self.last[key]
                parameter = layer.values if stored == "compact" else layer.weight
                where = moved[now[key]] if stored == "compact" else moved
                for value in optimizer.state.get(parameter, {}).values():
                    if torch.is_tensor(value) and value.shape == parameter.shape:
                        assert value[where].eq(0).all()
                        self.checked += int(where.sum())
            self.last = now

    check = Check()
    mover = KINDS[kind](every_n_steps=2, stop_at=100)
    trainer(tmp_path, company(stored), mover, check, max_epochs=3).fit(
        make_toy(optimizer=OPTIMIZERS[name]), loader()
    )
    assert check.checked > 0 or name in ("mixes-coordinates", "adafactor")  # which keep nothing per weight


def test_values_that_stay_keep_their_momentum(tmp_path):
    """Of a Dense-plus-Sparse layer, whose values change their places."""

    class Check(pl.Callback):
        seen = 0

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            layer = compact_layers(pl_module)["net.6"]
            now = layer.values.new_zeros(layer.shape)
            state = optimizer.state.get(layer.values, {}).get("momentum_buffer")
            if state is None:
                return
            now[layer.support()] = state
            if hasattr(self, "support") and not torch.equal(self.support, layer.support()):
                both = self.support & layer.support()
                assert torch.equal(now[both], self.momentum[both])
                assert now[both].any()
                self.seen += 1

        def on_train_batch_end(self, trainer, pl_module, *_):
            layer, optimizer = compact_layers(pl_module)["net.6"], trainer.optimizers[0]
            state = optimizer.state.get(layer.values, {}).get("momentum_buffer")
            self.support, self.momentum = layer.support(), layer.values.new_zeros(layer.shape)
            if state is not None:
                self.momentum[self.support] = state

    check = Check()
    rigl = RigLCallback(every_n_steps=3, stop_at=100)
    trainer(tmp_path, company("compact"), rigl, check, max_epochs=3).fit(make_toy(optimizer=sgd), loader())
    assert check.seen == 4


class NoNorm(Toy):
    """Without batch statistics and dropout a batch in four parts is the whole batch."""

    def __init__(self):
        super().__init__(optimizer=lambda p: torch.optim.SGD(p, 0.05, momentum=0.9))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.ReLU(), nn.Linear(40, 4))


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("grad_average", [1, 2])
def test_accumulated_gradients_move_as_those_of_the_whole_batch(tmp_path, stored, grad_average):
    torch.manual_seed(0)
    one = NoNorm()
    four = copy.deepcopy(one)

    def rigl():
        return RigLCallback(every_n_steps=2, stop_at=100, grad_average=grad_average)

    exact = {"precision": "64-true"}
    watch = fit(tmp_path, one, company(stored), rigl(), data=loader(4, 32), **exact)
    fit(tmp_path, four, company(stored), rigl(), data=loader(16, 8), accumulate_grad_batches=4, **exact)
    assert watch.moves_at() == [2, 4, 6, 8]
    assert_equal(supports(one), supports(four))


def test_masked_and_compact_weights_move_alike(tmp_path):
    """An S without offset, trained as a compact layer and as a masked weight, moves to the same places."""
    torch.manual_seed(0)
    compact, masked = NoNorm(), NoNorm()
    budgets = convert_(compact, 0.2, offset=NoOffset(), generator=1)
    generator = torch.Generator().manual_seed(5)
    for path, layer in compact_layers(compact).items():
        layer.values.data.normal_(std=0.2, generator=generator)
        twin = masked.get_submodule(path)
        twin.weight.data.zero_().masked_scatter_(layer.support(), layer.values.data)
        twin.bias.data.copy_(layer.bias.data)
    masks = {f"{path}.weight": layer.support() for path, layer in compact_layers(compact).items()}
    assert {name: int(mask.sum()) for name, mask in masks.items()} == budgets

    class Given(PruneAtInit):
        def make_masks(self, module, generator):
            return masks

    def rigl():
        return RigLCallback(every_n_steps=2, stop_at=100)

    watches = [
        fit(tmp_path, net, *start, rigl(), precision="64-true")
        for net, start in ((compact, []), (masked, [Given("erk", 0.2)]))
    ]
    assert watches[0].moves_at() == watches[1].moves_at() == [2, 4, 6, 8]
    for ours, theirs in zip(watches[0].supports, watches[1].supports, strict=True):
        assert_equal(dict(sorted(ours.items())), dict(sorted(theirs.items())))


def test_draws_depend_on_seed_step_and_layer_alone():
    def draw(*of):
        return torch.rand(1, generator=draws_of(*of)).item()

    every = {draw(*of) for of in ((1, 2, "a"), (2, 2, "a"), (1, 3, "a"), (1, 2, "b"), (11, 2, "a"))}
    assert len(every) == 5
    assert draw(1, 2, "a") == draw(1, 2, "a")


def test_the_mean_gradient_of_several_steps(tmp_path):
    class Sums(pl.Callback):
        def on_after_backward(self, trainer, pl_module):
            gradients = {name: w.grad.clone() for name, w in state_of(pl_module).weights.items()}
            self.last = [*getattr(self, "last", []), gradients][-3:]
            self.before, self.weights = state_of(pl_module).masks, values_of(pl_module)

        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 4:
                for name, mask in self.before.items():
                    mean = sum(gradients[name] for gradients in self.last) / 3
                    scores = self.weights[name].abs(), mean.abs()
                    expected = drop_and_grow(mask, *scores, cosine(4, 100, 0.3))
                    assert torch.equal(expected, state_of(pl_module).masks[name])
                    last = self.last[-1][name].abs()
                    other = drop_and_grow(mask, scores[0], last, cosine(4, 100, 0.3))
                    self.differs = getattr(self, "differs", False) or not torch.equal(other, expected)

    sums = Sums()
    rigl = RigLCallback(0.2, every_n_steps=4, stop_at=100, grad_average=3)
    fit(tmp_path, make_toy(), rigl, sums, max_epochs=1)
    assert sums.differs  # or the test would show nothing


# Around it.


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "arguments",
    [
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
        {"precision": "64-true"},
        {"gradient_clip_val": 0.1},
        {"barebones": True},
    ],
    ids=str,
)
def test_trainer_arguments(tmp_path, kind, stored, arguments):
    toy, watch = make_toy(), Watch()
    callbacks = [company(stored), KINDS[kind](every_n_steps=2, stop_at=100), watch]
    if "barebones" in arguments:
        pl.Trainer(callbacks=callbacks, accelerator="cpu", max_epochs=2, **arguments).fit(toy, loader())
    else:
        trainer(tmp_path, *callbacks, **arguments).fit(toy, loader())
    assert watch.moves_at() == [2, 4, 6, 8]
    assert all(p.isfinite().all() for p in toy.parameters())


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_line_search_moves_once_a_step(tmp_path, kind, stored):
    toy = make_toy(optimizer=lambda p: torch.optim.LBFGS(p, max_iter=3), dropout=0.0)
    moved = []

    class Counts(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            moved.append(supports(pl_module)["net.6.weight"])

    fit(tmp_path, toy, company(stored), KINDS[kind](every_n_steps=2, stop_at=100), Counts())
    changes = sum(not torch.equal(a, b) for a, b in pairwise(moved))
    assert changes == 4
    assert len(moved) > 8


@pytest.mark.parametrize("stored", STORED)
def test_a_line_search_leaves_no_gradients_behind(tmp_path, stored):
    rigl = RigLCallback(every_n_steps=2, stop_at=100, grad_average=2, skip_step_on_update=False)
    toy = make_toy(optimizer=lambda p: torch.optim.LBFGS(p, max_iter=3), dropout=0.0)
    fit(tmp_path, toy, company(stored), rigl)
    assert rigl._sums == {}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", KINDS)
def test_layers_frozen_later_stay_where_they_are(tmp_path, kind, stored):
    class Freezes(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            layer = pl_module.net[6]
            if batch_idx:  # the gradient of the first step counts for a mean over two
                getattr(layer, "values" if stored == "compact" else "weight").requires_grad_(False)

    average = {"grad_average": 2} if kind == "rigl" else {}
    mover = KINDS[kind](every_n_steps=2, stop_at=100, **average)
    watch = fit(tmp_path, make_toy(), company(stored), mover, Freezes())
    assert torch.equal(watch.initial["net.6.weight"], watch.supports[-1]["net.6.weight"])
    assert watch.moves_at() == [2, 4, 6, 8]


def test_sparse_gradients_of_others_do_no_harm(tmp_path):
    class Embeds(NoNorm):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(4, 192, sparse=True)

        def training_step(self, batch, *_):
            return self.net(batch[0] + self.embed(batch[1]).view_as(batch[0])).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    watch = fit(tmp_path, Embeds(), RigLCallback(0.2, every_n_steps=2, stop_at=100))
    assert watch.moves_at() == [2, 4, 6, 8]


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_layers_move_as_others(tmp_path, kind):
    torch._dynamo.reset()
    plain, compiled = make_toy(dropout=0.0), make_toy(dropout=0.0)
    fit(tmp_path, plain, company("compact"), KINDS[kind](every_n_steps=2, stop_at=100, seed=1))
    module = torch.compile(compiled, backend="aot_eager")
    fit(tmp_path, module, company("compact"), KINDS[kind](every_n_steps=2, stop_at=100, seed=1))
    assert_equal(supports(plain), supports(compiled))


@pytest.mark.parametrize("stored", STORED)
def test_layers_made_late(tmp_path, stored):
    class Late(Toy):
        def configure_model(self):
            self.head = getattr(self, "head", None) or nn.Linear(40, 4)

        def training_step(self, batch, *_):
            return super().training_step(batch) + self.head(batch[0].flatten(1)[:, :40]).square().mean()

    torch.manual_seed(0)
    toy = Late()
    watch = fit(tmp_path, toy, company(stored), RigLCallback(every_n_steps=2, stop_at=100))
    assert not torch.equal(watch.initial["head.weight"], watch.supports[-1]["head.weight"])


@pytest.mark.parametrize("stored", STORED)
def test_a_checkpoint_is_tested_on_a_fresh_module(tmp_path, stored):
    def callbacks():
        return company(stored), RigLCallback(every_n_steps=2, stop_at=100)

    toy, checkpoint = make_toy(), ModelCheckpoint(tmp_path, save_last=True)
    runner = trainer(tmp_path, *callbacks(), checkpoint, enable_checkpointing=True)
    runner.fit(toy, loader())
    expected = runner.test(toy, loader(2), verbose=False)
    fresh = Toy()
    again = trainer(tmp_path, *callbacks())
    assert again.test(fresh, loader(2), ckpt_path=tmp_path / "last.ckpt", verbose=False) == expected
    assert_equal(supports(toy), supports(fresh))


@pytest.mark.parametrize("stored", STORED)
def test_copies_go_on_from_the_same_supports(tmp_path, stored):
    class Copies(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 5:
                runner, pl_module._trainer = pl_module._trainer, None
                self.copies = copy.deepcopy((pl_module, start, rigl))
                pl_module._trainer, self.supports = runner, supports(pl_module)

    copies, start, rigl = Copies(), company(stored), RigLCallback(every_n_steps=2, stop_at=100)
    fit(tmp_path, make_toy(optimizer=sgd), start, rigl, copies)
    module, *callbacks = copies.copies
    watch = fit(tmp_path, module, *callbacks)
    assert_equal(watch.initial, copies.supports)
    assert watch.moves_at() == [2, 4, 6, 8]


def test_moves_do_not_call_for_a_third_pass_over_the_weights(tmp_path):
    """SGD leaves pruned weights at zero by itself, and does so after they have moved."""

    class Looks(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            assert all(plan.stays_zero for plan in state_of(pl_module)._plans._plans.values())

    rigl = RigLCallback(0.2, every_n_steps=2, stop_at=100, verify=True)
    watch = fit(tmp_path, make_toy(optimizer=OPTIMIZERS["sgd-fused"]), rigl, Looks())
    assert watch.moves_at() == [2, 4, 6, 8]


# Gradients that are not finite.


class Overflows(NoNorm):
    """The loss of the fourth batch is infinite, under a scale or without."""

    def training_step(self, batch, index):
        loss = super().training_step(batch)
        return loss * 1e38 * 1e38 if index == 3 else loss


def scaled():
    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**4))


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["sgd-nesterov", "adam-fused"])
def test_an_overflow_puts_the_update_off(tmp_path, kind, stored, optimizer):
    toy = Overflows()
    toy.make_optimizer = OPTIMIZERS[optimizer]
    mover = KINDS[kind](every_n_steps=4, stop_at=100)
    watch = fit(tmp_path, toy, company(stored), mover, data=loader(12), max_epochs=1, plugins=[scaled()])
    assert watch.moves_at() == [5, 9]  # no fourth step is made of the fourth batch


def test_infinite_gradients_without_a_scaler_put_the_update_off(tmp_path):
    class Bad(NoNorm):
        """An infinite gradient of one bias, at the fourth step."""

        def on_after_backward(self):
            if self.trainer.global_step == 3:
                self.net[1].bias.grad[0] = torch.inf

        def on_before_optimizer_step(self, optimizer):
            if self.net[1].bias.grad is not None:
                self.net[1].bias.grad.nan_to_num_(posinf=0.0)

    watch = fit(
        tmp_path, Bad(), RigLCallback(0.2, every_n_steps=4, stop_at=100), data=loader(12), max_epochs=1
    )
    assert watch.moves_at() == [5, 8, 12]


def test_infinite_gradients_of_inactive_weights_put_the_update_off(tmp_path):
    """No optimizer holds them."""
    rigl = RigLCallback(every_n_steps=4, stop_at=100)

    class Bad(NoNorm):
        def on_after_backward(self):
            if self.trainer.global_step == 3:
                for layer in compact_layers(self).values():
                    layer.dense_gradient.consumer.total.fill_(torch.inf)

    watch = fit(tmp_path, Bad(), company("compact"), rigl, data=loader(12), max_epochs=1)
    assert watch.moves_at() == [5, 8, 12]


def test_no_gradient_puts_the_update_off(tmp_path):
    class Skips(NoNorm):
        def training_step(self, batch, index):
            return None if index == 3 else super().training_step(batch)

    watch = fit(
        tmp_path, Skips(), RigLCallback(0.2, every_n_steps=4, stop_at=100), data=loader(8), max_epochs=1
    )
    assert watch.moves_at() == [5, 8]


@pytest.mark.parametrize(("at", "every", "moves"), [(0, 1, range(2, 9)), (3, 4, [5])])
def test_no_gradient_does_not_confuse_the_scaler_of_a_fused_optimizer(tmp_path, at, every, moves):
    class Skips(NoNorm):
        def training_step(self, batch, index):
            return None if index == at else super().training_step(batch)

    toy = Skips()
    toy.make_optimizer = OPTIMIZERS["adam-fused"]
    rigl = RigLCallback(0.2, every_n_steps=every, stop_at=100)
    watch = fit(tmp_path, toy, rigl, data=loader(8), max_epochs=1, plugins=[scaled()])
    assert watch.moves_at() == list(moves)


# Where from.


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_from_the_masks_of_prune_at_init(tmp_path, kind, first):
    pair = [PruneAtInit("magnitude", 0.2), KINDS[kind](every_n_steps=2, stop_at=100)][:: 1 if first else -1]
    watch = fit(tmp_path, make_toy(), *pair)
    alone = fit(tmp_path, make_toy(), PruneAtInit("magnitude", 0.2))
    assert_equal(watch.supports[0], alone.supports[0])
    assert watch.moves_at() == [2, 4, 6, 8]


def test_its_own_masks_are_those_of_prune_at_init(tmp_path):
    rigl = RigLCallback(0.2, seed=5, density_overrides={"net.6": 0.1}, every_n_steps=2)
    watch = fit(tmp_path, make_toy(), rigl, max_epochs=1)
    static = PruneAtInit("erk", 0.2, seed=5, density_overrides={"net.6": 0.1})
    assert_equal(watch.initial, fit(tmp_path, make_toy(), static, max_epochs=1).supports[0])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_moves_the_supports_of_dense_plus_sparse_layers(tmp_path, kind, first):
    pair = [DCTpSConversion(0.2), KINDS[kind](every_n_steps=2, stop_at=100)][:: 1 if first else -1]
    toy = make_toy()
    watch = fit(tmp_path, toy, *pair)
    assert not state_of(toy).masks
    assert watch.moves_at() == [2, 4, 6, 8]
    for name, mask in supports(toy).items():
        assert int(mask.sum()) == int(watch.initial[name].sum())


def test_dense_gradients_are_made_for_updates_only(tmp_path):
    wanted = []

    class Looks(pl.Callback):
        def on_after_backward(self, trainer, pl_module):
            wanted.append(compact_layers(pl_module)["net.6"].dense_gradient.wanted)

        def on_train_batch_end(self, trainer, pl_module, *_):
            layer = compact_layers(pl_module)["net.6"]
            assert layer.dense_gradient.consumer is None or layer.dense_gradient.consumer.total is None

    toy = make_toy()
    fit(tmp_path, toy, DCTpSConversion(0.2), RigLCallback(every_n_steps=3, stop_at=100), Looks())
    assert wanted == [False, False, True, False, False, True, False, False]
    assert not compact_layers(toy)["net.6"].dense_gradient.wanted


def test_an_update_holds_one_gradient_of_the_layer_it_ranks(tmp_path, monkeypatch):
    """On a compact layer that is the memory which counts; on a GPU layers are ranked in groups instead."""
    alive = []

    def ranks(positions, drop_scores, grow_scores, fraction, **options):
        others = (t for t in gc.get_objects() if type(t) is torch.Tensor and t.is_floating_point())
        alive.append(len({t.data_ptr() for t in others if t.shape == grow_scores.shape}))
        return move_support(positions, drop_scores, grow_scores, fraction, **options)

    monkeypatch.setattr("lightning_sparse.functional.growth.base.move_support", ranks)
    toy = NoNorm()
    toy.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 43), nn.ReLU(), nn.Linear(43, 4))
    rigl = RigLCallback(every_n_steps=2, stop_at=100)
    conversion = DCTpSConversion(0.2, backend="transform")
    trainer(tmp_path, conversion, rigl, accelerator="cpu").fit(toy, loader())
    assert alive
    assert set(alive) == {1}


def test_a_first_layer_left_dense(tmp_path):
    toy = make_toy()
    fit(tmp_path, toy, RigLCallback(0.2, allocation="uniform", dense_first_layer=True, stop_at=1000))
    assert {name: int(mask.sum()) for name, mask in state_of(toy).masks.items()} == {"net.6.weight": 160}


@pytest.mark.parametrize("stored", STORED)
def test_excluded_layers_stay_where_they_are(tmp_path, stored):
    rigl = RigLCallback(every_n_steps=2, stop_at=100, exclude=["net.0"])
    watch = fit(tmp_path, make_toy(), company(stored), rigl)
    assert torch.equal(watch.supports[-1]["net.0.weight"], watch.initial["net.0.weight"])
    assert not torch.equal(watch.supports[-1]["net.6.weight"], watch.initial["net.6.weight"])


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 1.5}, r"`density` must be in \(0, 1\], got 1.5"),
        ({"every_n_steps": 0}, "`every_n_steps` must be an integer of at least 1, got 0"),
        ({"drop_fraction": 1.2}, r"`drop_fraction` must be in \[0, 1\], got 1.2"),
        ({"drop_schedule": "step"}, "`drop_schedule` must be one of cosine, .*, got 'step'"),
        ({"stop_at": 1.5}, r"`stop_at` must be a number of steps, or a share .*, got 1.5"),
        ({"stop_at": 0}, "`stop_at` must be a number of steps, .*, got 0"),
        ({"stop_at": True}, "`stop_at` must be a number of steps, .*, got True"),
        ({"allocation": "global"}, "`allocation` must be one of uniform, .*, got 'global'"),
        ({"dense_first_layer": True}, "`dense_first_layer` needs `density`, got None"),
        ({"density_overrides": {"*": 0.1}}, "`density_overrides` needs `density`, got None"),
        ({"include": "net.0"}, "`include` must be a list of patterns"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_arguments_are_checked(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        KINDS[kind](**arguments)


@pytest.mark.parametrize(("average", "message"), [(0, "at least 1, got 0"), (101, "at most .*100, got 101")])
def test_the_average_is_checked(average, message):
    with pytest.raises(ValueError, match=f"`grad_average` must be .*{message}"):
        RigLCallback(0.1, grad_average=average)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([RigLCallback(0.1), SETCallback(0.1)], "both change masks during training"),
        ([RigLCallback(0.1), Rotate(0.1)], "both change masks during training"),
        ([RigLCallback()], "`density` of RigLCallback must be given where there are no masks"),
        ([RigLCallback(0.1), DCTpSConversion(0.2)], "of RigLCallback must be None .* 0.1 beside 0.2"),
        ([SETCallback(0.2), PruneAtInit("erk", 0.1)], "`density` of SETCallback must be None beside Prune"),
        (
            [RigLCallback(0.1), PruneAtInit("erk", 0.1)],
            "`density` of RigLCallback must be None .* 0.1 beside 0.1",
        ),
        (
            [RigLCallback(include=["nett.*"], stop_at=200), DCTpSConversion(0.1)],
            "`include` pattern 'nett.*' matches nothing",
        ),
        ([RigLCallback(exclude=["*"], stop_at=200), DCTpSConversion(0.1)], "`exclude` must leave something"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_company_that_does_not_go_together(tmp_path, callbacks, message, first):
    runner = trainer(tmp_path, *copy.deepcopy(callbacks)[:: 1 if first else -1])
    with pytest.raises(ValueError, match=message):
        runner.fit(make_toy(), loader())
    assert runner.global_step == 0


def test_no_masks_are_drawn_beside_layers_converted_by_hand(tmp_path):
    toy = make_toy()
    convert_(toy, 0.1, include=["net.0"])
    with pytest.raises(ValueError, match=r"must be None beside Dense-plus-Sparse layers, got 0\.1"):
        trainer(tmp_path, RigLCallback(0.1)).fit(toy, loader())


# Checkpoints.


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", KINDS)
def test_resume_in_mid_schedule_is_bit_exact(tmp_path, kind, stored):
    """Updates at 3, 6, ... and an average over two steps: the checkpoint at step 8 lies within one."""
    average = {"grad_average": 2} if kind == "rigl" else {}

    def run(ckpt_path=None, seed=0):
        torch.manual_seed(seed)
        toy = Toy(optimizer=OPTIMIZERS["adam"])
        checkpoint = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_epochs=1)
        mover = KINDS[kind](every_n_steps=3, stop_at=100, **average)
        runner = trainer(
            tmp_path,
            company(stored),
            mover,
            ExactResume(),
            checkpoint,
            enable_checkpointing=True,
            max_epochs=4,
            logger=CSVLogger(tmp_path, version=f"{seed}"),
        )
        runner.fit(toy, loader(shuffle=True), ckpt_path=ckpt_path)
        return toy, runner

    whole, runner = run()
    saved = torch.load(tmp_path / "step=8.ckpt", "cpu", weights_only=True)
    if kind == "rigl":
        assert set(saved["callbacks"]["RigLCallback"]["sums"]) == {"net.0.weight", "net.6.weight"}
    resumed, again = run(tmp_path / "step=8.ckpt", seed=9)
    assert_equal(weights_of(whole), weights_of(resumed))
    assert_equal(supports(whole), supports(resumed))
    ours, theirs = (
        {key: value for key, value in r.callback_metrics.items() if key.startswith(kind)}
        for r in (runner, again)
    )
    assert ours == theirs
    assert f"{kind}_layers/survived/net.6" in ours


def test_a_resumed_run_has_the_same_schedule(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    fit(tmp_path, make_toy(), RigLCallback(0.2, every_n_steps=2), checkpoint, enable_checkpointing=True)
    runner = trainer(tmp_path, RigLCallback(0.2, every_n_steps=3), max_epochs=3)
    with pytest.raises(ValueError, match="`every_n_steps` is 3, but the checkpoint was made with 2"):
        runner.fit(make_toy(), loader(), ckpt_path=tmp_path / "last.ckpt")


def test_checkpoints_hold_bits_of_masks_and_nothing_in_the_size_of_compact_weights(tmp_path):
    for stored, size in (("masked", 27 + 100), ("compact", 0)):
        checkpoint = ModelCheckpoint(tmp_path / stored, save_last=True)
        rigl = RigLCallback(every_n_steps=2, stop_at=100)
        fit(tmp_path, make_toy(), company(stored), rigl, checkpoint, enable_checkpointing=True)
        saved = torch.load(tmp_path / stored / "last.ckpt", "cpu", weights_only=True)
        state = saved["callbacks"]["RigLCallback"]
        assert sum(bits.nbytes for bits in state["history"]["ever"].values()) == size
        assert state["sums"] == {}
        values = sum(len(positions) for positions in state["history"]["initial"].values())
        assert values == (127 if stored == "masked" else 203)


def test_a_second_fit_starts_its_schedule_anew(tmp_path):
    rigl, toy = RigLCallback(0.2, every_n_steps=3, stop_at=10, grad_average=2), make_toy()
    assert fit(tmp_path, toy, rigl).moves_at() == [3, 6]
    assert fit(tmp_path, toy, rigl).moves_at() == [3, 6]


def as_on_a_gpu(monkeypatch):
    """Let everything be done in the way that does not wait for a device."""

    def later(_device):
        return True

    def places(mask, count):
        return first_of_sorted(mask.flatten(), count)

    monkeypatch.setattr("lightning_sparse.functional.growth.together.computes_later", later)
    monkeypatch.setattr("lightning_sparse.functional.growth.together.positions_of", places)
    monkeypatch.setattr("lightning_sparse.weights.changes.computes_later", later)
    monkeypatch.setattr("lightning_sparse.weights.state.layout_mask", as_bit_factor)
    monkeypatch.setattr("lightning_sparse.weights.masked.positions_of", places)
    monkeypatch.setattr("lightning_sparse.weights.masked.bits_of", weigh_bits)


MOVING = {"every_n_steps": 2, "stop_at": 100, "seed": 3, "verify": True}

MASKING = {
    "rigl": lambda: RigLCallback(0.2, **MOVING),
    "rigl-mean": lambda: RigLCallback(0.2, grad_average=2, **MOVING),
    "set": lambda: SETCallback(0.2, **MOVING),
    "asni": lambda: ASNISigmoidPruner(0.2, search_epochs=2, verify=True),
}

TRAINING = {
    "sgd": lambda: (make_toy(optimizer=sgd), {"gradient_clip_val": 0.1}),
    "adamw": lambda: (
        make_toy(optimizer=adamw),
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value", "accumulate_grad_batches": 2},
    ),
    "overflow": lambda: (Overflows(), {"plugins": [scaled()]}),
}


@pytest.mark.parametrize("masking", MASKING)
@pytest.mark.parametrize("training", TRAINING)
def test_a_fit_in_the_way_of_gpus_comes_to_the_same_to_the_bit(tmp_path, masking, training, monkeypatch):
    found = []
    for way in ("cpu", "gpu"):
        if way == "gpu":
            as_on_a_gpu(monkeypatch)
        torch.manual_seed(0)
        callback, (toy, arguments) = MASKING[masking](), TRAINING[training]()
        logger, watch = CSVLogger(tmp_path / way), Watch()
        arguments |= {"logger": logger, "accelerator": "cpu", "max_epochs": 3}
        trainer(tmp_path / way, callback, SparsityMonitor(), watch, **arguments).fit(toy, loader(12))
        logger.save()
        kept = (list(toy.parameters()), toy.trainer.optimizers[0].state_dict(), callback.state_dict())
        found.append((tree_leaves((*kept, watch.supports)), Path(logger.log_dir, "metrics.csv").read_text()))
    assert watch.moves_at()
    assert len(found[0][0]) == len(found[1][0])
    for one, other in zip(found[0][0], found[1][0], strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert found[0][1] == found[1][1]


# What is logged.


def test_what_is_logged(tmp_path):
    rigl, toy = RigLCallback(0.2, every_n_steps=2, stop_at=100), make_toy()
    watch = Watch()
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, SparsityMonitor(), rigl, watch, logger=logger).fit(toy, loader())
    rows = logged(logger, "rigl/moved")
    assert len(rows) == 2
    every = [watch.initial, *watch.supports]
    for name in ("net.0", "net.6"):
        masks = [masks[f"{name}.weight"] for masks in every]
        ever = torch.stack(masks).any(0)
        assert float(rows[-1][f"rigl_layers/explored/{name}"]) == pytest.approx(ever.float().mean().item())
        survived = (masks[0] & masks[-1]).sum() / masks[0].sum()
        assert float(rows[-1][f"rigl_layers/survived/{name}"]) == pytest.approx(survived.item())
        moved = sum(int((b & ~a).sum()) for a, b in pairwise(masks[4:]))
        assert float(rows[-1][f"rigl_layers/moved/{name}"]) == moved
    assert float(rows[-1]["rigl/drop_fraction"]) == pytest.approx(cosine(8, 100, 0.3))


# What for.


@pytest.mark.parametrize("seed", [0, 1])
def test_rigl_is_ahead_of_static_masks_on_digits(tmp_path, seed):
    """At 1% of the weights of LeNet-300-100, from the same masks; measured: at least 0.5 ahead."""

    def accuracy(*callbacks):
        pl.seed_everything(seed)
        module = ImageClassifier(LeNet300100(in_features=64), weight_init="kaiming_normal")
        data = DigitsDataModule(batch_size=32)
        runner = trainer(tmp_path, *callbacks, max_epochs=15)
        runner.fit(module, data)
        return runner.test(module, data, verbose=False)[0]["test/acc"]

    static = accuracy(PruneAtInit("erk", 0.01))
    moving = accuracy(RigLCallback(0.01, every_n_steps=20))
    assert moving > static + 0.25


def test_few_weights_of_a_layer_may_all_stay(tmp_path):
    """floor(0.3 * 3) = 0: nothing to drop, and no error."""
    assert count_dropped(3, 0.3) == 0
    toy = make_toy()
    fit(tmp_path, toy, RigLCallback(0.003, every_n_steps=2, stop_at=100), HoldsMasks())
    assert sum(int(mask.sum()) for mask in state_of(toy).masks.values()) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", STORED)
def test_a_rule_by_name_moves_as_its_callback_does(tmp_path, kind, stored):
    """A rule that is registered needs no callback of its own."""
    options = {"every_n_steps": 2, "stop_at": 100, "seed": 3, "skip_step_on_update": True}
    one = make_toy()
    fit(tmp_path, one, company(stored), KINDS[kind](**options))
    two = make_toy()  # seeds dropout anew
    fit(tmp_path, two, company(stored), DynamicSparsity(kind, **options))
    assert_equal(weights_of(one), weights_of(two))


def test_a_rule_that_nobody_knows():
    with pytest.raises(ValueError, match=r"`rule` must be one of rigl, set, got 'rgil'; did you mean rigl\?"):
        DynamicSparsity("rgil", 0.1)


def test_a_mean_of_gradients_is_for_rules_that_look_at_them():
    with pytest.raises(
        ValueError, match=r"`grad_average` is for rules that look at gradients, got 2 for SET"
    ):
        SETCallback(0.1, grad_average=2)


def test_unknown_arguments_name_the_class_that_was_called():
    with pytest.raises(
        TypeError, match=r"^RigLCallback has no argument 'every_n_step'; did you mean every_n"
    ):
        RigLCallback(0.1, every_n_step=3)
