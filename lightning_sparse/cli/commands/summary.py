"""``lightning-sparse summary PATH``: how sparse the net in a file or a run is."""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.commands.base import Command, register_command
from lightning_sparse.cli.inputs import add_input_size, called_as_option
from lightning_sparse.cli.nets import TrainedNet, config_beside, trained_net
from lightning_sparse.files.reading import short_path
from lightning_sparse.reporting.runs import read_run
from lightning_sparse.reporting.stored import StoredNet, read_net
from lightning_sparse.reporting.summary import NetSummary, summary

__all__ = ["Summary"]

_ARGUMENT = "PATH"


@register_command
class Summary(Command):
    """Say how sparse a trained net is, by layer and in all: weights kept, bytes in the file, FLOPs."""

    name = "summary"
    usage = "CKPT|TICKET|RUN"
    summary = "Says how sparse a trained net is, and what it stores and computes."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the path, and the size of the input."""
        parser.add_argument(
            "path",
            metavar=_ARGUMENT,
            help="a checkpoint, a ticket, a file of masks, or the folder of a run (its last checkpoint)",
        )
        add_input_size(parser, "at which FLOPs are counted")

    def run(self, arguments: argparse.Namespace) -> None:
        """Print the table, and below it what was read and what comes next."""
        path = Path(arguments.path)
        run = read_run(path) if path.is_dir() else None
        stored = read_net(run.checkpoints[-1].path if run else path, _ARGUMENT)
        report, built = _with_net(stored, arguments.input_size)
        left_out = [f"Left out: {line}" for line in run.skipped] if run else []
        print(*[report, stored, *left_out, f"Next: {_next(stored, built)}"], sep="\n")


def _with_net(stored: StoredNet, size: tuple[int, ...] | None) -> tuple[NetSummary, bool]:
    """Return the summary with FLOPs if the net can be built, and whether it could be."""
    try:
        if stored.kind != "checkpoint":
            raise SparsityError(f"a {stored.kind} does not hold the net itself.")
        net = trained_net(stored.path, _ARGUMENT)
    except (SparsityError, ModuleNotFoundError) as error:
        if size is not None:
            raise SparsityError(f"`--input-size` needs the net itself to count FLOPs: {error}") from None
        notes = [*([stored.net.note] if stored.net.note else []), f"FLOPs are not counted: {error}"]
        return replace(stored.net, note="\n".join(notes)), False
    return stored.with_flops_of(_counted(net, size)), True


def _counted(net: TrainedNet, size: tuple[int, ...] | None) -> NetSummary:
    """Return the summary of a net with FLOPs at the input that there is; else the note says why not."""
    if size is not None:
        with called_as_option(size):
            return summary(net.module, size)
    try:
        value = net.input(None)
        report = summary(net.module, example_input=value)
    except SparsityError as error:
        return replace(summary(net.module), note=f"FLOPs are not counted: {error} Or name --input-size.")
    if value is None:
        return replace(report, note="FLOPs: name an input, --input-size 1,3,224,224 (the batch first).")
    return report


def _next(stored: StoredNet, built: bool) -> str:
    """Say what a user may want to do now."""
    path, made = shlex.quote(str(stored.path)), stored.prunings
    if stored.kind == "ticket":
        return f'PruneAtInit(FromFile("{stored.path}", start="centroids")) trains it.'
    if stored.kind == "file of masks":
        return f'PruneAtInit(FromFile("{stored.path}")) trains with these masks.'
    if not built:
        return "load the weights into your module; `lightning_sparse.export.export(module, path)` writes it."
    if made is not None and made[0] < made[1]:
        config = shlex.quote(short_path(config_beside(stored.path) or ""))
        return f"lightning-sparse fit --config {config} --ckpt_path {path}"
    return f"lightning-sparse export {path} --format safetensors"
