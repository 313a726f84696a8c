"""What a net is called with, where a command has to call it."""

from collections.abc import Sequence
from typing import Any

from lightning_sparse.data.images import ImageDataModule
from lightning_sparse.reporting.flops import input_of_size
from lightning_sparse.trainer.packages import LightningDataModule, LightningModule

__all__ = ["example_input"]


def example_input(
    model: LightningModule, data: LightningDataModule | None, size: Sequence[int] | None
) -> tuple[Any, str]:
    """Take the size that was asked for, else the module's own example, else one image of the data.

    Args:
        model: The module.
        data: Data of ours say how large their images are.
        size: Shape of the input, the batch's size first.

    Returns:
        The input, ``None`` if nobody knows it, and where it comes from.
    """
    if size is not None:
        return input_of_size(model, size), "input_size"
    if model.example_input_array is not None:
        return model.example_input_array, "example_input_array"
    image = input_of_size(model, (1, *data.input_shape)) if isinstance(data, ImageDataModule) else None
    return image, "data"
