"""Trained nets as files for other programs. A format is a file of its own here; it is found by itself."""

from lightning_sparse.export.base import EXPORT_FORMATS, ExportFormat, export, register_format
from lightning_sparse.export.dense_small import DenseSmall
from lightning_sparse.export.units.loading import load_small_
from lightning_sparse.export.units.report import KeptUnits, SmallerLayer, SmallerNet
from lightning_sparse.export.units.smaller import smaller
from lightning_sparse.registry import modules_in

__all__ = [
    "EXPORT_FORMATS",
    "DenseSmall",
    "ExportFormat",
    "KeptUnits",
    "SmallerLayer",
    "SmallerNet",
    "export",
    "load_small_",
    "register_format",
    "smaller",
]

modules_in(__name__, __path__)
