"""All trained parameters of a module, biases and norms too, by patterns."""

from collections.abc import Sequence

from torch import nn

from lightning_sparse.checks import ALL, SparsityError, check_patterns
from lightning_sparse.selection.candidates import candidates_of
from lightning_sparse.selection.names import did_you_mean

__all__ = ["select_trained"]


def select_trained(
    module: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, of whatever shape, each once, in the module's order.

    Args:
        module: Any module; not changed.
        include: Patterns (``fnmatch``) on names of parameters or layers: only what matches one of them.
            ``None`` or ``"all"``: everything that is not frozen.
        exclude: Patterns of what to leave out.

    Raises:
        SparsityError: If a pattern matches nothing, a parameter is lazy or complex, or nothing is selected.

    >>> net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    >>> list(select_trained(net)), list(select_trained(net, exclude=["*.bias"]))
    (['0.weight', '0.bias', '1.weight', '1.bias'], ['0.weight', '1.weight'])
    """
    check_patterns("include", include)
    check_patterns("exclude", exclude)
    candidates = candidates_of(module)
    names = [name for candidate in candidates for name in candidate.names]
    patterns = {"include": () if include in (None, ALL) else include, "exclude": exclude}
    for argument, pattern in ((a, p) for a, given in patterns.items() for p in given or ()):
        if not any(candidate.matches([pattern]) for candidate in candidates):
            raise SparsityError(
                f"`{argument}` pattern {pattern!r} matches no parameter of the module."
                + did_you_mean(pattern, names)
            )
    chosen = [
        candidate
        for candidate in candidates
        if candidate.parameter.requires_grad
        and (include is None or candidate.matches(include))
        and not candidate.matches(exclude)
    ]
    for candidate in chosen:
        if candidate.lazy:
            raise SparsityError(
                f"Parameter {candidate.name!r} is lazy and has no shape yet; pass one batch through the "
                "module before, or name it in `exclude`."
            )
        if not candidate.parameter.is_floating_point():
            raise SparsityError(
                f"Parameter {candidate.name!r} must hold real numbers, got {candidate.parameter.dtype}. Name "
                "it in `exclude`."
            )
    if not any(candidate.parameter.numel() for candidate in chosen):
        raise SparsityError(
            f"`module` must have trained parameters that `include` and `exclude` leave, got none of "
            f"{len(candidates)}. Thaw some (`requires_grad_(True)`), or name others."
        )
    return {candidate.name: candidate.parameter for candidate in chosen}
