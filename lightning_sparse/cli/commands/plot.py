"""``lightning-sparse plot KIND RUN...``: report pages of finished runs."""

import argparse
from dataclasses import fields
from typing import Any

from lightning_sparse.cli.commands.base import Command, register_command
from lightning_sparse.cli.options import add_option
from lightning_sparse.reporting import REPORT_PAGES, ReportPage

__all__ = ["Plot"]


@register_command
class Plot(Command):
    """Draw finished runs."""

    name = "plot"
    usage = "KIND RUN..."
    summary = "Draws what finished runs have left in their folders."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the pages, each with its options."""
        kinds = parser.add_subparsers(title="what to draw", metavar="KIND", dest="kind", required=True)
        for name, page in REPORT_PAGES.items():
            description = (page.__doc__ or page.summary).partition("\n")[0]
            kind = kinds.add_parser(name, help=page.summary, description=description, allow_abbrev=False)
            _add_arguments(kind, page)

    def run(self, arguments: argparse.Namespace) -> None:
        """Write the page, and print what it says."""
        options = vars(arguments)
        page: Any = REPORT_PAGES[options.pop("kind")]
        runs, out = options.pop("runs"), options.pop("out")
        print("\n".join(page(**options).write(runs, out)))


def _add_arguments(parser: argparse.ArgumentParser, page: type[ReportPage]) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of one run: runs/<name>/version_0")
    parser.add_argument("--out", metavar="FOLDER", help=f"default: {page.usual_folder}")
    for option in fields(page):
        add_option(parser, option)
