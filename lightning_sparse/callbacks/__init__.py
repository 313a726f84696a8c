"""When: the callbacks for a Trainer."""

from lightning_sparse.callbacks.asni import ASNISigmoidPruner
from lightning_sparse.callbacks.base import SparsityCallback
from lightning_sparse.callbacks.dctps_conversion import DCTpSConversion
from lightning_sparse.callbacks.exact_resume import ExactResume
from lightning_sparse.callbacks.imp import IterativeMagnitudePruning
from lightning_sparse.callbacks.monitor import SparsityMonitor
from lightning_sparse.callbacks.prune_at_init import PruneAtInit
from lightning_sparse.callbacks.rigl import RigLCallback
from lightning_sparse.callbacks.set import SETCallback
from lightning_sparse.callbacks.sparse_checkpoint import SparseCheckpoint, SparseEarlyStopping

__all__ = [
    "ASNISigmoidPruner",
    "DCTpSConversion",
    "ExactResume",
    "IterativeMagnitudePruning",
    "PruneAtInit",
    "RigLCallback",
    "SETCallback",
    "SparseCheckpoint",
    "SparseEarlyStopping",
    "SparsityCallback",
    "SparsityMonitor",
]
