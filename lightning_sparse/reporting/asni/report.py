"""All figures and the table of finished ASNI runs, as files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_sparse.checks import SparsityError
from lightning_sparse.extras import import_extra
from lightning_sparse.reporting.asni import plots as asni_plots
from lightning_sparse.reporting.asni.nets import Layer, Net, layers_of, net_of, write_table
from lightning_sparse.reporting.asni.runs import (
    MEANING,
    Part,
    Variant,
    best,
    candidates,
    parts_of,
    schedule_of,
)
from lightning_sparse.reporting.names import tells_of_sparsity
from lightning_sparse.reporting.pages import ReportPage, register_page
from lightning_sparse.reporting.runs import Curve, Run, read_run

__all__ = ["ASNIPage", "report_asni"]

RUNS_OF: dict[Variant, str] = {
    "D": "run without a sparsity callback",
    "A": "run with ASNISigmoidPruner",
    "C": "run with ASNISigmoidPruner",
    "S": "run with PruneAtInit",
}
WITH_WEIGHTS: tuple[Variant, ...] = ("D", "A", "C")
PATHS = ("asni/target_sparsity", "asni/sparsity")
KEEP = "ModelCheckpoint(every_n_epochs=<search_epochs>, save_top_k=-1) keeps one of A and one of C"


def report_asni(
    folders: Sequence[str | Path], out: str | Path | None = None, metric: str = "val/acc"
) -> list[str]:
    """Draw what an ASNI run, and the dense and sparse runs to compare it with, left behind.

    Writes ``accuracy.png``, ``schedule.png``, ``layer_histograms.png`` (or pages of it),
    ``net_histograms.png``, ``layer_sparsity.png`` and ``layers.csv``; what the runs do not hold is left out.

    Args:
        folders: Folders of one run each, with logs and checkpoints.
        out: Folder to write into; ``None``: ``plots`` in the first run that is not dense.
        metric: The logged metric to compare the variants by.

    Returns:
        One line for each file written and for each thing left out.

    Raises:
        SparsityError: If a folder holds no run, or none of the runs is sparse.
        ModuleNotFoundError: If matplotlib is not installed, or TensorBoard where only it can read the logs.

    Source:
        Damadi et al., "Amenable Sparse Network Investigator", 2021, figures 1 to 4 and appendix B.
    """
    import_extra("matplotlib", "plots")
    lines: list[str] = []
    parts = _parts([read_run(folder) for folder in dict.fromkeys(folders)], lines)
    sparse = next(part for part in parts if part.variant != "D")
    report = _Report(sparse.run.folder / "plots" if out is None else Path(out), lines)
    report.folder.mkdir(parents=True, exist_ok=True)
    _draw_accuracy(report, parts, metric)
    _draw_schedule(report, parts)
    layers = layers_of(parts)
    _draw_layers(report, layers)
    _draw_weights(report, parts, layers)
    return report.lines


@register_page
@dataclass(frozen=True)
class ASNIPage(ReportPage):
    """Draw what an ASNI run, and the dense and sparse runs to compare it with, left behind."""

    name = "asni"
    summary = "runs of ASNI: variants D, A, C and S, sparsity, histograms of weights"
    usual_folder = "`plots` in the first run that is not dense"
    metric: str = field(default="val/acc", metadata={"help": "logged metric to compare by"})

    def write(self, runs: Sequence[str | Path], out: str | Path | None) -> list[str]:
        """Write the figures and the table; see `report_asni`."""
        return report_asni(runs, out, self.metric)


@dataclass
class _Report:
    """The folder that is written to, and what there is to say about it."""

    folder: Path
    lines: list[str] = field(default_factory=list)

    def save(self, name: str, figure: Any) -> None:
        figure.savefig(self.folder / name)
        self.lines.append(f"wrote {self.folder / name}")

    def leave_out(self, what: str, why: str) -> None:
        self.lines.append(f"left out {what}: {why}")


def _parts(runs: Sequence[Run], lines: list[str]) -> list[Part]:
    """Return the variants in all runs, and say what is of no use."""
    parts = []
    for run in runs:
        lines += [f"left out a checkpoint of {run.folder}: {reason}" for reason in run.skipped]
        parts += (found := parts_of(run))
        if not found:
            callbacks = ", ".join(run.checkpoints[-1].callbacks)
            lines.append(f"left out {run.folder}: none of {', '.join(MEANING)} (its callbacks: {callbacks})")
    if all(part.variant == "D" for part in parts):
        raise SparsityError(
            "`RUN` must name a run with ASNISigmoidPruner or PruneAtInit, got none: "
            f"{', '.join(str(run.folder) for run in runs)}."
        )
    return parts


def _draw_accuracy(report: _Report, parts: Sequence[Part], metric: str) -> None:
    name = "accuracy.png"
    curves = [(part.variant, part.curves[metric]) for part in parts if metric in part.curves]
    for variant in MEANING:
        if variant not in dict(curves):
            report.leave_out(f"{variant} in {name}", _why_no_curve(parts, variant, metric))
    if curves:
        report.save(name, asni_plots.accuracy(curves, metric))


def _why_no_curve(parts: Sequence[Part], variant: Variant, metric: str) -> str:
    part = next((part for part in parts if part.variant == variant), None)
    if part is None:
        return _why_no_part(parts, variant)
    logged = [name for name in part.curves if not tells_of_sparsity(name)]
    instead = f"; choose by --metric from {', '.join(logged[:8])}" if logged else ""
    return f"{part.run.folder} has logged no {metric!r} in epochs of {variant}{instead}."


def _why_no_part(parts: Sequence[Part], variant: Variant) -> str:
    searched = variant == "C" and any(part.variant == "A" for part in parts)
    return f"no {RUNS_OF[variant]}{' and `reinit: centroids`' if searched else ''} is given."


def _draw_schedule(report: _Report, parts: Sequence[Part]) -> None:
    searches = [part for part in parts if part.variant == "A" and any(name in part.curves for name in PATHS)]
    shown = best(searches, "A") or next(iter(searches), None)
    if shown is None:
        report.leave_out("schedule.png", "no run has logged `asni/sparsity` in epochs of A.")
        return
    same = [part for part in searches if schedule_of(part) == schedule_of(shown)]
    for part in searches:
        if part not in same:
            why = f"its schedule is not that of {shown.run.folder}."
            report.leave_out(f"{part.run.folder} in schedule.png", why)
    target, actual = (_joined(same, name) for name in PATHS)
    report.save("schedule.png", asni_plots.schedule(target, actual))


def _joined(searches: Sequence[Part], name: str) -> Curve:
    """Return what searches have logged, in the order of the runs: a resumed one has two folders."""
    joined: Curve = {}
    for part in searches:
        joined = {**part.curves.get(name, {}), **joined}
    return dict(sorted(joined.items()))


def _draw_layers(report: _Report, layers: Sequence[Layer]) -> None:
    """Draw and tabulate how sparse each layer is."""
    if not layers:
        report.leave_out("layer_sparsity.png and layers.csv", "no checkpoint of A, C or S holds masks.")
        return
    report.save("layer_sparsity.png", asni_plots.layer_sparsity([layer.count for layer in layers]))
    write_table(report.folder / "layers.csv", layers)
    report.lines.append(f"wrote {report.folder / 'layers.csv'}")


def _draw_weights(report: _Report, parts: Sequence[Part], layers: Sequence[Layer]) -> None:
    """Draw how the weights of D, A and C are distributed, and those of A layer by layer."""
    nets = {v: net for v in WITH_WEIGHTS if layers and (net := _net(report, parts, v, layers)) is not None}
    if "A" in nets:
        pages = asni_plots.layer_histograms(nets["A"])
        for number, figure in enumerate(pages, 1):
            report.save(f"layer_histograms{f'_{number}' if len(pages) > 1 else ''}.png", figure)
    if nets:
        report.save("net_histograms.png", asni_plots.net_histograms(nets))


def _net(report: _Report, parts: Sequence[Part], variant: Variant, layers: Sequence[Layer]) -> Net | None:
    """Return the weights of a variant, and say what file they are from, or why there are none."""
    part, net = best(parts, variant), _why_no_weights(parts, variant)
    if part is not None and part.checkpoint is not None:
        net = net_of(part.checkpoint, layers)
        unfinished = "" if part.finished else ", in which the search is not over"
        folders = len(candidates(parts, variant))
        others = f", the furthest in {folders} folders that may be of one run" if folders > 1 else ""
        report.lines.append(f"weights of {variant} from {part.checkpoint.path}{unfinished}{others}")
    if not isinstance(net, str):
        return net
    report.leave_out(f"{variant} in net_histograms.png", net)
    if variant == "A":
        report.leave_out("layer_histograms.png", net)
    return None


def _why_no_weights(parts: Sequence[Part], variant: Variant) -> str | Net:
    part = next((part for part in parts if part.variant == variant), None)
    if part is None:
        return _why_no_part(parts, variant)
    return f"{part.run.folder} has no checkpoint of {variant}; {KEEP}."
