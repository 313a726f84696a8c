"""A report as a page: figures are small functions from data to SVG."""

from lightning_sparse.reporting.page.page import render_page

__all__ = ["render_page"]
