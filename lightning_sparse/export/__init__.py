"""Trained nets as files for other programs. A format is a file of its own here; it is found by itself."""

from lightning_sparse.export.base import EXPORT_FORMATS, ExportFormat, export, register_format
from lightning_sparse.registry import modules_in

__all__ = ["EXPORT_FORMATS", "ExportFormat", "export", "register_format"]

modules_in(__name__, __path__)
