"""What a pattern makes of other arguments: of the density, and of the weights that are selected."""

import math
import warnings
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

from lightning_sparse.checks import SparsityError, check_density
from lightning_sparse.functional.patterns.base import GroupPattern, Pattern
from lightning_sparse.functional.patterns.unstructured import name_of_pattern
from lightning_sparse.selection import some_names

__all__ = ["density_within", "refuse_other_pattern", "weights_within"]

_Weight = TypeVar("_Weight", bound=Tensor)


def density_within(
    pattern: Pattern,
    density: float | None,
    allocation: str,
    overrides: Mapping[str, float] | None = None,
) -> float | None:
    """Return the density that is meant: that of a pattern which has only one, else the one that is given.

    Args:
        pattern: Which sets of weights may be kept.
        density: The argument; ``None`` if it is left out.
        allocation: How a budget is shared out over layers, or ``"global"``.
        overrides: Densities of single layers.

    Raises:
        SparsityError: If the pattern keeps another share than any of these asks for.

    Examples:
        >>> from lightning_sparse.functional.patterns import NM
        >>> density_within(NM(1, 8), None, "uniform")
        0.125
    """
    if density is not None:
        check_density("density", density)
    only = pattern.density if isinstance(pattern, GroupPattern) else None
    if only is None:
        return density
    way_out = "For n that differs by layer write 'n:M', such as 'n:8'."
    if density is not None and not math.isclose(density, only, rel_tol=2e-3):
        raise SparsityError(
            f"`density` must be {only:.4g} with `pattern` {pattern}, or left out, got {density}. {way_out}"
        )
    if overrides:
        raise SparsityError(
            f"`density_overrides` must be left out with `pattern` {pattern}, which keeps the same share of "
            f"every layer, got {dict(overrides)}. Keep layers dense with `exclude`. {way_out}"
        )
    if allocation not in ("global", "uniform"):
        raise SparsityError(
            f"`allocation` must be 'uniform' or 'global' with `pattern` {pattern}, which keeps the same "
            f"share of every layer, got {allocation!r}. {way_out}"
        )
    return only


def refuse_other_pattern(patterns: Mapping[str, Pattern | None]) -> None:
    """Refuse callbacks of which one would move connections out of the pattern of another.

    Args:
        patterns: By the name of the callback; ``None`` if that is known only when masks are read.

    Raises:
        SparsityError: If two differ.
    """
    known = {name: pattern for name, pattern in patterns.items() if pattern is not None}
    if len(set(known.values())) > 1:
        said = [f"{name_of_pattern(pattern) or 'unstructured'} in {name}" for name, pattern in known.items()]
        raise SparsityError(
            f"`pattern` must be the same where connections start and where they move, got "
            f"{' and '.join(sorted(said))}. Give it to both, or to neither; DCTpSConversion takes none."
        )


def weights_within(weights: Mapping[str, _Weight], pattern: Pattern) -> dict[str, _Weight]:
    """Return the weights that the pattern can have; warn of the others, which stay dense.

    Args:
        weights: Those that are selected, by name.
        pattern: Which sets of weights may be kept.

    Raises:
        SparsityError: If it can have none.
    """
    if not isinstance(pattern, GroupPattern):
        return dict(weights)
    lacking = {name: said for name, weight in weights.items() if (said := pattern.lacks(weight.shape))}
    if not lacking:
        return dict(weights)
    said = next(iter(lacking.values()))
    if len(lacking) == len(weights):
        raise SparsityError(
            f"`pattern` {pattern} needs {said}, and no selected weight has it: {some_names(list(lacking))}. "
            "Take another M."
        )
    dense = sum(weights[name].numel() for name in lacking)
    share = dense / sum(weight.numel() for weight in weights.values())
    warnings.warn(
        f"Weights without {said} stay dense under `pattern` {pattern}: {some_names(list(lacking))} "
        f"({len(lacking)} in all). They hold {dense:,} weights, {share:.2%} of those selected, and do not "
        "count towards the density.",
        stacklevel=1,  # one place, whoever asks: so it is said once
    )
    return {name: weight for name, weight in weights.items() if name not in lacking}
