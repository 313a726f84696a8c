"""Random number generators in the checkpoint: a resumed run is the run that was not interrupted."""

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from lightning_sparse._lightning import Callback, LightningModule, Trainer

__all__ = ["ExactResume"]


class ExactResume(Callback):
    """Store every rank's random number generators in checkpoints, and give them back when fit resumes.

    Lightning restores none, so that a resumed run shuffles as in its first epoch and draws other dropout
    masks. With this callback a run resumed at the end of an epoch equals the undisturbed one bit for bit,
    wherever training itself is reproducible. In mid-epoch that also needs a dataloader that knows where it
    was (one with ``state_dict``). Of a dataloader with a ``generator`` of its own nothing is stored.

    >>> sorted(ExactResume().state_dict()["ranks"][0])
    ['cuda', 'numpy', 'python', 'torch']
    """

    def __init__(self) -> None:
        self._fitting = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note whether this is a fit: test and predict load callback states too."""
        self._fitting = stage == "fit"

    def state_dict(self) -> dict[str, Any]:
        """Return the generator states of all ranks; Lightning calls this on every rank."""
        return {"ranks": _gather(_rng_state())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give this rank its states back, before any iterator over the data is made.

        Raises:
            ValueError: If the checkpoint was written by another number of processes.
        """
        ranks = state_dict["ranks"]
        world, rank = (dist.get_world_size(), dist.get_rank()) if _distributed() else (1, 0)
        if self._fitting and len(ranks) != world:
            raise ValueError(
                f"ExactResume: {len(ranks)} processes wrote the checkpoint, this run has {world}. Resume "
                "with as many (`devices`, `num_nodes`), or without ExactResume."
            )
        if self._fitting:
            _set_rng_state(ranks[rank])


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _rng_state() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global generator is what users draw from
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "python": random.getstate(),
    }


def _set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def _gather(mine: dict[str, Any]) -> list[dict[str, Any]]:
    if not _distributed():
        return [mine]
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, mine)
    return ranks
