"""Losses before fit begins: what it would set up later is set up now."""

from lightning_sparse.trainer import before_two
from lightning_sparse.trainer.packages import LightningModule, Trainer
from lightning_sparse.trainer.processes import take_weights_of_rank_zero_

__all__ = ["prepare_losses"]


def prepare_losses(trainer: Trainer, module: LightningModule) -> None:
    """Set up the training data, and bring the module to its device and precision, as fit does later.

    Several processes get the weights of the first, as DDP would give them to them.

    For decisions that need a loss and must be made before optimizers exist. Fit then takes what it finds set
    up, so that training sees the batches that it would have seen. To be called after the module's ``setup``
    and ``configure_model``, on every rank.

    Args:
        trainer: In fit.
        module: The module that it trains.
    """
    old = before_two.is_before_two(trainer)
    if old:
        before_two.convert_module_(trainer, module)
    else:
        trainer.precision_plugin.convert_module(module)
    trainer.strategy.model_to_device()
    take_weights_of_rank_zero_(trainer, module)
    if old:
        before_two.set_up_data(trainer)
    else:
        trainer.fit_loop.setup_data()
