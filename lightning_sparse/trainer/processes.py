"""One run, several processes: the same masks on all of them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from zlib import crc32

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_sparse.functional.packing import pack_masks, unpack_masks
from lightning_sparse.functional.saliency.base import Average, one_process
from lightning_sparse.layers import compact_layers
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.types import Masks
from lightning_sparse.weights.state import SparseState, state_of

__all__ = [
    "after_step",
    "agree",
    "agree_on_supports",
    "leave_out_of_broadcasts_",
    "masks_of_rank_zero",
    "mean_over_processes",
    "seed_of_rank_zero",
]


def agree(trainer: Trainer, state: SparseState) -> None:
    """Raise RuntimeError, on every rank, if the ranks' masks differ; ``RuntimeError`` names the layers."""
    if trainer.world_size > 1:
        _compare(trainer, state.digests(), "masks")


def agree_on_supports(trainer: Trainer, module: nn.Module) -> None:
    """Raise RuntimeError, on every rank, if the positions of Dense-plus-Sparse layers' values differ."""
    if trainer.world_size > 1:
        layers = compact_layers(module).items()
        _compare(
            trainer, {n: crc32(layer.indices.cpu().numpy().tobytes()) for n, layer in layers}, "supports"
        )


def _compare(trainer: Trainer, digests: Mapping[str, int], what: str) -> None:
    if not digests:
        return
    mine = torch.tensor(list(digests.values()), device=trainer.strategy.root_device)
    every = trainer.strategy.all_gather(mine).view(trainer.world_size, -1)
    differ = [name for name, same in zip(digests, (every == every[0]).all(dim=0), strict=True) if not same]
    if differ:
        raise RuntimeError(
            f"The processes have different {what} of {', '.join(differ)}. Resume from the last checkpoint; "
            f"if it happens again, look for code that changes weights or {what} on one rank only."
        )


def masks_of_rank_zero(trainer: Trainer, masks: Masks) -> Masks:
    """Return rank 0's masks on every rank."""
    if trainer.world_size == 1:
        return masks
    packed: dict[str, dict[str, Any]] = trainer.strategy.broadcast(pack_masks(masks))
    return unpack_masks(packed)


def mean_over_processes(trainer: Trainer) -> Average:
    """Return a function that takes the mean of a tensor over all ranks."""
    if trainer.world_size == 1:
        return one_process
    return partial(trainer.strategy.reduce, reduce_op="mean")


def seed_of_rank_zero(trainer: Trainer, seed: int | None) -> int:
    """Return ``seed`` or, if it is None, the seed that rank 0's process was started with."""
    shared: int = trainer.strategy.broadcast(torch.initial_seed() if seed is None else seed)
    return shared


def after_step(trainer: Trainer, module: LightningModule, verify: bool, optimizer: Optimizer) -> None:
    """Let the owner of the masks count a step; if asked to, check all that must hold after it."""
    state = state_of(module)
    if state.owner is not None:
        state.owner.after_step(trainer, module, optimizer)
    if verify:
        state.verify(optimizer)
        agree(trainer, state)


def leave_out_of_broadcasts_(module: nn.Module, supports: Sequence[str]) -> None:
    """Keep DDP from sending the supports around in every forward: they are equal, and stay so."""
    ignored = list(getattr(module, "_ddp_params_and_buffers_to_ignore", []))
    vars(module)["_ddp_params_and_buffers_to_ignore"] = [*ignored, *(n for n in supports if n not in ignored)]
