"""Pruning methods by name: ``METHODS["erk"]()`` is ``Random(allocation="erk")``."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.saliency.base import PruningMethod, PruningProblem, Ranking
from lightning_sparse.functional.saliency.force import FORCE, IterativeSNIP
from lightning_sparse.functional.saliency.grasp import GraSP
from lightning_sparse.functional.saliency.snip import SNIP
from lightning_sparse.functional.saliency.synflow import SynFlow
from lightning_sparse.functional.saliency.weights import Magnitude, Random

__all__ = [
    "FORCE",
    "METHODS",
    "SNIP",
    "GraSP",
    "IterativeSNIP",
    "Magnitude",
    "MethodName",
    "PruningMethod",
    "PruningProblem",
    "Random",
    "Ranking",
    "SynFlow",
    "method_from_name",
]

MethodName: TypeAlias = Literal[
    "random",
    "uniform",
    "erk",
    "epl",
    "epf",
    "magnitude",
    "snip",
    "iterative_snip",
    "force",
    "grasp",
    "synflow",
]
"""Names of the methods with their default options."""

METHODS: dict[MethodName, Callable[[], PruningMethod]] = {
    "random": Random,
    "uniform": lambda: Random("uniform"),
    "erk": lambda: Random("erk"),
    "epl": lambda: Random("epl"),
    "epf": lambda: Random("epf"),
    "magnitude": Magnitude,
    "snip": SNIP,
    "iterative_snip": IterativeSNIP,
    "force": FORCE,
    "grasp": GraSP,
    "synflow": SynFlow,
}


def method_from_name(method: MethodName | PruningMethod) -> PruningMethod:
    """Return the method of that name, or the method itself.

    Raises:
        ValueError: If there is no such name.

    >>> method_from_name("erk")
    Random(allocation='erk')
    """
    if isinstance(method, PruningMethod):
        return method
    if isinstance(method, type):
        raise SparsityError(
            f"`method` must be a name or an object, got the class; write {method.__name__}()."
        )
    if not isinstance(method, str) or method not in METHODS:
        raise SparsityError(f"`method` must be one of {', '.join(get_args(MethodName))}, got {method!r}.")
    return METHODS[method]()
