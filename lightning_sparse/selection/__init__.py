"""Which weights may become sparse, and whether masks fit them.

By default: the matrices of linear and convolutional layers. Norms, biases and embeddings stay dense. Names
are those of ``named_parameters()`` without the ``_orig_mod.`` that ``torch.compile`` puts in.
"""

from lightning_sparse.selection.choice import (
    countable_weights,
    dense_weights,
    match_overrides,
    misfit,
    prunes_nothing,
    select_weights,
)
from lightning_sparse.selection.layer_types import SPARSE_LAYERS, is_sparse_layer, matrices_of, output_dim
from lightning_sparse.selection.names import (
    layer_name,
    matches,
    matches_any,
    parameters_by_name,
    plain_name,
    some_names,
)
from lightning_sparse.selection.trained import select_trained

__all__ = [
    "SPARSE_LAYERS",
    "countable_weights",
    "dense_weights",
    "is_sparse_layer",
    "layer_name",
    "match_overrides",
    "matches",
    "matches_any",
    "matrices_of",
    "misfit",
    "output_dim",
    "parameters_by_name",
    "plain_name",
    "prunes_nothing",
    "select_trained",
    "select_weights",
    "some_names",
]
