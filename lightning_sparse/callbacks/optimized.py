"""Whether what is to be trained of converted layers is in an optimizer."""

from lightning_sparse.checks import SparsityError
from lightning_sparse.layers.trained import trained_parameters
from lightning_sparse.trainer.packages import LightningModule, Trainer, is_lightning, rank_zero_warn
from lightning_sparse.trainer.parts import callbacks_of, has_optimizers
from lightning_sparse.weights.optimizers import parameters_of

__all__ = ["refuse_unoptimized_values"]


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
