"""What fit must keep to with converted layers: values in an optimizer, copies on the same support."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from lightning_sparse.callbacks.company import Member
from lightning_sparse.checks import SparsityError
from lightning_sparse.layers.copies import converted_copies
from lightning_sparse.layers.trained import trained_parameters
from lightning_sparse.trainer.packages import LightningModule, Trainer, is_lightning, rank_zero_warn
from lightning_sparse.trainer.parts import callbacks_of, has_optimizers
from lightning_sparse.types import Budgets, Shapes
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.optimizers import parameters_of

__all__ = [
    "explain_empty_optimizer",
    "refuse_moved_originals",
    "refuse_other_budgets",
    "refuse_other_positions",
    "refuse_unoptimized_values",
]


def refuse_unoptimized_values(trainer: Trainer, module: LightningModule) -> None:
    """Refuse a fit in which no optimizer holds some values or alphas that are not frozen.

    They would stay as they are, without a word: code that gathers parameters from every ``nn.Linear`` does
    not find them, and an optimizer made before the conversion holds the weights that were replaced. Where
    parameters may be trained by hand (manual optimization) or handed over later (``BaseFinetuning``), this is
    a warning. Without any optimizer nothing is trained, as Lightning says itself.

    Raises:
        SparsityError: If one is in no optimizer, and nobody is going to change that.
    """
    trained = trained_parameters(module)
    held = {id(parameter) for optimizer in trainer.optimizers for parameter in parameters_of(optimizer)}
    missing = [name for name, parameter in trained.items() if id(parameter) not in held]
    if not missing or not has_optimizers(trainer):
        return
    problem = (
        "`configure_optimizers` must hand over all trained values of converted layers, got "
        f"{len(missing)} of {len(trained)} in no optimizer, such as {missing[0]!r}. Take "
        "`self.parameters()` there, or ask for `DensePlusSparse` beside `nn.Linear`; freeze "
        "(`requires_grad_(False)`) what is not to be trained."
    )
    finetuned = any(is_lightning(other, "callbacks.BaseFinetuning") for other in callbacks_of(trainer))
    if finetuned or not module.automatic_optimization:
        rank_zero_warn(problem)
    else:
        raise SparsityError(problem)


def explain_empty_optimizer(module: nn.Module, error: BaseException) -> None:
    """Put the reason into PyTorch's error about an optimizer that was handed no parameters."""
    trained = trained_parameters(module)
    is_it = isinstance(error, ValueError) and "empty parameter list" in str(error)
    if is_it and trained and not str(error).startswith("`"):  # another callback may have said so
        error.args = (
            "`configure_optimizers` must hand over the values of converted layers, such as "
            f"{next(iter(trained))!r}, got none ({error}). They are vectors: groups of matrices "
            "(`p.ndim == 2`, as for Muon) do not find them. Give them to an optimizer such as AdamW.",
        )


def refuse_moved_originals(members: Sequence[Member], module: nn.Module) -> None:
    """Refuse to move the support of a layer that has a frozen copy: averages would mix up positions."""
    moving = [type(member).__name__ for member in members if member.role == "moves"]
    if moving and (copies := converted_copies(module)):
        path, original = next(iter(copies.items()))
        raise SparsityError(
            f"{moving[0]} cannot move the support of {original!r}, whose frozen copy {path!r} would keep the "
            f"old one: an average of both would mix up positions. Leave {moving[0]} out, or name the copies "
            "in `exclude` of the conversion."
        )


def refuse_other_positions(copies: Mapping[str, str], module: nn.Module) -> None:
    """Refuse frozen copies that no longer have the support of their originals.

    Args:
        copies: Originals by the path of their copy, as they were when fit started.
        module: The module that holds both.
    """
    weights = sparse_weights(module) if copies else {}
    for path, original in copies.items():
        pair = (weights.get(f"{name}.weight") for name in (path, original))
        mine, its = (weight and weight.digest() for weight in pair)
        if mine != its:
            raise SparsityError(
                f"`indices` of the frozen copy {path!r} must stay those of {original!r}, got others: an "
                "average over buffers or a state dict rounds them. Average `parameters()` only."
            )


def refuse_other_budgets(
    density: float,
    planned: Callable[[Shapes], Budgets],
    total: Callable[[int, float], int],
    module: nn.Module,
    names: Sequence[str],
) -> None:
    """Refuse layers converted earlier that do not have what the arguments ask for.

    Args:
        density: Of the conversion.
        planned: Returns what its arguments ask for, as far as shapes decide that.
        total: Returns how many of all these weights a density keeps.
        module: Holds the layers.
        names: Of the weights it would have.

    Raises:
        SparsityError: It names the first layer, or says how many there are in all.
    """
    weights = sparse_weights(module)
    counts = {name: weights[name].nnz for name in names if name in weights}
    budgets = planned({name: weights[name].shape for name in counts})
    asked = total(sum(weights[name].shape.numel() for name in counts), density)
    found = [(f"in {name!r}", counts[name], budget) for name, budget in budgets.items()]
    for where, count, budget in [*found, ("in all", sum(counts.values()), asked)]:
        if count != budget:
            raise SparsityError(
                f"`density` {density} and the other arguments ask for {budget} values {where}, but the "
                f"module was converted with {count} before. Use the arguments of then, or a new module."
            )
