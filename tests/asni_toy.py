"""Folders as finished ASNI runs leave them, written by hand: small nets whose numbers are known."""

import torch
from pytorch_lightning.loggers import CSVLogger

from lightning_sparse.functional.packing import pack_masks

E = 3
"""Epochs of the search."""

MASKS = {
    "net.a.weight": torch.tensor([[True, True, True, False, False, False]]),
    "net.b.weight": torch.tensor([[True, False], [False, True]]),
}
SEARCHED = {
    "net.a.weight": torch.tensor([[1.0, 2.0, -4.0, 0.0, 0.0, 0.0]]),
    "net.b.weight": torch.tensor([[0.5, 0.0], [0.0, 0.25]]),
    "net.a.bias": torch.tensor([7.0]),
}
CENTROIDS = {"net.a.weight": torch.tensor([1.5, -4.0]), "net.b.weight": torch.tensor([0.375, 0.0])}
RETRAINED = {name: 3 * weight for name, weight in SEARCHED.items()}
DENSE = {name: torch.arange(1.0, weight.numel() + 1).view_as(weight) for name, weight in SEARCHED.items()}


def save(folder, epoch, weights, callbacks, step=None, name=None):
    """Write a checkpoint as a Trainer does, with what we read of it and what we do not."""
    path = folder / "checkpoints" / (name or f"epoch={epoch}.ckpt")
    path.parent.mkdir(parents=True, exist_ok=True)
    step = 10 * (epoch + 1) if step is None else step
    content = {
        "epoch": epoch,
        "global_step": step,
        "state_dict": weights,
        "callbacks": callbacks,
        "loops": {},
    }
    torch.save(content, path)
    return path


def asni_state(epoch, restarted, reinit="centroids", masks=MASKS, **state):
    """Return the states of a run's callbacks after so many epochs, all of them of one fit."""
    return {
        "ASNISigmoidPruner": {
            "config": {"alpha": 90.0, "reinit": reinit},
            "finished": True,
            "masks": pack_masks(masks),
            "epoch": epoch,
            "ended": epoch - 1,
            "path": [9, 5],
            "search_epochs": E,
            "restarted": restarted,
            "centroids": CENTROIDS if restarted else {},
            **state,
        },
        "ModelCheckpoint{'monitor': None}": {"best_model_path": ""},
    }


def fixed_state(masks=MASKS, **config):
    return {"PruneAtInit": {"config": config, "finished": True, "masks": pack_masks(masks)}}


def log(folder, epochs, metrics=(), logger=CSVLogger, start=0.5, first=0):
    """Log, through one of Lightning's loggers, ``val/acc`` and others that are functions of the epoch.

    A resumed run logs from its ``first`` epoch on.
    """
    loggers = logger(folder.parent, name="", version=folder.name)
    for epoch in range(first, epochs):
        values = {
            "val/acc": start + epoch / 10,
            **{name: value(epoch) for name, value in dict(metrics).items()},
        }
        loggers.log_metrics({**values, "epoch": epoch}, step=10 * (epoch + 1))
    loggers.finalize("success")


SCHEDULE = {
    "asni/target_sparsity": lambda e: [0.2, 0.5, 0.5][min(e, 2)],
    "asni/sparsity": lambda e: [0.1, 0.5, 0.5][min(e, 2)],
    "sparsity/net.a": lambda e: 0.5,
}


def search_and_retrain(folder, logger=CSVLogger, reinit="centroids"):
    log(folder, 2 * E, SCHEDULE, logger)
    save(folder, E - 1, SEARCHED, asni_state(E, False, reinit))
    save(folder, 2 * E - 1, RETRAINED, asni_state(2 * E, True, reinit))
    return folder


def dense(folder, logger=CSVLogger):
    log(folder, E, logger=logger, start=0.6)
    save(folder, E - 1, DENSE, {"ModelCheckpoint{}": {}})
    return folder


def from_ticket(folder, logger=CSVLogger, **config):
    log(folder, E, logger=logger, start=0.4)
    save(folder, E - 1, RETRAINED, fixed_state(method="FromFile", file="ticket.pt", **config))
    return folder
