"""The content of a report of any run, as plain data."""

from lightning_sparse.reporting.report.build import Material, build_report
from lightning_sparse.reporting.report.content import Report, to_json
from lightning_sparse.reporting.report.materials import live_material, material_of_run

__all__ = ["Material", "Report", "build_report", "live_material", "material_of_run", "to_json"]
