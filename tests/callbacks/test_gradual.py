"""Weights that go little by little: when, how many, which, and what is said of it."""

import pytest
import pytorch_lightning as pl
import torch
from optimizers import OPTIMIZERS
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.precision import MixedPrecision
from rounds import ENDS_EARLY, Two
from torch import nn
from toy import Toy, loader, make_toy, masks_of, trainer

from lightning_sparse import (
    ASNISigmoidPruner,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    SparseCheckpoint,
    plan,
)
from lightning_sparse.functional.masks import count_kept

LAYERS = ("net.0.weight", "net.6.weight")  # 216 and 800 weights


class Watches(pl.Callback):
    """Takes the masks after every step that was made; what has been pruned must stay so."""

    def __init__(self):
        self.masks = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        now = masks_of(pl_module)
        for name, mask in self.masks[-1].items() if self.masks else ():
            assert not (now[name] & ~mask).any()
        for name, mask in now.items():
            assert not pl_module.get_parameter(name)[~mask].any()
        if len(self.masks) < trainer.global_step:
            self.masks.append(now)

    @property
    def kept(self):
        return [count_kept(masks) for masks in self.masks]

    def layers(self, step):
        return [int(self.masks[step - 1][name].sum()) for name in LAYERS]


class Batches(Watches):
    """Takes the masks after every batch."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.masks.append(masks_of(pl_module))


def fit(tmp_path, *callbacks, toy=None, batches=12, **arguments):
    watches, toy = Watches(), make_toy() if toy is None else toy
    runner = trainer(tmp_path, *callbacks, watches, **{"max_epochs": 1, **arguments})
    runner.fit(toy, loader(batches), loader(1))
    return watches


# When, and how many.


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk", "epl", "epf"])
def test_every_count_of_every_step(tmp_path, allocation):
    """After steps 6, 10 and 11; 0.1 + 0.9 (5/9)^3 = 0.2543 and 0.1 + 0.9 (1/9)^3 = 0.1012 of 1,016."""
    gradual = GradualMagnitudePruning(
        0.1, start=2, stop=11, every_n_steps=4, allocation=allocation, verify=True
    )
    watches = fit(tmp_path, gradual)
    assert watches.kept == [1016] * 5 + [258] * 4 + [103] + [102] * 2
    assert gradual.path == [258, 103, 102]
    assert not gradual.pruning


def test_shares_of_all_steps(tmp_path):
    watches = fit(tmp_path, GradualMagnitudePruning(0.1, start=0.25, stop=0.5, every_n_steps=1), batches=8)
    assert watches.kept == [1016, 1016, 216, 102, 102, 102, 102, 102]  # 0.1 + 0.9 / 8 = 0.2125


@pytest.mark.parametrize("length", [{"accumulate_grad_batches": 3}, {"max_steps": 4}, {"max_epochs": 2}])
def test_real_steps_count(tmp_path, length):
    gradual = GradualMagnitudePruning(0.1, stop=3, every_n_steps=2)
    watches = fit(tmp_path, gradual, **length)
    assert watches.kept[:4] == [1016, 135, 102, 102]  # 0.1 + 0.9 / 27 = 0.1333


@pytest.mark.parametrize("optimizer", ["sgd-nesterov", "sgd-fused", "adam-fused"])
def test_a_step_that_a_scaler_leaves_out_does_not_count(tmp_path, optimizer):
    """Fused optimizers are called all the same, and leave it out themselves."""

    class Overflows(Toy):
        def training_step(self, batch, index):
            return super().training_step(batch) * (1e38 if index == 2 else 1)

    torch.manual_seed(0)
    toy, watches = Overflows(optimizer=OPTIMIZERS[optimizer]), Batches()
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**8))
    gradual = GradualMagnitudePruning(0.1, stop=3, every_n_steps=100)
    trainer(tmp_path, gradual, watches, max_epochs=1, plugins=[plugin]).fit(toy, loader(6))
    assert watches.kept == [1016] * 3 + [102] * 3  # the third step is that of batch 4


def test_each_layer_falls_in_a_line_to_its_budget(tmp_path):
    """194 of the first and 720 of the second go; of the 758 that are gone at step 6 these are 160 and 598."""
    gradual = GradualMagnitudePruning(0.1, start=2, stop=11, every_n_steps=4, allocation="uniform")
    watches = fit(tmp_path, gradual)
    assert watches.layers(6) == [56, 202]
    assert watches.layers(12) == [22, 80]
    assert gradual.planned_budgets({"a": torch.Size([216]), "b": torch.Size([800])}) == {"a": 22, "b": 80}
    (part,) = plan(make_toy(), gradual).parts
    assert [layer.kept for layer in part.layers] == [22, 80]


def test_the_slowest_optimizer_counts(tmp_path):
    """The second steps every other batch: its third step is that of batch 6."""

    class Slow(Two):
        def training_step(self, batch, index):
            for number, (net, optimizer) in enumerate(zip(self.nets, self.optimizers(), strict=True)):
                if number == 0 or index % 2:
                    optimizer.zero_grad()
                    self.manual_backward(self.loss(net, batch))
                    optimizer.step()

    watches = Batches()
    torch.manual_seed(0)
    gradual = GradualMagnitudePruning(0.25, stop=3, every_n_steps=100, verify=True)
    trainer(tmp_path, gradual, watches, max_epochs=1).fit(Slow(), loader(8))
    assert watches.kept == [1536] * 5 + [384] * 3


# Which.


def by_hand(net, batches, due, kept_at):
    """Train a net by plain SGD with momentum; keep the largest of all weights, those that are left."""
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    weights = [p for p in net.parameters() if p.dim() > 1]
    masks = [torch.ones_like(w) for w in weights]

    def mask_all():
        for weight, mask in zip(weights, masks, strict=True):
            weight.data.mul_(mask)
            optimizer.state[weight]["momentum_buffer"].mul_(mask)

    for step, (x, y) in enumerate(batches, 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        for weight, mask in zip(weights, masks, strict=True):
            weight.grad.mul_(mask)
        optimizer.step()
        mask_all()
        if step in due:
            scores = [w.detach().abs().masked_fill(m == 0, -1) for w, m in zip(weights, masks, strict=True)]
            flat = torch.cat([score.flatten() for score in scores])
            best = torch.zeros_like(flat)
            best[flat.sort(descending=True, stable=True).indices[: kept_at[due.index(step)]]] = 1
            parts = best.split([score.numel() for score in scores])
            masks = [part.view_as(score) for part, score in zip(parts, scores, strict=True)]
            mask_all()
    return masks


class Plain(Toy):
    def __init__(self):
        super().__init__(optimizer=lambda p: torch.optim.SGD(p, 0.05, momentum=0.9))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.ReLU(), nn.Linear(20, 4)).double()

    def training_step(self, batch, *_):
        return super().training_step((batch[0].double(), batch[1]))

    def validation_step(self, batch, *_):
        super().validation_step((batch[0].double(), batch[1]))


def test_it_is_what_a_loop_of_ones_own_does(tmp_path):
    torch.manual_seed(0)
    toy, other = Plain(), Plain()
    other.load_state_dict(toy.state_dict())
    watches = fit(
        tmp_path, GradualMagnitudePruning(0.1, stop=9, every_n_steps=3, allocation="global"), toy=toy
    )
    due = [3, 6, 9]
    masks = by_hand(
        other.net, [(x.double(), y) for x, y in loader(12)], due, [watches.kept[step - 1] for step in due]
    )
    for mask, found in zip(masks, watches.masks[-1].values(), strict=True):
        assert torch.equal(mask > 0, found)
    for value, found in zip(other.parameters(), toy.parameters(), strict=True):
        torch.testing.assert_close(value, found)


def test_from_the_masks_of_another(tmp_path):
    """Uniform budgets are 22 and 80; the first layer has only 10 left, and the second takes the rest."""
    start = PruneAtInit("erk", 0.3, density_overrides={LAYERS[0]: 10 / 216})
    gradual = GradualMagnitudePruning(0.1, stop=6, every_n_steps=2, allocation="uniform", verify=True)
    watches = fit(tmp_path, gradual, start)
    assert watches.kept[:6] == [305, 162, 162, 109, 109, 102]  # 0.3 to 0.1: 8/27 and 1/27 of 0.2 are left
    assert watches.layers(1) == [10, 295]
    assert watches.layers(12) == [10, 92]


def test_equal_per_filter(tmp_path):
    watches = fit(tmp_path, GradualMagnitudePruning(0.3, stop=6, every_n_steps=2, allocation="epf"))
    for masks in watches.masks:
        for mask in masks.values():
            counts = mask.flatten(1).sum(dim=1)
            assert counts.max() - counts.min() <= 1
    unequal = [
        PruneAtInit("magnitude", 0.4),
        GradualMagnitudePruning(0.3, stop=6, every_n_steps=2, allocation="epf"),
    ]
    with pytest.raises(ValueError, match=r"'epf' keeps as many weights of each output.*Start from"):
        fit(tmp_path, *unequal)


def test_layers_with_a_density_of_their_own(tmp_path):
    gradual = GradualMagnitudePruning(
        0.2, stop=6, every_n_steps=1, allocation="global", density_overrides={LAYERS[0]: 0.5}, verify=True
    )
    watches = fit(tmp_path, gradual)
    assert watches.layers(12) == [108, 95]
    assert gradual.planned_budgets({LAYERS[0]: torch.Size([216]), "b": torch.Size([800])}) == {LAYERS[0]: 108}


def test_a_second_fit_goes_on(tmp_path):
    gradual, toy = GradualMagnitudePruning(0.1, stop=9, every_n_steps=3), make_toy()
    with pytest.warns(
        UserWarning, match=r"prunes up to step 9 .*ends this fit at step 4.*Raise `max_epochs`"
    ):
        first = fit(tmp_path, gradual, toy=toy, batches=4)
    assert first.kept == [1016, 1016, 373, 373]
    assert fit(tmp_path, gradual, toy=toy, batches=6).kept == [373, 135, 135, 135, 102, 102]


# What is refused, and what is said.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 5, "stop": 5}, "`stop` must come after `start`, got 5 and 5. Raise `stop`"),
        ({"start": 0.5, "stop": 0.25}, "`stop` must come after `start`, got 0.25 and 0.5."),
        ({"start": -1}, r"`start` must be a number of steps, or a share of all steps in \[0, 1\], got -1"),
        ({"stop": 0}, r"`stop` must be a number of steps, or a share of all steps in \(0, 1\], got 0"),
        ({"stop": 1.5}, r"share of all steps in \(0, 1\], got 1.5. Write steps without a decimal point"),
        ({"stop": True}, "`stop` must be a number of steps"),
        ({"every_n_steps": 0}, "`every_n_steps` must be"),
        ({"allocation": "globl"}, "`allocation` must be one of global, .*did you mean global"),
        ({"density": 0.0}, "`density` must be"),
        ({"min_weights_per_layer": -1}, "`min_weights_per_layer` must be"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradualMagnitudePruning(**{"density": 0.1, **arguments})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: GradualMagnitudePruning(0.1, seed=1),
            "^Gradual.* has no argument 'seed'. Leave it out; help",
        ),
        (lambda: GradualMagnitudePruning(0.1, alocation="erk"), "'alocation'; did you mean allocation?"),
        (lambda: ASNISigmoidPruner(0.1, seed=1), "^ASNISigmoidPruner has no argument 'seed'. Leave it out"),
        (
            lambda: IterativeMagnitudePruning(0.1, rounds=1, epochs_per_round=1, round=2),
            "^IterativeMagnitudePruning has no argument 'round'; did you mean rounds?",
        ),
    ],
)
def test_unknown_arguments_name_the_class_that_was_called(made, message):
    """That nothing is drawn, and so there is no seed, holds for all pruning by magnitude."""
    with pytest.raises(TypeError, match=message):
        made()


@pytest.mark.parametrize(
    ("callbacks", "arguments", "message"),
    [
        ([GradualMagnitudePruning(0.1)], {"max_epochs": -1}, "`stop` must be a number of steps where nobody"),
        (
            [GradualMagnitudePruning(0.1, start=9)],
            {},
            r"`stop` must come after `start`, got 0.75 and 9 \(steps 9 and 9\)",
        ),
        (
            [GradualMagnitudePruning(0.3, stop=4), PruneAtInit("erk", 0.2)],
            {},
            "`density` must leave between 1 and the 203 weights that are alive, got 305",
        ),
        (
            [GradualMagnitudePruning(0.1, stop=4, density_overrides={"net.0.weight": 1.0})],
            {},
            "`density_overrides` must leave the other 1 layers between 1 and 800 weights, got -114",
        ),
    ],
)
def test_what_cannot_be_met_is_refused_before_the_first_step(tmp_path, callbacks, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, *callbacks, **arguments)


@pytest.mark.parametrize("choice", [ModelCheckpoint, EarlyStopping])
def test_who_chooses_by_a_metric_is_warned_of(tmp_path, choice):
    with pytest.warns(UserWarning, match=f"{choice.__name__} by 'val_loss' may .*GradualMagnitudePruning"):
        fit(
            tmp_path,
            GradualMagnitudePruning(0.1, stop=4),
            choice(monitor="val_loss"),
            enable_checkpointing=choice is ModelCheckpoint,
        )


def test_nothing_is_chosen_before_the_last_pruning(tmp_path):
    best = SparseCheckpoint(tmp_path, monitor="val_loss", filename="{step}", save_top_k=-1)
    gradual = GradualMagnitudePruning(0.1, stop=7, every_n_steps=2)
    fit(tmp_path, gradual, best, val_check_interval=3, enable_checkpointing=True)
    assert sorted(path.stem for path in tmp_path.glob("*.ckpt")) == ["step=12", "step=9"]


def test_a_fit_cut_short_is_warned_of_at_its_end(tmp_path):
    with pytest.warns(UserWarning, match=r"ended with 1,016 weights before Gradual.* to keep 102 weights"):
        fit(tmp_path, GradualMagnitudePruning(0.1, stop=9), max_steps=4)


@ENDS_EARLY
def test_what_is_logged(tmp_path):
    gradual = GradualMagnitudePruning(0.1, stop=4, every_n_steps=2)
    runner = trainer(tmp_path, gradual, max_epochs=1)
    runner.fit(make_toy(), loader())
    logged = {name: float(value) for name, value in runner.callback_metrics.items()}
    assert logged["gradual/prunings"] == 2
    assert logged["gradual/sparsity"] == logged["sparsity/total"] == pytest.approx(1 - 102 / 1016)
