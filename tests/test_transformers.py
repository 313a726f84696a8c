"""Under ``transformers.Trainer`` a net ends with the weights of Lightning's run over the same batches."""

import json

import pytest
import torch
from test_plain import OPTIMIZERS
from torch import nn
from toy import assert_equal, loader, make_toy, trainer, weights_of

from lightning_sparse import (
    DynamicSparsity,
    PruneAtInit,
    RigLCallback,
    masks_of,
    release_,
    sparsify_,
    summary,
    transformers_callback,
)
from lightning_sparse.checks import SparsityError

transformers = pytest.importorskip(
    "transformers", reason="needs transformers and accelerate: the extra [transformers]"
)
pytest.importorskip("accelerate", reason="needs accelerate: the extra [transformers]")

STEPS = 100
MOVES = {"every_n_steps": 7, "stop_at": 90}
RULES = {
    None: list,
    "rigl": lambda: [RigLCallback(**MOVES)],
    "set": lambda: [DynamicSparsity("set", seed=3, **MOVES)],
}


@pytest.fixture(autouse=True)
def _precision_of_its_own(monkeypatch):
    """A `bf16` of another test does not come along: transformers 4 leaves it in this variable."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


class Net(nn.Module):
    """The net of `Toy` under the same names, as transformers wants one."""

    def __init__(self, optimizer):
        super().__init__()
        toy = make_toy(dropout=0.0)
        self.net, self.make_optimizer = toy.net, OPTIMIZERS[optimizer]

    def forward(self, x, labels):
        return {"loss": nn.functional.cross_entropy(self.net(x), labels)}


class SameBatches(transformers.Trainer):
    def get_train_dataloader(self):
        return [{"x": x, "labels": y} for x, y in loader()]


def held(tmp_path, rule, storage="masked", **arguments):
    """Return a net and the Trainer that trains it."""
    net = Net(arguments.pop("optimizer", "sgd"))
    sparsify_(net, "erk", 0.1, seed=arguments.pop("seed", 3), storage=storage)
    optimizer = net.make_optimizer(net.parameters())
    moves = {} if rule is None else {"seed": 3, **MOVES, **arguments.pop("moves", {})}
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    defaults = {
        "max_steps": STEPS,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    options = transformers.TrainingArguments(str(tmp_path), **{**defaults, "max_grad_norm": 0.0, **arguments})
    callback = transformers_callback(rule, **moves)
    return net, SameBatches(
        net, options, eval_dataset=[], callbacks=[callback], optimizers=(optimizer, constant)
    )


def by_lightning(tmp_path, rule, storage="masked", optimizer="sgd", **arguments):
    toy = make_toy(optimizer=OPTIMIZERS[optimizer], dropout=0.0)
    start = PruneAtInit("erk", 0.1, seed=3, storage=storage)
    trainer(tmp_path, start, *RULES[rule](), max_steps=STEPS, max_epochs=-1, **arguments).fit(toy, loader())
    return toy


def check_same(net, toy):
    assert_equal(masks_of(net), masks_of(toy))
    assert_equal(
        weights_of(net), {name: value for name, value in weights_of(toy).items() if name != "causal_mask"}
    )
    assert sum(int(mask.sum()) for mask in masks_of(net).values()) == 102
    for name, mask in masks_of(net).items():
        assert not (net.get_submodule(name.removesuffix(".weight")).weight[~mask]).any(), name


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rule", RULES)
def test_it_is_lightning_s_run(tmp_path, rule, optimizer, storage):
    net, runner = held(tmp_path, rule, storage, optimizer=optimizer, max_grad_norm=0.5)
    runner.train()
    check_same(net, by_lightning(tmp_path, rule, storage, optimizer, gradient_clip_val=0.5))


@pytest.mark.parametrize(
    ("ours", "lightnings"),
    [
        ({"gradient_accumulation_steps": 2}, {"accumulate_grad_batches": 2}),
        ({"bf16": True}, {"precision": "bf16-mixed"}),
        (
            {"gradient_accumulation_steps": 2, "max_grad_norm": 0.5},
            {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5},
        ),
    ],
    ids=["accumulated", "bf16", "accumulated and clipped"],
)
@pytest.mark.parametrize("rule", RULES)
def test_with_what_else_a_run_may_have(tmp_path, rule, ours, lightnings):
    net, runner = held(tmp_path, rule, optimizer="adamw", **ours)
    runner.train()
    check_same(net, by_lightning(tmp_path, rule, optimizer="adamw", **lightnings))


@pytest.mark.parametrize("restores", [False, True])
@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("rule", RULES)
def test_a_run_goes_on_from_a_checkpoint(tmp_path, rule, storage, restores):
    saves = {"save_strategy": "steps", "save_steps": 60, "restore_callback_states_from_checkpoint": restores}
    net, runner = held(tmp_path, rule, storage, optimizer="adamw", **saves)
    runner.train()
    again, runner = held(tmp_path, rule, storage, optimizer="adamw", seed=8, **saves)  # with other masks
    runner.train(resume_from_checkpoint=str(tmp_path / "checkpoint-60"))
    assert_equal(masks_of(again), masks_of(net))
    assert_equal(weights_of(again), weights_of(net))
    if storage == "masked":
        assert sum(layer.kept for layer in summary(again).layers if layer.storage == "masked") == 102
    state = json.loads((tmp_path / "checkpoint-60" / "trainer_state.json").read_text())
    assert state["global_step"] == 60


def test_a_rule_that_comes_later_counts_from_the_step_that_is_reached(tmp_path):
    saves = {"save_strategy": "steps", "save_steps": 60}
    _, runner = held(tmp_path, None, max_steps=60, **saves)
    runner.train()
    net, _ = held(tmp_path, None)
    before = masks_of(net)
    net, runner = held(tmp_path, "set", moves={"stop_at": 60}, **saves)
    runner.train(resume_from_checkpoint=str(tmp_path / "checkpoint-60"))
    assert_equal(masks_of(net), before)  # its time is over


class BestAtFirst(SameBatches):
    def evaluate(self, *arguments, **options):
        return {"eval_loss": float(self.state.global_step)}


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("rule", ["rigl", "set"])
def test_the_best_net_comes_with_its_masks(tmp_path, rule, storage):
    """After the last step its weights are loaded; connections have moved since it was saved."""
    every = {"save_strategy": "steps", "save_steps": 9, "eval_strategy": "steps", "eval_steps": 9}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False}
    net, runner = held(tmp_path, rule, storage, max_steps=36, **every, **best)
    runner.__class__ = BestAtFirst
    runner.train()
    expected, runner = held(tmp_path / "short", rule, storage, max_steps=9)
    runner.train()
    assert runner.state.global_step == 9
    assert_equal(weights_of(net), weights_of(expected))
    assert_equal(masks_of(net), masks_of(expected))


def test_pruned_weights_are_free_after_training(tmp_path):
    net, runner = held(tmp_path, "set", max_steps=3)
    runner.train()
    optimizer = runner.optimizer.optimizer
    assert not optimizer._optimizer_step_pre_hooks
    assert not any(p._post_accumulate_grad_hooks for p in net.parameters() if p._post_accumulate_grad_hooks)
    release_(net)


def test_a_training_that_stopped_in_between_can_begin_again(tmp_path):
    class Stops(SameBatches):
        def training_step(self, *arguments, **options):
            if self.state.global_step == 2:
                raise KeyboardInterrupt
            return super().training_step(*arguments, **options)

    net, runner = held(tmp_path, "set", max_steps=4)
    runner.__class__ = Stops
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    runner.__class__ = SameBatches
    runner.train()
    assert sum(int(mask.sum()) for mask in masks_of(net).values()) == 102


def test_mistakes(tmp_path):
    net = Net("sgd")
    options = transformers.TrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True)
    with pytest.raises(SparsityError, match="`module` must have masks, got none"):
        SameBatches(net, options, callbacks=[transformers_callback()]).train()
    with pytest.raises(SparsityError, match="`every_n_steps` needs `rule`, got None"):
        transformers_callback(every_n_steps=5)
    with pytest.raises(SparsityError, match=r"`stop_at` must be in \(0, 1\], got 1.5"):
        transformers_callback("set", stop_at=1.5)
    net, runner = held(tmp_path, "rig")
    with pytest.raises(SparsityError, match=r"`rule` must be one of .*, got 'rig'"):
        runner.train()
    net, runner = held(tmp_path, "set", gradient_checkpointing_kwargs={"use_reentrant": True})
    runner.args.gradient_checkpointing = True  # the net has none that could be switched on
    runner.model.gradient_checkpointing_enable = lambda **_: None
    with pytest.raises(SparsityError, match="must have use_reentrant False while connections move"):
        runner.train()
