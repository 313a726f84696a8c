"""The figures of the ASNI paper, drawn from plain numbers; matplotlib is imported when the first is drawn."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sparse.extras import import_extra
from lightning_sparse.reporting.asni.nets import Net
from lightning_sparse.reporting.asni.runs import MEANING, Variant
from lightning_sparse.reporting.layers import LayerCount
from lightning_sparse.reporting.runs import Curve

__all__ = ["accuracy", "layer_histograms", "layer_sparsity", "net_histograms", "schedule"]

# Colours that colour-blind readers can tell apart (Okabe and Ito, 2008); line styles say it once more.
COLOURS: dict[Variant, str] = {"D": "#555555", "A": "#0072B2", "C": "#009E73", "S": "#D55E00"}
STYLES: dict[Variant, Any] = {"D": "-", "A": (0, (1, 1)), "C": "-", "S": "--"}
WIDTHS: dict[Variant, float] = {"D": 3.0, "A": 1.8, "C": 1.4, "S": 1.4}  # D lies below the others
PLUS, MINUS = "#D55E00", "#CC79A7"
PER_PAGE, COLUMNS = 24, 4
NAMED = 24  # so many layers have room for their names below the bars
BINS = 200


def accuracy(curves: Sequence[tuple[Variant, Curve]], metric: str) -> Any:
    """Draw a metric over the epochs of each variant, one line per run (figure 2b).

    Beside it once more without A, which loses much on its way: the others are then told apart.
    """
    without_a = [(variant, curve) for variant, curve in curves if variant != "A"]
    panels = [curves, without_a] if 0 < len(without_a) < len(curves) else [curves]
    figure, grid = _figure(5.6 * len(panels) + 1, 4.8, 1, len(panels))
    for axes, panel in zip(grid.flat, panels, strict=True):
        _lines(axes, panel)
        axes.set(xlabel="epoch of the variant (from 0)", ylabel=metric)
    figure.suptitle(f"{metric} after each epoch" + (", with and without A" if len(panels) > 1 else ""))
    handles = {label: handle for handle, label in zip(*grid.flat[0].get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def schedule(target: Curve, actual: Curve) -> Any:
    """Draw the share of weights pruned by the end of each search epoch, planned and real (figure 2a)."""
    figure, grid = _figure(7, 4.5)
    axes = grid.item()
    for curve, style in ((target, {"color": "0.45", "label": "target: the sigmoid"}), (actual, _ACTUAL)):
        if curve:
            axes.plot(list(curve), [100 * share for share in curve.values()], **style)
    axes.set(
        title="Sparsity in the search", xlabel="epoch (from 0)", ylabel="sparsity of all selected weights (%)"
    )
    axes.set_ylim(0, 102)
    _epochs_and_grid(axes)
    axes.legend(loc="upper left")
    return figure


_ACTUAL = {"color": COLOURS["A"], "linestyle": "", "marker": ".", "label": "actual"}


def layer_histograms(survivors: Net) -> list[Any]:
    """Draw each layer's surviving weights, with their signed means as bars, 24 layers a page (figure 1)."""
    return [_page(survivors, start) for start in range(0, len(survivors), PER_PAGE)]


def net_histograms(nets: Mapping[Variant, Net]) -> Any:
    """Draw how all weights of each net that are not zero are distributed (figure 3)."""
    weights = {variant: np.concatenate(list(net.values())) for variant, net in nets.items()}
    ends = [np.quantile(values, (0.0005, 0.9995)) for values in weights.values()]
    edges = np.linspace(min(low for low, _ in ends), max(high for _, high in ends), BINS + 1)
    figure, grid = _figure(7.5, 1.9 * len(weights) + 0.8, len(weights), 1, sharex=True)
    for axes, (variant, values) in zip(grid.flat, weights.items(), strict=True):
        percent = 100 * np.histogram(values, edges)[0] / len(values)
        axes.stairs(percent, edges, fill=True, color=COLOURS[variant])
        title = f"{variant}: {MEANING[variant]}; {len(values):,} weights{_cut_peak(axes, percent)}"
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_ylabel("% per bin")
        _grid_behind(axes)
    grid.flat[-1].set_xlabel("weight (up to the outermost 0.1% of each net)")
    figure.suptitle("Weights that are not zero, all layers")
    return figure


def layer_sparsity(layers: Sequence[LayerCount]) -> Any:
    """Draw the share pruned of each layer as bars, and of all of them as a line (figure 4)."""
    named, percent = len(layers) <= NAMED, [100 * (1 - layer.density) for layer in layers]
    total = 100 * (1 - sum(layer.kept for layer in layers) / sum(layer.weights for layer in layers))
    width = max(6, 0.4 * len(layers) + 2) if named else min(0.14 * len(layers) + 2, 16)
    figure, grid = _figure(width, 4.5)
    axes = grid.item()
    bars = axes.bar(range(1, len(layers) + 1), percent, 0.75, color=COLOURS["A"])
    axes.axhline(total, color=COLOURS["S"], linestyle="--")
    axes.set_title(f"Sparsity per layer (dashed: all layers together, {total:.2f}%)")
    axes.set(xlim=(0.4, len(layers) + 0.6), ylim=(0, 108 if named else 102), ylabel="sparsity (%)")
    axes.set_xlabel("layer" if named else "layer, by its place in layers.csv (from 1)")
    _grid_behind(axes, axis="y")
    if named:
        _name_bars(axes, bars, [layer.name for layer in layers])
    return figure


def common_prefix(names: Iterable[str]) -> str:
    """Return what all names begin with and none of them needs; a bare number would be no name.

    >>> common_prefix(["net.fcs.0", "net.fcs.2"])
    'net.'
    """
    split = [name.split(".") for name in names]
    modules = zip(*(parts[:-1] for parts in split), strict=False)  # as deep as the shallowest
    shared = sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, modules))
    while shared and any(parts[shared].isdigit() for parts in split):
        shared -= 1
    return "".join(f"{part}." for part in split[0][:shared])


def shortened(name: str, length: int = 29) -> str:
    """Return a name, or its end if it is long.

    >>> shortened("features.denseblock1.denselayer1.conv2")
    '...seblock1.denselayer1.conv2'
    """
    return name if len(name) <= length else f"...{name[3 - length :]}"


def _name_bars(axes: Any, bars: Any, names: Sequence[str]) -> None:
    """Write its value above each bar, and its layer below."""
    white = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
    axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2, bbox=white)
    prefix = common_prefix(names)
    labels = [shortened(name.removeprefix(prefix)) for name in names]
    axes.set_xticks(range(1, len(names) + 1), labels, rotation=45, ha="right", fontsize=8)


def _lines(axes: Any, curves: Sequence[tuple[Variant, Curve]]) -> None:
    """Draw curves in the order of the variants; several runs of one share colour and label."""
    for variant, curve in sorted(curves, key=lambda pair: list(MEANING).index(pair[0])):
        axes.plot(
            list(curve),
            list(curve.values()),
            color=COLOURS[variant],
            linestyle=STYLES[variant],
            linewidth=WIDTHS[variant],
            marker="." if len(curve) < 30 else None,
            label=f"{variant}: {MEANING[variant]}",
        )
    _epochs_and_grid(axes)


def _epochs_and_grid(axes: Any) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)
    _grid_behind(axes)


def _grid_behind(axes: Any, axis: str = "both") -> None:
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3, axis=axis)


def _cut_peak(axes: Any, percent: NDArray[Any]) -> str:
    """Let no single bin dwarf the others: weights without a gradient all stay at their centroid."""
    limit, peak = 1.6 * np.quantile(percent[percent > 0], 0.95), percent.max()
    if peak < 2 * limit:
        return ""
    axes.set_ylim(0, limit)
    return f"; highest bin, cut off: {peak:.1f}%"


def _page(survivors: Net, start: int) -> Any:
    """Draw the layers from ``start`` on that have room on a page."""
    prefix, page = common_prefix(survivors), list(survivors.items())[start : start + PER_PAGE]
    columns = min(COLUMNS, len(page))
    rows = ceil(len(page) / columns)
    figure, grid = _figure(max(3.0 * columns, 6), 2.2 * rows + 1.0, rows, columns)
    for axes, (name, values) in zip(grid.flat, page, strict=False):
        _layer_histogram(axes, values)
        axes.set_title(f"{shortened(name.removeprefix(prefix))} ({len(values):,})", fontsize=8)
    for axes in grid.flat[len(page) :]:
        axes.set_axis_off()
    figure.suptitle(
        f"Surviving weights of A, layers {start + 1} to {start + len(page)}; their number in brackets"
    )
    figure.supxlabel("weight", fontsize=10)
    figure.supylabel("number of weights", fontsize=10)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def _layer_histogram(axes: Any, values: NDArray[Any]) -> None:
    """Draw one layer: few weights get few bins."""
    counts, edges = np.histogram(values, bins=int(np.clip(np.sqrt(len(values)) * 2, 10, 100)))
    axes.stairs(counts, edges, fill=True, color=COLOURS["A"], alpha=0.75)
    width = (edges[-1] - edges[0]) / 50
    sides = (values[values > 0], PLUS, "$c_+$"), (values[values < 0], MINUS, "$c_-$")
    for side, colour, label in sides:
        axes.bar(side.mean() if len(side) else 0, counts.max() / 3, width, color=colour, label=label)
    axes.tick_params(labelsize=7)
    axes.locator_params(nbins=5)


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **arguments: Any
) -> tuple[Any, Any]:
    """Return a figure of this size in inches, with the array of its axes."""
    figure = import_extra("matplotlib.figure", "plots").Figure((width, height), dpi=150, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **arguments)
