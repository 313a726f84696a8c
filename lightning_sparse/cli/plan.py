"""``lightning-sparse plan``: a Trainer that says what a recipe would do, and does not train."""

from lightning_sparse.callbacks.planning import plan_at
from lightning_sparse.callbacks.sparsifier import sparsifiers
from lightning_sparse.data.images import ImageDataModule
from lightning_sparse.reporting.flops import input_of_size
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
    ) -> None:
        """Print the layers that a recipe makes sparse, and their cost in theory, without training.

        Args:
            model: The module.
            datamodule: Data of ours says how large its inputs are.
            input_size: Shape of the input at which FLOPs are counted, the batch's size first. Without it the
                module's `example_input_array` is taken, else one image of the data.
        """
        if next(model.parameters(), None) is None:
            model.configure_model()
        found = sparsifiers(self)
        for callback in found:
            callback.read_trainer(self)
        on_cpu = self.strategy.root_device.type == "cpu"
        print(plan_at(model, found, _input(model, datamodule, input_size), on_cpu))


def _input(model: LightningModule, data: LightningDataModule | None, size: list[int] | None) -> PlannedInput:
    """Take the size that was asked for, else the module's own example, else one image of the data."""
    if size is not None:
        return PlannedInput(input_of_size(model, size), "input_size", True, WAY)
    if model.example_input_array is not None:
        return PlannedInput(model.example_input_array, "example_input_array", False, WAY)
    image = input_of_size(model, (1, *data.input_shape)) if isinstance(data, ImageDataModule) else None
    return PlannedInput(image, "data", False, WAY)
