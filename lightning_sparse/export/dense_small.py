"""A smaller ordinary net: what unstructured sparsity leaves dead is cut out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_sparse.export.base import ExportFormat, register_format
from lightning_sparse.export.units.smaller import smaller
from lightning_sparse.layers.dense_state import dense_state_dict

__all__ = ["DenseSmall"]


@register_format
@dataclass(frozen=True)
class DenseSmall(ExportFormat):
    """A state dict without dead and constant units: fewer rows and columns, the same outputs in eval mode.

    Shapes of the tensors are the sizes of the smaller layers; nothing else is written. `load_small_` puts
    them into a net of the untouched class. See `smaller` for what is cut.

    Args:
        example_input: What the net is called with; without it the module's ``example_input_array``.
    """

    name = "dense-small"
    suffix = ".small.pt"
    loading = "lightning_sparse.export.load_small_(net, {path!r})  # net: of the untouched class"

    example_input: Any = field(default=None, compare=False, repr=False)

    def write(self, module: nn.Module, path: Path) -> Sequence[str]:
        """Write the state dict with ``torch.save``; return what was cut, and what was not.

        Raises:
            SparsityError: If there is no input, or outputs would differ.
        """
        small = smaller(module, self.example_input)
        torch.save(dense_state_dict(small.module), path)
        return small.lines()
