"""Methods have names: each registers itself, and all else about names is derived."""

import sys
from typing import get_args

import pytest
import torch
from torch import nn

from lightning_sparse import Magnitude, PruningMethod, PruningProblem, Random
from lightning_sparse.functional import saliency
from lightning_sparse.functional.allocation import ALLOCATIONS, register_allocation
from lightning_sparse.functional.pruning import prune_along
from lightning_sparse.functional.saliency import METHODS, MethodName, method_from_name, register_method
from lightning_sparse.registry import modules_in

NAMES = ["random", "uniform", "erk", "epl", "epf", "magnitude", "gradient", "snip", "iterative_snip", "force"]

FILE = '''
from lightning_sparse.functional.saliency.base import PruningMethod, register_method

@register_method("smallest")
class Smallest(PruningMethod):
    """Keep the smallest weights."""

    def scores(self, problem):
        return {name: -weight.detach().abs() for name, weight in problem.weights.items()}
'''


def test_names_are_derived_in_this_order():
    assert list(METHODS) == [*NAMES, "grasp", "synflow"]
    assert get_args(MethodName) == tuple(METHODS)
    for name, make in METHODS.items():
        assert method_from_name(name) == make()
    classes = {type(make()) for make in METHODS.values()}
    assert all(getattr(saliency, kind.__name__) is kind for kind in classes)
    assert {kind.__name__ for kind in classes} <= set(saliency.__all__)
    assert method_from_name("erk") == Random("erk")
    assert method_from_name("magnitude") == Magnitude()


def test_a_new_named_score_is_one_file(tmp_path, monkeypatch):
    package = tmp_path / "scores_of_mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "smallest.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        [module] = modules_in("scores_of_mine", [str(package)])
        method = method_from_name("smallest")
        assert isinstance(method, module.Smallest)
        weights = {"w": torch.tensor([[1.0, -4.0], [0.5, 2.0]])}
        [masks] = prune_along(method, PruningProblem(nn.Module(), weights, torch.Generator()), 0.5)
        assert masks["w"].tolist() == [[True, False], [True, False]]
        with pytest.raises(ValueError, match=r"must be one of .*synflow, smallest, got 'smalest'; did you"):
            method_from_name("smalest")
    finally:
        METHODS.pop("smallest", None)
        sys.modules.pop("scores_of_mine.smallest", None)


def test_an_allocation_registered_later_is_a_random_method_too():
    register_allocation("first_only", lambda shape: 1 if shape[0] == 1 else 10**6)
    try:
        assert method_from_name("first_only") == Random(allocation="first_only")
    finally:
        del ALLOCATIONS["first_only"]
    with pytest.raises(ValueError, match="got 'first_only'"):
        method_from_name("first_only")


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match=r"`name` must be new, got 'snip', which is .*saliency\.snip\.SNIP"):
        register_method("snip")(Magnitude)
    with pytest.raises(ValueError, match="`name` must be a text, got <class"):
        register_method(Magnitude)(Magnitude)  # the name is missing
    register_method("magnitude")(Magnitude)  # as it is


def test_iterations_are_an_attribute():
    class ThreeTimes(PruningMethod):
        iterations = 3

        def scores(self, problem):
            return {name: weight.detach().abs() for name, weight in problem.weights.items()}

    assert ThreeTimes().path(0.001) == pytest.approx([0.1, 0.01, 0.001])
    assert Magnitude().path(0.3) == [0.3]
    assert repr(ThreeTimes()) == "ThreeTimes(allocation='global')"
