"""The net as an ONNX file."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_sparse.checks import SparsityError, check_count, first_line
from lightning_sparse.export.base import ExportFormat, register_format
from lightning_sparse.export.calls import Call, call_of, program_of
from lightning_sparse.export.same import check_outputs

__all__ = ["ONNX"]

_LARGEST = 2**31 - 2**20  # bytes: what one file of protobuf holds, less room for the graph


@register_format
@dataclass(frozen=True)
class ONNX(ExportFormat):
    """An ONNX file for runtimes on servers, phones and in browsers; checked with onnxruntime; weights dense.

    Args:
        opset: Version of ONNX's operators.
        example_input: What the net is called with.
    """

    name = "onnx"
    suffix = ".onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")
    loading = (
        "session = onnxruntime.InferenceSession({path!r})\n"
        "session.run(None, {{session.get_inputs()[0].name: batch}})  # a NumPy array"
    )

    opset: int = field(default=18, metadata={"help": "version of ONNX's operators"})
    example_input: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_count("opset", self.opset, 18, "The exporter writes no older ones.")

    def write(self, module: nn.Module, path: Path) -> list[str]:
        """Trace a dense copy, write it, run it in onnxruntime, and compare outputs with those of the net."""
        call = call_of(module, self.example_input)
        size = sum(tensor.nbytes for tensor in call.net.state_dict().values() if isinstance(tensor, Tensor))
        if size > _LARGEST:
            raise SparsityError(
                f"`module` must have less than 2 GB of dense weights for one ONNX file, got {size:,} bytes. "
                "Use the format 'torch-export', or export parts."
            )
        reference = call_of(module, self.example_input, dense=False).net
        program, calls, said = program_of(call, self.name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of how the exporter works, which nobody can change
                torch.onnx.export(
                    program,
                    f=str(path),
                    dynamo=True,
                    external_data=False,
                    opset_version=self.opset,
                    verbose=False,
                )
        except Exception as error:  # whatever the exporter stumbles over
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise SparsityError(
                f"`module` must consist of operations that ONNX has, got {type(call.net).__name__}, which "
                f"ends in {type(cause).__name__}: {first_line(cause)}. Use the format 'torch-export'."
            ) from error
        check_outputs(calls, reference, _running(path, list(program.graph_signature.user_inputs)), self.name)
        return said


def _running(path: Path, names: list[Any]) -> Callable[[Call], list[Tensor]]:
    """Return a function that calls onnxruntime."""
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = None

    def run(call: Call) -> list[Tensor]:
        nonlocal session
        session = session or runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        wanted = [one.name for one in session.get_inputs()]
        leaves = zip(names, tree_leaves((call.args, call.kwargs)), strict=True)
        given = {name: leaf.numpy() for name, leaf in leaves if isinstance(leaf, Tensor)}
        if len(wanted) == len(given):  # some may have been renamed, but none left out
            given = dict(zip(wanted, given.values(), strict=True))
        feed = {name: given[name] for name in wanted}
        return [torch.as_tensor(one) for one in session.run(None, feed)]

    return run
