"""A LightningModule for image classification, the one that the recipes train."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy

from lightning_sparse.checks import (
    check_callable,
    check_choice,
    check_count,
    check_counts,
    check_kind,
    check_path,
)
from lightning_sparse.files.reading import read_dict
from lightning_sparse.models.groups import check_lr_factors, multiply_rates_, rate_groups
from lightning_sparse.trainer.packages import LightningModule

__all__ = ["ImageClassifier", "LRSchedulerCallable", "OptimizerCallable", "WeightInit"]

# The aliases of LightningCLI, spelled out: importing them from there would need jsonargparse.
OptimizerCallable: TypeAlias = Callable[[Iterable[Any]], Optimizer]
"""Makes an optimizer from parameters; a class path with ``init_args`` in YAML."""

LRSchedulerCallable: TypeAlias = Callable[[Optimizer], LRScheduler]
"""Makes a learning rate scheduler from an optimizer; a class path with ``init_args`` in YAML."""

WeightInit: TypeAlias = Literal["default", "kaiming_normal"]
"""How the weights start; see ``ImageClassifier``."""

_LIVE_OBJECTS = ("net", "optimizer", "lr_scheduler")


class ImageClassifier(LightningModule):
    """Trains any network that returns logits, by cross-entropy.

    Logs ``train/loss`` (by step and by epoch), ``train/acc``, ``val/loss``, ``val/acc``, ``test/loss`` and
    ``test/acc``; ``predict`` returns probabilities.

    A checkpoint holds the weights once. Written under LightningCLI, it also holds the configuration, and
    ``ImageClassifier.load_from_checkpoint(path)`` needs nothing else. Written by code, it holds the plain
    arguments only, not the network or the callables: give those that matter again, as in
    ``ImageClassifier.load_from_checkpoint(path, net=LeNet300100())``.

    Args:
        net: Network from images to logits.
        num_classes: Number of logits.
        optimizer: Makes the optimizer from the parameters. ``None``: SGD with rate 0.1 and momentum 0.9. (A
            default that LightningCLI could read would lend its rate to every optimizer named without one.)
        lr_scheduler: Makes the scheduler, stepped once per epoch; a plateau scheduler watches ``val/loss``.
        input_shape: Shape of one image, ``[C, H, W]``; sets ``example_input_array``.
        weight_init: ``"default"`` leaves the network as it is; ``"kaiming_normal"`` draws the weights of
            linear and convolutional layers anew (fan-in, ReLU gain) and sets their biases to 0.
        weights: File of pretrained weights to start from: a checkpoint of such a module, or its state dict.
        lr_factors: Factors of the learning rate by pattern on the names of parameters, such as
            ``{"*.bias*": 0.1, "*.scale": 0.1}``, Fixup's, or ``{"*.alpha": 0.1}`` for the scales of converted
            layers. Of several patterns that match, the last counts; every other parameter has the
            optimizer's rate. ``alpha_groups`` keeps weight decay off alphas.

    Raises:
        SparsityError: If an argument is of another kind, or out of range; as the optimizer is made, if a
            pattern of ``lr_factors`` matches no parameter.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int = 10,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        input_shape: Sequence[int] | None = None,
        weight_init: WeightInit = "default",
        weights: str | None = None,
        lr_factors: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        check_kind("net", net, nn.Module)
        check_count("num_classes", num_classes, 2)
        if optimizer is not None:
            check_callable("optimizer", optimizer)
        if lr_scheduler is not None:
            check_callable("lr_scheduler", lr_scheduler)
        if input_shape is not None:
            check_counts("input_shape", input_shape, hint="They are [C, H, W], as a rule.")
        check_choice("weight_init", weight_init, get_args(WeightInit))
        if weights is not None:
            check_path("weights", weights)
        check_lr_factors(lr_factors)
        # A checkpoint has weights of its own, and the file of those at the start may be gone.
        self.save_hyperparameters(ignore=[*_LIVE_OBJECTS, "weights"])
        # LightningCLI hands over its configuration: class paths, no objects.
        if "_instantiator" in self.hparams:
            self.save_hyperparameters(ignore="weights")
        self.net = net
        self.optimizer = optimizer or partial(torch.optim.SGD, lr=0.1, momentum=0.9)
        self.lr_scheduler = lr_scheduler
        self.lr_factors = dict(lr_factors or {})
        # Cross-entropy has already refused labels out of range when the metric sees them.
        self.train_acc, self.val_acc, self.test_acc = (
            MulticlassAccuracy(num_classes, average="micro", validate_args=False) for _ in range(3)
        )
        if input_shape is not None:
            self.example_input_array = torch.zeros(1, *input_shape)
        if weight_init == "kaiming_normal":
            _kaiming_normal_(net)
        if weights is not None:
            content = read_dict(weights, "weights")
            self.load_state_dict(content.get("state_dict", content))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return cast(Tensor, self.net(images))

    def training_step(self, batch: tuple[Tensor, Tensor], *_: int) -> Tensor:
        """Return the loss of a batch and log it."""
        return self._step(batch, "train", self.train_acc)

    def validation_step(self, batch: tuple[Tensor, Tensor], *_: int) -> None:
        """Log loss and accuracy of a batch."""
        self._step(batch, "val", self.val_acc)

    def test_step(self, batch: tuple[Tensor, Tensor], *_: int) -> None:
        """Log loss and accuracy of a batch."""
        self._step(batch, "test", self.test_acc)

    def predict_step(self, batch: Tensor | Sequence[Tensor], *_: int) -> Tensor:
        """Return the probabilities of the classes, for images with or without labels."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return cast(Tensor, self(images)).softmax(dim=1)

    def _step(self, batch: tuple[Tensor, Tensor], stage: str, accuracy: MulticlassAccuracy) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        accuracy.update(logits, labels)
        training = stage == "train"
        self.log(f"{stage}/loss", loss, on_step=training, on_epoch=True, sync_dist=True)
        self.log(f"{stage}/acc", accuracy, on_step=False, on_epoch=True, prog_bar=stage == "val")
        return loss

    def configure_optimizers(self) -> Any:
        """Make the optimizer and, if one is asked for, the scheduler."""
        if self.lr_factors:
            optimizer = self.optimizer(rate_groups(self, self.lr_factors))
            multiply_rates_(optimizer)
        else:
            optimizer = self.optimizer(self.parameters())
        if self.lr_scheduler is None:
            return optimizer
        scheduler = {"scheduler": self.lr_scheduler(optimizer), "interval": "epoch", "monitor": "val/loss"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def _kaiming_normal_(net: nn.Module) -> None:
    """Draw the weights of linear and convolutional layers anew; their biases become 0 (He et al., 2015)."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
