"""A callback that notes the test accuracy while a net trains; it lies apart so that recipes can name it."""

import torch

from lightning_sparse.callbacks import ASNISigmoidPruner
from lightning_sparse.trainer.packages import Callback, LightningModule, Trainer
from lightning_sparse.weights.state import state_of


class Watch(Callback):
    """Notes the test accuracy before each training's first step and after each epoch."""

    latest: "Watch"

    def __init__(self) -> None:
        Watch.latest = self
        self.starts: list[float] = []
        self.curve: list[float] = []
        self.kept = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pruners = [c for c in trainer.callbacks if isinstance(c, ASNISigmoidPruner)]
        retrains = bool(pruners) and pruners[0].restarted and trainer.current_epoch == pruners[0].epochs
        if trainer.current_epoch == 0 or retrains:
            self.starts.append(self._accuracy(trainer, pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.curve.append(self._accuracy(trainer, pl_module))
        self.kept = sum(int(mask.sum()) for mask in state_of(pl_module).masks.values())

    @torch.no_grad()
    def _accuracy(self, trainer: Trainer, module: LightningModule) -> float:
        trainer.datamodule.setup("test")
        was_training, right, seen = module.training, 0, 0
        module.eval()
        for images, labels in trainer.datamodule.test_dataloader():
            guesses = module(images.to(module.device)).argmax(1)
            right += int((guesses.cpu() == labels).sum())
            seen += len(labels)
        module.train(was_training)
        return 100 * right / seen
