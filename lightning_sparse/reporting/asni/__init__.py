"""The report page of ASNI runs: what they logged, how sparse layers are, how weights are distributed."""

from lightning_sparse.reporting.asni.report import ASNIPage, report_asni

__all__ = ["ASNIPage", "report_asni"]
