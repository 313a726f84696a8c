"""The net as a program of torch.export."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_sparse.export.base import ExportFormat, register_format
from lightning_sparse.export.calls import call_of, program_of
from lightning_sparse.export.same import check_outputs

__all__ = ["TorchProgram"]


@register_format
@dataclass(frozen=True)
class TorchProgram(ExportFormat):
    """A program of torch.export (.pt2), which PyTorch runs without any class of the net; weights are dense.

    Args:
        example_input: What the net is called with.
    """

    name = "torch-export"
    suffix = ".pt2"
    loading = "net = torch.export.load({path!r}).module()\nnet(batch)"

    example_input: Any = field(default=None, compare=False, repr=False)

    def write(self, module: nn.Module, path: Path) -> list[str]:
        """Trace a dense copy, save it, load it, and compare its outputs with those of the net."""
        call = call_of(module, self.example_input)
        reference = call_of(module, self.example_input, dense=False).net
        program, calls, said = program_of(call, self.name)
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()
        check_outputs(calls, reference, lambda one: one(loaded), self.name)
        return said
