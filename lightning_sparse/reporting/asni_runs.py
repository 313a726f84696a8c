"""The variants D, A, C and S of the ASNI paper, found in the folders of finished runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, TypeAlias

from lightning_sparse.functional.packing import unpack_masks
from lightning_sparse.reporting.runs import Checkpoint, Curve, Run, read_curves
from lightning_sparse.types import Masks

__all__ = ["ASNI", "MEANING", "Part", "Variant", "best", "masks_of", "parts_of"]

Variant: TypeAlias = Literal["D", "A", "C", "S"]

MEANING: dict[Variant, str] = {
    "D": "dense",
    "A": "search",
    "C": "sparse, from centroids",
    "S": "sparse, from the original initialisation",
}
"""What each variant is (Damadi et al., "Amenable Sparse Network Investigator", 2021, figure 2b)."""

ASNI, PRUNE_AT_INIT = "ASNISigmoidPruner", "PruneAtInit"  # under these names checkpoints hold their states


@dataclass(frozen=True)
class Part:
    """The epochs of a run in which it trained one variant.

    Args:
        variant: What was trained.
        run: The run.
        curves: What it logged in these epochs, by name, counted from the part's first epoch.
        checkpoint: The last of these epochs' checkpoints, if any was kept.
        finished: Whether that checkpoint is one to report: of a search, one after its last epoch.
    """

    variant: Variant
    run: Run
    curves: dict[str, Curve]
    checkpoint: Checkpoint | None
    finished: bool = True


def parts_of(run: Run) -> list[Part]:
    """Return what a run trained, told from its callbacks' states; nothing if it is none of D, A, C, S."""
    states = run.checkpoints[-1].callbacks
    if ASNI in states:
        return _search_and_retraining(run)
    others = [name for name, state in states.items() if name != PRUNE_AT_INIT and _is_sparsifier(name, state)]
    if others:
        return []
    variant: Variant = _retrained(states[PRUNE_AT_INIT], "weight_init") if PRUNE_AT_INIT in states else "D"
    return [Part(variant, run, read_curves(run.folder), run.checkpoints[-1])]


def best(parts: Sequence[Part], variant: Variant) -> Part | None:
    """Return the part to take the weights of a variant from: the first finished one, else the longest."""
    found = [part for part in parts if part.variant == variant and part.checkpoint is not None]
    return max(
        found, key=lambda part: (part.finished, _epoch(part) if not part.finished else 0), default=None
    )


def masks_of(checkpoint: Checkpoint) -> Masks:
    """Return the masks in a checkpoint's callback states; empty if there are none."""
    states = [checkpoint.callbacks.get(name, {}) for name in (ASNI, PRUNE_AT_INIT)]
    packed = [state["masks"] for state in states if state.get("masks")]
    return unpack_masks(packed[0]) if packed else {}


def _search_and_retraining(run: Run) -> list[Part]:
    """Return A, and what came after it in the same fit."""
    curves, state = read_curves(run.folder), run.checkpoints[-1].callbacks[ASNI]
    epochs: int = state["search_epochs"]
    last: dict[bool, Checkpoint] = {
        c.callbacks[ASNI]["restarted"]: c for c in run.checkpoints if ASNI in c.callbacks
    }
    search, retraining = last.get(False), last.get(True)
    finished = search is not None and search.callbacks[ASNI]["epoch"] >= epochs
    return [
        Part("A", run, _cut(curves, 0, epochs), search, finished),
        Part(_retrained(state, "reinit", "centroids"), run, _cut(curves, epochs), retraining),
    ]


def _retrained(state: dict[str, Any], argument: str, default: str = "original") -> Variant:
    """Return C or S: what a sparse net was that an argument of the callback told where to start from."""
    return "C" if state.get("config", {}).get(argument, default) == "centroids" else "S"


def _is_sparsifier(name: str, state: object) -> bool:
    return name == "DCTpSConversion" or (isinstance(state, dict) and "masks" in state)


def _cut(curves: dict[str, Curve], start: int, stop: float = inf) -> dict[str, Curve]:
    """Return the epochs from ``start`` to before ``stop``, counted from 0 again."""
    cut = {
        name: {e - start: y for e, y in curve.items() if start <= e < stop} for name, curve in curves.items()
    }
    return {name: curve for name, curve in cut.items() if curve}


def _epoch(part: Part) -> int:
    return -1 if part.checkpoint is None else part.checkpoint.epoch
