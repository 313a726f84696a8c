"""What an export format is, and the function that writes one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import ClassVar, TypeVar

from torch import nn

from lightning_sparse.checks import check_callable, check_choice, check_kind
from lightning_sparse.extras import import_extra
from lightning_sparse.files.writing import whole_file
from lightning_sparse.registry import add_row

__all__ = ["EXPORT_FORMATS", "ExportFormat", "export", "register_format"]


@dataclass(frozen=True)
class ExportFormat(ABC):
    """A kind of file that a trained net can be written to.

    A format is a frozen dataclass; its fields are its options, each with a default. The formats in this
    package are found by themselves; `register_format` adds one of your own.

    Examples:
        >>> import io, json
        >>> @register_format
        ... class Names(ExportFormat):
        ...     '''The names of the parameters, as text.'''
        ...
        ...     name = "names"
        ...     suffix = ".json"
        ...
        ...     def write(self, module, path):
        ...         path.write_text(json.dumps(list(module.state_dict())))
        >>> _ = EXPORT_FORMATS.pop("names")
    """

    name: ClassVar[str]
    """What the format is asked for by."""
    suffix: ClassVar[str]
    """Ending of its files, with the dot; a path without one gets it."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Packages that must be installed, by the names that pip knows and Python imports."""

    @abstractmethod
    def write(self, module: nn.Module, path: Path) -> Sequence[str] | None:
        """Write a net to a file.

        Args:
            module: The net; not to be changed.
            path: A file that is not there yet, in a folder that is, with the right ending.

        Returns:
            Lines to print about what was written; ``None`` if there is nothing to say.
        """


EXPORT_FORMATS: dict[str, type[ExportFormat]] = {}
"""Every format by name."""

_Format = TypeVar("_Format", bound=type[ExportFormat])


def register_format(kind: _Format) -> _Format:
    """Add a format to `EXPORT_FORMATS` by its name; a decorator of its class.

    Raises:
        SparsityError: If another format has that name.
    """
    add_row(EXPORT_FORMATS, kind.name, kind)
    return kind


def export(
    module: nn.Module,
    path: str | PathLike[str],
    format: str | ExportFormat = "dense",  # noqa: A002 - the word for it
    tell: Callable[[str], object] | None = None,
) -> Path:
    """Write a trained net to a file that does without this package; whole, or not at all.

    Args:
        module: Any net, masked or with Dense-plus-Sparse layers; not changed.
        path: Where to; its folder is made if it is not there, an older file is replaced.
        format: Name of a format, with its default options, or a format.
        tell: Is called with each line that the format has to say, once the file is there: ``print``, or a
            list's ``append``.

    Returns:
        The path of the file: ``path``, with the ending of the format if it had none.

    Raises:
        SparsityError: If there is no such format, no file can be written there, or the net has no weights
            yet.
        ModuleNotFoundError: If a package that the format needs is not installed.

    Examples:
        >>> import tempfile, torch
        >>> from lightning_sparse.layers import convert_
        >>> net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> _ = convert_(net, density=0.25)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = export(net, f"{folder}/net")
        ...     file.name, sorted(torch.load(file))
        ('net.pt', ['0.bias', '0.weight', '2.bias', '2.weight'])
    """
    check_kind("module", module, nn.Module)
    if not isinstance(format, ExportFormat):
        check_choice("format", format, EXPORT_FORMATS)
        format = EXPORT_FORMATS[format]()  # noqa: A001
    for package in format.needs:
        import_extra(package, f"export as {format.name!r}", f"pip install {package}")
    if tell is not None:
        check_callable("tell", tell)
    with whole_file(path, format.suffix) as (unfinished, finished):
        lines = format.write(module, unfinished)
    for line in lines or ():
        if tell is not None:
            tell(line)
    return finished
