"""What is done once per Trainer for all callbacks that make its net sparse: the leader calls it.

Start in order, hand masks over, mask gradients, count steps, compare ranks, log.
"""

from collections.abc import Sequence
from functools import partial

from torch.optim import Optimizer

from lightning_sparse.callbacks.company import Member, is_among, refuse_missing_owner
from lightning_sparse.callbacks.converting.converted import refuse_moved_originals, refuse_unoptimized_values
from lightning_sparse.callbacks.looking import warn_of_dense_products
from lightning_sparse.callbacks.monitor import (
    expect_changes,
    log_sparsity,
    monitored,
    print_end,
    print_table_after_summary,
)
from lightning_sparse.callbacks.sharding import refuse_shards
from lightning_sparse.trainer.clipping import before_clipping
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.trainer.parts import callbacks_of, scales_losses
from lightning_sparse.trainer.processes import assert_ranks_agree
from lightning_sparse.weights.saving import mask_when_saved
from lightning_sparse.weights.shards import reshard_
from lightning_sparse.weights.state import SparseState, state_of
from lightning_sparse.weights.unmoved import Owner
from lightning_sparse.weights.verify import verify_forwards, verify_step

__all__ = [
    "after_backward",
    "attach",
    "before_batch",
    "before_looking",
    "before_step",
    "end_epoch",
    "finish",
    "start",
]


def attach(trainer: Trainer, module: LightningModule, members: Sequence[Member]) -> None:
    """Keep pruned weights at zero after every step of the optimizers, which must hold all trained values."""
    refuse_shards(members, trainer, module)
    refuse_unoptimized_values(trainer, module)
    refuse_moved_originals(members, module)
    if _have_masks(members):
        state = state_of(module)
        state.attach(trainer.optimizers, partial(_after_step, trainer, module, _verify(members)))
        state.until_detached([mask_when_saved(module)])
        if not module.automatic_optimization:
            state.until_detached([before_clipping(trainer, partial(before_step, trainer, module))])


def start(trainer: Trainer, module: LightningModule, members: Sequence[Member]) -> None:
    """Let every member start; who moves masks comes last, to take them over."""
    state = state_of(module)
    reshard_(module)  # the sanity validation may have left whole weights there
    expect_changes(trainer, False)  # of what each layer keeps, unless a member says so
    if trainer.ckpt_path is not None and trainer.strategy.restore_checkpoint_after_setup:
        for member in members:  # it was read after `on_fit_start`, where others are restored before
            member.take_up(trainer, module)
    if trainer.ckpt_path is not None and state.enforced:  # masks came with it, and were there before
        state.find_mixed_state_(trainer.optimizers)
    for member in sorted(members, key=lambda member: member.role == "moves"):
        member.start_(trainer, module)
    if _have_masks(members):
        refuse_missing_owner(state)
    if state.enforced:
        state.clean_(trainer.optimizers)  # a checkpoint's optimizers come after its masks
    assert_ranks_agree(trainer, module, values=True)
    if _verify(members):
        state.until_detached(verify_forwards(module))
    warn_of_dense_products(trainer, module)
    if not monitored(trainer):
        log_sparsity(module, zeros=_have_masks(members), first=True)
        print_table_after_summary(trainer, module, zeros=_have_masks(members))


def before_batch(module: LightningModule) -> None:
    """Mask weights that somebody has written to, or put in the place of others, since the last step."""
    state = state_of(module)
    if state.enforced:
        state.hold_()


def before_looking(module: LightningModule) -> None:
    """Mask weights before they are validated, whoever has written to them."""
    state = state_of(module)
    if state.enforced:
        state.hold_(however_written=True)


def after_backward(trainer: Trainer, module: LightningModule) -> None:
    """Mask gradients under manual optimization: the user may clip them before the step."""
    state = state_of(module)
    if module.automatic_optimization or not state.enforced or scales_losses(trainer):
        return
    for optimizer in trainer.optimizers:
        state.mask_gradients_early_(optimizer)


def before_step(trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
    """Let the owner of the masks move them, then set the gradients of pruned weights to zero."""
    state = state_of(module)
    if (owner := _owner_in(trainer, state)) is not None:
        owner.move_(trainer, module, optimizer)
    if state.enforced:
        state.mask_gradients_(optimizer)


def end_epoch(trainer: Trainer, module: LightningModule, members: Sequence[Member]) -> None:
    """Mask all weights, in case somebody wrote to ``weight.data``; compare ranks, and log."""
    state = state_of(module)
    if state.enforced:
        state.clean_(trainer.optimizers)
    assert_ranks_agree(trainer, module)
    if not monitored(trainer):
        log_sparsity(module, zeros=_have_masks(members))


def finish(trainer: Trainer, module: LightningModule, members: Sequence[Member]) -> None:
    """Say what has become of the net, and where it is saved."""
    if not monitored(trainer):
        print_end(trainer, module, zeros=_have_masks(members))


def _verify(members: Sequence[Member]) -> bool:
    return any(member.verifies for member in members)


def _have_masks(members: Sequence[Member]) -> bool:
    return any(member.role != "converts" for member in members)


def _owner_in(trainer: Trainer, state: SparseState) -> Owner | None:
    """Return who may change masks or supports, unless it is one of an earlier fit that is not in this."""
    return state.owner if is_among(state.owner, callbacks_of(trainer)) else None


def _after_step(trainer: Trainer, module: LightningModule, verify: bool, optimizer: Optimizer) -> None:
    """Let the owner of the masks count a step; if asked to, check all that must hold after it.

    Finders of learning rates and batch sizes put all callbacks aside, for steps that they take back later:
    in these nothing is counted, and no gradient was masked.
    """
    state = state_of(module)
    owner = _owner_in(trainer, state)
    if owner is None:
        return
    owner.after_step(trainer, module, optimizer)
    if verify:
        verify_step(state, optimizer)
        assert_ranks_agree(trainer, module, values=True)
