"""``lightning-sparse report RUN``: what a run has come to, on one page."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_sparse.checks import SparsityError, first_line
from lightning_sparse.cli.commands.base import Command, register_command
from lightning_sparse.cli.inputs import add_input_size, called_as_option
from lightning_sparse.cli.nets import TrainedNet, trained_net
from lightning_sparse.export.compared import exported_nets
from lightning_sparse.reporting.flops import count_flops
from lightning_sparse.reporting.report import Material, build_report, material_of_run
from lightning_sparse.reporting.report.content import LeftOut
from lightning_sparse.reporting.report.materials import with_costs
from lightning_sparse.reporting.report_files import NAME, page_path, write_report
from lightning_sparse.reporting.runs import find_run

__all__ = ["Report"]


@register_command
class Report(Command):
    """Write what a finished run has come to on one page: accuracy, density, masks, costs."""

    name = "report"
    usage = "RUN [--compare OTHER ...]"
    summary = "Writes a page on a finished run: accuracy, density, masks, costs."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the runs, and where to write."""
        parser.add_argument("run", metavar="RUN", help="folder of one run: runs/<name>/version_0")
        parser.add_argument(
            "--compare", metavar="OTHER", nargs="+", default=[], help="folders of runs to set beside it"
        )
        parser.add_argument("--out", metavar="PATH", help=f"the page; default: {NAME} in RUN")
        add_input_size(parser, "at which FLOPs are counted and latency is measured")

    def run(self, arguments: argparse.Namespace) -> None:
        """Write page and JSON, and print where they are and what they lack."""
        folder = find_run(arguments.run).folder
        out = page_path(folder if arguments.out is None else arguments.out, "--out")
        first = _with_costs(material_of_run(folder), folder, arguments.input_size)
        others = [material_of_run(other) for other in arguments.compare]
        report = build_report(first, others)
        for path in write_report(report, out, "--out"):
            print(f"wrote {path}")
        for one in report.left_out:
            print(f"left out {one.what}: {one.why}")


def _with_costs(material: Material, folder: Path, size: tuple[int, ...] | None) -> Material:
    """Return a run's material with what only its net itself can tell."""
    try:
        net = trained_net(folder)
    except Exception as error:  # whatever a class of the user's own raises when weights are loaded into it
        if size is not None:
            raise SparsityError(f"`--input-size` needs the net itself to count FLOPs: {error}") from None
        words = f"the net cannot be built anew: {first_line(error)}."
        return replace(material, left_out=[*material.left_out, LeftOut("FLOPs and latency", words)])
    inputs, why_none = _input_of(net, size)
    if size is not None:  # somebody asked for it: it must fit
        with called_as_option(size):
            count_flops(net.module, inputs, (), "input_size")
    others = {} if inputs is None else exported_nets(net.module, inputs)
    return with_costs(material, net.module, inputs, why_none, others=others)


def _input_of(net: TrainedNet, size: tuple[int, ...] | None) -> tuple[Any, str]:
    """Return one input of the net, or ``None`` and why there is none."""
    try:
        return net.input(size), "no input is known: name one, --input-size 1,3,224,224 (the batch first)."
    except SparsityError as error:
        return None, f"{error} Or name --input-size."
