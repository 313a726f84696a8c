"""Looks at a net before its first step: is it connected, what is empty, and how large are its signals."""

from collections.abc import Callable

from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, check_choice, check_kind
from lightning_sparse.reporting.diagnosis.content import Diagnosis, LayerStart
from lightning_sparse.reporting.diagnosis.signals import Signals, measure_signals
from lightning_sparse.reporting.diagnosis.spectrum import Statistics, jacobian_spectrum
from lightning_sparse.selection import layer_name, plain_name
from lightning_sparse.trainer.parts import called_net
from lightning_sparse.weights.base import SparseWeight
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.masked import weights_by_zeros

__all__ = ["diagnose"]


def diagnose(
    module: nn.Module,
    inputs: Tensor,
    loss: Callable[[], Tensor] | None = None,
    *,
    statistics: Statistics = "running",
    source: str = "as given",
) -> Diagnosis:
    """Say whether a net as it is now can learn at all.

    It answers three questions: does anything of the input reach the output, which layers are empty, and is
    the first loss near that of a guess. It leaves no trace in the module or in torch's random numbers.

    Args:
        module: The net, mostly right before its first step, with whatever made it sparse in force.
        inputs: A batch of real numbers that the net takes; Jacobians are taken of each of its items.
        loss: Runs one batch through the module and returns its loss; signals are measured on the way.
            ``None``: neither is known.
        statistics: Which mean and variance batch normalisation uses for the Jacobian: ``"running"``, as in
            eval mode, or ``"batch"``, those of ``inputs``, held fixed.
        source: What the inputs are, for what is printed.

    Returns:
        Diagnosis: It prints as a table; ``spectrum`` has the singular values, ``layers`` what is kept.

    Raises:
        SparsityError: If an argument is of another kind, or the net cannot be run with the inputs.

    Examples:
        >>> import torch
        >>> from lightning_sparse import sparsify_
        >>> net = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 5))
        >>> diagnose(net, torch.randn(4, 20)).connected
        True
        >>> _ = net[0].weight.data.zero_()
        >>> found = diagnose(net, torch.randn(4, 20))
        >>> found.connected, found.empty, found.spectrum.mean
        (False, ('0',), (0.0, 0.0, 0.0, 0.0, 0.0))
    """
    check_kind("module", module, nn.Module)
    check_kind("inputs", inputs, Tensor)
    check_choice("statistics", statistics, ("running", "batch"))
    if inputs.ndim == 0 or not len(inputs):
        raise SparsityError(f"`inputs` must be a batch of one or more, got shape {tuple(inputs.shape)}.")
    net = called_net(module, module.parameters(), "diagnose a child alone")
    spectrum, classes = jacobian_spectrum(net, inputs, statistics)
    weights = _weights_in_order(module)
    by_name = {plain_name(path): part for path, part in module.named_modules()}
    watched = {layer: by_name[layer] for layer in map(_layer, weights) if layer in by_name}
    signals = Signals() if loss is None else measure_signals(module, watched, loss)
    rows = tuple(
        LayerStart(
            layer_name(weight.name),
            tuple(weight.shape),
            weight.shape.numel(),
            weight.nnz,
            not weight.prunes,
            signals.outputs.get(_layer(weight)),
            signals.gradients.get(_layer(weight)),
        )
        for weight in weights
    )
    return Diagnosis(spectrum, rows, None if loss is None else signals.loss, classes, source)


def _weights_in_order(module: nn.Module) -> list[SparseWeight]:
    """Return what is sparse, and all other linear and convolutional weights, in the net's order."""
    found = sparse_weights(module)
    weights = [*found.values(), *(one for one in weights_by_zeros(module) if one.name not in found)]
    place = {plain_name(path): i for i, (path, _) in enumerate(module.named_modules())}
    return sorted(weights, key=lambda weight: place[_layer(weight)])


def _layer(weight: SparseWeight) -> str:
    return weight.name.rpartition(".")[0]
