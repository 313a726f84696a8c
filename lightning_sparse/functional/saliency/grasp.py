"""GraSP: the weights that carry the gradient flow."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_sparse.checks import SparsityError, check_number, first_line
from lightning_sparse.functional.saliency.base import (
    Average,
    Conformance,
    PruningProblem,
    Ranking,
    one_process,
    register_method,
)
from lightning_sparse.functional.saliency.gradients import gradients_of, mean_gradients, operations_of
from lightning_sparse.functional.saliency.published import OneShot
from lightning_sparse.functional.saliency.scoring import Mode, over_their_sum, scoring
from lightning_sparse.selection import matrices_of
from lightning_sparse.types import Loss, Scores

__all__ = ["GraSP", "cooled", "grasp"]


def grasp(weights: Mapping[str, Tensor], losses: Sequence[Loss], average: Average = one_process) -> Scores:
    """Return ``w * Hg``, signed: what is highest is kept, since removing it would hurt the gradient flow.

    Args:
        weights: The weights scored.
        losses: Every batch is used twice, for the gradient g and for the product of the Hessian H with it.
        average: Takes the mean over processes.

    Raises:
        SparsityError: If an operation of the net has no second derivative.

    Source:
        Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020
        (arXiv:2002.07376), equation 8; the sign is that of the weight's benefit.
    """
    gradients = mean_gradients(weights, losses, average)

    def gradient_flow(loss: Loss) -> Tensor:
        """Return <g, dL/dw> with g held fixed; its gradient is H g."""
        loss_value = loss()
        inner = gradients_of(loss_value, list(weights.values()), create_graph=True)
        pairs = zip(gradients.values(), inner, strict=True)
        flow = torch.stack(
            [loss_value.new_zeros(()), *((g * d).sum() for g, d in pairs if d is not None)]
        ).sum()
        _refuse_once_differentiable(loss_value, flow)
        return flow

    flows = [partial(gradient_flow, loss) for loss in losses]
    with sdpa_kernel(SDPBackend.MATH), _second_derivatives():
        hessian_gradient = mean_gradients(weights, flows, average)
    return {name: hessian_gradient[name].mul_(weight.detach()) for name, weight in weights.items()}


@register_method("grasp")
class GraSP(OneShot):
    """Keep the weights that carry the gradient flow: the highest ``w * Hg``, signed.

    Args:
        num_batches: Batches over which gradient and Hessian are averaged, on each process.
        temperature: Divides the output of the last linear or convolutional layer, which should be the
            logits, while scores are taken. ``None``: off; so it is too with a ``loss_fn`` of your own, and in
            nets without such a layer.
        scoring_mode: Whether batch norm and dropout act as in training (``"train"``) or not (``"eval"``) when
            scores are taken. ``None``: as in training; with ``conformance="reference"`` not.
        allocation: ``"global"`` ranks the weights of all layers together, else each layer has a budget.
        conformance: ``"reference"``: scores and rounding of the Synaptic-Flow code.

    Source:
        Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020
        (arXiv:2002.07376).
    """

    def __init__(
        self,
        num_batches: int = 1,
        temperature: float | None = 200.0,
        scoring_mode: Mode | None = None,
        allocation: Ranking = "global",
        conformance: Conformance = "paper",
    ) -> None:
        super().__init__(num_batches, scoring_mode, allocation, conformance)
        if temperature is not None:
            check_number("temperature", temperature, "(0, inf)", "`None` switches it off.")
        self.temperature = temperature

    def scores(self, problem: PruningProblem) -> Scores:
        """Return ``w * Hg``; of sums over batches, and divided by their sum, in the reference's way."""
        temperature = self.temperature if problem.cools else None
        last = None if temperature is None else _last_layer(problem.module)
        cooling = nullcontext() if temperature is None or last is None else cooled(last, temperature)
        with scoring(problem, self._trains()), cooling:
            losses = problem.losses(self.num_batches)
            scores = grasp(problem.weights, losses, problem.average)
        if self.conformance == "paper":
            return scores
        return over_their_sum({n: s * len(losses) ** 2 for n, s in scores.items()}, epsilon=1e-10)


@contextmanager
def cooled(layer: nn.Module, temperature: float) -> Iterator[None]:
    """Divide the output of a layer, the net's last, by ``temperature`` for a while.

    Warns:
        UserWarning: If the layer is not called meanwhile, so that nothing was divided.
    """
    called = []

    def divide(_: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):  # some layers return more than their output
            return output
        called.append(True)
        return output / temperature

    handle = layer.register_forward_hook(divide)
    try:
        yield
    finally:
        handle.remove()
    if not called:
        warnings.warn(
            f"`temperature` {temperature} divided nothing: the last trained layer of the module is not "
            "called by its loss, or returns no tensor. Set it to None, or register the layer that makes the "
            "logits last.",
            stacklevel=4,
        )


def _last_layer(module: nn.Module) -> nn.Module | None:
    """Return the trained linear or convolutional layer that was registered last, as the net's output.

    ``None`` if there is none: which output the logits are is then not known, and nothing is divided.
    """
    for layer in reversed(list(module.modules())):
        if any(getattr(layer, name).requires_grad for name in matrices_of(layer)):
            return layer
    return None


@contextmanager
def _second_derivatives() -> Iterator[None]:
    """Explain errors about what cannot be differentiated twice; those of torch name the operation.

    The same losses were differentiated once before: what fails now is the second derivative.
    """
    try:
        yield
    except (SparsityError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever torch, or a backward that others wrote, raises
        raise _no_second_derivative(first_line(error)) from error


def _refuse_once_differentiable(loss: Tensor, flow: Tensor) -> None:
    """Raise SparsityError where ``autograd.grad`` is silent: it leaves out what was marked so."""
    if any(node.name() == "torch::autograd::Error" for node in operations_of(flow)):
        own = {node.name() for node in operations_of(loss) if isinstance(node, BackwardCFunction)}
        raise _no_second_derivative(f"{', '.join(sorted(own))} (marked once_differentiable)")


def _no_second_derivative(reason: str) -> SparsityError:
    return SparsityError(
        f"GraSP needs second derivatives, and an operation of the net has none: {reason}. Use another "
        "implementation of it (for attention the plain one, torch's `SDPBackend.MATH`), or another method "
        "(`snip`, `synflow`)."
    )
