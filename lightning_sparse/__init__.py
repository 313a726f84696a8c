"""Sparse training for any LightningModule."""

from lightning_sparse.callbacks import (
    ASNISigmoidPruner,
    DCTpSConversion,
    DynamicSparsity,
    ExactResume,
    GradualMagnitudePruning,
    HyperplaneProjection,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparseCheckpoint,
    SparseConversion,
    SparseEarlyStopping,
    SparseFineTuning,
    SparsityCallback,
    SparsityMonitor,
    SparsityReport,
)
from lightning_sparse.callbacks.diagnosing import diagnose_start
from lightning_sparse.callbacks.planning import plan
from lightning_sparse.export.loading import load_exported
from lightning_sparse.files.adapters import load_adapter, save_adapter
from lightning_sparse.files.checkpoints import load_from_checkpoint
from lightning_sparse.files.from_file import FromFile
from lightning_sparse.files.masks import load_masks, save_masks
from lightning_sparse.files.tickets import Ticket, load_ticket, save_ticket
from lightning_sparse.functional.saliency import (
    FORCE,
    SNIP,
    Gradient,
    GraSP,
    IterativeSNIP,
    Magnitude,
    PruningMethod,
    PruningProblem,
    Random,
    SynFlow,
)
from lightning_sparse.layers import convert_, merge_, to_dense_
from lightning_sparse.loops.clipping import mask_gradients_
from lightning_sparse.loops.hugging_face import transformers_callback
from lightning_sparse.loops.moving import ConnectionMover
from lightning_sparse.plain import keep_sparse_, masks_of, release_, sparsify_
from lightning_sparse.reporting.diagnosis import diagnose
from lightning_sparse.reporting.summary import summary
from lightning_sparse.version import VERSION
from lightning_sparse.weights.hyperplane import project_

__version__ = VERSION

__all__ = [
    "FORCE",
    "SNIP",
    "ASNISigmoidPruner",
    "ConnectionMover",
    "DCTpSConversion",
    "DynamicSparsity",
    "ExactResume",
    "FromFile",
    "GraSP",
    "Gradient",
    "GradualMagnitudePruning",
    "HyperplaneProjection",
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
    "SparseConversion",
    "SparseEarlyStopping",
    "SparseFineTuning",
    "SparsityCallback",
    "SparsityMonitor",
    "SparsityReport",
    "SynFlow",
    "Ticket",
    "convert_",
    "diagnose",
    "diagnose_start",
    "keep_sparse_",
    "load_adapter",
    "load_exported",
    "load_from_checkpoint",
    "load_masks",
    "load_ticket",
    "mask_gradients_",
    "masks_of",
    "merge_",
    "plan",
    "project_",
    "release_",
    "save_adapter",
    "save_masks",
    "save_ticket",
    "sparsify_",
    "summary",
    "to_dense_",
    "transformers_callback",
]
