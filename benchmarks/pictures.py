"""Draws the pictures of the pages in docs/methods, by this package's own functions.

Nothing is trained. ``python -m benchmarks.pictures`` writes them into docs/images/methods (or ``--out``).
Lines and letters are of a grey that can be read on white and on dark pages; there is no background.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from lightning_sparse import ASNISigmoidPruner, IterativeMagnitudePruning, convert_, sparsify_
from lightning_sparse.functional.allocation import ALLOCATIONS, allocate
from lightning_sparse.functional.asni import sparsity_path, target_sparsity
from lightning_sparse.functional.gradual import gradual_counts, pruning_step
from lightning_sparse.functional.saliency.iterative import density_path
from lightning_sparse.functional.schedules import cubic, drop_fraction, is_due
from lightning_sparse.models import LeNet5

OUT = Path(__file__).parents[1] / "docs" / "images" / "methods"
INK = "#7f8790"
BLUE, ORANGE, GREEN, PURPLE = COLOURS = ("#4c8dd6", "#e08a3c", "#46a06a", "#a77cc9")
STYLE = {
    "svg.fonttype": "none",  # letters stay text, in the reader's font
    "svg.hashsalt": "methods",
    "font.family": "sans-serif",
    "font.size": 10,
    "savefig.transparent": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "legend.frameon": False,
    **dict.fromkeys(
        (
            "text.color",
            "axes.labelcolor",
            "axes.edgecolor",
            "xtick.color",
            "ytick.color",
            "legend.labelcolor",
        ),
        INK,
    ),
}


def one(width: float = 6.2, height: float = 2.8) -> tuple[Figure, Axes]:
    return plt.subplots(figsize=(width, height), layout="constrained")


def allocation() -> Figure:
    """Which share of each layer of LeNet-5 stays at a density of 5%."""
    weights = {name: w for name, w in LeNet5().named_parameters() if w.ndim > 1}
    shapes = {name: w.shape for name, w in weights.items()}
    figure, axes = one(height=3.1)
    for i, (name, colour) in enumerate(zip(ALLOCATIONS, COLOURS, strict=True)):
        budgets = allocate(shapes, 0.05, name)
        shares = [100 * kept / weights[layer].numel() for layer, kept in budgets.items()]
        axes.bar([x + 0.2 * (i - 1.5) for x in range(len(shares))], shares, 0.18, color=colour, label=name)
    labels = [f"{'fc' if w.ndim == 2 else 'conv'}\n{w.numel():,} weights" for w in weights.values()]
    axes.set_xticks(range(len(labels)), labels, fontsize=8.5)
    axes.set(ylabel="weights kept (% of the layer)", yscale="log", yticks=[1, 5, 20, 100])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.17))
    return figure


def gradual() -> Figure:
    """The cubic of gradual pruning, and the counts of its prunings."""
    start, stop, every, total, density = 100, 750, 50, 10_000, 0.05
    counts = gradual_counts(total, total, density, start, stop, every)
    steps = [0, start, *(pruning_step(n + 1, start, stop, every) for n in range(len(counts))), 1000]
    path = [total, total, *counts, counts[-1]]
    curve = range(start, stop + 1, 5)
    figure, axes = one()
    axes.step(steps, [100 * k / total for k in path], where="post", label="weights left")
    axes.plot(
        curve, [100 * cubic(t - start, stop - start, density) for t in curve], "--", lw=1, label="$d_t$"
    )
    axes.set_xticks([0, start, stop, 1000], ["0", "start", "stop", "end of\ntraining"])
    axes.set(ylabel="density (%)", xlabel="optimizer step", ylim=(0, 103), yticks=[5, 25, 50, 75, 100])
    axes.legend()
    return figure


def rigl() -> Figure:
    """The share of the active weights that moves at each update."""
    steps, stop, every = 1000, 750, 50
    figure, axes = one()
    for schedule, colour in zip(("cosine", "constant", "linear", "inverse_power"), COLOURS, strict=True):
        due = [t for t in range(1, steps) if is_due(t, every, stop)]
        shares = [100 * drop_fraction(schedule, t, stop, 0.3) for t in due]
        axes.plot(due, shares, "o-", ms=3, lw=1, color=colour, label=schedule)
    axes.set_xticks([0, stop, steps], ["0", "stop_at", "end of\ntraining"])
    axes.set(ylabel="connections that move\n(% of the active ones)", xlabel="optimizer step", ylim=(0, 32))
    axes.legend(loc="lower left", fontsize=9)
    return figure


def asni() -> Figure:
    """The sigmoid of the FC net in the paper, and what each epoch's end removes."""
    epochs, alpha, gamma, total = 50, 98, 5, 266_200
    search = ASNISigmoidPruner(alpha=alpha, gamma=gamma, search_epochs=epochs)
    kept = [total, *search.kept_path(total, total)]
    path = sparsity_path(epochs, alpha, gamma=gamma)
    figure, axes = one()
    removed = [100 * (a - b) / a for a, b in pairwise(kept)]
    axes.bar(range(len(removed)), removed, color=ORANGE, label="removed at this epoch's end, of what is left")
    axes.plot(range(len(path)), path, color=BLUE, label="sparsity $s(e)$")
    assert abs(target_sparsity(path[-1], total, total) - (1 - kept[-1] / total)) < 1e-3
    axes.set(xlabel="epoch of the search", ylabel="%", ylim=(0, 103), xticks=[0, 10, 20, 25, 30, 40, 49])
    axes.legend(loc="upper left", fontsize=9)
    return figure


def imp() -> Figure:
    """The density over the epochs of all rounds."""
    rounds, epochs, total = 5, 4, 100_000
    search = IterativeMagnitudePruning(0.05, rounds=rounds, epochs_per_round=epochs)
    densities = [100.0, *(100 * kept / total for kept in search.kept_path(total, total))]
    figure, axes = one()
    axes.step([epochs * r for r in range(rounds + 2)], [*densities, densities[-1]], where="post")
    for number, density in enumerate(densities):
        axes.text(epochs * (number + 0.5), density + 2, f"{density:.3g}%", ha="center", color=INK)
    for number in range(1, rounds + 1):
        axes.axvline(epochs * number, color=INK, lw=0.6, ls=":")
    axes.set(xlabel="epoch (dotted: prune, rewind the rest)", ylabel="density (%)", ylim=(0, 112))
    axes.set_xticks([epochs * r for r in range(rounds + 2)])
    return figure


def iterations() -> Figure:
    """How the density falls in methods that score more than once."""
    figure, axes = one()
    for schedule in ("exponential", "linear"):
        path = [1.0, *density_path(0.01, 20, schedule)]
        axes.plot(range(len(path)), [100 * d for d in path], "o-", ms=3, lw=1, label=schedule)
    axes.set(xlabel="iteration (here 20 in all)", ylabel="density (%)", yscale="log", yticks=[1, 10, 100])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks([0, 5, 10, 15, 20])
    axes.legend()
    return figure


def dctps() -> Figure:
    """The three matrices of a small converted layer: W, C and S."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(24, 12))
    convert_(layer, density=0.08, generator=3)
    matrix = layer[0].weight.detach().clone()  # S is zero at first: alpha C
    with torch.no_grad():
        layer[0].values.uniform_(-0.6, 0.6)
        whole = layer[0].weight.detach()
    sparse = torch.where((whole - matrix).abs() < 1e-9, torch.nan, whole - matrix)
    titles = ("W: the weight", "\N{GREEK SMALL LETTER ALPHA} C: not stored", "S: trained")
    figure, axes = plt.subplots(1, 3, figsize=(6.6, 1.8), layout="constrained")
    for place, title, values in zip(axes, titles, (whole, matrix, sparse), strict=True):
        place.imshow(values.numpy(), cmap="coolwarm", vmin=-0.6, vmax=0.6)
        place.set_title(title, fontsize=12)
        _frame(place)
    for place, sign in zip(axes[1:], ("=", "+"), strict=True):
        place.text(-0.07, 0.5, sign, transform=place.transAxes, ha="center", va="center", fontsize=14)
    return figure


def patterns() -> Figure:
    """Half of a weight kept anywhere, and two of every four inputs."""
    titles = {"unstructured": "anywhere: half of the layer", "2:4": '"2:4": two of every four inputs'}
    figure, axes = plt.subplots(1, 2, figsize=(6.6, 1.9), layout="constrained")
    for place, (pattern, title) in zip(axes, titles.items(), strict=True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(16, 6))
        (mask,) = sparsify_(net, "magnitude", density=0.5, pattern=pattern).values()
        place.imshow(mask.to(torch.uint8).numpy(), cmap=mpl.colors.ListedColormap(["#7f879030", BLUE]))
        place.set_title(title, fontsize=11)
        place.set_xticks([x - 0.5 for x in range(1, 16)], minor=True)
        place.set_yticks([y - 0.5 for y in range(1, 6)], minor=True)
        place.grid(which="minor", color=INK, lw=0.3)
        for edge in (3.5, 7.5, 11.5):
            place.axvline(edge, color=INK, lw=3 if pattern == "2:4" else 0.3)
        _frame(place)
        place.set_xlabel("inputs", fontsize=9)
    axes[0].set_ylabel("outputs", fontsize=9)
    return figure


def fingerprint(figure: Figure) -> str:
    """A hash of lines, bars and masks, by which a test tells whether a file is what would be drawn now."""
    lines = [number for axes in figure.axes for line in axes.lines for number in line.get_xydata().ravel()]
    bars = [bar.get_height() for axes in figure.axes for bars in axes.containers for bar in bars]
    images = [image.get_array() for axes in figure.axes for image in axes.images]
    masks = [entry for image in images if image.dtype.kind == "u" for entry in image.ravel()]
    numbers = " ".join(f"{number:.4g}" for number in (*lines, *bars, *masks))
    return hashlib.sha256(numbers.encode()).hexdigest()[:16]


def _frame(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(True)


PICTURES: dict[str, Callable[[], Figure]] = {
    draw.__name__: draw for draw in (allocation, asni, dctps, gradual, imp, iterations, patterns, rigl)
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the pictures")
    folder = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        with mpl.rc_context(STYLE):
            figure = draw()
            figure.savefig(
                folder / f"{name}.svg", metadata={"Date": None, "Description": fingerprint(figure)}
            )
            plt.close(figure)


if __name__ == "__main__":
    main()
