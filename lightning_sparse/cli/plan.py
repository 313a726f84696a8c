"""``lightning-sparse plan``: a Trainer that says what a recipe would do, and does not train."""

from lightning_sparse.callbacks.alone import alone_in
from lightning_sparse.callbacks.planning import plan_at
from lightning_sparse.callbacks.sparsifier import sparsifiers
from lightning_sparse.cli.inputs import example_input
from lightning_sparse.reporting.plan import PlannedInput
from lightning_sparse.trainer.packages import LightningDataModule, LightningModule, Trainer

__all__ = ["PlanTrainer"]

WAY = "--input_size=[1, 3, 224, 224]"


class PlanTrainer(Trainer):
    """A Trainer that can also say what its callbacks would do."""

    def plan(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        input_size: list[int] | None = None,
        ckpt_path: str | None = None,  # noqa: ARG002 - the config.yaml of a run has it
        weights_only: bool | None = None,  # noqa: ARG002 - as well
    ) -> None:
        """Print the layers that a recipe makes sparse, and their cost in theory, without training.

        Args:
            model: The module.
            datamodule: Data of ours says how large its inputs are.
            input_size: Shape of the input at which FLOPs are counted, the batch's size first. Without it the
                module's `example_input_array` is taken, else one image of the data.
            ckpt_path: Not read, as shapes are enough: the config.yaml of a run has it.
            weights_only: Not read, for the same reason.
        """
        if next(model.parameters(), None) is None:
            model.configure_model()
        found = sparsifiers(self)
        for callback in found:
            callback.read_trainer(self)
        on_cpu = self.strategy.root_device.type == "cpu"
        value, source = example_input(model, datamodule, input_size)
        at = PlannedInput(value, source, must_fit=source == "input_size", way=WAY)
        print(plan_at(model, [*found, *alone_in(self)], at, on_cpu))
