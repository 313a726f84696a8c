"""How Dense-plus-Sparse layers multiply, and which way is fastest.

A backend is a file here: a class after `BackendRow` with a `register_backend` above it. It is found by
itself.
"""

from typing import TYPE_CHECKING, Literal, TypeAlias

from lightning_sparse.layers.backends.base import (
    BACKEND_ROWS,
    BackendRow,
    LayerParts,
    Work,
    choose_backend,
    register_backend,
)
from lightning_sparse.registry import modules_in

__all__ = [
    "BACKENDS",
    "BACKEND_ROWS",
    "Backend",
    "BackendRow",
    "LayerParts",
    "Work",
    "choose_backend",
    "register_backend",
]

modules_in(__name__, __path__)

BACKENDS: tuple[str, ...] = ("auto", *BACKEND_ROWS)

if TYPE_CHECKING:
    Backend: TypeAlias = str
else:
    Backend = Literal[BACKENDS] | str
    """Name of a backend that comes with the package, or ``"auto"``: what is faster; or a registered one."""
