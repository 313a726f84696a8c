"""What the processes of DDP send each other of gradients: only what masks keep.

DDP takes one communication hook. Ours packs what is kept of a bucket, hands that on to the hook that was
given to the strategy, or reduces it as DDP would, and puts the result back.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer.packages import LightningModule, Trainer, is_lightning
from lightning_sparse.trainer.parts import scales_losses
from lightning_sparse.weights.packed import Packed, Packing
from lightning_sparse.weights.state import state_of

__all__ = ["forget_sending", "refuse_unsent", "send_only_kept"]

Hook: TypeAlias = Callable[[Any, Any], Future[Any]]

_WHOLE_GRADIENTS = "torch.distributed.algorithms."
"""Where the states of PyTorch's hooks are defined that need whole gradients: PowerSGD, post-local SGD."""


def send_only_kept(trainer: Trainer, module: LightningModule) -> None:
    """Let the processes of the coming fit exchange what masks keep of gradients, and zeros for the rest.

    Gradients that `SparseState.asked` names are exchanged whole, so it must name the same on all processes.

    Args:
        trainer: In ``setup`` of a fit: it wraps the module for DDP next. With one process nothing is done.
        module: Holds the masks, then or later.

    Raises:
        SparsityError: If the strategy is another one than DDP, or has a hook that needs whole gradients.
    """
    strategy: Any = trainer.strategy
    if trainer.world_size == 1:
        return
    if not is_lightning(strategy, "strategies.DDPStrategy"):
        raise SparsityError(
            f"`communication` 'kept' needs `strategy='ddp'`, got {type(strategy).__name__}. Leave it out."
        )
    kind = type(strategy._ddp_comm_state)
    if kind.__module__.startswith(_WHOLE_GRADIENTS):
        raise SparsityError(
            f"`communication` 'kept' cannot go with a hook that needs whole gradients, got `ddp_comm_state` "
            f"{kind.__name__}. Take `fp16_compress_hook`, or leave one of them out."
        )
    strategy._register_ddp_hooks = partial(_register, trainer, module)


def refuse_unsent(trainer: Trainer) -> None:
    """Refuse a fit whose strategy has passed over the hook, once it has wrapped the module.

    Raises:
        SparsityError: If it has, as a child of ``DDPStrategy`` may that wraps in a way of its own.
    """
    if "_register_ddp_hooks" in vars(trainer.strategy):
        raise SparsityError(
            f"`communication` 'kept' needs a strategy that registers hooks as `DDPStrategy` does, got "
            f"{type(trainer.strategy).__name__}, which registers none. Leave it out."
        )


def forget_sending(trainer: Trainer) -> None:
    """Leave the strategy as it was, after a fit that has failed before it wrapped the module."""
    vars(trainer.strategy).pop("_register_ddp_hooks", None)


def _register(trainer: Trainer, module: LightningModule) -> None:
    """Give DDP the hook, in the place of Lightning's way to do so, which leaves it out on the CPU."""
    strategy: Any = trainer.strategy
    forget_sending(trainer)
    wrapped = strategy.model
    if not isinstance(wrapped, DistributedDataParallel):
        raise SparsityError(
            f"`communication` 'kept' needs PyTorch's DistributedDataParallel, got {type(wrapped).__name__}. "
            "Leave it out."
        )
    hook, state = strategy._ddp_comm_hook, strategy._ddp_comm_state
    if hook is None:
        hook, state = allreduce_hook, wrapped.process_group
    elif strategy._ddp_comm_wrapper is not None:  # Lightning wraps no hook but a given one
        hook = strategy._ddp_comm_wrapper(hook)
    packing = Packing(state_of(module), wrapped.parameters())
    try:
        wrapped.register_comm_hook(_Sending(packing, hook, state, scales_losses(trainer)), _send_kept)
    except RuntimeError as error:
        raise SparsityError(
            f"`communication` 'kept' needs the one hook that DDP takes, got another from "
            f"{type(strategy).__name__} ({error}). Give that to `DDPStrategy(ddp_comm_hook=...)`: it then "
            "sends what is packed."
        ) from error


class _Sending:
    """What the hook goes by."""

    def __init__(self, packing: Packing, hook: Hook, state: Any, tells_overflow: bool) -> None:
        self.packing, self.hook, self.state = packing, hook, state
        self.tells_overflow = tells_overflow


class _PackedBucket:
    """Stands in for a bucket of DDP before the hook that sends what is packed."""

    def __init__(self, bucket: Any, buffer: Tensor, counts: list[int]) -> None:
        self._bucket, self._buffer, self._counts = bucket, buffer, counts

    def index(self) -> int:
        """Return the number of the bucket."""
        number: int = self._bucket.index()
        return number

    def is_last(self) -> bool:
        """Tell whether no bucket follows in this pass."""
        last: bool = self._bucket.is_last()
        return last

    def parameters(self) -> list[Tensor]:
        """Return what is trained."""
        parameters: list[Tensor] = self._bucket.parameters()
        return parameters

    def buffer(self) -> Tensor:
        """Return what is sent, in one dimension."""
        return self._buffer

    def set_buffer(self, buffer: Tensor) -> None:
        """Send another buffer of that length."""
        self._buffer = buffer

    def gradients(self) -> list[Tensor]:
        """Return what is sent of each gradient, in one dimension."""
        return list(torch.split(self._buffer[: sum(self._counts)], self._counts))


def _send_kept(
    sending: _Sending,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> Future[Tensor]:
    """Reduce what is kept of a bucket's gradients over all processes; what is pruned becomes zero."""
    buffer = bucket.buffer()
    packed = None
    if not buffer.is_sparse:
        packed = sending.packing.of(bucket.index(), bucket.parameters(), buffer)
    if packed is None:
        return sending.hook(sending.state, bucket)
    sent = buffer.index_select(0, packed.places)
    if sending.tells_overflow:
        sent = torch.cat([sent, _overflows(buffer, packed)])
    reduced = sending.hook(sending.state, _PackedBucket(bucket, sent, packed.counts))
    return reduced.then(partial(_put_back_, buffer, packed))


def _overflows(buffer: Tensor, packed: Packed) -> Tensor:
    """Return a number for each gradient that is not sent whole: NaN if an entry is not finite, else zero.

    A GradScaler leaves a step out for such an entry, wherever it is: also where nothing is sent.
    """
    largest = torch._foreach_norm([buffer[where] for where in packed.pruned], float("inf"))
    return torch.stack(largest) * 0


@torch.no_grad()
def _put_back_(buffer: Tensor, packed: Packed, reduced: Future[Any]) -> Tensor:
    """Lay what has come back where it belongs."""
    value = reduced.value()
    flat: Tensor = value if isinstance(value, Tensor) else value[0]
    kept, overflows = flat.to(buffer.dtype).tensor_split([len(packed.places)])
    buffer.zero_()
    for where, overflow in zip(packed.pruned, overflows, strict=False):  # none, unless a scaler asks
        buffer[where] = overflow
    return buffer.index_copy_(0, packed.places, kept)
