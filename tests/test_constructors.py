"""Every constructor of data modules, nets and the classifier refuses what its annotations do not allow."""

import math
from collections.abc import Callable, Mapping, Sequence
from inspect import isabstract, isclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from lightning_sparse import data, models
from lightning_sparse.checks import SparsityError

REQUIRED: dict[str, dict[str, Any]] = {
    "ImageClassifier": {"net": nn.Linear(2, 2)},
    "ImageFolderDataModule": {"data_dir": "data"},
    "InMemoryImages": {"images": torch.zeros(2, 1, 3, 3), "labels": torch.zeros(2)},
    "TruncatedCosineLR": {"optimizer": SGD([torch.zeros(1)], lr=0.1), "epochs": 2},
}
CLASSES = [
    made
    for module in (data, models)
    for made in vars(module).values()
    if isclass(made) and made.__name__ in module.__all__ and not isabstract(made)
]
WRONG: dict[Any, list[Any]] = {
    bool: ["no", 1, None],
    int: [True, 2.5, "3", math.nan, -2],
    float: [True, "0.5", math.nan, math.inf],
    str: [True, 3, ""],
    Sequence: ["abc", [], [True, True, True], [2.5, 2, 2], [0, 1, 1], 3],
    Mapping: ["abc", ["*"], 0.1, True],
    Literal: ["nonsense", 3, True],
    Callable: ["no", True],
    nn.Module: ["no", 3],
    Tensor: ["no", [1]],
    Optimizer: ["no", 3],
}


def kinds_of(annotation: Any) -> list[Any]:
    """Return the kinds that an argument may be of, without their parameters."""
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in kinds_of(part)]
    origin = get_origin(annotation) or annotation
    return [Callable if origin is get_origin(Callable[[], None]) else origin]


def wrong_values(annotation: Any) -> list[Any]:
    """Return what no kind of the annotation allows; None where it is not allowed."""
    kinds = kinds_of(annotation)
    values = [value for kind in kinds if kind is not NoneType for value in WRONG[kind]]
    return [*values, *([] if NoneType in kinds else [None])]


def arguments_of(made: type) -> dict[str, Any]:
    hints = get_type_hints(made.__init__)
    return {name: hint for name, hint in hints.items() if name != "return"}


CASES = [(made, name) for made in CLASSES for name in arguments_of(made)]


def test_the_cases_are_those_of_the_public_classes() -> None:
    assert {"DigitsDataModule", "ImageClassifier", "ResNet50", "TruncatedCosineLR", "LeNet5"} <= {
        made.__name__ for made in CLASSES
    }
    assert (data.MNISTDataModule, "crop_padding") in CASES
    assert not {"ResNet", "VGG", "ConvNet", "LabelledImages"} & {made.__name__ for made in CLASSES}


@pytest.mark.parametrize(("made", "argument"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_a_wrong_value_is_refused_by_the_constructor(made: type, argument: str) -> None:
    required = REQUIRED.get(made.__name__, {})
    for value in wrong_values(arguments_of(made)[argument]):
        with pytest.raises(SparsityError, match=rf"^`{argument}` must be ") as error:
            made(**{**required, argument: value})
        assert f"got {value!r}" in str(error.value)
        assert len(str(error.value).splitlines()) <= 2
