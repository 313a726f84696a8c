"""The random number generators that a run draws from: read, set, and lent for a while."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from lightning_sparse.functional.isolation import generator_restorer
from lightning_sparse.trainer.packages import Trainer
from lightning_sparse.trainer.parts import train_loaders

__all__ = ["generators_of_loaders", "left_undisturbed", "rng_state", "same_rng_state", "set_rng_state"]


def rng_state() -> dict[str, Any]:
    """Return the states of the global generators, in types that a checkpoint may hold."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global generator is what users draw from
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # asking for the state would start it
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if in_use else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "python": random.getstate(),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Set the global generators to what ``rng_state`` returned."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def same_rng_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether the global generators of the CPU are in the same state in both."""
    torch_too = torch.equal(one["torch"].cpu(), other["torch"].cpu())
    keys = torch.equal(one["numpy"][1].cpu(), other["numpy"][1].cpu())
    numbers = list(one["numpy"][2:]) == list(other["numpy"][2:])
    return torch_too and keys and numbers and _listed(one["python"]) == _listed(other["python"])


def _listed(state: Any) -> list[Any]:
    version, internal, gauss = state
    return [version, list(internal), gauss]


def generators_of_loaders(trainer: Trainer) -> list[torch.Generator]:
    """Return the generators that training dataloaders and their samplers have of their own, each once."""
    found: dict[int, torch.Generator] = {}
    for loader in train_loaders(trainer):
        batches = getattr(loader, "batch_sampler", None)
        for owner in (loader, getattr(loader, "sampler", None), getattr(batches, "sampler", None)):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    return list(found.values())


@contextmanager
def left_undisturbed(trainer: Trainer) -> Iterator[None]:
    """Let code draw as it likes; what training draws afterwards is what it would have drawn."""
    everywhere = rng_state()
    with ExitStack() as undo:
        undo.callback(set_rng_state, everywhere)
        for value in _attributes_of_loaders(trainer):
            if (restore := generator_restorer(value)) is not None:
                undo.callback(restore)
        yield


def _attributes_of_loaders(trainer: Trainer) -> Iterator[Any]:
    """Yield what dataloaders, their samplers and data sets hold, generators of their own among it."""
    for loader in train_loaders(trainer):
        batches = getattr(loader, "batch_sampler", None)
        inner = (getattr(loader, "sampler", None), getattr(batches, "sampler", None))
        for owner in (loader, batches, *inner, getattr(loader, "dataset", None)):
            yield from getattr(owner, "__dict__", {}).values()
