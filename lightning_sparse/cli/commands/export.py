"""``lightning-sparse export RUN --format FORMAT``: trained nets as files for other programs."""

import argparse
from dataclasses import Field, fields
from inspect import cleandoc
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, check_writable
from lightning_sparse.cli.commands.base import Command, register_command
from lightning_sparse.cli.inputs import add_input_size, called_as_option
from lightning_sparse.cli.nets import checkpoint_at, trained_net
from lightning_sparse.cli.options import add_option, is_option
from lightning_sparse.export import EXPORT_FORMATS, ExportFormat, export, takes_input
from lightning_sparse.files.held import held_checkpoint
from lightning_sparse.files.writing import with_ending
from lightning_sparse.layers.dense_state import dense_state_dict

__all__ = ["Export"]

_OF_THE_COMMAND = ("path", "format", "out", "input_size")


@register_command
class Export(Command):
    """Write a trained net to a file that does without this package."""

    name = "export"
    usage = "RUN --format FORMAT"
    summary = "Writes a trained net to a file for other programs."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what all formats have, and a group for each with its options."""
        parser.add_argument("path", metavar="RUN", help="folder of one run, or a checkpoint")
        names = list(EXPORT_FORMATS)
        parser.add_argument("--format", choices=names, required=True, help="kind of file; see below")
        parser.add_argument("--out", metavar="FILE", help="default: beside the checkpoint, under its name")
        add_input_size(parser, "for formats that call the net")
        added: set[str] = set()
        for name, kind in EXPORT_FORMATS.items():
            group = parser.add_argument_group(f"--format {name}", _first_line(kind))
            for option in _options_of(kind):
                if option.name not in added:  # one that several formats share stands with the first
                    add_option(group, option, default=argparse.SUPPRESS)
                added.add(option.name)

    def run(self, arguments: argparse.Namespace) -> None:
        """Write the file, and say how large it is and how it is loaded."""
        kind = EXPORT_FORMATS[arguments.format]
        options = {key: value for key, value in vars(arguments).items() if key not in _OF_THE_COMMAND}
        format_ = _with_options(kind, options)
        check_writable("--out", arguments.out)
        checkpoint, module, inputs = _net_at(arguments.path, kind, arguments.input_size)
        out = with_ending(arguments.out or checkpoint.with_name(checkpoint.stem + kind.suffix), kind.suffix)
        if out.exists() and out.samefile(checkpoint):
            raise SparsityError(
                f"`--out` must be another file than the checkpoint, got {str(out)!r}. Give another name."
            )
        with called_as_option(arguments.input_size):
            path = export(module, out, format_, print, example_input=inputs)
        size, dense = path.stat().st_size, _dense_bytes(module)
        print(
            f"wrote {path}: {size:,} bytes, {_times(dense, size)} the {dense:,} bytes of the dense weights."
        )
        if kind.loading:
            print("To load it:\n  " + "\n  ".join(kind.loading.format(path=str(path)).split("\n")))


def _first_line(kind: type[ExportFormat]) -> str:
    return cleandoc(kind.__doc__ or kind.name).partition("\n")[0]


def _options_of(kind: type[ExportFormat]) -> list[Field[Any]]:
    return [option for option in fields(kind) if is_option(option)]


def _with_options(kind: type[ExportFormat], options: dict[str, Any]) -> ExportFormat:
    """Return the format with these options, once they are options of it."""
    known = [option.name for option in _options_of(kind)]
    for name in options:
        if name not in known:
            others = [other for other, row in EXPORT_FORMATS.items() if name in {f.name for f in fields(row)}]
            raise SparsityError(
                f"`--{name.replace('_', '-')}` must come with --format {' or '.join(others)}, got "
                f"{kind.name}. Leave it out."
            )
    return kind(**options)


def _net_at(path: str, kind: type[ExportFormat], size: tuple[int, ...] | None) -> tuple[Path, nn.Module, Any]:
    """Return the checkpoint, the net as far as the format needs it, and what to call it with."""
    if size is not None and not takes_input(kind):
        raise SparsityError(
            f"`--input-size` has no effect with --format {kind.name}, got {','.join(map(str, size))}. Leave "
            "it out."
        )
    if not kind.calls_net:
        checkpoint = checkpoint_at(path)
        return checkpoint, held_checkpoint(checkpoint, "RUN"), None
    net = trained_net(path)
    if not takes_input(kind):
        return net.checkpoint, net.module, None
    inputs = net.input(size)
    if inputs is None:
        raise SparsityError(
            f"`--input-size` must be given for --format {kind.name}, which calls the net: neither the module "
            "nor the data say what with. For example: --input-size 1,3,224,224 (the batch first)."
        )
    return net.checkpoint, net.module, inputs


def _dense_bytes(module: nn.Module) -> int:
    """Return the bytes of all tensors of the dense net, tied ones once."""
    tensors = [value for value in dense_state_dict(module).values() if isinstance(value, Tensor)]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def _times(dense: int, size: int) -> str:
    share = size / max(1, dense)
    return f"{share:.1%} of" if share < 10 else f"{share:.0f} times"
