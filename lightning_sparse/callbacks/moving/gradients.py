"""Dense gradients of the steps up to an update, summed by weight."""

from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from lightning_sparse.functional.finite import check_finite
from lightning_sparse.functional.growth.shards import check_finite_in_shards
from lightning_sparse.trainer.packages import Trainer
from lightning_sparse.trainer.parts import loss_scale
from lightning_sparse.trainer.processes import mean_over_processes
from lightning_sparse.weights.base import SparseWeight
from lightning_sparse.weights.enforcement import all_finite
from lightning_sparse.weights.optimizers import has_finite_gradients

__all__ = ["add_gradients_", "usable_gradients"]


def usable_gradients(optimizer: Optimizer, weights: Sequence[SparseWeight]) -> bool:
    """Tell whether an optimizer's gradients are all finite, on all processes that hold parts of them.

    Raises:
        SparsityError: If they are not, and never will be, as the active weights hold NaN or infinities: on
            all these processes.
    """
    shards, finite = weights[0].shards if weights else None, has_finite_gradients(optimizer)
    if finite if shards is None else shards.all(finite):
        return True
    active = {weight.name: weight.active for weight in weights}
    if shards is None:
        check_finite(active)
    else:
        check_finite_in_shards(active, shards)
    return False


def add_gradients_(
    sums: dict[str, Tensor], trainer: Trainer, weights: Sequence[SparseWeight], keep: bool
) -> bool:
    """Add the gradients of this step, as they are before masks and clipping, if all are finite.

    Args:
        sums: Gradients so far, by name of the weight; changed in place.
        trainer: Tells the loss scale, and how to take a mean over processes.
        weights: Whose gradients were asked for before the step.
        keep: Whether they are to be used in a later step: then they are copied, else only held.

    Returns:
        Whether all were finite; if not, nothing is added.
    """
    average, scale = mean_over_processes(trainer), loss_scale(trainer)
    gradients: dict[str, Tensor] = {}
    for weight in weights:
        gradient = weight.gradient(average, scale)
        weight.forget_gradient()
        if gradient is not None:
            gradients[weight.name] = gradient
    known = {id(weight.parameter.grad) for weight in weights}  # finite, or no step would be due
    finite = all(id(gradient) in known or all_finite(gradient) for gradient in gradients.values())
    for name, gradient in gradients.items() if finite else ():
        if not keep:
            sums[name] = gradient
        elif name in sums:
            sums[name] = sums[name].to(gradient.device) + gradient
        else:
            sums[name] = gradient.clone()
    return finite
