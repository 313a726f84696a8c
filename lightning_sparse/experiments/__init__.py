"""Sweeps: many runs of one recipe, their table, and what differs between them."""

from lightning_sparse.experiments.metrics import CellMetrics

__all__ = ["CellMetrics"]
