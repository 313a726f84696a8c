"""What optimizers hold."""

from torch import nn
from torch.optim import Optimizer

from lightning_sparse.weights.enforcement import all_finite

__all__ = ["has_finite_gradients", "parameters_of", "skip_step_"]


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return what an optimizer holds."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def has_finite_gradients(optimizer: Optimizer) -> bool:
    """Tell whether there are gradients and all are finite: a scaler skips the step for any that is not."""
    gradients = [p.grad for p in parameters_of(optimizer) if p.grad is not None]
    entries = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    return bool(entries) and all(map(all_finite, entries))


def skip_step_(optimizer: Optimizer) -> None:
    """Take the gradients away: optimizers leave such parameters, and what they keep for them, alone."""
    for parameter in parameters_of(optimizer):
        parameter.grad = None
