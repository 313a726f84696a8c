"""Patterns: which sets of weights may be kept, and how the best of them are picked from scores."""

from lightning_sparse.functional.patterns.base import PATTERNS, GroupPattern, Pattern, register_pattern
from lightning_sparse.functional.patterns.layerwise import LayerwiseNM
from lightning_sparse.functional.patterns.names import name_of_pattern, pattern_from_name
from lightning_sparse.functional.patterns.nm import NM
from lightning_sparse.functional.patterns.unstructured import UNSTRUCTURED, Unstructured
from lightning_sparse.registry import modules_in

__all__ = [
    "NM",
    "PATTERNS",
    "UNSTRUCTURED",
    "GroupPattern",
    "LayerwiseNM",
    "Pattern",
    "Unstructured",
    "name_of_pattern",
    "pattern_from_name",
    "register_pattern",
]

modules_in(__name__, __path__)
