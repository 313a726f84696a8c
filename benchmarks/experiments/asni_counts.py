"""Sets the counts of the ASNI paper's tables 1 and 2 beside those of the shipped recipes.

    python -m benchmarks.experiments.asni_counts

Nothing is trained: how many weights ASNI keeps follows from the recipe's schedule and the number of weights
of its net, which is built without storage. "Nonzeros" are the weights kept and all biases and normalisation
parameters. Ends with status 1 if a row that can be reproduced is not.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from benchmarks.harness.report import table
from lightning_sparse import models
from lightning_sparse.functional.asni import kept_path, sparsity_path
from lightning_sparse.functional.schedules import sigmoid
from lightning_sparse.selection import select_weights

RECIPES = Path(__file__).parents[2] / "recipes" / "asni"


@dataclass(frozen=True)
class Row:
    """What the paper prints of a run; our count may differ by ``margin``, None where it cannot be had."""

    recipe: str
    params: int
    sparsity: float
    nonzeros: int
    margin: int | None = 4
    counted_with: dict[str, int] = field(default_factory=dict)
    note: str = ""


class Counts(NamedTuple):
    """Parameters of a net, those of them that ASNI may prune, and those that are left of all."""

    params: int
    weights: int
    nonzeros: int


ROWS = (
    Row("mnist_fc", 266_610, 96.87, 8_335),
    Row("mnist_conv2", 3_317_450, 98.18, 86_363, note="its count is 97.40% sparse, not 98.18%"),
    Row("mnist_conv4", 1_933_258, 97.94, 39_828),
    Row("mnist_conv6", 1_802_698, 97.15, 51_420),
    Row("cifar10_conv2", 4_301_642, 96.71, 141_364),
    Row("cifar10_conv4", 2_425_930, 94.47, 134_185),
    Row("cifar10_conv6", 2_262_602, 92.72, 164_624),
    Row("cifar10_vgg11", 9_231_114, 96.14, 356_230),
    Row("cifar10_vgg13", 9_416_010, 97.14, 269_221),
    Row("cifar10_vgg16", 14_728_266, 98.15, 272_626),
    Row(
        "cifar10_resnet18",
        11_181_642,
        96.14,
        451_216,
        margin=7,
        counted_with={"num_classes": 1000},
        note="counted with 1000 classes, as the paper must have; with the 10 of its table 1: {shipped:,}",
    ),
    Row(
        "imagenet_resnet50_80",
        25_557_032,
        80.12,
        5_140_882,
        margin=None,
        note="its count is 79.88% sparse, not 80.12%; the sigmoid taken to the end of the last epoch, "
        "nothing left out, gives {whole:,}",
    ),
    Row(
        "imagenet_resnet50_90",
        25_557_032,
        90.08,
        2_534_267,
        margin=None,
        note="the printed sigmoid never gets there; after the last epoch it would give {whole:,}",
    ),
)


def recipe(name: str) -> dict[str, Any]:
    """Return what a recipe says."""
    content: dict[str, Any] = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    return content


def count(content: dict[str, Any], **net_arguments: int) -> Counts:
    """Return the counts of a recipe, with other arguments of its net if some are given."""
    net = content["model"]["init_args"]["net"]
    with torch.device("meta"):
        made = getattr(models, net["class_path"])(**{**net.get("init_args", {}), **net_arguments})
    params = sum(p.numel() for p in made.parameters())
    weights = sum(p.numel() for p in select_weights(made).values())
    return Counts(params, weights, params - weights + kept(content, weights))


def kept(content: dict[str, Any], weights: int) -> int:
    """Return how many of so many weights are alive after the search of a recipe."""
    search = pruner(content)
    sparsities = sparsity_path(*(search[name] for name in ("search_epochs", "alpha", "beta", "gamma")))
    return kept_path(weights, sparsities, search["min_increment"])[-1]


def kept_by_the_whole_sigmoid(content: dict[str, Any], weights: int) -> int:
    """Return how many would be alive if the last epoch too ended in a pruning, and nothing were left out."""
    search = pruner(content)
    epochs, *shape = (search[name] for name in ("search_epochs", "alpha", "beta", "gamma"))
    return kept_path(weights, [sigmoid(epoch, epochs, *shape) for epoch in range(epochs)])[-1]


def pruner(content: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a recipe's pruner."""
    (found,) = (c for c in content["trainer"]["callbacks"] if c["class_path"] == "ASNISigmoidPruner")
    arguments: dict[str, Any] = found["init_args"]
    return arguments


def compare(row: Row) -> tuple[Counts, Counts, bool]:
    """Return a recipe's counts, those to set beside the paper's non-zeros, and whether both tables agree."""
    shipped, counted = count(recipe(row.recipe)), count(recipe(row.recipe), **row.counted_with)
    near = row.margin is None or abs(counted.nonzeros - row.nonzeros) <= row.margin
    return shipped, counted, near and shipped.params == row.params


def note_of(row: Row) -> str:
    """Return what is to be said of a row, its counts filled in."""
    counts = count(recipe(row.recipe))
    whole = kept_by_the_whole_sigmoid(recipe(row.recipe), counts.weights) + counts.params - counts.weights
    return row.note.format(shipped=counts.nonzeros, whole=whole)


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(argv)
    lines = [("recipe", "parameters", "paper", "nonzeros", "paper", "difference", "margin", "")]
    notes, failed = [], []
    for row in ROWS:
        shipped, counted, good = compare(row)
        difference = counted.nonzeros - row.nonzeros
        verdict = "not reproducible" if row.margin is None else "met" if good else "missed"
        shown = [f"{n:,}" for n in (shipped.params, row.params, counted.nonzeros, row.nonzeros)]
        lines.append((row.recipe, *shown, f"{difference:+,}", str(row.margin or "-"), verdict))
        notes += [f"{row.recipe}: {note_of(row)}"] if row.note else []
        failed += [] if good else [row.recipe]
    print("\n".join([*table(lines), "", *notes]))
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
