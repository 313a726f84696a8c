"""What a net costs: counted and weighed where that can be, else in theory, and always said which."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_sparse.checks import SparsityError, first_line
from lightning_sparse.reporting.latency import Latency, measure_latency
from lightning_sparse.reporting.products import Flops
from lightning_sparse.reporting.report.content import Cost, LeftOut
from lightning_sparse.reporting.report.supports import Support
from lightning_sparse.reporting.summary import summary
from lightning_sparse.reporting.twins import dense_twin
from lightning_sparse.trainer.parts import called_net
from lightning_sparse.weights.found import sparse_weights

__all__ = [
    "AS_TRAINED",
    "DENSE",
    "Costs",
    "costs_of_file",
    "costs_of_module",
    "costs_of_supports",
    "latency_of",
]

AS_TRAINED, DENSE = "as it was trained", "dense twin"

Costs = tuple[list[Cost], list[LeftOut]]


def costs_of_supports(supports: Sequence[Support]) -> list[Cost]:
    """Return what follows from the connections alone: how many there are, and what they need at least."""
    if not supports:
        return []
    dense, kept = sum(one.weights for one in supports), sum(one.kept for one in supports)
    values = sum(one.item * one.kept for one in supports)
    positions = sum(min((one.weights + 7) // 8, 4 * one.kept) for one in supports)
    return [
        Cost("Weights of the sparse layers", "weights", dense, "measured", kept, "measured", "counted"),
        Cost(
            "These weights, packed",
            "bytes",
            sum(one.item * one.weights for one in supports),
            "theory",
            values + positions,
            "theory",
            "values, and a bit for each entry or 4 bytes a position",
        ),
    ]


def costs_of_file(path: Path) -> list[Cost]:
    """Return the size of a checkpoint."""
    note = "optimizer and callbacks included"
    return [Cost("Checkpoint on disk", "bytes", None, "measured", path.stat().st_size, "measured", note)]


def costs_of_module(module: nn.Module, inputs: Any, why_none: str) -> Costs:
    """Return what a net takes on disk, and its FLOPs at an input; the module stays as it is.

    Args:
        module: The net.
        inputs: One input, such as ``example_input_array``; ``None`` if there is none.
        why_none: Why there is none, in words.
    """
    costs: list[Cost] = []
    left_out: list[LeftOut] = []
    try:
        twin: nn.Module | None = dense_twin(module, on_meta=False)
    except Exception as error:  # whatever an attribute that cannot be copied raises
        twin = None
        left_out.append(LeftOut("what the dense net takes", f"it cannot be copied: {first_line(error)}."))
    if twin is not None:
        numbers = sum(p.numel() for p in twin.parameters())
        note = "values that are trained, positions left out; masks leave their zeros in place"
        own = sum(p.numel() for p in module.parameters())
        costs.append(Cost("All parameters in memory", "numbers", numbers, "measured", own, "measured", note))
    saved = _saved_bytes(module)
    dense = None if twin is None else _saved_bytes(twin)
    costs.append(Cost("Weights as torch.save writes them", "bytes", dense, "measured", saved, "measured"))
    if inputs is None:
        return costs, [*left_out, LeftOut("FLOPs", why_none)]
    try:
        costs += _flops(module, inputs)
    except SparsityError as error:
        left_out.append(LeftOut("FLOPs", str(error)))
    return costs, left_out


def latency_of(
    module: nn.Module, inputs: Any, others: Mapping[str, nn.Module] | None = None
) -> list[Latency] | LeftOut:
    """Measure a net and its dense twin on an input, and whatever else is to be compared, on the CPU.

    Args:
        module: The net; it stays as it is.
        inputs: One input.
        others: More nets by name, such as exported ones; they run between the two.
    """
    try:
        nets = {AS_TRAINED: dense_twin(module, on_meta=False, as_it_is=True).cpu()}
        nets |= {**(others or {}), DENSE: dense_twin(module, on_meta=False).cpu()}
        return measure_latency({name: _called(net) for name, net in nets.items()}, inputs)
    except Exception as error:  # whatever a net raises that cannot be copied, or takes another input
        return LeftOut("latency", f"the net cannot be run on one input: {first_line(error)}.")


def _called(net: nn.Module) -> Callable[..., Any]:
    weights = [weight.parameter for weight in sparse_weights(net).values()] or list(net.parameters())
    return called_net(net, weights, "name a child alone")


def _flops(module: nn.Module, inputs: Any) -> list[Cost]:
    net = summary(module, example_input=inputs).flops
    if net is None:
        return []
    note = f"input {net.inputs}, two per multiply-add; dense ones counted by torch" + (
        f"; without {net.unknown}" if net.unknown else ""
    )
    rows = []
    for what, pick in (("forward", _forward), ("forward and backward", _training)):
        dense, own = pick(net.dense), None if net.sparse is None else pick(net.sparse)
        if dense is not None:
            rows.append(Cost(f"FLOPs, {what}", "FLOPs", dense, "measured", own, "theory", note))
    return rows


def _forward(flops: Flops) -> float | None:
    return flops.forward


def _training(flops: Flops) -> float | None:
    return flops.training


def _saved_bytes(module: nn.Module) -> int:
    file = BytesIO()
    torch.save(module.state_dict(), file)
    return len(file.getbuffer())
