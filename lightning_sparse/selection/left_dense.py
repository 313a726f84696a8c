"""What is said of weights that are not selected: with a warning, or an error if there are no others."""

import re
import warnings
from collections.abc import Iterable, Sequence

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from lightning_sparse.checks import ALL, SparsityError
from lightning_sparse.selection.candidates import Candidate
from lightning_sparse.selection.layer_types import matrices_of
from lightning_sparse.selection.names import layer_name, matches_any, plain_name, some_names

__all__ = ["refuse_empty", "warn_of_computed", "warn_of_frozen"]


def warn_of_computed(module: nn.Module, exclude: Sequence[str]) -> None:
    """Warn of layers that compute their weight from something else: nothing of them is selected by default.

    Such as those under weight norm, spectral norm or ``torch.nn.utils.prune``, which make it anew for every
    forward by a hook, and those under a parametrization.
    """
    sources: dict[str, str] = {}  # of what a layer's weight is computed, by the layer
    for path, layer in ((plain_name(path), layer) for path, layer in module.named_modules()):
        if not _computes_weight(layer) or matches_any(f"{path}.weight", exclude):
            continue
        key = _source(layer)
        name = f"{path}.{key}" if path and key else key
        if not matches_any(name, exclude):
            sources[path] = name
    if not sources:
        return
    named = next((name for name in sources.values() if name), None)
    hint = "it is no parameter of theirs."
    if named is not None:
        hint = (
            f"`include` what it is computed from, such as {named!r}, beside the others. Where zeros do not "
            "stay zero on the way, a warning says so when training starts."
        )
    warnings.warn(
        f"Layers whose weight is computed (weight norm, spectral norm, parametrizations, ...) stay dense: "
        f"{some_names([path or type(module).__name__ for path in sources])} ({len(sources)} in all); {hint}",
        stacklevel=3,
    )


def warn_of_frozen(names: Sequence[str]) -> None:
    """Warn of frozen weights that would be selected if they were trained."""
    if names:
        warnings.warn(
            f"Frozen weights stay dense: {some_names(names)} ({len(names)} in all); to sparsify them, "
            "`include` them.",
            stacklevel=3,
        )


def refuse_empty(
    candidates: Sequence[Candidate], wanted: Sequence[Candidate], include: Sequence[str] | None
) -> None:
    """Refuse a selection of nothing; say what there is, how large it is, and how to name it.

    Args:
        candidates: All parameters.
        wanted: Those that ``exclude`` has taken out.
        include: The argument.
    """
    if include is not None and include != ALL:
        found = "`exclude` takes all that `include` names" if include else "`include` is empty"
        raise SparsityError(
            f"No weight is selected: {found}. Name weights in `include`, or shorten `exclude`."
        )
    if wanted:
        raise SparsityError(
            "No weight is selected: `exclude` takes them all, "
            f"{some_names([c.name for c in wanted])}. Shorten it."
        )
    usual = [c for c in candidates if c.maskable and (c.by_default or include == ALL)]
    kind = "linear or convolutional layer" if include is None else "weight of two or more dimensions"
    found = f"there is no {kind}" if not usual else f"no {kind} is trained"
    rest = [c for c in candidates if c.maskable and not c.lazy]
    lazy = [c.name for c in candidates if c.lazy]
    if lazy:
        found += (
            f", and {some_names(lazy)} have no shape yet (lazy). Pass one batch through the module before fit"
        )
    if not rest:
        raise SparsityError(f"No weight is selected: {found}. There is nothing else that could be sparse.")
    groups = _largest(rest)
    shown = ", ".join(
        f"{layer_name(c.name)} ({' x '.join(map(str, c.parameter.shape))})" for c in groups.values()
    )
    takes_some = any(c.matrix and c.parameter.requires_grad for c in rest)
    word = "" if include == ALL or not takes_some else f", or take all by `include={ALL!r}`"
    raise SparsityError(
        f"No weight is selected: {found}. The largest weights are {shown}. Name yours, such as "
        f"`include={list(groups)}`{word}."
    )


def _computes_weight(layer: nn.Module) -> bool:
    """Tell whether a linear or convolutional layer has a weight that is neither a parameter nor a buffer."""
    if "weight" not in matrices_of(layer):
        return False
    return layer._parameters.get("weight") is None and "weight" not in layer._buffers


def _source(layer: nn.Module) -> str:
    """Return the name of the largest matrix in a layer, which its weight is computed from; "" without one."""
    prefix = "parametrizations.weight." if is_parametrized(layer, "weight") else ""
    matrices = {
        key: parameter.numel()
        for key, parameter in layer.named_parameters()
        if key.startswith(prefix) and parameter.ndim >= 2
    }
    # The last of equally large ones: the direction of weight norm comes after its lengths.
    return max(reversed(matrices), key=matrices.__getitem__, default="")


def _largest(candidates: Iterable[Candidate], count: int = 3) -> dict[str, Candidate]:
    """Return the largest of those that differ in more than numbers, by a pattern for all that do not."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", candidate.name), []).append(candidate)
    total = {pattern: sum(c.parameter.numel() for c in group) for pattern, group in groups.items()}
    chosen = sorted(groups, key=total.__getitem__, reverse=True)[:count]
    return {pattern: max(groups[pattern], key=lambda c: c.parameter.numel()) for pattern in chosen}
