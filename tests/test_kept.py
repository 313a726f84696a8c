"""``communication="kept"``: what processes exchange, and that nothing else than that becomes of it."""

import json
from pathlib import Path

import forked
import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy
from test_processes import kill_and_resume
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState
from torch.nn.parallel import DistributedDataParallel
from toy import Rotate, loader, make_toy, trainer

from lightning_sparse import (
    ASNISigmoidPruner,
    DynamicSparsity,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
)
from lightning_sparse.callbacks.communicating import exchange_only_kept
from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.communication import send_only_kept
from lightning_sparse.weights.packed import Packing
from lightning_sparse.weights.state import state_of

SCRIPT = Path(__file__).parent / "scripts" / "kept.py"
KEPT, REST = 102, 28  # of the toy's 1,016 weights, and its biases and batch norm
FEW, ALL = KEPT + REST, 1016 + REST
SENT = {  # numbers sent in each step, or in each bucket; None: not worked by hand
    "plain": [FEW] * 6,
    "bucket views": [FEW] * 6,
    "small buckets": [FEW] + [98, 32] * 5,
    "unused, bucket views": None,
    "static graph, bucket views": [FEW] * 2 + [98, 32] * 4,
    "channels last": [FEW] * 6,
    "tied and frozen": None,
    "accumulation": [FEW] * 2,
    "accumulation, bucket views": [FEW] * 2,
    "clipping": [FEW] * 6,
    "bf16-true": [FEW] * 6,
    "scaler, kept overflow": [FEW + 2] * 6,  # and whether gradients are finite, of each weight
    "scaler, pruned overflow": [FEW + 2] * 6,
    "no scaler, pruned overflow": [FEW] * 6,
    "compiled": [FEW] * 6,
    "second fit, after a validation": [FEW] * 12,
    "fp16 hook": [FEW] * 6,
    "fp16 hook, scaler": [FEW + 2] * 6,
    "fp16 wrapper": [FEW] * 6,
    "RigL": [FEW, FEW, ALL] * 2,
    "RigL, three gradients": [ALL] * 6,
    "RigL, scaler": [FEW + 2] * 2 + [ALL] * 2 + [FEW + 2] * 2,  # an infinite gradient puts it off by a step
    "RigL, two optimizers": None,
    "RigL, accumulation, bucket views": [FEW, FEW, ALL],
    "RigL from PruneAtInit": [FEW, FEW, ALL] * 2,
    "RigL of one layer": None,
    "SET": [FEW] * 6,
    "gradual": None,
    "ASNI": [ALL] * 6 + [FEW] * 12,
    "IMP": [ALL] * 6 + [FEW] * 6,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each case came to on two processes, in one run of the script."""
    return run(tmp_path_factory.mktemp("kept"), 2)


def run(out, ranks, *cases):
    forked.run(SCRIPT, out, *cases, output=out / "output.txt", ranks=ranks)
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.parametrize("case", SENT)
def test_weights_masks_and_optimizers_are_those_of_plain_ddp(found, case):
    mine, theirs = (one[case] for one in found)
    assert mine["missing"] == mine["differ"] == []
    assert mine["sum"] == theirs["sum"]
    assert mine["numbers"] == theirs["numbers"] == (SENT[case] or mine["numbers"])


def test_nothing_is_left_out(found):
    assert set(found[0]) == set(SENT)


def test_of_three_processes_the_order_of_additions_differs(tmp_path):
    """Chunks of what is sent begin to be added up on another rank each: all the same on all ranks."""
    every = [one["plain"] for one in run(tmp_path, 3, "plain")]
    assert 0 <= every[0]["distance"] < 1e-6
    assert every[0]["sum"] == every[1]["sum"] == every[2]["sum"]
    assert set(every[0]["numbers"]) == {FEW}


# What is packed.


class Owner:
    pass


def packing_of(net, masks):
    state = state_of(net)
    state.install_(net, masks, owner := Owner())
    state.attach([torch.optim.SGD(net.parameters(), 0.1)])
    return state, Packing(state, net.parameters()), owner


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_places_are_those_of_kept_entries_in_memory(layout):
    net = nn.Conv2d(2, 3, 2).to(memory_format=layout)
    mask = torch.zeros(3, 2, 2, 2, dtype=torch.bool)
    mask[0, 1, 0, 1] = mask[2, 0, 1, 1] = True  # in rows 5 and 19; with channels last 3 and 22
    state, packing, _owner = packing_of(net, {"weight": mask})
    gradients = torch.empty_like(net.weight, requires_grad=False).copy_(mask)
    buffer = torch.cat([torch.ones(3), gradients.as_strided((24,), (1,))])  # the bias lies first
    packed = packing.of(0, [net.bias, net.weight], buffer)
    at = [5, 19] if layout is torch.contiguous_format else [3, 22]
    assert packed.places.tolist() == [0, 1, 2, *(3 + place for place in at)]
    assert packed.counts == [3, 2]
    assert packed.pruned == [slice(3, 27)]
    assert buffer[packed.places].tolist() == [1] * 5
    assert packing.of(0, [net.bias, net.weight], buffer) is packed  # not looked for once more

    state.move_({"weight": mask.roll(1, 3)}, [])
    moved = packing.of(0, [net.bias, net.weight], buffer)
    assert moved.places.tolist() != packed.places.tolist()
    state.asked.add("weight")
    assert packing.of(0, [net.bias, net.weight], buffer) is None
    state.asked.clear()
    state.detach()
    assert packing.of(0, [net.bias, net.weight], buffer) is None  # no masks are in force


def test_what_cannot_be_packed_is_sent_whole():
    net = nn.Conv2d(2, 3, 2)
    mask = torch.zeros_like(net.weight, dtype=torch.bool)
    mask.view(-1)[:3] = True
    _state, packing, _owner = packing_of(net, {"weight": mask})
    buffer = torch.zeros(24)
    assert len(packing.of(0, [net.weight], buffer).places) == 3
    net.weight.data = net.weight.data.to(memory_format=torch.channels_last)  # unlike its gradient in buckets
    assert packing.of(0, [net.weight], buffer) is None


@pytest.mark.parametrize(("kept", "whole"), [(20, False), (22, True)])
def test_a_buffer_of_which_nearly_all_is_kept_is_sent_whole(kept, whole):
    """1.1 times what is needed at most: from 10 of 11 on."""
    net = nn.Linear(4, 6, bias=False)
    mask = (torch.arange(24) < kept).view(6, 4)
    _state, packing, _owner = packing_of(net, {"weight": mask})
    assert (packing.of(0, [net.weight], torch.zeros(24)) is None) == whole


# What is refused, and where nothing is to be done.


@pytest.mark.parametrize(
    "make",
    [
        lambda **kept: PruneAtInit("erk", 0.1, **kept),
        lambda **kept: RigLCallback(0.1, **kept),
        lambda **kept: SETCallback(**kept),
        lambda **kept: DynamicSparsity("rigl", **kept),
        lambda **kept: ASNISigmoidPruner(0.1, **kept),
        lambda **kept: IterativeMagnitudePruning(0.1, rounds=1, epochs_per_round=1, **kept),
        lambda **kept: GradualMagnitudePruning(0.1, **kept),
        lambda **kept: Rotate(**kept),
    ],
)
def test_every_callback_with_masks_takes_it(make):
    assert make().communication == "all"
    assert make().arguments()["communication"] is None
    assert make(communication="kept").arguments()["communication"] == "kept"
    with pytest.raises(SparsityError, match="`communication` must be one of all, kept, got 'keep'"):
        make(communication="keep")


class OtherStrategy:
    pass


def two_processes(strategy):
    return type("Trainer", (), {"world_size": 2, "strategy": strategy})()


def test_other_strategies_and_hooks_that_need_everything_are_refused():
    with pytest.raises(SparsityError, match=r"`communication` 'kept' needs `strategy='ddp'`, got OtherS"):
        send_only_kept(two_processes(OtherStrategy()), make_toy())
    state = PowerSGDState.__new__(PowerSGDState)
    with pytest.raises(
        SparsityError, match=r"hook that needs whole gradients, got `ddp_comm_state` PowerSGD"
    ):
        send_only_kept(two_processes(DDPStrategy(ddp_comm_state=state)), make_toy())


def test_what_a_wrapper_wraps_is_the_given_hook():
    """As in Lightning, where it does nothing without one."""
    registered = []

    class Wrapped(DistributedDataParallel):
        def __init__(self):
            nn.Module.__init__(self)
            self.process_group = None

        def register_comm_hook(self, state, hook):
            registered.append(state.hook)

    def hook(state, bucket):
        pass

    for given in (None, hook):
        strategy = DDPStrategy(ddp_comm_hook=given, ddp_comm_wrapper=lambda wrapped: ("wrapped", wrapped))
        fitting = two_processes(strategy)
        fitting.precision_plugin = None
        send_only_kept(fitting, make_toy())
        strategy.model = Wrapped()
        strategy._register_ddp_hooks()
    assert registered == [allreduce_hook, ("wrapped", hook)]


def test_a_strategy_that_registers_no_hooks_is_refused_and_left_as_it_was(tmp_path):
    """What is prepared for the strategy does not outlive a fit that fails before it is used."""
    fitting = trainer(tmp_path, PruneAtInit("erk", 0.1))
    send_only_kept(two_processes(strategy := DDPStrategy()), make_toy())
    fitting.strategy._register_ddp_hooks = strategy._register_ddp_hooks  # for a strategy that never calls it
    with pytest.raises(SparsityError, match=r"registers hooks as `DDPStrategy` does, got SingleDeviceStrat"):
        fitting.fit(make_toy(), loader())
    assert "_register_ddp_hooks" not in vars(fitting.strategy)
    fitting.fit(make_toy(), loader())


def test_killed_and_resumed_is_undisturbed(tmp_path):
    kill_and_resume(tmp_path, "mid-epoch", "rigl-kept", 0, ranks=2)


def test_who_may_look_at_any_gradient_is_refused(tmp_path):
    fitting = trainer(tmp_path, Rotate(communication="kept"))
    with pytest.raises(SparsityError, match="`communication` must be 'all' beside Rotate, which may look"):
        fitting.fit(make_toy(), loader())
    with pytest.raises(SparsityError, match="beside Rotate"):
        trainer(tmp_path, PruneAtInit("erk", 0.1, communication="kept"), Rotate()).fit(make_toy(), loader())
    Rotate.asks_for_gradients, before = True, Rotate.asks_for_gradients
    try:
        exchange_only_kept(trainer(tmp_path), make_toy(), [Rotate()])
    finally:
        Rotate.asks_for_gradients = before


def test_one_process_has_nobody_to_send_to(tmp_path):
    fitting = trainer(tmp_path, PruneAtInit("erk", 0.1, communication="kept"))
    fitting.fit(make_toy(), loader())
    assert not hasattr(fitting.strategy, "_register_ddp_hooks")
