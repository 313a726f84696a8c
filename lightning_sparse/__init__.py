"""Sparse training for any LightningModule."""

from importlib.metadata import version

from lightning_sparse.callbacks import (
    DCTpSConversion,
    ExactResume,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparsityCallback,
    SparsityMonitor,
)
from lightning_sparse.checkpoints import load_from_checkpoint
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
from lightning_sparse.mask_files import load_masks, save_masks

__version__ = version("lightning-sparse")

__all__ = [
    "FORCE",
    "SNIP",
    "DCTpSConversion",
    "ExactResume",
    "GraSP",
    "IterativeSNIP",
    "Magnitude",
    "PruneAtInit",
    "PruningMethod",
    "PruningProblem",
    "Random",
    "RigLCallback",
    "SETCallback",
    "SparsityCallback",
    "SparsityMonitor",
    "SynFlow",
    "load_from_checkpoint",
    "load_masks",
    "save_masks",
]
