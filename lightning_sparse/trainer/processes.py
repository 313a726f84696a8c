"""One run, several processes: the same callbacks, masks and supports on all of them."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import chain
from typing import Any, TypeAlias
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.packing import pack_masks, unpack_masks
from lightning_sparse.functional.saliency.base import one_process
from lightning_sparse.selection import some_names
from lightning_sparse.trainer.packages import Trainer
from lightning_sparse.types import Average, Masks
from lightning_sparse.weights.base import SparseWeight
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.shards import is_sharded

__all__ = [
    "announce",
    "assert_ranks_agree",
    "compare_callbacks",
    "leave_out_of_broadcasts_",
    "masks_of_rank_zero",
    "mean_over_processes",
    "positions_of_rank_zero",
    "refuse_other_values",
    "seed_of_process",
    "seed_of_rank_zero",
    "states_of_all_ranks",
    "take_weights_of_rank_zero_",
    "world_and_rank",
]

LATE = timedelta(seconds=3)
"""How long ranks wait for others to write down their callbacks; who is later is compared later."""

_ADDRESS = r" at 0x[0-9a-f]+"  # of an object without a `repr` of its own: another one on every rank

_announced: list[str] = []
"""What this process has written, stage by stage."""

_silent: list[int] = []
"""Ranks that had written nothing when this process stopped waiting, in the last stage."""


Arguments: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Arguments of callbacks as plain values, by name of the callback and of the argument."""


def announce(trainer: Trainer, callbacks: Arguments) -> None:
    """Write down which of our callbacks this rank has, and compare that with what others have written.

    Through the store by which ranks find each other, not by a collective: a rank without such callbacks takes
    part in none of ours, and the others would wait for it for ever.

    Args:
        trainer: Tells ranks, and how many there are.
        callbacks: Those of this rank, with the arguments that all ranks must share.

    Raises:
        SparsityError: If another rank has other callbacks, or the same with other arguments.
    """
    if (store := _store(trainer)) is None:
        return
    _silent.clear()
    _announced.append(re.sub(_ADDRESS, "", json.dumps(callbacks, default=str, sort_keys=True)))
    store.set(_key(trainer.global_rank), _announced[-1])
    with suppress(RuntimeError):  # a rank that is late, or has none of these callbacks
        store.wait([_key(rank) for rank in range(trainer.world_size)], LATE)
    _compare(trainer, store, missing_is_none=False)
    _silent[:] = [rank for rank in range(trainer.world_size) if not store.check([_key(rank)])]


def compare_callbacks(trainer: Trainer) -> None:
    """Compare once more when all ranks have been set up: who has written nothing by now has nothing.

    Raises:
        SparsityError: If another rank has other callbacks, or none of these.
    """
    if (store := _store(trainer)) is None or not _announced:
        return
    try:
        _compare(trainer, store, missing_is_none=True)
        _silent.clear()  # whoever was late is there
    except RuntimeError:  # the store went with the rank that kept it
        if _silent:
            mine = json.loads(_announced[-1])
            raise SparsityError(_unlike(trainer.global_rank, mine, _silent[0], {})) from None


def assert_ranks_agree(trainer: Trainer, module: nn.Module, values: bool = False) -> None:
    """Compare the positions of active weights, masks and supports alike, between ranks.

    Args:
        trainer: Tells ranks, and how many there are.
        module: The module that is trained.
        values: Whether to compare the values of all its parameters too, but for those that DDP leaves alone.

    Raises:
        RuntimeError: On every rank, if they differ; it names the layers.
    """
    weights = list(sparse_weights(module).values()) if trainer.world_size > 1 else []
    if not weights:
        return
    nouns = {weight.name: weight.support_noun for weight in weights}
    digests = [(weight.name, nouns[weight.name], weight.digest()) for weight in weights]
    digests += [(name, "weights", _checksum(p)) for name, p in _shared_parameters(module)] if values else []
    mine = torch.tensor([digest for _, _, digest in digests], device=trainer.strategy.root_device)
    every = trainer.strategy.all_gather(mine).view(trainer.world_size, -1)
    same = (every == every[0]).all(dim=0).tolist()
    if differ := [(name, noun) for (name, noun, _), equal in zip(digests, same, strict=True) if not equal]:
        raise RuntimeError(_differing(differ))


def refuse_other_values(trainer: Trainer, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not the same on all ranks, to the bit.

    Raises:
        RuntimeError: On every rank; it names them.
    """
    if trainer.world_size == 1:
        return
    mine = torch.tensor([_checksum(value) for value in tensors.values()], device=trainer.strategy.root_device)
    every = trainer.strategy.all_gather(mine).view(trainer.world_size, -1)
    if differ := [name for name, sums in zip(tensors, every.t(), strict=True) if (sums != sums[0]).any()]:
        raise RuntimeError(
            f"The processes have different values of {' and '.join(differ)}. Resume all of them from the "
            "same checkpoint; if it happens again, run them on machines of one kind."
        )


def _shared_parameters(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return what is to be equal on all ranks: not what DDP leaves alone, nor what each holds a part of."""
    ignored = set(getattr(module, "_ddp_params_and_buffers_to_ignore", ()))
    shared = ((name, value) for name, value in module.named_parameters() if name not in ignored)
    return [(name, value) for name, value in shared if not is_sharded(value)]


def _checksum(parameter: Tensor) -> int:
    return crc32(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())


def masks_of_rank_zero(trainer: Trainer, masks: Masks) -> Masks:
    """Return rank 0's masks on every rank; those of split weights were made by all of them together."""
    if trainer.world_size == 1 or any(map(is_sharded, masks.values())):
        return masks
    packed: dict[str, dict[str, Any]] = trainer.strategy.broadcast(pack_masks(masks))
    return unpack_masks(packed)


def mean_over_processes(trainer: Trainer) -> Average:
    """Return a function that takes the mean of a tensor over all ranks."""
    if trainer.world_size == 1:
        return one_process
    return partial(trainer.strategy.reduce, reduce_op="mean")


def positions_of_rank_zero(trainer: Trainer, weight: SparseWeight) -> Tensor:
    """Return where rank 0's entries of a weight are active, in flat positions on the weight's device."""
    positions: Tensor = trainer.strategy.broadcast(weight.positions.cpu())
    return positions.to(weight.parameter.device)


def seed_of_process(seed: int | None) -> int:
    """Return ``seed`` or, if it is None, the seed that this process was started with."""
    return torch.initial_seed() if seed is None else seed


def seed_of_rank_zero(trainer: Trainer, seed: int | None) -> int:
    """Return ``seed`` or, if it is None, the seed that rank 0's process was started with."""
    shared: int = trainer.strategy.broadcast(seed_of_process(seed))
    return shared


@torch.no_grad()
def take_weights_of_rank_zero_(trainer: Trainer, module: nn.Module) -> None:
    """Give every rank rank 0's parameters and buffers, as DDP does once fit has set it up.

    Ranks without a seed draw other weights each; what is decided before has to be decided for the same net.
    """
    if not _is_distributed() or trainer.world_size == 1:
        return
    ignored = set(getattr(module, "_ddp_params_and_buffers_to_ignore", ()))
    for name, value in chain(module.named_parameters(), module.named_buffers()):
        if name not in ignored:
            sent = value.contiguous()
            dist.broadcast(sent, 0)
            value.copy_(sent)


def world_and_rank() -> tuple[int, int]:
    """Return how many processes there are, and which of them this is."""
    return (dist.get_world_size(), dist.get_rank()) if _is_distributed() else (1, 0)


def states_of_all_ranks(mine: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what every rank has to say, in their order; all of them must ask."""
    ranks: list[Any] = [mine]
    if _is_distributed():
        ranks = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, mine)
    return ranks


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def leave_out_of_broadcasts_(module: nn.Module, supports: Sequence[str]) -> None:
    """Keep DDP from sending the supports around in every forward: they are equal, and stay so."""
    ignored = list(getattr(module, "_ddp_params_and_buffers_to_ignore", []))
    vars(module)["_ddp_params_and_buffers_to_ignore"] = [*ignored, *(n for n in supports if n not in ignored)]


def _store(trainer: Trainer) -> Any:
    """Return the store of the default process group, None in a single process."""
    if not _is_distributed() or trainer.world_size == 1:
        return None
    return dist.distributed_c10d._get_default_store()


def _key(rank: int) -> str:
    """Return where a rank writes; each stage has keys of its own, as keys stay for the life of the group."""
    return f"lightning_sparse/callbacks/{len(_announced)}/{rank}"


def _compare(trainer: Trainer, store: Any, missing_is_none: bool) -> None:
    me, mine = trainer.global_rank, _announced[-1]
    for rank in range(trainer.world_size):
        known = store.check([_key(rank)])
        theirs = store.get(_key(rank)).decode() if known else "{}"
        if (known or missing_is_none) and theirs != mine:
            raise SparsityError(_unlike(me, json.loads(mine), rank, json.loads(theirs)))


def _unlike(me: int, mine: Arguments, rank: int, theirs: Arguments) -> str:
    """Say what two ranks have, as far as it differs."""
    return (
        f"`callbacks` must be the same on every rank, got {_apart(mine, theirs)} on rank {me} and "
        f"{_apart(theirs, mine)} on rank {rank}. Make them from the same arguments on all ranks."
    )


def _apart(here: Arguments, there: Arguments) -> str:
    """Name the callbacks that only one rank has, and of others the arguments that differ."""
    told = [name for name in here if name not in there]
    for name in (shared for shared in here if shared in there):
        mine, theirs = here[name], there[name]
        differ = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        told += [f"{name}({', '.join(f'{key}={mine.get(key)}' for key in differ)})"] if differ else []
    return ", ".join(told) or "no such callback"


def _differing(found: Sequence[tuple[str, str]]) -> str:
    names, nouns = (list(dict.fromkeys(column)) for column in zip(*found, strict=True))
    what = " and ".join(nouns)
    some = some_names(names) + (f" ({len(names)} in all)" if len(names) > 3 else "")
    changed = what if "weights" in nouns else f"weights or {what}"
    return (
        f"The processes have different {what} of {some}. Resume all of them from the same checkpoint; if it "
        f"happens again, look for code that changes {changed} on one rank only."
    )
