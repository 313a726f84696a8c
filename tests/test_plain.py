"""Without a Trainer: plain loops and Fabric end with the weights of the Trainer's run, bit for bit."""

import copy

import pytest
import torch
from devices import NO_GPU
from lightning_fabric import Fabric
from torch import nn
from toy import Toy, adamw, assert_equal, loader, sgd, trainer, weights_of

from lightning_sparse import (
    FORCE,
    SNIP,
    DCTpSConversion,
    FromFile,
    GraSP,
    IterativeSNIP,
    PruneAtInit,
    SynFlow,
    convert_,
    keep_sparse_,
    masks_of,
    release_,
    save_masks,
    sparsify_,
    summary,
    to_dense_,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.weights.state import state_of
from lightning_sparse.weights.verify import verify_step

STEPS = 100
OPTIMIZERS = {"sgd": sgd, "adamw": adamw}


def make(optimizer="sgd"):
    torch.manual_seed(0)
    return Toy(optimizer=OPTIMIZERS[optimizer], dropout=0.0)


def loss_fn(module, batch):
    return nn.functional.cross_entropy(module.net(batch[0]), batch[1])


def by_trainer(tmp_path, method, optimizer="sgd", **arguments):
    toy = make(optimizer)
    callback = PruneAtInit(method, 0.1, seed=3, **arguments)
    trainer(tmp_path, callback, max_steps=STEPS, max_epochs=-1).fit(toy, loader())
    return toy


def steps(optimizer, module, backward=torch.Tensor.backward):
    batches = [batch for _ in range(STEPS // 4) for batch in loader()]
    assert len(batches) == STEPS
    module.train()
    for batch in batches:
        optimizer.zero_grad()
        backward(loss_fn(module, batch))
        optimizer.step()


def kept(net, *optimizers):
    sparsify_(net, "erk", 0.1)
    keep_sparse_(net, *optimizers)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", ["erk", "magnitude", SNIP(2)], ids=str)
def test_a_plain_loop_is_the_trainer_s_run(tmp_path, method, optimizer):
    expected, toy = by_trainer(tmp_path, method, optimizer), make(optimizer)
    toy.train()
    sparsify_(toy, method, 0.1, loss_fn=loss_fn, batches=loader(), seed=3)
    steps_of = toy.configure_optimizers()
    keep_sparse_(toy, steps_of)
    steps(steps_of, toy)
    assert_equal(masks_of(toy), masks_of(expected))
    assert_equal(weights_of(toy), weights_of(expected))
    assert sum(int(mask.sum()) for mask in masks_of(toy).values()) == 102


def test_a_fabric_loop_is_the_trainer_s_run(tmp_path):
    expected, toy = by_trainer(tmp_path, "erk"), make()
    fabric = Fabric(accelerator="cpu", devices=1)
    sparsify_(toy, "erk", 0.1, seed=3)
    plain = toy.configure_optimizers()
    keep_sparse_(toy, plain)
    _, optimizer = fabric.setup(toy.net, plain)
    steps(optimizer, toy, fabric.backward)
    assert_equal(weights_of(toy), weights_of(expected))


METHODS = {
    **{name: name for name in ("random", "erk", "magnitude")},
    "snip": SNIP(2),
    "grasp": GraSP(2),
    "force": FORCE(4, 2),
    "iterative_snip": IterativeSNIP(4, 2),
    "synflow": SynFlow(5),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_masks_are_those_of_the_callback(tmp_path, method):
    toy, other = make(), make().net
    callback = PruneAtInit(method, 0.2, seed=1, loss_fn=loss_fn)
    trainer(tmp_path, callback, max_steps=1).fit(toy, loader())
    other.train()
    cross_entropy = lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1])  # noqa: E731
    sparsify_(other, method, 0.2, loss_fn=cross_entropy, batches=loader(), seed=1)
    assert_equal(masks_of(toy), {f"net.{name}": mask for name, mask in masks_of(other).items()})


def test_scoring_leaves_no_trace():
    toy = make().eval()
    before, state = weights_of(toy), torch.get_rng_state()
    masks = sparsify_(toy, "snip", 0.2, loss_fn=loss_fn, batches=loader(), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert not toy.training
    for name, value in weights_of(toy).items():
        kept = masks.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value, torch.where(kept, before[name], 0)), name


def test_masks_out_of_a_file(tmp_path):
    toy, other = make(), make()
    sparsify_(toy, "erk", 0.1)
    save_masks(toy, tmp_path / "masks.pt")
    sparsify_(other, FromFile(str(tmp_path / "masks.pt")))
    assert_equal(masks_of(toy), masks_of(other))
    with pytest.raises(SparsityError, match=r"`file` .* has a mask of shape .* for 'net.0.weight'"):
        sparsify_(nn.Sequential(nn.Linear(3, 3)), FromFile(str(tmp_path / "masks.pt")))


def test_a_callback_goes_on_with_masks_that_are_there(tmp_path):
    """RigL moves what `sparsify_` has made."""
    from lightning_sparse import RigLCallback

    toy = make()
    sparsify_(toy, "erk", 0.1)
    before = copy.deepcopy(masks_of(toy))
    rigl = RigLCallback(every_n_steps=2, stop_at=100, verify=True)
    trainer(tmp_path, rigl, max_epochs=2).fit(toy, loader())
    after = masks_of(toy)
    assert {n: int(m.sum()) for n, m in before.items()} == {n: int(m.sum()) for n, m in after.items()}
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_without_hooks_weights_return_and_are_released():
    toy = make()
    sparsify_(toy, "erk", 0.1)
    optimizer = toy.configure_optimizers()
    keep_sparse_(toy, optimizer)
    release_(toy)
    steps(optimizer, toy)
    assert int(toy.net[0].weight.count_nonzero()) == toy.net[0].weight.numel()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_gradients_are_masked_before_the_step():
    """Momentum gathers nothing for pruned weights; a NaN in a pruned entry does no harm."""
    toy = make()
    masks = sparsify_(toy, "erk", 0.1)
    optimizer = toy.configure_optimizers()
    keep_sparse_(toy, optimizer)
    loss_fn(toy, next(iter(loader()))).backward()
    toy.net[6].weight.grad[~masks["net.6.weight"]] = torch.nan
    optimizer.step()
    assert toy.net[6].weight.isfinite().all()
    momentum = optimizer.state[toy.net[6].weight]["momentum_buffer"]
    assert not momentum[~masks["net.6.weight"]].any()
    verify_step(state_of(toy), optimizer)


def dense_steps(toy, optimizer, count=5):
    for batch in list(loader())[:count] * 2:
        optimizer.zero_grad()
        loss_fn(toy, batch).backward()
        optimizer.step()


def alive(toy):
    return sum(
        int(weight[~masks_of(toy)[name]].count_nonzero())
        for name, weight in toy.named_parameters()
        if name in masks_of(toy)
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_optimizers_gathered_before_does_not_bring_weights_back(optimizer):
    """Momentum of dense steps; of a dense net's state that is loaded; of weights pruned further."""
    toy = make(optimizer)
    steps_of = toy.configure_optimizers()
    dense_steps(toy, steps_of)
    dense_state = copy.deepcopy(steps_of.state_dict())
    sparsify_(toy, "magnitude", 0.3)
    keep_sparse_(toy, steps_of)
    dense_steps(toy, steps_of)
    assert alive(toy) == 0
    steps_of.load_state_dict(dense_state)
    dense_steps(toy, steps_of)
    assert alive(toy) == 0
    sparsify_(toy, "magnitude", 0.1)
    dense_steps(toy, steps_of)
    assert alive(toy) == 0
    assert sum(int(mask.sum()) for mask in masks_of(toy).values()) == 102


def test_optimizers_may_come_one_by_one():
    toy = make()
    sparsify_(toy, "erk", 0.1)
    pair = [torch.optim.SGD([p], 0.1, momentum=0.9) for p in (toy.net[0].weight, toy.net[6].weight)]
    for optimizer in pair:
        keep_sparse_(toy, optimizer)
    for batch in loader():
        loss_fn(toy, batch).backward()
        for optimizer in pair:
            optimizer.step()
    assert alive(toy) == 0


@pytest.mark.gpu
@NO_GPU
def test_a_module_that_moves_takes_its_masks_along():
    """As ``fabric.setup`` does after `keep_sparse_`."""
    toy = make()
    sparsify_(toy, "erk", 0.1)
    optimizer = toy.configure_optimizers()
    keep_sparse_(toy, optimizer)
    toy.cuda()
    for batch in loader():
        loss_fn(toy, [part.cuda() for part in batch]).backward()
        optimizer.step()
    assert alive(toy) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: sparsify_(net, "snip", 0.1), "`loss_fn` is required by SNIP, got None"),
        (lambda net: sparsify_(net, "snip", 0.1, loss_fn=loss_fn), "`batches` is required by SNIP, got None"),
        (lambda net: sparsify_(net, "snip", 0.1, loss_fn=loss_fn, batches=[]), "`batches` must hold batches"),
        (lambda net: sparsify_(net, "synflow", 0.1), "`batches` must start with a tensor"),
        (lambda net: sparsify_(net, "ekr", 0.1), "`method` must be one of random, .*, got 'ekr'"),
        (lambda net: sparsify_(net, "erk"), r"`density` must be in \(0, 1\], got None"),
        (lambda net: sparsify_(net, "erk", True), r"`density` must be in \(0, 1\], got True"),
        (lambda net: sparsify_(net, "erk", 0.1, include="net"), "`include` must be a list of patterns"),
        (lambda net: sparsify_(net, "erk", 0.1, include=["nothing"]), "`include` pattern 'nothing' matches"),
        (lambda net: keep_sparse_(net, torch.optim.SGD(net.parameters(), 0.1)), "`module` must have masks"),
        (
            lambda net: sparsify_(net, "erk", 0.1, seed=True),
            "`seed` must be an integer of at least 0, got True",
        ),
        (lambda net: sparsify_(net, "erk", 0.1, seed=-1), "`seed` must be an integer of at least 0, got -1"),
        (lambda net: sparsify_(net, "snip", 0.1, loss_fn=3), "`loss_fn` must be a function"),
        (
            lambda net: sparsify_(net, FromFile("a.pt"), 0.9),
            "FromFile says what is kept, got `density` beside",
        ),
        (
            lambda net: kept(net, torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)),
            "must hold sparse weights",
        ),
        (lambda net: kept(net, "adam"), "`optimizers` must be an instance of Optimizer, got 'adam'"),
        (lambda net: kept(net), "`optimizers` must be those that train the module, got none"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(SparsityError, match=message):
        call(make())


def test_summary_of_what_is_masked_compact_and_dense():
    net = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 10), nn.Linear(10, 5))
    convert_(net, 0.1, include=["0"])
    sparsify_(net, "magnitude", 0.5, include=["1"])
    found = {layer.name: (layer.storage, layer.kept, layer.stored) for layer in summary(net).layers}
    assert found == {"1": ("masked", 50, 800), "0": ("dct + compact", 20, 160), "2": ("dense", 50, 200)}
    total = summary(net).total
    assert (total.weights, total.kept, total.stored) == (350, 120, 1160)
    assert "dct + compact, masked, dense" in str(summary(net))
    assert summary(nn.Sequential(nn.ReLU())).layers == ()
    to_dense_(net)
    assert {layer.storage for layer in summary(net).layers} == {"masked", "dense"}


def test_masks_of_layers_that_were_replaced_are_gone(tmp_path):
    """As after a fit with masks and another with a conversion."""
    toy = make()
    sparsify_(toy, "erk", 0.2)
    trainer(tmp_path, DCTpSConversion(0.1, alpha={"*": 1.0}), max_epochs=1).fit(toy, loader())
    assert {layer.storage for layer in summary(toy).layers} == {"dct + compact"}
    assert sum(int(mask.sum()) for mask in masks_of(toy).values()) == 102
    to_dense_(toy)
    assert masks_of(toy) == {}


@pytest.mark.parametrize("call", [masks_of, summary, release_, lambda net: sparsify_(net, "erk", 0.1)])
def test_what_is_no_module(call):
    with pytest.raises(SparsityError, match="`module` must be an instance of Module, got 'net'"):
        call("net")
    with pytest.raises(SparsityError, match="`module` must be an instance of Module, got a dict"):
        call(dict.fromkeys(range(100), "weights"))


# Compact storage.


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", ["erk", "magnitude", SNIP(2)], ids=str)
def test_a_plain_loop_trains_compact_layers_as_the_trainer_does(tmp_path, method, optimizer):
    by_callback = by_trainer(tmp_path, method, optimizer, storage="compact")
    toy = make(optimizer)
    before = copy.deepcopy(toy)
    arguments = {"loss_fn": loss_fn, "batches": loader(), "seed": 3}
    masks = sparsify_(toy, method, 0.1, storage="compact", **arguments)
    assert_equal(masks, sparsify_(before, method, 0.1, **arguments))
    for name, mask in masks_of(toy).items():
        assert torch.equal(mask, masks[name])
        assert torch.equal(toy.get_submodule(name[:-7]).weight, before.get_parameter(name))
    optimizers = toy.configure_optimizers()
    keep_sparse_(toy, optimizers)  # nothing to do, and no error: loops are the same for either storage
    assert not optimizers._optimizer_step_post_hooks
    steps(optimizers, toy)
    release_(toy)
    assert_equal(weights_of(by_callback), weights_of(toy))


def test_a_file_of_masks_makes_compact_layers(tmp_path):
    toy = make()
    masks = sparsify_(toy, "erk", 0.1, seed=3)
    save_masks(toy, tmp_path / "masks.pt")
    again = make()
    assert_equal(sparsify_(again, FromFile(tmp_path / "masks.pt"), storage="compact"), masks)
    assert_equal(masks_of(again), masks)
    assert sum(weight.numel() for weight in again.parameters()) < 200


@pytest.mark.parametrize(
    ("net", "arguments", "message"),
    [
        (make, {"storage": "dense"}, "`storage` must be one of masked, compact, got 'dense'"),
        (lambda: nn.Sequential(nn.LSTM(8, 8)), {"storage": "compact", "include": ["*weight_ih_l0"]}, "LSTM"),
    ],
)
def test_what_cannot_be_compact_is_refused(net, arguments, message):
    with pytest.raises(SparsityError, match=message):
        sparsify_(net(), "erk", 0.1, **arguments)


def test_an_optimizer_made_before_compact_layers_is_refused():
    toy = make()
    optimizer = sgd(toy.parameters())
    sparsify_(toy, "erk", 0.1, storage="compact")
    with pytest.raises(SparsityError, match=r"hold sparse weights, got SGD without any\. Make it after"):
        keep_sparse_(toy, optimizer)
