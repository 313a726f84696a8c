"""The variants D, A, C and S of the ASNI paper, found in the folders of finished runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, TypeAlias

from lightning_sparse.files.masks import unpacked
from lightning_sparse.files.states import refuse_other_layout
from lightning_sparse.reporting.runs import Checkpoint, Curve, Run, trained_curves
from lightning_sparse.types import Masks

__all__ = ["MEANING", "Part", "Variant", "best", "candidates", "masks_of", "parts_of", "schedule_of"]

Variant: TypeAlias = Literal["D", "A", "C", "S"]

MEANING: dict[Variant, str] = {
    "D": "dense",
    "A": "search",
    "C": "sparse, from centroids",
    "S": "sparse, from the original initialisation",
}
"""What each variant is (Damadi et al., "Amenable Sparse Network Investigator", 2021, figure 2b)."""

ASNI, PRUNE_AT_INIT = "ASNISigmoidPruner", "PruneAtInit"  # under these names checkpoints hold their states


_READ = {
    "config": Mapping,
    "epoch": int,
    "ended": object,
    "path": list,
    "search_epochs": int,
    "restarted": bool,
}
"""What is read from the state of ASNI."""


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
    """Return what a run trained, told from its callbacks' states; nothing if it is none of D, A, C, S.

    Raises:
        SparsityError: If another class or version has saved the state of ASNI.
    """
    for checkpoint in (one for one in run.checkpoints if ASNI in one.callbacks):
        refuse_other_layout(f"{ASNI} ({checkpoint.path.name})", checkpoint.callbacks[ASNI], _READ)
    states = run.checkpoints[-1].callbacks
    if ASNI in states:
        return _search_and_retraining(run)
    others = [name for name, state in states.items() if name != PRUNE_AT_INIT and _is_sparsifier(name, state)]
    if others:
        return []
    variant: Variant = _retrained(states[PRUNE_AT_INIT], "start") if PRUNE_AT_INIT in states else "D"
    return [Part(variant, run, trained_curves(run), run.checkpoints[-1])]


def best(parts: Sequence[Part], variant: Variant) -> Part | None:
    """Return the part to take the weights of a variant from: of the candidates the one that went furthest."""
    return max(candidates(parts, variant), key=_reached, default=None)


def candidates(parts: Sequence[Part], variant: Variant) -> list[Part]:
    """Return what may be of one run, resumed in folders of its own: the first finished one's, else all."""
    found = [part for part in parts if part.variant == variant and part.checkpoint is not None]
    finished = [part for part in found if part.finished]
    return [part for part in finished if _origin(part) == _origin(finished[0])] or found


def schedule_of(part: Part) -> tuple[int, list[int]]:
    """Return the length of a search, and how many weights are alive after each of its prunings."""
    state = part.run.checkpoints[-1].callbacks[ASNI]
    return state["search_epochs"], state["path"]


def masks_of(checkpoint: Checkpoint) -> Masks:
    """Return the masks in a checkpoint's callback states; empty if there are none."""
    states = [checkpoint.callbacks.get(name, {}) for name in (ASNI, PRUNE_AT_INIT)]
    packed = [state["masks"] for state in states if state.get("masks")]
    return unpacked(packed[0], checkpoint.path, "RUN") if packed else {}


def _search_and_retraining(run: Run) -> list[Part]:
    """Return A, and what came after it; without a retraining all is A."""
    curves, state = trained_curves(run), run.checkpoints[-1].callbacks[ASNI]
    begin = -_epochs_before(run.checkpoints[-1])
    end, retrains = begin + state["search_epochs"], state["config"]["reinit"] is not None
    last: dict[bool, Checkpoint] = {
        c.callbacks[ASNI]["restarted"]: c for c in run.checkpoints if ASNI in c.callbacks
    }
    search, retraining = last.get(False), last.get(True)
    finished = search is not None and search.callbacks[ASNI]["epoch"] >= state["search_epochs"]
    found = [Part("A", run, _cut(curves, begin, end if retrains else inf), search, finished)]
    if retrains:
        found.append(Part(_retrained(state, "reinit", "centroids"), run, _cut(curves, end), retraining))
    return found


def _epochs_before(checkpoint: Checkpoint) -> int:
    """Return how many epochs the callback had counted when the Trainer began to count, in an earlier fit."""
    state = checkpoint.callbacks[ASNI]
    over = checkpoint.epoch if state["ended"] is None else state["ended"] + 1  # by the Trainer's count
    counted: int = state["epoch"]
    return counted - over


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


def _origin(part: Part) -> dict[str, dict[str, int]]:
    """Return what the folders of a run share, and those of another seed do not: the masks' checksums.

    It is empty for dense nets: nothing tells them apart.
    """
    assert part.checkpoint is not None, "candidates have one"
    states = part.checkpoint.callbacks
    packed = {name: states.get(name, {}).get("masks", {}) for name in (ASNI, PRUNE_AT_INIT)}
    return {
        name: {layer: mask["crc32"] for layer, mask in masks.items()}
        for name, masks in packed.items()
        if masks
    }


def _reached(part: Part) -> tuple[int, int]:
    """Return how far a part went, in epochs, then in steps."""
    assert part.checkpoint is not None, "candidates have one"
    state = part.checkpoint.callbacks.get(ASNI, {})
    return state.get("epoch", part.checkpoint.epoch), part.checkpoint.step
