"""A report as two files beside each other: the page, and the same as JSON."""

from pathlib import Path

from lightning_sparse.files.writing import whole_file
from lightning_sparse.reporting.page import render_page
from lightning_sparse.reporting.report import Report, to_json

__all__ = ["NAME", "write_report"]

NAME = "report.html"


def write_report(report: Report, path: str | Path, argument: str = "path") -> tuple[Path, Path]:
    """Write a report as a page, and as JSON beside it under the same name; both whole or not at all.

    Args:
        report: The report.
        path: Of the page, or a folder for both; a name without ``.html`` gets it.
        argument: What errors call the path.

    Returns:
        The paths of both.

    Raises:
        SparsityError: If no file can be written there.
    """
    place = Path(path)
    if place.is_dir():
        place = place / NAME
    elif place.suffix.lower() not in (".html", ".htm"):
        place = place.with_name(f"{place.name}.html")
    with (
        whole_file(place, ".html", argument) as (page, finished),
        whole_file(place.with_suffix(".json"), ".json", argument) as (numbers, data),
    ):
        page.write_text(render_page(report), encoding="utf-8")
        numbers.write_text(to_json(report), encoding="utf-8")
    return finished, data
