"""The methods of the table, by name: small steps, all checks on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning_sparse import (
    FORCE,
    ASNISigmoidPruner,
    DCTpSConversion,
    IterativeMagnitudePruning,
    PruneAtInit,
    PruningMethod,
    RigLCallback,
    SynFlow,
)

DENSITY = 0.1
GENTLE = 0.3  # as far as ASNI comes in four epochs without large steps
EVERY = 2  # steps between moves of connections
DENSE = "dense"
BY_HAND = "magnitude"  # compared with the same masks in a loop of its own


@dataclass(frozen=True)
class Method:
    """How a net is made sparse.

    Attributes:
        callbacks: Makes them anew for each fit.
        epochs: Length of the fit.
        resume_after: Epochs in the checkpoint that a second fit goes on from.
        density: Share of the selected weights that is kept in the end.
    """

    callbacks: Callable[[], list[Any]]
    epochs: int = 2
    resume_after: int = 1
    density: float = DENSITY


def _prune(method: str | PruningMethod) -> Method:
    return Method(lambda: [PruneAtInit(method, DENSITY, verify=True)])  # type: ignore[arg-type]


def _asni() -> list[Any]:
    return [ASNISigmoidPruner(GENTLE, gamma=2, search_epochs=4, verify=True)]


def _imp() -> list[Any]:
    return [IterativeMagnitudePruning(DENSITY, rounds=2, epochs_per_round=1, verify=True)]


_rigl = partial(RigLCallback, every_n_steps=EVERY, verify=True)

METHODS = {
    DENSE: Method(list),
    "erk": _prune("erk"),
    "magnitude": _prune("magnitude"),
    "snip": _prune("snip"),
    "grasp": _prune("grasp"),
    "synflow": _prune(SynFlow(iterations=20)),
    "force": _prune(FORCE(iterations=10)),
    "RigL": Method(lambda: [_rigl(DENSITY)]),
    "ASNI": Method(_asni, epochs=6, resume_after=2, density=GENTLE),
    "IMP": Method(_imp, epochs=3, resume_after=2),
    "DCTpS": Method(lambda: [DCTpSConversion(DENSITY)]),
    "DCTpS + RigL": Method(lambda: [DCTpSConversion(DENSITY), _rigl()]),
    "snip, compact": Method(lambda: [PruneAtInit("snip", DENSITY, storage="compact")]),
    "RigL, compact": Method(lambda: [_rigl(DENSITY, storage="compact")]),
}
