"""The content of a report of any run, as plain data."""

from lightning_sparse.reporting.report.build import Material, build_report, material_of_run
from lightning_sparse.reporting.report.content import Report, to_json

__all__ = ["Material", "Report", "build_report", "material_of_run", "to_json"]
