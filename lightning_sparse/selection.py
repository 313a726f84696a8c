"""Which weights may become sparse, and whether masks fit them.

By default: the weights of linear and convolutional layers. Norms, biases and embeddings stay dense. Names
are those of ``named_parameters()`` without the ``_orig_mod.`` that ``torch.compile`` puts in.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from lightning_sparse.checks import SparsityError, check_densities, check_patterns
from lightning_sparse.types import Densities, Masks

__all__ = [
    "countable_weights",
    "dense_weights",
    "layer_name",
    "match_overrides",
    "matches",
    "misfit",
    "parameters_by_name",
    "plain_name",
    "prunes_nothing",
    "select_weights",
]

SPARSE_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def plain_name(name: str) -> str:
    """Return the name of a parameter or layer as it was before ``torch.compile`` wrapped an inner module.

    >>> plain_name("net._orig_mod.fc.weight"), plain_name("fc._orig_mod")
    ('net.fc.weight', 'fc')
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def parameters_by_name(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters of a module, under their plain names."""
    return {plain_name(name): parameter for name, parameter in module.named_parameters()}


def layer_name(name: str) -> str:
    """Return the name under which a weight is shown: that of its layer where it is the layer's ``weight``."""
    return name.removesuffix(".weight")


def matches(name: str, pattern: str) -> bool:
    """Tell whether a pattern matches a parameter's name, or that of its layer, as tables show it.

    >>> matches("net.fc.weight", "net.fc"), matches("net.fc.bias", "net.fc")
    (True, False)
    """
    return fnmatchcase(name, pattern) or fnmatchcase(layer_name(name), pattern)


def select_weights(
    module: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """Return the weights that may become sparse, each once, in the order of ``named_parameters()``.

    A weight shared by several layers counts once, under its first name; ``include`` and ``exclude`` may use
    any of its names.
    Without ``include`` it must be the weight of linear or convolutional layers in all of them, and frozen
    weights are left out with a warning.

    Args:
        module: Any module; not changed.
        include: Patterns (``fnmatch``) on parameter names: only weights that match one of them. They may
            name any floating-point parameter of two or more dimensions, such as ``*.in_proj_weight``.
        exclude: Patterns of weights to leave dense.

    Raises:
        SparsityError: If a pattern matches nothing, or only parameters that cannot be sparse; if a selected
            weight is lazy and has no shape yet; if nothing is selected.
    """
    check_patterns("include", include)
    check_patterns("exclude", exclude)
    candidates = _candidates(module)
    _check_matches("include", include or (), candidates, candidates)
    wanted = [c for c in candidates if (c.by_default if include is None else c.matches(include))]
    _check_matches("exclude", exclude, candidates, wanted)
    if include is None:
        _warn_parametrized(module)
        _warn_frozen([c.name for c in wanted if not c.parameter.requires_grad and not c.matches(exclude)])
        wanted = [c for c in wanted if c.parameter.requires_grad]
    chosen = {c.name: c.parameter for c in wanted if c.maskable and not c.matches(exclude)}
    _check_chosen(chosen, include)
    return chosen


def countable_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return all weights of linear and convolutional layers, frozen ones too; there may be none."""
    candidates = [c for c in _candidates(module) if c.by_default and c.maskable]
    return {c.name: c.parameter for c in candidates if not isinstance(c.parameter, UninitializedParameter)}


def dense_weights(module: nn.Module, chosen: Iterable[str]) -> dict[str, nn.Parameter]:
    """Return what could be sparse beside the ``chosen`` weights: all other matrices and tensors."""
    chosen = set(chosen)
    candidates = [c for c in _candidates(module) if c.maskable and c.name not in chosen]
    return {c.name: c.parameter for c in candidates if not isinstance(c.parameter, UninitializedParameter)}


def match_overrides(names: Iterable[str], overrides: Mapping[str, float] | None) -> Densities:
    """Return the density of each name that a pattern of ``overrides`` matches; the last match wins.

    Raises:
        SparsityError: If a density is not in (0, 1], or a pattern matches none of the names.

    >>> match_overrides(["stem.weight", "head.weight"], {"*": 0.1, "head.*": 1.0})
    {'stem.weight': 0.1, 'head.weight': 1.0}
    """
    check_densities("density_overrides", overrides)
    densities: Densities = {}
    names = list(names)
    for pattern, density in (overrides or {}).items():
        matched = [name for name in names if matches(name, pattern)]
        if not matched:
            raise SparsityError(
                f"`density_overrides` pattern {pattern!r} matches none of the selected weights."
                + _did_you_mean(pattern, names)
            )
        densities.update(dict.fromkeys(matched, density))
    return densities


def misfit(masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return the name of the first mask that no weight fits, and what there is instead; None if all fit.

    >>> weight = nn.Linear(3, 2).weight
    >>> misfit({"fc.weight": weight > 0}, {"fc.weight": weight.T})
    ('fc.weight', 'one of shape (3, 2)')
    """
    for name, mask in masks.items():
        if name not in weights:
            return name, "none of that name"
        if weights[name].shape != mask.shape:
            return name, f"one of shape {tuple(weights[name].shape)}"
    return None


def prunes_nothing(masks: Masks, weights: Mapping[str, Tensor]) -> bool:
    """Tell whether masks are for these weights, which are zero already wherever they prune."""
    return (
        masks.keys() == weights.keys()
        and misfit(masks, weights) is None
        and not any(weights[name].detach().cpu()[~mask.cpu()].any() for name, mask in masks.items())
    )


@dataclass
class _Candidate:
    """A parameter under all its names."""

    names: list[str]
    parameter: nn.Parameter
    by_default: bool

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def maskable(self) -> bool:
        """Whether it can be masked at all; a lazy one is checked when it is chosen."""
        if isinstance(self.parameter, UninitializedParameter):
            return True
        return self.parameter.ndim >= 2 and self.parameter.is_floating_point() and self.parameter.numel() > 0

    def matches(self, patterns: Iterable[str]) -> bool:
        return any(matches(name, pattern) for name in self.names for pattern in patterns)


def _candidates(module: nn.Module) -> list[_Candidate]:
    """Return every parameter once; by default those are taken that are a sparse layer's weight everywhere."""
    found: dict[int, _Candidate] = {}
    for path, layer in module.named_modules(remove_duplicate=False):
        for key, parameter in layer._parameters.items():
            if parameter is None:
                continue
            usual = isinstance(layer, SPARSE_LAYERS) and key == "weight"
            candidate = found.setdefault(id(parameter), _Candidate([], parameter, True))
            candidate.names.append(plain_name(f"{path}.{key}" if path else key))
            candidate.by_default &= usual
    return list(found.values())


def _check_matches(
    argument: str,
    patterns: Iterable[str],
    candidates: Sequence[_Candidate],
    selectable: Sequence[_Candidate],
) -> None:
    for pattern in patterns:
        matched = [c for c in candidates if c.matches([pattern])]
        if not matched:
            names = [name for c in selectable if c.maskable for name in c.names]
            raise SparsityError(
                f"`{argument}` pattern {pattern!r} matches no parameter of the module."
                + _did_you_mean(pattern, names)
            )
        if argument == "include" and not any(c.maskable for c in matched):
            raise SparsityError(
                f"`include` pattern {pattern!r} matches only parameters that cannot be sparse "
                f"({matched[0].name}); name floating-point weights of two or more dimensions."
            )


def _warn_parametrized(module: nn.Module) -> None:
    layers = [path for path, layer in module.named_modules() if isinstance(layer, SPARSE_LAYERS)]
    layers = [path for path in layers if is_parametrized(module.get_submodule(path), "weight")]
    if layers:
        warnings.warn(
            f"Layers whose weight is computed (torch.nn.utils.parametrize) stay dense: "
            f"{', '.join(layers[:3])} ({len(layers)} in all); `include` what it is computed from.",
            stacklevel=3,
        )


def _warn_frozen(names: Sequence[str]) -> None:
    if names:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        warnings.warn(
            f"Frozen weights stay dense: {some} ({len(names)} in all); to sparsify them, `include` them.",
            stacklevel=3,
        )


def _check_chosen(chosen: Mapping[str, nn.Parameter], include: Sequence[str] | None) -> None:
    for name, parameter in chosen.items():
        if isinstance(parameter, UninitializedParameter):
            raise SparsityError(
                f"Weight {name!r} is lazy and has no shape yet; pass one batch through the module before "
                "fit, or name it in `exclude`."
            )
    if not chosen:
        found = "there is no linear or convolutional layer, or `exclude` takes them all"
        if include is not None:
            found = "`exclude` takes all that `include` names" if include else "`include` is empty"
        raise SparsityError(
            f"No weight is selected: {found}. Name weights in `include`, or shorten `exclude`."
        )


def _did_you_mean(pattern: str, names: Sequence[str]) -> str:
    close = get_close_matches(pattern, names, n=3, cutoff=0.4) or list(names[:3])
    return f" Patterns match whole names (`*` is any text); names here: {', '.join(close)}." if close else ""
