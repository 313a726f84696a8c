"""What is done once per Trainer for all callbacks that make its net sparse: the leader calls it.

Start in order, hand masks over, mask gradients, count steps, compare ranks, log.
"""

from collections.abc import Sequence
from functools import partial

from torch.optim import Optimizer

from lightning_sparse.callbacks.company import Member, refuse_missing_owner
from lightning_sparse.callbacks.looking import warn_of_dense_products
from lightning_sparse.callbacks.monitor import log_sparsity, monitored, print_table_after_summary
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.trainer.processes import assert_ranks_agree
from lightning_sparse.weights.state import state_of

__all__ = ["attach", "before_step", "end_epoch", "start"]


def attach(trainer: Trainer, module: LightningModule, members: Sequence[Member]) -> None:
    """Keep pruned weights at zero after every step of the Trainer's optimizers."""
    if _have_masks(members):
        verify = any(member.verifies for member in members)
        state_of(module).attach(trainer.optimizers, partial(_after_step, trainer, module, verify))


def start(trainer: Trainer, module: LightningModule, members: Sequence[Member]) -> None:
    """Let every member start; who moves masks comes last, to take them over."""
    for member in sorted(members, key=lambda member: member.role == "moves"):
        member.start_(trainer, module)
    state = state_of(module)
    if _have_masks(members):
        refuse_missing_owner(state)
    if state.enforced:
        state.clean_(trainer.optimizers)  # a checkpoint's optimizers come after its masks
    assert_ranks_agree(trainer, module)
    warn_of_dense_products(trainer, module)
    if not monitored(trainer):
        log_sparsity(module, zeros=_have_masks(members))
        print_table_after_summary(trainer, module, zeros=_have_masks(members))


def before_step(trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
    """Let the owner of the masks move them, then set the gradients of pruned weights to zero."""
    state = state_of(module)
    if state.owner is not None:
        state.owner.move_(trainer, module, optimizer)
    if state.enforced:
        state.mask_gradients_(optimizer)


def end_epoch(trainer: Trainer, module: LightningModule, members: Sequence[Member]) -> None:
    """Mask all weights, in case somebody wrote to `weight.data`; compare ranks, and log."""
    state = state_of(module)
    if state.enforced:
        state.clean_(trainer.optimizers)
    assert_ranks_agree(trainer, module)
    if not monitored(trainer):
        log_sparsity(module, zeros=_have_masks(members))


def _have_masks(members: Sequence[Member]) -> bool:
    return any(member.role != "converts" for member in members)


def _after_step(trainer: Trainer, module: LightningModule, verify: bool, optimizer: Optimizer) -> None:
    """Let the owner of the masks count a step; if asked to, check all that must hold after it."""
    state = state_of(module)
    if state.owner is not None:
        state.owner.after_step(trainer, module, optimizer)
    if verify:
        state.verify(optimizer)
        assert_ranks_agree(trainer, module)
