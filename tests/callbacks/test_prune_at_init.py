import copy
import pickle

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from rich.progress import Progress
from toy import HoldsMasks, Toy, adamw, assert_equal, loader, make_toy, sgd, trainer, weights_of

from lightning_sparse import (
    FORCE,
    SNIP,
    ExactResume,
    FromFile,
    GraSP,
    IterativeSNIP,
    Magnitude,
    PruneAtInit,
    Random,
    SynFlow,
)
from lightning_sparse.functional import allocation
from lightning_sparse.weights.state import state_of

METHODS = [
    "random",
    "uniform",
    "erk",
    "epl",
    "epf",
    "magnitude",
    SNIP(2),
    IterativeSNIP(4, 2),
    FORCE(4, 2),
    GraSP(2),
    SynFlow(5),
]


def budgets(density, name):
    shapes = {"net.0.weight": (8, 3, 3, 3), "net.6.weight": (4, 200)}
    return getattr(allocation, name)({n: torch.Size(s) for n, s in shapes.items()}, density)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_masks_hold_after_every_step(tmp_path, method, optimizer):
    holds = HoldsMasks(budgets(0.1, method) if method in allocation.ALLOCATIONS else None)
    toy = make_toy(optimizer=optimizer)
    trainer(tmp_path, PruneAtInit(method, density=0.1), holds).fit(toy, loader())
    assert holds.steps == 8
    assert sum(int(mask.sum()) for mask in state_of(toy).masks.values()) == 102  # 0.1 of 1016
    assert sum(int(weight.count_nonzero()) for weight in state_of(toy).weights.values()) == 102


@pytest.mark.filterwarnings("ignore:.*nothing here has been trained so")  # on purpose
def test_without_training_nothing_is_pruned(tmp_path):
    toy = make_toy()
    before = weights_of(toy)
    trainer(tmp_path, PruneAtInit("magnitude", density=0.2), max_steps=0).fit(toy, loader())
    trainer(tmp_path, PruneAtInit("magnitude", density=0.2)).validate(toy, loader(), verbose=False)
    assert_equal(weights_of(toy), before)


def test_magnitude_keeps_the_largest(tmp_path):
    toy = make_toy(optimizer=lambda p: torch.optim.SGD(p, 0.0))
    before = weights_of(toy)
    trainer(tmp_path, PruneAtInit("magnitude", density=0.2)).fit(toy, loader())
    names = ["net.0.weight", "net.6.weight"]
    every = torch.cat([before[name].flatten() for name in names])
    after = torch.cat([toy.state_dict()[name].flatten() for name in names])
    smallest_kept = every.abs().sort(descending=True).values[202]
    assert torch.equal(after, torch.where(every.abs() >= smallest_kept, every, torch.zeros(())))


def test_layerwise_magnitude(tmp_path):
    toy = make_toy()
    trainer(tmp_path, PruneAtInit(Magnitude("uniform"), density=0.25)).fit(toy, loader())
    assert {name: int(mask.sum()) for name, mask in state_of(toy).masks.items()} == {
        "net.0.weight": 54,
        "net.6.weight": 200,
    }


def test_overrides_leave_the_total(tmp_path):
    toy = make_toy()
    trainer(tmp_path, PruneAtInit("uniform", density=0.5, density_overrides={"net.0.*": 1.0})).fit(
        toy, loader()
    )
    assert {name: int(mask.sum()) for name, mask in state_of(toy).masks.items()} == {
        "net.0.weight": 216,
        "net.6.weight": 292,
    }


def test_checkpoint_is_that_of_the_untouched_module(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    toy = make_toy()
    trainer(tmp_path, PruneAtInit("erk", 0.1), ExactResume(), checkpoint, enable_checkpointing=True).fit(
        toy, loader()
    )
    saved = torch.load(tmp_path / "last.ckpt", "cpu", weights_only=True)
    fresh = Toy()
    fresh.load_state_dict(saved["state_dict"], strict=True)
    assert_equal(weights_of(fresh), weights_of(toy))
    assert int(fresh.net[6].weight.count_nonzero()) < 100


@pytest.mark.parametrize("optimizer", [sgd, adamw])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_resumed_run_is_the_undisturbed_run(tmp_path, method, optimizer):
    def fit(epochs, ckpt_path=None):
        pl.seed_everything(epochs)  # another state than the one to be restored
        if ckpt_path is None:
            pl.seed_everything(7)
        toy = Toy(optimizer=optimizer)
        runner = trainer(
            tmp_path,
            PruneAtInit(method, 0.1),
            ExactResume(),
            ModelCheckpoint(tmp_path, filename=f"{{epoch}}-of-{epochs}", save_top_k=-1),
            max_epochs=epochs,
            enable_checkpointing=True,
        )
        runner.fit(toy, loader(shuffle=True), ckpt_path=ckpt_path)
        return toy, runner.optimizers[0].state_dict()["state"]

    whole, whole_state = fit(4)
    fit(2)
    resumed, resumed_state = fit(4, tmp_path / "epoch=1-of-2.ckpt")
    assert_equal(weights_of(whole), weights_of(resumed))
    for key, values in whole_state.items():
        assert_equal(
            {name: torch.as_tensor(value) for name, value in values.items() if value is not None},
            {name: torch.as_tensor(value) for name, value in resumed_state[key].items() if value is not None},
        )
    assert_equal(state_of(whole).masks, state_of(resumed).masks)


def test_without_exact_resume_it_is_another_run(tmp_path):
    """Otherwise the test above would show nothing."""

    def fit(epochs, ckpt_path=None):
        pl.seed_everything(7)
        toy = Toy()
        checkpoint = ModelCheckpoint(tmp_path, filename=f"{{epoch}}-of-{epochs}", save_top_k=-1)
        runner = trainer(
            tmp_path, PruneAtInit("erk", 0.1), checkpoint, max_epochs=epochs, enable_checkpointing=True
        )
        runner.fit(toy, loader(shuffle=True), ckpt_path=ckpt_path)
        return toy

    whole = fit(4)
    fit(2)
    assert not torch.equal(whole.net[6].weight, fit(4, tmp_path / "epoch=1-of-2.ckpt").net[6].weight)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"density": 0.2}, "`density` is 0.2, but the checkpoint was made with 0.1"),
        ({"method": "epl"}, "`method` is .*epl.*erk"),
        ({"density_overrides": {"net.0.weight": 0.3}}, "`density_overrides` is"),
        ({"include": ["net.6.weight"]}, r"`include` is .*net.6.* made with None"),
        ({"exclude": ["net.0.weight"]}, r"`exclude` is .*net.0.* made with None"),
    ],
)
def test_changed_arguments_do_not_resume(tmp_path, changed, message):
    arguments = {"method": "erk", "density": 0.1}
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, PruneAtInit(**arguments), checkpoint, enable_checkpointing=True).fit(
        make_toy(), loader()
    )
    again = trainer(tmp_path, PruneAtInit(**{**arguments, **changed}), max_epochs=3)
    with pytest.raises(ValueError, match=message):
        again.fit(make_toy(), loader(), ckpt_path=tmp_path / "last.ckpt")


def test_dense_checkpoint_is_pruned_with_a_warning(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, checkpoint, enable_checkpointing=True).fit(make_toy(), loader())
    toy = make_toy()
    with pytest.warns(UserWarning, match="no masks of its own in the checkpoint.*step 8"):
        trainer(tmp_path, PruneAtInit("erk", 0.1), HoldsMasks(), max_epochs=3).fit(
            toy, loader(), ckpt_path=tmp_path / "last.ckpt"
        )
    assert sum(int(mask.sum()) for mask in state_of(toy).masks.values()) == 102


def test_same_seed_same_masks_and_training_draws_are_left_alone(tmp_path):
    def fit(*callbacks):
        pl.seed_everything(3)
        toy = Toy(optimizer=lambda p: torch.optim.SGD(p, 0.0))
        trainer(tmp_path, *callbacks).fit(toy, loader(shuffle=True))
        return toy, torch.rand(3)

    first, draw = fit(PruneAtInit("random", 0.3))
    second, _ = fit(PruneAtInit("random", 0.3))
    other, _ = fit(PruneAtInit("random", 0.3, seed=4))
    _, dense_draw = fit()
    assert_equal(state_of(first).masks, state_of(second).masks)
    assert not torch.equal(state_of(first).masks["net.6.weight"], state_of(other).masks["net.6.weight"])
    assert torch.equal(draw, dense_draw)


def test_second_fit_goes_on_with_the_masks_and_a_new_module_gets_new_ones(tmp_path):
    callback = PruneAtInit("magnitude", 0.1)
    toy = make_toy()
    trainer(tmp_path, callback).fit(toy, loader())
    masks = copy.deepcopy(state_of(toy).masks)
    trainer(tmp_path, callback, HoldsMasks()).fit(toy, loader())
    assert_equal(state_of(toy).masks, masks)
    torch.manual_seed(5)
    fresh = Toy()
    trainer(tmp_path, callback, HoldsMasks()).fit(fresh, loader())
    assert not torch.equal(state_of(fresh).masks["net.6.weight"], masks["net.6.weight"])
    assert sum(int(mask.sum()) for mask in state_of(fresh).masks.values()) == 102


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_of_module_and_callback_go_on_together(tmp_path, copier):
    callback, toy = PruneAtInit("random", 0.1, seed=1), make_toy(optimizer=sgd)
    trainer(tmp_path, callback).fit(toy, loader())
    twin_callback, twin = copier((callback, toy))
    twin_callback.seed = 2  # would draw other masks
    trainer(tmp_path, twin_callback, HoldsMasks()).fit(twin, loader())
    assert_equal(state_of(twin).masks, state_of(toy).masks)
    torch.manual_seed(5)
    fresh = Toy()
    trainer(tmp_path, copier((callback, toy))[0], HoldsMasks()).fit(fresh, loader())
    assert int(state_of(fresh).masks["net.6.weight"].sum()) > 0


def test_pickled_callback_does_not_drag_the_module_along(tmp_path):
    callback, toy = PruneAtInit("erk", 0.1), make_toy()
    size = len(pickle.dumps(callback))
    trainer(tmp_path, callback).fit(toy, loader())
    assert len(pickle.dumps(callback)) < size + 4000


def test_hooks_are_gone_after_fit(tmp_path):
    toy = make_toy()
    runner = trainer(tmp_path, PruneAtInit("erk", 0.1))
    runner.fit(toy, loader())
    assert not runner.optimizers[0]._optimizer_step_post_hooks


def test_monitored_by_model_checkpoint(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="sparsity/total", mode="max")
    runner = trainer(tmp_path, PruneAtInit("erk", 0.1), checkpoint, enable_checkpointing=True)
    runner.fit(make_toy(), loader(), loader())
    assert float(checkpoint.best_model_score) == pytest.approx(1 - 102 / 1016)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "snipp"}, "`method` must be one of random, .*, got 'snipp'"),
        ({"density": 0}, r"`density` must be in \(0, 1\], got 0"),
        ({"density": 1.5}, r"`density` must be in \(0, 1\], got 1.5"),
        ({"density_overrides": {"net.0.*": 2.0}}, r"`density_overrides\['net.0.\*'\]` must be in .* got 2.0"),
        ({"min_weights_per_layer": -1}, "`min_weights_per_layer` must be .*, got -1"),
        ({"min_weights_per_layer": 1.5}, "`min_weights_per_layer` must be an integer .*, got 1.5"),
        ({"seed": "abc"}, "`seed` must be an integer of at least 0, got 'abc'"),
        ({"density": "0.1"}, "`density` must be in .* got '0.1'"),
        ({"include": "net.*"}, r"`include` must be a list of patterns, got 'net.\*'. Write \['net.\*'\]"),
        ({"exclude": "net.*"}, "`exclude` must be a list of patterns"),
        ({"method": SNIP}, r"`method` must be a name or an object, got the class; write SNIP\(\)"),
        ({"method": None}, "`method` must be one of random, .*, got None"),
        ({"density": None}, "`density` is required, got None"),
        ({"method": FromFile("m.pt")}, "`method` FromFile says what is kept, got `density` beside it"),
        ({"mask_ablation": "permute"}, "`mask_ablation` must be one of shuffle, reinit, invert, None"),
        (
            {"method": FromFile("m.pt"), "density": None, "mask_ablation": "invert"},
            "`mask_ablation` 'invert' needs scores",
        ),
    ],
)
def test_wrong_arguments_fail_in_the_constructor(arguments, message):
    with pytest.raises(ValueError, match=message):
        PruneAtInit(**{"method": "erk", "density": 0.1, **arguments})


def test_wrong_allocation():
    with pytest.raises(
        ValueError, match="`allocation` must be one of global, uniform, erk, epl, epf, got 'er'"
    ):
        Random(allocation="er")


class NoData(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        raise AssertionError("a sample was drawn")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exclude": ["nett.*"]}, "`exclude` pattern 'nett.*' matches no parameter"),
        ({"density_overrides": {"head": 0.5}}, "`density_overrides` pattern 'head' matches none"),
        ({"density_overrides": {"net.6.weight": 1.0}}, "`density_overrides` must leave the other 1 layers"),
        ({"density": 1e-3, "min_weights_per_layer": 5}, "Raise `density` or lower `min_weights_per_layer`"),
        ({"method": "random", "density": 1e-3, "min_weights_per_layer": 5}, "lower `min_weights_per_layer`"),
    ],
)
def test_what_the_module_rules_out_fails_before_any_sample(tmp_path, arguments, message):
    callback = PruneAtInit(**{"method": "erk", "density": 0.1, **arguments})
    toy = make_toy()
    before = weights_of(toy)
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, callback).fit(toy, torch.utils.data.DataLoader(NoData()), loader())
    assert_equal(weights_of(toy), before)


def fit_masks(tmp_path, **arguments):
    toy = make_toy(optimizer=lambda p: torch.optim.SGD(p, 0.0))
    callback = PruneAtInit(**{"method": SNIP(2), "density": 0.1, "seed": 5, **arguments})
    trainer(tmp_path, callback, max_steps=1).fit(toy, loader())
    return state_of(toy).masks, toy


def counts(masks):
    return {name: int(mask.sum()) for name, mask in masks.items()}


def test_shuffled_masks_keep_each_layers_count(tmp_path):
    plain, _ = fit_masks(tmp_path)
    shuffled, _ = fit_masks(tmp_path, mask_ablation="shuffle")
    assert counts(plain) == counts(shuffled)
    assert (plain["net.6.weight"] & shuffled["net.6.weight"]).sum() < counts(plain)["net.6.weight"] / 2


def test_redrawn_weights_under_the_same_masks(tmp_path):
    plain, toy = fit_masks(tmp_path)
    masks, redrawn = fit_masks(tmp_path, mask_ablation="reinit")
    assert_equal(plain, masks)
    dense = make_toy().net[6].weight.detach()
    kept = redrawn.net[6].weight.detach()[masks["net.6.weight"]]
    assert not torch.equal(kept, toy.net[6].weight.detach()[masks["net.6.weight"]])
    assert torch.isin(kept, dense).all()


def test_inverted_scores_keep_other_weights(tmp_path):
    plain, _ = fit_masks(tmp_path)
    inverted, _ = fit_masks(tmp_path, mask_ablation="invert")
    assert sum(counts(inverted).values()) == 102
    assert not any((plain[name] & inverted[name]).any() for name in plain)


def test_ablations_of_masks_from_a_file(tmp_path):
    plain, toy = fit_masks(tmp_path)
    torch.save(plain, tmp_path / "masks.pt")
    arguments = {"method": FromFile(str(tmp_path / "masks.pt")), "density": None}
    shuffled, _ = fit_masks(tmp_path, **arguments, mask_ablation="shuffle")
    assert counts(plain) == counts(shuffled)
    assert not torch.equal(plain["net.6.weight"], shuffled["net.6.weight"])
    masks, redrawn = fit_masks(tmp_path, **arguments, mask_ablation="reinit")
    assert_equal(plain, masks)
    assert not torch.equal(toy.net[6].weight, redrawn.net[6].weight)


def test_an_emptied_layer_is_named(tmp_path):
    with torch.no_grad():
        small = make_toy()
        small.net[0].weight.mul_(1e-6)
    callback = PruneAtInit("magnitude", 0.1, min_weights_per_layer=0)
    with pytest.warns(UserWarning, match=r"Nothing is kept of net.0.weight \(1 layers\): no signal passes"):
        trainer(tmp_path, callback, max_steps=1).fit(small, loader())
    assert counts(state_of(small).masks) == {"net.0.weight": 0, "net.6.weight": 102}


@pytest.mark.filterwarnings("ignore:Nothing is kept")
def test_the_reference_has_no_minimum(tmp_path):
    """Unless one is asked for."""
    for minimum, least in ((None, 0), (1, 1)):
        toy = make_toy()
        with torch.no_grad():
            toy.net[0].weight.mul_(1e-9)
        method = SynFlow(1, conformance="reference")
        callback = PruneAtInit(method, 0.01, min_weights_per_layer=minimum)
        trainer(tmp_path, callback, max_steps=1).fit(toy, loader())
        kept = counts(state_of(toy).masks)
        assert kept["net.0.weight"] == least
        assert sum(kept.values()) == 1016 - int(0.99 * 1016)  # 11, where the paper's rounding keeps 10


def test_masks_are_restored_and_never_made_again(tmp_path, monkeypatch):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    toy = make_toy()
    trainer(tmp_path, PruneAtInit(FORCE(3, 2), 0.1), checkpoint, enable_checkpointing=True).fit(toy, loader())
    monkeypatch.setattr(PruneAtInit, "make_masks", None)
    again = make_toy()
    trainer(tmp_path, PruneAtInit(FORCE(3, 2), 0.1), HoldsMasks(), max_epochs=3).fit(
        again, loader(), ckpt_path=tmp_path / "last.ckpt"
    )
    assert_equal(state_of(again).masks, state_of(toy).masks)
    with pytest.raises(
        ValueError, match=r"`method` is .FORCE.*iterations=4.*, but the checkpoint was made with"
    ):
        trainer(tmp_path, PruneAtInit(FORCE(4, 2), 0.1), max_epochs=4).fit(
            make_toy(), loader(), ckpt_path=tmp_path / "last.ckpt"
        )


def tasks_of_rich(monkeypatch):
    """Return a list that rich's tasks go into when they are made."""
    tasks, original = [], Progress.add_task

    def spy(progress, *arguments, **options):
        number = original(progress, *arguments, **options)
        tasks.extend(task for task in progress.tasks if task.id == number)
        return number

    monkeypatch.setattr(Progress, "add_task", spy)
    return tasks


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
@pytest.mark.parametrize("last", [True, False])
def test_progress_in_the_trainers_style(tmp_path, capsys, monkeypatch, bar, last):
    tasks = tasks_of_rich(monkeypatch)
    callbacks = [PruneAtInit(SynFlow(7), 0.1), bar()]
    fit = trainer(tmp_path, *callbacks[:: 1 if last else -1], enable_progress_bar=True, max_epochs=1)
    fit.fit(make_toy(), loader())
    shown = capsys.readouterr().out
    assert "Epoch 0" in shown
    if bar is TQDMProgressBar:
        assert "SynFlow" in shown
        assert "7/7" in shown
    else:
        first, *others = tasks
        assert "SynFlow" in first.description
        assert first.total == first.completed == 7
        assert any("Epoch 0" in task.description for task in others)
        assert first.id not in fit.progress_bar_callback.progress.task_ids


@pytest.mark.parametrize("arguments", [{"enable_progress_bar": False}, {"refresh_rate": 0}])
def test_no_progress_where_the_trainer_shows_none(tmp_path, capsys, arguments):
    bars = [TQDMProgressBar(**arguments)] if "refresh_rate" in arguments else []
    callbacks = [PruneAtInit(SynFlow(7), 0.1), *bars]
    trainer(tmp_path, *callbacks, enable_progress_bar=bool(bars), max_epochs=1).fit(make_toy(), loader())
    captured = capsys.readouterr()
    assert "SynFlow" not in captured.out + captured.err
