"""When: the callbacks for a Trainer."""

from lightning_sparse.callbacks.base import SparsityCallback
from lightning_sparse.callbacks.choosing import SparseCheckpoint, SparseEarlyStopping
from lightning_sparse.callbacks.converting.conversion import SparseConversion
from lightning_sparse.callbacks.converting.dctps import DCTpSConversion
from lightning_sparse.callbacks.converting.fine_tuning import SparseFineTuning
from lightning_sparse.callbacks.epochs.asni import ASNISigmoidPruner
from lightning_sparse.callbacks.epochs.imp import IterativeMagnitudePruning
from lightning_sparse.callbacks.exact_resume import ExactResume
from lightning_sparse.callbacks.gradual import GradualMagnitudePruning
from lightning_sparse.callbacks.monitor import SparsityMonitor
from lightning_sparse.callbacks.moving.by_rule import DynamicSparsity
from lightning_sparse.callbacks.moving.rigl import RigLCallback
from lightning_sparse.callbacks.moving.set import SETCallback
from lightning_sparse.callbacks.prune_at_init import PruneAtInit
from lightning_sparse.callbacks.report import SparsityReport

__all__ = [
    "ASNISigmoidPruner",
    "DCTpSConversion",
    "DynamicSparsity",
    "ExactResume",
    "GradualMagnitudePruning",
    "IterativeMagnitudePruning",
    "PruneAtInit",
    "RigLCallback",
    "SETCallback",
    "SparseCheckpoint",
    "SparseConversion",
    "SparseEarlyStopping",
    "SparseFineTuning",
    "SparsityCallback",
    "SparsityMonitor",
    "SparsityReport",
]
