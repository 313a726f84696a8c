"""Sparse training for any LightningModule."""

from importlib.metadata import version

from lightning_sparse.callbacks import (
    ASNISigmoidPruner,
    DCTpSConversion,
    ExactResume,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparseCheckpoint,
    SparseEarlyStopping,
    SparsityCallback,
    SparsityMonitor,
)
from lightning_sparse.files.checkpoints import load_from_checkpoint
from lightning_sparse.files.masks import load_masks, save_masks
from lightning_sparse.files.tickets import Ticket, load_ticket, save_ticket
from lightning_sparse.functional.saliency import (
    FORCE,
    SNIP,
    GraSP,
    IterativeSNIP,
    Magnitude,
    PruningMethod,
    PruningProblem,
    Random,
    SynFlow,
)

__version__ = version("lightning-sparse")

__all__ = [
    "FORCE",
    "SNIP",
    "ASNISigmoidPruner",
    "DCTpSConversion",
    "ExactResume",
    "GraSP",
    "IterativeMagnitudePruning",
    "IterativeSNIP",
    "Magnitude",
    "PruneAtInit",
    "PruningMethod",
    "PruningProblem",
    "Random",
    "RigLCallback",
    "SETCallback",
    "SparseCheckpoint",
    "SparseEarlyStopping",
    "SparsityCallback",
    "SparsityMonitor",
    "SynFlow",
    "Ticket",
    "load_from_checkpoint",
    "load_masks",
    "load_ticket",
    "save_masks",
    "save_ticket",
]
