"""A report as two files beside each other: the page, and the same as JSON."""

from pathlib import Path

from lightning_sparse.checks import check_writable
from lightning_sparse.files.writing import whole_file
from lightning_sparse.reporting.page import render_page
from lightning_sparse.reporting.report import Report, to_json

__all__ = ["NAME", "page_path", "write_report"]

NAME = "report.html"


def page_path(path: str | Path, argument: str = "path") -> Path:
    """Return where a page will be: in a folder under its usual name, else under the name, with an ending.

    Raises:
        SparsityError: If no file can be written there.
    """
    place = Path(path)
    if place.is_dir():
        place = place / NAME
    else:
        check_writable(argument, path)
        place = place if place.suffix.lower() in (".html", ".htm") else place.with_name(f"{place.name}.html")
    check_writable(argument, place)
    return place


def write_report(report: Report, path: str | Path, argument: str = "path") -> tuple[Path, Path]:
    """Write a report as a page, and as JSON beside it under the same name; each whole or not at all.

    Args:
        report: The report.
        path: Of the page, or a folder for both; a name without ``.html`` gets it.
        argument: What errors call the path.

    Returns:
        The paths of both.

    Raises:
        SparsityError: If no file can be written there.
    """
    place = page_path(path, argument)
    with (
        whole_file(place, ".html", argument) as (page, finished),
        whole_file(place.with_suffix(".json"), ".json", argument) as (numbers, data),
    ):
        page.write_text(render_page(report), encoding="utf-8")
        numbers.write_text(to_json(report), encoding="utf-8")
    return finished, data
