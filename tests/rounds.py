"""What the tests of ASNI and of lottery-ticket rounds share: recorded fits, kept and resumed ones."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR
from torch.utils._pytree import tree_map_only
from torchdata.stateful_dataloader import StatefulDataLoader
from toy import Toy, adamw, loader, masks_of, sgd, trainer, weights_of

import lightning_sparse.weights.state
from lightning_sparse import ExactResume
from lightning_sparse.functional.masks import count_kept
from lightning_sparse.trainer.randomness import rng_state

ENDS_EARLY = pytest.mark.filterwarnings("ignore:The fit has ended with .* weights before")


def on_cpu(tree):
    """Return a copy of nested dicts and lists, with its tensors on the CPU."""
    return tree_map_only(Tensor, lambda value: value.to("cpu", copy=True), tree)


class Records(pl.Callback):
    """What net, masks, optimizers and schedulers were: by epoch, by batch."""

    def __init__(self):
        self.started, self.masks, self.states, self.rng = {}, {}, {}, {}  # before an epoch's first batch
        self.validated, self.validated_masks = {}, {}
        self.after = {}  # weights by the number of batches so far
        self.losses, self.rates = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            epoch = trainer.current_epoch
            self.started[epoch], self.rng[epoch] = weights_of(pl_module), rng_state()
            self.masks[epoch] = masks_of(pl_module)
            schedulers = [copy.deepcopy(c.scheduler.state_dict()) for c in trainer.lr_scheduler_configs]
            optimizers = [on_cpu(optimizer.state_dict()) for optimizer in trainer.optimizers]
            self.states[epoch] = (optimizers, schedulers)
        self.rates.append([group["lr"] for o in trainer.optimizers for group in o.param_groups])

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.after[len(self.after) + 1] = weights_of(pl_module)
        self.losses.append(float(outputs["loss"]) if outputs else None)

    def on_validation_start(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validated[trainer.current_epoch] = weights_of(pl_module)
            self.validated_masks[trainer.current_epoch] = masks_of(pl_module)

    def trained(self):
        """Return how many weights each epoch trained."""
        return [count_kept(masks) for _, masks in sorted(self.masks.items())]

    def kept(self):
        """Return how many weights there were when each epoch was validated."""
        return [count_kept(masks) for _, masks in sorted(self.validated_masks.items())]


class Scaled(Toy):
    """Has also weights that are neither masked nor biases or norms, and another layer: 1,032 weights."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.net.append(nn.Linear(4, 4, bias=False))
        self.scale = nn.Parameter(torch.rand(4) + 0.5)

    def training_step(self, batch, *_):
        loss = nn.functional.cross_entropy(self.net(batch[0]) * self.scale, batch[1])
        self.log("loss", loss)
        return loss


def make(kind=Scaled, seed=0, **arguments):
    torch.manual_seed(seed)
    return kind(**arguments)


def by_step(optimizer):
    return {"scheduler": LambdaLR(optimizer, lambda t: 0.9**t), "interval": "step"}


def recorded_fit(tmp_path, toy, *callbacks, epochs, ckpt_path=None, data=None, **arguments):
    records = Records()
    runner = trainer(tmp_path, *callbacks, records, max_epochs=epochs, **arguments)
    runner.fit(toy, loader() if data is None else data, loader(2), ckpt_path=ckpt_path)
    records.toy, records.trainer = toy, runner
    return records


SEARCH = {"gamma": 1.0, "search_epochs": 3, "verify": True}
"""Arguments of ``ASNISigmoidPruner`` for a search and a retraining of three epochs each."""


def fit_asni(tmp_path, asni, *others, toy=None, epochs=6, **arguments):
    toy = make() if toy is None else toy
    return recorded_fit(tmp_path, toy, asni, *others, epochs=epochs, **arguments)


def saved_fit(folder, toy, saving, *callbacks, ckpt_path=None, **arguments):
    """Fit with one of ``SAVING``'s ways to save; all checkpoints go into the folder."""
    make_loader, when, limits = SAVING[saving]
    save = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **when)
    arguments = {"enable_checkpointing": True, "num_sanity_val_steps": 0, **limits, **arguments}
    callbacks = [*callbacks, ExactResume(), save]
    return recorded_fit(folder, toy, *callbacks, data=make_loader(), ckpt_path=ckpt_path, **arguments)


def checkpoints(folder):
    """Return the checkpoints of a folder, in the order of their steps."""
    return sorted(folder.glob("step=*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))


def stateful():
    return StatefulDataLoader(loader().dataset, 8, shuffle=True)


def shuffled():
    return loader(shuffle=True)


SAVING = {
    "epoch end": (shuffled, {}, {}),
    "validation end": (shuffled, {"save_on_train_epoch_end": False}, {}),
    "last batch": (shuffled, {"every_n_train_steps": 4}, {}),
    "every batch": (stateful, {"every_n_train_steps": 1}, {}),
    "every third batch": (stateful, {"every_n_train_steps": 3}, {}),
    "twice an epoch": (stateful, {}, {"val_check_interval": 0.5}),
}


def flat(tree, prefix=""):
    """Return all tensors and numbers of nested dicts and lists, by path."""
    if isinstance(tree, dict | list | tuple):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {key: leaf for name, part in pairs for key, leaf in flat(part, f"{prefix}.{name}").items()}
    return {prefix: torch.as_tensor(tree)} if isinstance(tree, torch.Tensor | int | float) else {}


class CountsMaskings(pl.Callback):
    """How often each step has masked weights, not gradients."""

    def __init__(self, monkeypatch):
        self.calls, keep_only = [], lightning_sparse.weights.plan.keep_only_

        def counted(tensors, keeps, check=False):
            self.calls[-1] += not check
            return keep_only(tensors, keeps, check)

        monkeypatch.setattr(lightning_sparse.weights.plan, "keep_only_", counted)

    def on_train_batch_start(self, *_):
        self.calls.append(0)


class CopiesAt(pl.Callback):
    """Copies the module and a callback together after a step."""

    def __init__(self, step, callback, copier=copy.deepcopy):
        self.step, self.callback, self.copier = step, callback, copier

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == self.step:
            own, pl_module._trainer = pl_module._trainer, None
            self.pair = self.copier((pl_module, self.callback))
            pl_module._trainer = own


class Two(pl.LightningModule):
    """Two nets, each with an optimizer and a scheduler, trained by hand; children say how."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.nets = nn.ModuleList([nn.Linear(192, 4), nn.Linear(192, 4)])

    def loss(self, net, batch):
        return nn.functional.cross_entropy(net(batch[0].flatten(1)), batch[1])

    def configure_optimizers(self):
        optimizers = [sgd(self.nets[0].parameters()), adamw(self.nets[1].parameters())]
        return optimizers, [ExponentialLR(optimizer, 0.9) for optimizer in optimizers]
