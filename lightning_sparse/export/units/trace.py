"""A net as a graph of operators, each with the shapes of what it takes and gives."""

import logging
import operator
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from lightning_sparse.checks import first_line

__all__ = ["Trace", "UntraceableError", "arguments", "operator_name", "place_of", "trace"]


class UntraceableError(Exception):
    """A net that ``torch.export`` cannot follow; says why."""


@dataclass(frozen=True)
class Trace:
    """What a net does to an input, operator by operator, without writing in place.

    Args:
        net: The net.
        nodes: Operators in the order in which they run.
        names: Parameter or buffer that a node stands for.
        tensors: Parameters and buffers by name.
        shared: Names of those that are used in several places, or are there under several names.
    """

    net: nn.Module
    nodes: list[Node]
    names: dict[Node, str]
    tensors: dict[str, Tensor]
    shared: frozenset[str]


def trace(net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    """Follow a net on an example input.

    ``torch.export`` runs the forward pass itself, on shapes: ordinary Python around layers, functional calls
    and methods of tensors all arrive as the same few hundred operators, with the names of the parameters.
    ``torch.fx.symbolic_trace`` would stop at every ``if`` on a shape, and know three spellings of each.

    Args:
        net: In eval mode, on the CPU.
        args: What is passed to it.
        kwargs: The same by name.

    Raises:
        UntraceableError: If what runs depends on values, or the net does what export does not know.
    """
    try:
        with _quietly(), torch.compiler.set_stance("force_eager"), torch.no_grad():
            program = torch.export.export(net, args, kwargs, strict=False)
            if any(_writes(node) for node in program.graph.nodes):
                program = program.run_decompositions({})  # decomposes nothing, but takes writes away
    except Exception as error:  # whatever a forward pass or export raises
        raise UntraceableError(f"torch.export cannot follow it: {first_line(error)}") from error
    signature = program.graph_signature
    inputs = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    nodes = list(program.graph.nodes)
    names = {node: inputs[node.name] for node in nodes if node.name in inputs}
    tensors = {
        **dict(net.named_parameters(remove_duplicate=False)),
        **dict(net.named_buffers(remove_duplicate=False)),
    }
    names = {node: name for node, name in names.items() if name in tensors}
    uses = Counter(id(tensors[name]) for node, name in names.items() for _ in node.users)
    homes = Counter(id(tensor) for tensor in tensors.values())
    written = set(signature.buffers_to_mutate.values())
    shared = [n for n, t in tensors.items() if uses[id(t)] > 1 or homes[id(t)] > 1 or n in written]
    return Trace(net, nodes, names, tensors, frozenset(shared))


def _writes(node: Node) -> bool:
    """Tell whether an operator writes to what it is given."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


@contextmanager
def _quietly() -> Iterator[None]:
    """Let export keep to itself what it warns of, logs and prints; its error says enough."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)


def operator_name(node: Node) -> str:
    """Return the name of a node's operator, as ``"aten::linear"``."""
    if node.target is operator.getitem:
        return "getitem"
    schema = getattr(node.target, "_schema", None)
    return str(node.target) if schema is None else str(schema.name)


def arguments(node: Node) -> dict[str, Any]:
    """Return what an operator gets, by the names in its schema, defaults included."""
    schema: Any = node.target._schema  # type: ignore[union-attr]
    found = {argument.name: argument.default_value for argument in schema.arguments}
    found |= {argument.name: value for argument, value in zip(schema.arguments, node.args, strict=False)}
    return found | node.kwargs


def place_of(node: Node) -> str:
    """Return the name of the layer that an operator runs in; "" for the net itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return next((path for path, _ in reversed(list(stack.values()))), "")
