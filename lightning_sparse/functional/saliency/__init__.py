"""Pruning methods by name: ``METHODS["erk"]()`` is ``Random(allocation="erk")``.

A method is a file of its own here: its score as a function, and its options as a class that registers itself.
"""

from typing import TYPE_CHECKING, Literal, TypeAlias

from lightning_sparse.checks import SparsityError, check_choice
from lightning_sparse.functional.allocation import ALLOCATIONS
from lightning_sparse.functional.saliency.base import (
    METHODS,
    PruningMethod,
    PruningProblem,
    Ranking,
    register_method,
)
from lightning_sparse.registry import modules_in

# Methods are listed to users in the order of these imports; those of other files come last.
# isort: off
from lightning_sparse.functional.saliency.random import Random
from lightning_sparse.functional.saliency.magnitude import Magnitude
from lightning_sparse.functional.saliency.gradient import Gradient
from lightning_sparse.functional.saliency.snip import SNIP
from lightning_sparse.functional.saliency.iterative_snip import IterativeSNIP
from lightning_sparse.functional.saliency.force import FORCE
from lightning_sparse.functional.saliency.grasp import GraSP
from lightning_sparse.functional.saliency.synflow import SynFlow
# isort: on

__all__ = [
    "FORCE",
    "METHODS",
    "SNIP",
    "GraSP",
    "Gradient",
    "IterativeSNIP",
    "Magnitude",
    "MethodName",
    "PruningMethod",
    "PruningProblem",
    "Random",
    "Ranking",
    "SynFlow",
    "method_from_name",
    "register_method",
]

modules_in(__name__, __path__)

# Whatever was found is exported as those above are.
_FOUND = {method.__name__: method for method in METHODS.values() if isinstance(method, type)}
globals().update(_FOUND)
__all__ += sorted(_FOUND.keys() - set(__all__))

if TYPE_CHECKING:
    MethodName: TypeAlias = str
else:
    MethodName = Literal[tuple(METHODS)]
"""Names of the methods with their default options."""


def method_from_name(method: MethodName | PruningMethod) -> PruningMethod:
    """Return the method of that name, or the method itself.

    Args:
        method: A name in `METHODS`, that of an allocation (drawn at random within its budgets), or an object.

    Raises:
        SparsityError: If there is no such name.

    >>> method_from_name("erk")
    Random(allocation='erk')
    """
    if isinstance(method, PruningMethod):
        return method
    if isinstance(method, type):
        raise SparsityError(
            f"`method` must be a name or an object, got the class; write {method.__name__}()."
        )
    check_choice("method", method, dict.fromkeys([*METHODS, *ALLOCATIONS]))
    return METHODS[method]() if method in METHODS else Random(method)
