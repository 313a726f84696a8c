"""The whole page: one HTML file that needs nothing beside it, neither a network nor a script."""

from html import escape

from lightning_sparse.reporting.page.sections import SECTIONS, headline
from lightning_sparse.reporting.page.style import STYLE
from lightning_sparse.reporting.report.content import Report

__all__ = ["render_page"]


def render_page(report: Report) -> str:
    """Return a report as one HTML page."""
    title = escape(f"{report.title}: sparsity report")
    body = "".join(section(report) for section in SECTIONS)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<p class="soft">Sparsity report</p><h1>{escape(report.title)}</h1>\n'
        f"{headline(report)}\n{body}\n</main>\n</body>\n</html>\n"
    )
