"""What a report page is: figures and tables drawn from the folders of finished runs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import ClassVar, TypeVar

from lightning_sparse.checks import SparsityError
from lightning_sparse.registry import add_row

__all__ = ["REPORT_PAGES", "ReportPage", "register_page"]


@dataclass(frozen=True)
class ReportPage(ABC):
    """A kind of report; ``lightning-sparse plot NAME RUN...`` writes it.

    A page is a frozen dataclass. Its fields are its options on the command line: text or numbers, each with a
    default and a ``help`` in its metadata. The first line of its docstring describes it there.

    The pages in this package are found by themselves. One of your own is a class in a module of yours, and is
    known to the command line if your package names that module in the entry points ``lightning_sparse``::

        [project.entry-points.lightning_sparse]
        epochs = "my_package.pages"

    Examples:
        >>> from dataclasses import field
        >>> from pathlib import Path
        >>> from lightning_sparse.reporting.runs import read_curves
        >>> @register_page
        ... @dataclass(frozen=True)
        ... class Epochs(ReportPage):
        ...     '''Counts the epochs in which a metric was logged.'''
        ...
        ...     name = "epochs"
        ...     summary = "how long runs were"
        ...     usual_folder = "none: nothing is written"
        ...     metric: str = field(default="val/acc", metadata={"help": "what to count"})
        ...
        ...     def write(self, runs, out):
        ...         return [f"{run}: {len(read_curves(Path(run)).get(self.metric, {}))}" for run in runs]
        >>> _ = REPORT_PAGES.pop("epochs")
    """

    name: ClassVar[str]
    """First word after ``plot``."""
    summary: ClassVar[str]
    """What is drawn, in one line, for the list of pages."""
    usual_folder: ClassVar[str]
    """Where files go if no folder is named, in words."""

    @abstractmethod
    def write(self, runs: Sequence[str | Path], out: str | Path | None) -> list[str]:
        """Write the files of the page.

        Args:
            runs: Folders of one run each, with logs and checkpoints.
            out: Folder to write into; ``None``: the usual one.

        Returns:
            Lines to print: one for each file written and for each thing left out.

        Raises:
            SparsityError: If a folder is not of use.
            ModuleNotFoundError: If an optional package is not installed.
        """


REPORT_PAGES: dict[str, type[ReportPage]] = {}
"""Every page by name."""

_Page = TypeVar("_Page", bound=type[ReportPage])


def register_page(page: _Page) -> _Page:
    """Add a page to `REPORT_PAGES` by its name; a decorator of its class.

    Raises:
        SparsityError: If another page has that name, or a field cannot be an option.
    """
    for option in fields(page):
        default = option.default
        if isinstance(default, bool) or not isinstance(default, str | int | float):
            raise SparsityError(
                f"`{option.name}` of the page {page.name!r} must be a text or a number with a default, got "
                f"{'none' if default is MISSING else repr(default)}. It is an option of the command line."
            )
        if "help" not in option.metadata:
            raise SparsityError(
                f"`{option.name}` of the page {page.name!r} must have a `help` in its `metadata`, got none. "
                "It is what the command line says of the option."
            )
    add_row(REPORT_PAGES, page.name, page)
    return page
