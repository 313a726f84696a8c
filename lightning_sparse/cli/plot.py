"""``lightning-sparse plot KIND RUN...``: report pages of finished runs, without any of LightningCLI."""

import argparse
import re
import sys
from dataclasses import fields
from typing import Any, NoReturn

from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.errors import stop
from lightning_sparse.cli.names import meant
from lightning_sparse.reporting import REPORT_PAGES, ReportPage

__all__ = ["plot"]


def plot(words: list[str]) -> None:
    """Write the page that the words of a command line ask for, and print what it says.

    Args:
        words: What comes after ``plot``.
    """
    arguments = vars(_parser().parse_args(words))
    page: Any = REPORT_PAGES[arguments.pop("kind")]
    runs, out = arguments.pop("runs"), arguments.pop("out")
    try:
        print("\n".join(page(**arguments).write(runs, out)))
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}")
    except (SparsityError, OSError) as error:
        stop(str(error))


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes look like those of the other commands."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: --([\w-]+)", message)
        names = [field.name.replace("_", "-") for page in REPORT_PAGES.values() for field in fields(page)]
        close = meant(unknown[1], ["out", "help", *names]) if unknown else ""
        stop(f"{message}{close} (see `{self.prog} --help`)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lightning-sparse plot", description="Draw finished runs.", allow_abbrev=False)
    kinds = parser.add_subparsers(title="what to draw", metavar="KIND", dest="kind", required=True)
    for name, page in REPORT_PAGES.items():
        description = (page.__doc__ or page.summary).partition("\n")[0]
        kind = kinds.add_parser(name, help=page.summary, description=description, allow_abbrev=False)
        _add_arguments(kind, page)
    return parser


def _add_arguments(parser: argparse.ArgumentParser, page: type[ReportPage]) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of one run: runs/<name>/version_0")
    parser.add_argument("--out", metavar="FOLDER", help=f"default: {page.usual_folder}")
    for option in fields(page):
        parser.add_argument(
            f"--{option.name.replace('_', '-')}",
            dest=option.name,
            type=type(option.default),
            default=option.default,
            help=f"{option.metadata['help']}; default: %(default)s",
        )
