"""The sections of the page, each from its part of a report to HTML; "" where there is nothing to show."""

from collections.abc import Collection, Sequence
from html import escape
from math import isfinite

from lightning_sparse.reporting.page.bars import MOST, Bar, bar_chart
from lightning_sparse.reporting.page.histogram import histogram
from lightning_sparse.reporting.page.lines import legend, line_chart
from lightning_sparse.reporting.page.picture import picture
from lightning_sparse.reporting.page.scales import number
from lightning_sparse.reporting.report.content import Chart, Cost, Layer, Report

__all__ = ["SECTIONS", "headline"]


def headline(report: Report) -> str:
    """Return the few numbers that one asks for first."""
    found = []
    if report.layers:
        kept, weights = (sum(getattr(layer, name) for layer in report.layers) for name in ("kept", "weights"))
        kind = "trained" if any("+" in layer.stored_as for layer in report.layers) else "kept"
        found.append((_percent(kept / max(1, weights)), f"of the weights {kind}: {kept:,} of {weights:,}"))
    for chart in report.metrics[:2]:
        ends = [line for line in chart.lines if line.strong] or list(chart.lines)
        if ends and ends[0].points:
            last = ends[0].points[max(ends[0].points)]
            shown = f"{100 * last:.2f}%" if chart.percent else f"{last:.4g}"
            shown = shown if isfinite(last) else "not finite"
            found.append((shown, f"{chart.key} at the end, {ends[0].label}"))
    cells = "".join(f"<div><b>{escape(value)}</b>{escape(words)}</div>" for value, words in found)
    return f'<div class="headline">{cells}</div>' if cells else ""


def _facts(report: Report) -> str:
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in report.facts.items())
    return _section("What was trained", "", f"<dl>{rows}</dl>") if rows else ""


def _runs(report: Report) -> str:
    header = ["run", "epochs", "kept", "density", "best accuracy", "last accuracy", "last loss", "callbacks"]
    rows = [
        [
            run.name,
            f"{run.epochs}",
            "-" if run.kept is None else f"{run.kept:,}",
            "-" if run.density is None else _percent(run.density),
            *("-" if one is None else f"{one:.4f}" for one in (run.best_accuracy, run.last_accuracy)),
            "-" if run.last_loss is None else f"{run.last_loss:.4f}",
            run.callbacks,
        ]
        for run in report.runs
    ]
    about = "Accuracy and loss are those of validation where it was logged, else of training."
    return _section("The runs beside each other", about, _table(header, rows, (0, 7))) if rows else ""


def _metrics(report: Report) -> str:
    charts = "".join(map(_chart, report.metrics))
    return _section("How well it learnt", "", _grid(charts)) if charts else ""


def _sparsity(report: Report) -> str:
    figures = [_chart(report.density)] if report.density else []
    if report.layers:
        figures.append(_kept(report.layers))
    about = (
        "Density is the share of a layer's weights that is kept; sparsity is the rest, one minus density. "
        "Layers are in the order of the net. Those on a fixed dense part (DCT plus sparse) count what is "
        "trained beside it."
    )
    return _section("How sparse it is", about, _grid("".join(figures))) if figures else ""


def _kept(layers: Sequence[Layer]) -> str:
    rows = [Bar(one.name, (float(one.kept),), f"{one.kept:,} ({_percent(one.density)})") for one in layers]
    title = "Kept weights per layer" + _first_of(layers)
    look = (
        "The number of weights that each layer keeps, and its density in brackets. A layer with very few may "
        "hold the whole net back; one with none lets nothing through."
    )
    return _figure(title, bar_chart(title, "kept weights", rows), "", look)


def _movements(report: Report) -> str:
    about = "Connections that matter little were dropped during training, and others grown in their place."
    charts = "".join(map(_chart, report.movements))
    return _section("How connections moved", about, _grid(charts)) if charts else ""


def _dead(report: Report) -> str:
    known = [one for one in report.layers if one.outputs is not None]
    layers = [one for one in known if one.without_inputs or one.unread]
    if not layers:
        words = f"In each of the {len(known)} masked layers every unit has inputs, and every input is read."
        return _section("Dead units", words, "") if known else ""
    rows = [
        Bar(
            one.name,
            (
                (one.without_inputs or 0) / max(1, one.outputs or 0),
                (one.unread or 0) / max(1, one.inputs or 0),
            ),
            f"{one.without_inputs:,} of {one.outputs:,}; {one.unread:,} of {one.inputs:,}",
        )
        for one in layers
    ]
    some = f", {len(layers)} of {len(known)} layers" if len(layers) < len(known) else ""
    title = f"Units without connections, by the masks{some}" + _first_of(layers)
    look = (
        "A unit without inputs gives a constant; one that no layer reads is computed for nothing. "
        "`lightning-sparse export RUN --format dense-small` cuts both where it can; outputs stay the same."
    )
    keys = [("b0", "units of this layer without inputs"), ("b1", "its inputs that it does not read")]
    swatches = "".join(f'<li><span class="sw {key}"></span>{escape(words)}</li>' for key, words in keys)
    chart = bar_chart(title, "share of the units", rows, percent=True)
    return _section(
        "Dead units", "", _grid(_figure(title, chart, f'<ul class="legend">{swatches}</ul>', look))
    )


def _histograms(report: Report) -> str:
    figures = []
    for one in report.histograms:
        look = f"{sum(one.counts):,} weights."
        if one.centroids:
            marks = " and ".join(number(centroid) for centroid in one.centroids)
            look += (
                f" Dashed: {marks}, the means of the negative and the positive ones when ASNI's search ended."
            )
        figures.append(_figure(one.layer, histogram(one), "", look))
    about = (
        "How large the kept weights of each layer are. Pruning by magnitude leaves a gap at zero; weights "
        "that were grown late fill it. Layers on a fixed dense part show the trained values beside it."
    )
    return _section("Weights that are kept", about, _grid("".join(figures), "small")) if figures else ""


def _pictures(report: Report) -> str:
    figures = [_figure(one.title, picture(one), "", one.look_for) for one in report.pictures]
    return _section("Masks of the first layers", "", _grid("".join(figures))) if figures else ""


def _costs(report: Report) -> str:
    rows = [_cost(one) for one in report.costs]
    about = (
        "Each number says whether it was measured (counted, weighed or timed here) or is theory: what a "
        "perfect implementation would need. PyTorch multiplies masked weights as dense ones, so masks alone "
        "save no time."
    )
    head = '<tr><th></th><th class="n">dense</th><th></th><th class="n">this net</th><th></th>'
    head += '<th class="n">share</th><th>unit, remarks</th></tr>'
    table = f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'
    return _section("What it costs", about, table) if rows else ""


def _cost(one: Cost) -> str:
    cells = [f"<td>{escape(one.what)}</td>"]
    for value, how in ((one.dense, one.dense_how), (one.sparse, one.sparse_how)):
        shown = "-" if value is None else f"{value:,.0f}"
        tag = "" if value is None else f'<span class="tag {how}">{how}</span>'
        cells.append(f'<td class="n">{shown}</td><td>{tag}</td>')
    share = _percent(one.sparse / one.dense) if one.dense and one.sparse is not None else ""
    note = f"{one.unit}; {one.note}" if one.note else one.unit
    return f'<tr>{"".join(cells)}<td class="n">{share}</td><td class="soft">{escape(note)}</td></tr>'


def _latency(report: Report) -> str:
    if not report.latency:
        return ""
    header = [
        "net",
        "against dense",
        "ms, median",
        "middle half of the rounds",
    ]  # narrow pages show the first
    rows = [
        [one.name, f"{one.ratio:.2f}x", f"{one.milliseconds:.3g}", f"{one.low:.3g} to {one.high:.3g}"]
        for one in report.latency
    ]
    rounds = min(one.rounds for one in report.latency)
    about = (
        f"One input through the net on this machine's CPU: measured, CPU time of one thread, {rounds} rounds "
        "in which the nets take turns. Below 1x is faster than the dense net."
    )
    return _section("How long one input takes", about, _table(header, rows, (0,)))


def _left_out(report: Report) -> str:
    rows = "".join(f"<li>{escape(one.what)}: {escape(one.why)}</li>" for one in report.left_out)
    about = "Figures and numbers that this report lacks, and why."
    return _section("Left out", about, f"<ul>{rows}</ul>") if rows else ""


SECTIONS = (
    _facts,
    _runs,
    _metrics,
    _sparsity,
    _movements,
    _dead,
    _histograms,
    _pictures,
    _costs,
    _latency,
    _left_out,
)
"""In the order of the page."""


def _chart(chart: Chart) -> str:
    return _figure(chart.title, line_chart(chart), legend(chart), chart.look_for)


def _figure(title: str, drawn: str, keys: str, look_for: str) -> str:
    caption = f"<figcaption>{escape(look_for)}</figcaption>"
    return f"<figure><h3>{escape(title)}</h3>{drawn}{keys}{caption}</figure>"


def _section(title: str, about: str, content: str) -> str:
    words = f"<p>{escape(about)}</p>" if about else ""
    return f"<section><h2>{escape(title)}</h2>{words}{content}</section>"


def _grid(figures: str, size: str = "") -> str:
    return f'<div class="grid-of {size}">{figures}</div>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[int]) -> str:
    """Return a table; columns at these places are words, the others numbers."""
    kinds = ["" if place in words else 'class="n"' for place in range(len(header))]
    head = "".join(f"<th {kind}>{escape(one)}</th>" for one, kind in zip(header, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td {k}>{escape(c)}</td>" for c, k in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _first_of(layers: Sequence[Layer]) -> str:
    return f", the first {MOST} of {len(layers)} layers" if len(layers) > MOST else ""


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
