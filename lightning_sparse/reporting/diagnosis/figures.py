"""Figures of nets at their start: a panel for each method, a line for each density."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning_sparse.extras import import_extra
from lightning_sparse.files.writing import whole_file
from lightning_sparse.reporting.diagnosis.compared import Seen, percent
from lightning_sparse.reporting.diagnosis.content import Diagnosis, LayerStart

__all__ = ["draw_layers", "draw_signals", "draw_spectra"]

COLUMNS = 3
MARKERS = "osD^vPX*"
FIRST, LAST = 0.0, 0.82
"""The part of the scale of colours that is seen on white."""
SAME = 1e-6
"""Curves that differ by less, relatively, are one."""
NAMED = 12
"""Up to so many layers are written out under the axis; of more it has their numbers."""


def draw_spectra(seen: Sequence[Seen], path: Path) -> Path:
    """Draw the leading singular values of the Jacobian, as Figure 4 of the DCTpS paper does.

    Densities whose Jacobian is zero have no curve, and are named. Methods whose curves are all the same have
    one.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655).
    """
    figure, panels = _panels(seen, sharey=True)
    for axes, method, nets in panels:
        axes.set_yscale("log")
        zero = [_label(one) for one, found in nets if found.spectrum.is_zero]
        curves = [(one, found.spectrum.mean) for one, found in nets if not found.spectrum.is_zero]
        if len(curves) > 1 and not zero and _all_the_same([values for _, values in curves]):
            curves, names = curves[:1], [f"all {len(curves)} densities"]
        else:
            names = [_label(one) for one, _ in curves]
        for name, (one, values) in zip(names, curves, strict=True):
            shown = [(number, value) for number, value in enumerate(values, 1) if value > 0]
            axes.plot(*zip(*shown, strict=True), label=name, **_style(one, seen))
        if zero:
            axes.plot([], [], " ", label=f"exactly zero:\n{_lines(zero)}")
        _finish(axes, method, "number of the singular value", "singular value")
        axes.set_xlim(0.5, len(nets[0][1].spectrum.mean) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return _saved(
        figure, path, f"Leading singular values of the input-output Jacobian at the start\n{_about(seen)}"
    )


def draw_layers(seen: Sequence[Seen], path: Path) -> Path:
    """Draw how many weights each layer keeps, as Figures 5, 7 and 13 of the DCTpS paper do.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655).
    """
    figure, panels = _panels(seen, sharey=True)
    most = max(layer.kept for _, _, nets in panels for _, found in nets for layer in found.layers)
    for axes, method, nets in panels:
        axes.set_yscale("symlog", linthresh=1)
        for one, found in nets:
            kept = [layer.kept for layer in found.layers]
            style = _style(one, seen)
            axes.plot(range(1, len(kept) + 1), kept, label=_label(one), **{**style, "markersize": 2.5})
            empty = [place for place, layer in enumerate(found.layers, 1) if not layer.kept]
            if empty:  # a line without points that is not clipped would have no bounds
                axes.plot(empty, [0] * len(empty), "x", color=style["color"], markersize=6, clip_on=False)
        _finish(axes, method, "", "weights kept (x: none)")
        _name_layers(axes, nets)
        axes.set_ylim(0, 2 * most)
    return _saved(figure, path, "Weights kept in each layer, in the net's order")


def draw_signals(seen: Sequence[Seen], path: Path) -> Path | None:
    """Draw the standard deviation of each layer's output, and of the loss's gradient there.

    Returns:
        The path; ``None`` where neither was measured.
    """
    if not any(layer.output for one in seen if one.found for layer in one.found.layers):
        return None
    kinds: list[tuple[str, Callable[[LayerStart], float | None]]] = [
        ("standard deviation of outputs", lambda layer: layer.output),
        ("of gradients there", lambda layer: layer.gradient),
    ]
    figure, panels = _panels(seen, rows=len(kinds), sharey="row")
    for index, (axes, method, nets) in enumerate(panels):
        label, value_of = kinds[index * len(kinds) // len(panels)]
        axes.set_yscale("log")
        for one, found in nets:
            values = [value_of(layer) or math.nan for layer in found.layers]  # zero has no logarithm
            axes.plot(
                range(1, len(values) + 1),
                values,
                label=_label(one),
                **{**_style(one, seen), "markersize": 2.5},
            )
        _finish(axes, method, "", label)
        _name_layers(axes, nets)
    return _saved(figure, path, "Scale of the signals in the first batch (no point: zero)")


_Nets = list[tuple[Seen, Diagnosis]]


def _panels(
    seen: Sequence[Seen], rows: int = 1, sharey: bool | str = False
) -> tuple[Any, list[tuple[Any, str, _Nets]]]:
    """Return a figure, and its panels with the nets of one method each; each of several rows has all."""
    matplotlib = import_extra("matplotlib", "the figures of a diagnosis")
    matplotlib.use("Agg")
    plt = import_extra("matplotlib.pyplot", "the figures of a diagnosis")
    methods: dict[str, _Nets] = {}
    for one in seen:
        if one.found is not None:
            methods.setdefault(one.method, []).append((one, one.found))
    columns = len(methods) if rows > 1 else min(COLUMNS, len(methods))
    lines = rows if rows > 1 else math.ceil(len(methods) / columns)
    size = (max(5.0, 3.6 * columns), 3.1 * lines + 0.6)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=sharey)
    places = list(grid.flat)
    for place in places[len(methods) * rows :]:
        place.remove()
    named = list(methods.items()) * rows
    return figure, [(axes, method, nets) for axes, (method, nets) in zip(places, named, strict=False)]


def _style(one: Seen, seen: Sequence[Seen]) -> dict[str, Any]:
    """Return colour and marker of a density, the same in all panels."""
    densities = sorted({other.density or 0.0 for other in seen}, reverse=True)
    place = densities.index(one.density or 0.0)
    colours = import_extra("matplotlib", "the figures of a diagnosis").colormaps["viridis"]
    share = FIRST + (LAST - FIRST) * place / max(1, len(densities) - 1)
    return {
        "color": colours(share),
        "marker": MARKERS[place % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.2,
    }


def _finish(axes: Any, title: str, xlabel: str, ylabel: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(xlabel, fontsize=8)
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel(ylabel, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7)


def _name_layers(axes: Any, nets: _Nets) -> None:
    """Write layers under the axis, by name where there is room."""
    names = [layer.name for layer in nets[0][1].layers]
    if len(names) <= NAMED:
        axes.set_xticks(range(1, len(names) + 1), names, rotation=40, ha="right", fontsize=6)
    else:
        axes.set_xlabel(f"number of the layer, of {len(names)}", fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)


def _saved(figure: Any, path: Path, title: str) -> Path:
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    with whole_file(path, ".png") as (unfinished, _):
        figure.savefig(unfinished, dpi=130, facecolor="white")
    import_extra("matplotlib.pyplot", "the figures of a diagnosis").close(figure)
    return path


def _about(seen: Sequence[Seen]) -> str:
    about = []
    for one in seen:
        if one.found is not None:
            used = {"running": "running", "batch": "batch"}.get(one.found.spectrum.statistics)
            about.append(
                f"mean over {one.found.source}"
                + (f"; batch normalisation: {used} statistics" if used else "")
            )
    return " / ".join(dict.fromkeys(about))


def _label(one: Seen) -> str:
    if one.density is not None or one.found is None:
        return percent(one.density or 1.0)
    return f"{100 * one.found.density:.3g}%"


def _lines(names: Sequence[str], each: int = 3) -> str:
    """Return names, three a line."""
    return "\n".join(", ".join(names[start : start + each]) for start in range(0, len(names), each))


def _all_the_same(curves: Sequence[Sequence[float]]) -> bool:
    return all(
        math.isclose(value, other, rel_tol=SAME)
        for curve in curves[1:]
        for value, other in zip(curves[0], curve, strict=True)
    )
