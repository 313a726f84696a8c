"""Weights by patterns: which are selected, at which densities, and whether masks are for them."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from lightning_sparse.checks import ALL, SparsityError, check_densities, check_patterns
from lightning_sparse.selection.candidates import Candidate, candidates_of
from lightning_sparse.selection.left_dense import refuse_empty, warn_of_computed, warn_of_frozen
from lightning_sparse.selection.names import did_you_mean, matches
from lightning_sparse.types import Densities, Masks

__all__ = [
    "countable_weights",
    "dense_weights",
    "match_overrides",
    "misfit",
    "prunes_nothing",
    "select_weights",
]


def select_weights(
    module: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """Return the weights that may become sparse, each once, in the order of ``named_parameters()``.

    A weight shared by several layers counts once, under its first name; ``include`` and ``exclude`` may use
    any of its names.
    Without ``include`` it must be the weight of linear or convolutional layers in all of them. Frozen weights
    that are not named are left out with a warning, and so are layers that compute their weight.

    Args:
        module: Any module; not changed.
        include: Patterns (``fnmatch``) on parameter names: only weights that match one of them. They may
            name any floating-point parameter of two or more dimensions, such as ``*.in_proj_weight``. The
            word ``"all"`` in place of a list takes all of these that are trained, embeddings too; not those
            that only hold a row or a column, unless a linear layer does.
        exclude: Patterns of weights to leave dense.

    Raises:
        SparsityError: If a pattern matches nothing, or only parameters that cannot be sparse; if a selected
            weight is lazy and has no shape yet, or that of an embedding with ``sparse=True``; if nothing is
            selected.
    """
    check_patterns("include", include)
    check_patterns("exclude", exclude)
    candidates = candidates_of(module)
    _refuse_word_in_list(include, candidates)
    by_name = include is not None and include != ALL
    if by_name:
        _check_matches("include", include or (), candidates, candidates)
    wanted = [c for c in candidates if _is_wanted(c, include)]
    _check_matches("exclude", exclude, candidates, wanted)
    if include is None:
        warn_of_computed(module, exclude)
    if not by_name:
        warn_of_frozen([c.name for c in wanted if not c.parameter.requires_grad and not c.matches(exclude)])
        wanted = [c for c in wanted if c.parameter.requires_grad]
    chosen = [c for c in wanted if c.maskable and not c.matches(exclude)]
    _check_shapes(chosen)
    _check_gradients(module, chosen)
    if not chosen:
        refuse_empty(candidates, [c for c in wanted if c.maskable], include)
    return {c.name: c.parameter for c in chosen}


def countable_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return all weights of linear and convolutional layers, frozen ones too; there may be none."""
    candidates = [c for c in candidates_of(module) if c.by_default and c.maskable]
    return {c.name: c.parameter for c in candidates if not c.lazy}


def dense_weights(module: nn.Module, chosen: Iterable[str]) -> dict[str, nn.Parameter]:
    """Return what could be sparse beside the ``chosen`` weights: all other matrices and tensors."""
    chosen = set(chosen)
    candidates = [c for c in candidates_of(module) if c.maskable and c.name not in chosen]
    return {c.name: c.parameter for c in candidates if not c.lazy}


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
                + did_you_mean(pattern, names)
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


def _is_wanted(candidate: Candidate, include: Sequence[str] | None) -> bool:
    if include is None:
        return candidate.by_default
    return candidate.matrix if include == ALL else candidate.matches(include)


def _refuse_word_in_list(include: Sequence[str] | None, candidates: Sequence[Candidate]) -> None:
    """Refuse the word for all weights as a pattern, unless a parameter or layer is really named so."""
    words = () if include is None or isinstance(include, str) else include
    for word in words:
        if word.lower() == ALL and not any(c.matches([word]) for c in candidates):
            raise SparsityError(
                f"`include` pattern {word!r} matches no parameter of the module. To take all weights, write "
                f"the word alone, not in a list: `include={ALL!r}`."
            )


def _check_matches(
    argument: str,
    patterns: Iterable[str],
    candidates: Sequence[Candidate],
    selectable: Sequence[Candidate],
) -> None:
    for pattern in patterns:
        matched = [c for c in candidates if c.matches([pattern])]
        if not matched:
            names = [name for c in selectable if c.maskable for name in c.names]
            raise SparsityError(
                f"`{argument}` pattern {pattern!r} matches no parameter of the module."
                + did_you_mean(pattern, names)
            )
        if argument == "include" and not any(c.maskable for c in matched):
            raise SparsityError(
                f"`include` pattern {pattern!r} matches only parameters that cannot be sparse "
                f"({matched[0].name}); name floating-point weights of two or more dimensions."
            )


def _check_shapes(chosen: Iterable[Candidate]) -> None:
    for candidate in chosen:
        if candidate.lazy:
            raise SparsityError(
                f"Weight {candidate.name!r} is lazy and has no shape yet; pass one batch through the module "
                "before fit, or name it in `exclude`."
            )


def _check_gradients(module: nn.Module, chosen: Iterable[Candidate]) -> None:
    """Refuse weights whose gradients hold some rows only: masks and scores are for whole ones."""
    names = {id(candidate.parameter): candidate.name for candidate in chosen}
    for layer in module.modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.sparse and id(layer.weight) in names:
            name = names[id(layer.weight)]
            raise SparsityError(
                f"Weight {name!r} is that of an embedding with `sparse=True`, whose gradient has no entries "
                "to mask. Make the embedding with `sparse=False`, or name the weight in `exclude`."
            )
