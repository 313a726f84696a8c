"""Sparse training for any LightningModule."""

from importlib.metadata import version

from lightning_sparse.callbacks import ExactResume, PruneAtInit, SparsityCallback, SparsityMonitor
from lightning_sparse.functional.saliency import Magnitude, PruningMethod, Random

__version__ = version("lightning-sparse")

__all__ = [
    "ExactResume",
    "Magnitude",
    "PruneAtInit",
    "PruningMethod",
    "Random",
    "SparsityCallback",
    "SparsityMonitor",
]
