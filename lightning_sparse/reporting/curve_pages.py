"""Report pages of any run: density, accuracy, what each layer keeps, and how connections moved."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_sparse.extras import import_extra
from lightning_sparse.reporting.names import MOVEMENTS, densities, metrics_in, movements_in, series
from lightning_sparse.reporting.pages import ReportPage, register_page
from lightning_sparse.reporting.report.supports import supports_in_checkpoint
from lightning_sparse.reporting.runs import Curve, Run, find_run, trained_curves

__all__ = ["AccuracyPage", "ChurnPage", "DensityPage", "LayersPage"]

FOLDER = "`plots` in the first run"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A6A00", "#56B4E9", "#555555")
"""Colour-blind readers can tell them apart (after Okabe and Ito, 2008); styles of lines say it once more."""
STYLES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
NAMED = 12
"""So many lines have an entry in the legend; of more layers colours say the order."""


@dataclass(frozen=True)
class _Line:
    run: str
    layer: str  # "" of all together
    curve: Curve


@register_page
@dataclass(frozen=True)
class DensityPage(ReportPage):
    """Draw how dense runs are over epochs: one run by layer, several as a whole."""

    name = "density"
    summary = "density over epochs, by layer of one run, in total of several"
    usual_folder = FOLDER

    def write(self, runs: Sequence[str | Path], out: str | Path | None) -> list[str]:
        """Write ``density.png`` and ``density.csv``."""
        found = _found(runs)
        lines = []
        for name, run in found:
            totals, layers = densities(trained_curves(run))
            lines += [_Line(name, layer, curve) for layer, curve in layers.items()]
            lines += [_Line(name, "", curve) for curve in list(totals.values())[:1]]
        why = "no run has logged `sparsity/...`."
        return _write_lines("density", "density", "density (share kept)", found, lines, out, why, True)


@register_page
@dataclass(frozen=True)
class AccuracyPage(ReportPage):
    """Draw a metric of runs over epochs: validation, and training where it was logged."""

    name = "accuracy"
    summary = "accuracy, or another metric, over epochs"
    usual_folder = FOLDER
    metric: str = field(
        default="accuracy", metadata={"help": "accuracy, loss, any other word after val, or a logged name"}
    )

    def write(self, runs: Sequence[str | Path], out: str | Path | None) -> list[str]:
        """Write ``accuracy.png`` and ``accuracy.csv``, or files named after the metric."""
        found, lines, known = _found(runs), list[_Line](), set[str]()
        for name, run in found:
            curves = trained_curves(run)
            metrics = metrics_in(curves)
            known |= metrics.keys()
            exact = {"": curves[self.metric]} if self.metric in curves else {}
            splits = exact or {split: metrics[self.metric][split] for split in metrics.get(self.metric, {})}
            lines += [_Line(f"{name}, {split}" if split else name, "", c) for split, c in splits.items()]
        others = ", ".join(sorted(known)) or "nothing"
        why = f"no run has logged {self.metric!r}; choose by --metric from {others}."
        file = "".join(letter if letter.isalnum() else "_" for letter in self.metric)
        return _write_lines(file, self.metric, self.metric, found, lines, out, why)


@register_page
@dataclass(frozen=True)
class ChurnPage(ReportPage):
    """Draw how connections moved: churn, what survived of the first ones, what was explored."""

    name = "churn"
    summary = "churn, survival and exploration of RigL, SET and other moving masks"
    usual_folder = FOLDER

    def write(self, runs: Sequence[str | Path], out: str | Path | None) -> list[str]:
        """Write ``churn.png``, ``survived.png``, ``explored.png`` and tables of the same names."""
        found, printed = _found(runs), []
        logged = [(name, trained_curves(run)) for name, run in found]
        for kind in MOVEMENTS:
            lines = []
            for name, curves in logged:
                if (group := movements_in(curves).get(kind)) is not None:
                    total, layers = series(curves, group)
                    lines += [_Line(name, layer, curve) for layer, curve in layers.items()]
                    lines.append(_Line(name, "", total))
            why = f"no run has logged {kind!r}."
            printed += _write_lines(kind, kind, f"{kind} (share)", found, lines, out, why)
        return printed


@register_page
@dataclass(frozen=True)
class LayersPage(ReportPage):
    """Draw what runs keep of each layer, as Figures 5, 7 and 13 of the DCTpS paper do.

    Source:
        Price and Tanner, "Dense for the Price of Sparse", ICML 2021 (arXiv:2102.07655).
    """

    name = "layers"
    summary = "weights kept per layer, in the last checkpoint"
    usual_folder = FOLDER

    def write(self, runs: Sequence[str | Path], out: str | Path | None) -> list[str]:
        """Write ``layers.png`` and ``layers.csv``."""
        import_extra("matplotlib", "plots")
        found, printed, kept = _found(runs), list[str](), dict[str, list[tuple[str, int, int]]]()
        for name, run in found:
            last = run.checkpoints[-1].path if run.checkpoints else None
            layers = supports_in_checkpoint(last) if last else []
            if layers:
                kept[name] = [(one.name, one.weights, one.kept) for one in layers]
            else:
                printed.append(
                    f"left out {name} in layers.png: it has no checkpoint with masks or positions."
                )
        if not kept:
            return printed
        folder = _folder(found, out)
        rows = [
            (name, layer, weights, count, f"{count / max(1, weights):.9g}")
            for name, layers_of in kept.items()
            for layer, weights, count in layers_of
        ]
        _write_table(folder / "layers.csv", ("run", "layer", "weights", "kept", "density"), rows)
        _kept_figure(kept).savefig(folder / "layers.png")
        return [*printed, f"wrote {folder / 'layers.png'}", f"wrote {folder / 'layers.csv'}"]


def _found(runs: Sequence[str | Path]) -> list[tuple[str, Run]]:
    """Return the runs, each once, under names that tell them apart."""
    found = [find_run(folder) for folder in dict.fromkeys(runs)]
    paths = [run.folder.absolute() for run in found]
    short = [path.parent.name if path.name.startswith("version_") else path.name for path in paths]
    names = short if len(set(short)) == len(short) else [run.folder.as_posix() for run in found]
    return list(zip(names, found, strict=True))


def _folder(found: Sequence[tuple[str, Run]], out: str | Path | None) -> Path:
    folder = found[0][1].folder / "plots" if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_lines(
    file: str,
    title: str,
    unit: str,
    found: Sequence[tuple[str, Run]],
    lines: Sequence[_Line],
    out: str | Path | None,
    why_none: str,
    shares: bool = False,
) -> list[str]:
    """Write a figure of curves over epochs and their table, or say why there are none."""
    import_extra("matplotlib", "plots")
    lines = [line for line in lines if line.curve]
    if not lines:
        return [f"left out {file}.png: {why_none}"]
    folder = _folder(found, out)
    rows = [
        (line.run, line.layer or "total", epoch, f"{value:.9g}")
        for line in lines
        for epoch, value in line.curve.items()
    ]
    _write_table(folder / f"{file}.csv", ("run", "layer", "epoch", title), rows)
    several = len(found) > 1
    shown = [line for line in lines if not (several and line.layer)] or lines
    _lines_figure(f"{title.capitalize()} over epochs", unit, shown, shares).savefig(folder / f"{file}.png")
    return [f"wrote {folder / f'{file}.png'}", f"wrote {folder / f'{file}.csv'}"]


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _lines_figure(title: str, unit: str, lines: Sequence[_Line], shares: bool) -> Any:
    figure, axes = _figure(7.5, 4.6)
    layers, others = ([line for line in lines if bool(line.layer) == named] for named in (True, False))
    colours = _colours(len(layers))
    for line in lines:
        place = (layers if line.layer else others).index(line)
        total = bool(layers) and not line.layer
        colour, style = ("black", "-") if total else colours(place) if line.layer else _look(place)
        named = total or not line.layer or len(layers) <= NAMED or place in (0, len(layers) - 1)
        axes.plot(
            list(line.curve),
            list(line.curve.values()),
            color=colour,
            linestyle=style,
            linewidth=2.4 if not line.layer else 1.3,
            marker="." if len(line.curve) < 25 else None,
            label=(line.layer or ("all layers" if total else line.run)) if named else None,
        )
    values = [value for line in lines for value in line.curve.values()]
    if shares and min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
    axes.set(title=title, xlabel="epoch (from 0)", ylabel=unit)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return _finished(figure, axes)


def _kept_figure(kept: dict[str, list[tuple[str, int, int]]]) -> Any:
    most = max(len(layers) for layers in kept.values())
    figure, axes = _figure(min(14.0, max(6.5, 0.3 * most + 3)), 4.8)
    for place, (name, layers) in enumerate(kept.items()):
        colour, style = _look(place)
        counts = [count for _, _, count in layers]
        label = f"{name}: {sum(counts):,} of {sum(weights for _, weights, _ in layers):,}"
        places = range(1, len(counts) + 1)
        axes.plot(places, counts, color=colour, linestyle=style, marker="o", markersize=3.5, label=label)
    counts = [count for layers in kept.values() for _, _, count in layers]
    pruned = min(counts) == 0  # a logarithm has no place for them
    axes.set_yscale(*(("symlog",) if pruned else ("log",)), **({"linthresh": 1} if pruned else {}))
    axes.set_ylim(0 if pruned else min(counts) / 3, 3 * max(counts) + 1)
    words = "weights kept (0 at the bottom: the whole layer is pruned)" if pruned else "weights kept"
    axes.set(title="Weights kept per layer", ylabel=words)
    first = next(iter(kept.values()))
    if len(kept) == 1 and len(first) <= 30:
        axes.set_xticks(range(1, len(first) + 1), [name for name, _, _ in first], rotation=45, ha="right")
        axes.set_xlabel("layer")
    else:
        axes.set_xlabel("layer, by its place in layers.csv (from 1)")
        axes.xaxis.get_major_locator().set_params(integer=True)
    return _finished(figure, axes)


def _look(place: int) -> tuple[str, Any]:
    return COLOURS[place % len(COLOURS)], STYLES[place % len(STYLES)]


def _colours(count: int) -> Callable[[int], tuple[Any, Any]]:
    """Return how to draw each of so many layers: by name, or of many by their order."""
    if count <= len(COLOURS):
        return _look
    ramp = import_extra("matplotlib", "plots").colormaps["viridis"]
    return lambda place: (ramp(0.9 * place / (count - 1)), "-")


def _figure(width: float, height: float) -> tuple[Any, Any]:
    figure = import_extra("matplotlib.figure", "plots").Figure((width, height), dpi=150, layout="constrained")
    return figure, figure.subplots()


def _finished(figure: Any, axes: Any) -> Any:
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure
