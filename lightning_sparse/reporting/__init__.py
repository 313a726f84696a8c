"""Looks and changes nothing: tables and figures, each measured or marked as theory.

A report page is a file or a folder of its own here; it is found by itself.
"""

from lightning_sparse.registry import modules_in
from lightning_sparse.reporting.pages import REPORT_PAGES, ReportPage, register_page

__all__ = ["REPORT_PAGES", "ReportPage", "register_page"]

modules_in(__name__, __path__)
