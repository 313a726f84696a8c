"""What a net is called with, where a command has to call it."""

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning_sparse.checks import SparsityError
from lightning_sparse.data.labelled import LabelledImages
from lightning_sparse.reporting.flops import input_of_size
from lightning_sparse.trainer.packages import LightningDataModule, LightningModule

__all__ = ["add_input_size", "called_as_option", "example_input"]


def example_input(
    model: LightningModule, data: LightningDataModule | None, size: Sequence[int] | None
) -> tuple[Any, str]:
    """Take the size that was asked for, else the module's own example, else one image of the data.

    Args:
        model: The module.
        data: Data of ours say how large their images are.
        size: Shape of the input, the batch's size first.

    Returns:
        The input, ``None`` if nobody knows it, and where it comes from.
    """
    if size is not None:
        return input_of_size(model, size), "input_size"
    if model.example_input_array is not None:
        return model.example_input_array, "example_input_array"
    image = input_of_size(model, (1, *data.input_shape)) if isinstance(data, LabelledImages) else None
    return image, "data"


def add_input_size(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add ``--input-size 1,3,224,224`` to a command.

    Args:
        parser: Of the command.
        purpose: What the net is called for, for the help.
    """
    parser.add_argument(
        "--input-size",
        "--input_size",
        type=_size,
        metavar="SIZE",
        help=f"shape of the input {purpose}, the batch first: 1,3,224,224; default: the net's "
        "`example_input_array`, else one image of the run's data",
    )


@contextmanager
def called_as_option(size: Sequence[int] | None) -> Iterator[None]:
    """Let errors call the input ``--input-size``, where the user has given one."""
    try:
        yield
    except SparsityError as error:
        if size is None:
            raise
        raise SparsityError(re.sub("`(example_input|input_size)`", "`--input-size`", str(error))) from error


def _size(text: str) -> tuple[int, ...]:
    """Read ``1,3,224,224``, with or without the brackets of a list."""
    numbers = re.split(r"[,\s]+", text.strip().removeprefix("[").removesuffix("]").strip())
    try:
        return tuple(int(number) for number in numbers)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be integers such as 1,3,224,224, got {text!r}") from None
