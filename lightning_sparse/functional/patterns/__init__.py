"""Patterns: which sets of weights may be kept, and how the best of them are picked from scores."""

from lightning_sparse.functional.patterns.arguments import (
    density_within,
    refuse_other_pattern,
    weights_within,
)
from lightning_sparse.functional.patterns.base import PATTERNS, GroupPattern, Pattern, register_pattern
from lightning_sparse.functional.patterns.layerwise import LayerwiseNM
from lightning_sparse.functional.patterns.names import pattern_from_name
from lightning_sparse.functional.patterns.nm import NM
from lightning_sparse.functional.patterns.unstructured import UNSTRUCTURED, Unstructured, name_of_pattern
from lightning_sparse.registry import modules_in

__all__ = [
    "NM",
    "PATTERNS",
    "UNSTRUCTURED",
    "GroupPattern",
    "LayerwiseNM",
    "Pattern",
    "Unstructured",
    "density_within",
    "name_of_pattern",
    "pattern_from_name",
    "refuse_other_pattern",
    "register_pattern",
    "weights_within",
]

modules_in(__name__, __path__)
