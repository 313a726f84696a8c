"""Trained nets as files for other programs. A format is a file of its own here; it is found by itself."""

from lightning_sparse.export.base import (
    EXPORT_FORMATS,
    ExportFormat,
    export,
    register_format,
    takes_input,
)
from lightning_sparse.export.loading import load_exported
from lightning_sparse.export.units.loading import load_small_
from lightning_sparse.export.units.report import KeptUnits, SmallerLayer, SmallerNet
from lightning_sparse.export.units.smaller import smaller
from lightning_sparse.registry import modules_in

__all__ = [
    "EXPORT_FORMATS",
    "ExportFormat",
    "KeptUnits",
    "SmallerLayer",
    "SmallerNet",
    "export",
    "load_exported",
    "load_small_",
    "register_format",
    "smaller",
    "takes_input",
]

modules_in(__name__, __path__)
