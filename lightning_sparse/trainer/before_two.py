"""Lightning 1.9, whose loops are others than those of 2.x: what its Trainer is asked for instead.

The Trainer itself holds the dataloaders there, in a ``CombinedLoader`` with other names, and each epoch makes
its iterator anew once it has begun.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PosixPath, WindowsPath
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from lightning_sparse.trainer.packages import Trainer, is_lightning, package_of

__all__ = [
    "CopiedLoader",
    "at_iterator",
    "convert_input",
    "convert_module_",
    "fetches_ahead",
    "is_before_two",
    "iterators",
    "read_for",
    "restart_iterator",
    "set_up_as_after_an_epoch",
    "set_up_data",
    "train_loaders",
    "wait_for_iterators",
]

T = TypeVar("T")


def is_before_two(trainer: Trainer) -> bool:
    """Tell whether a Trainer is one of Lightning 1.9."""
    return str(package_of(trainer).__version__).startswith("1.")


def train_loaders(trainer: Trainer) -> list[Any]:
    """Return the dataloaders that fit draws from, as Lightning has prepared them."""
    combined: Any = trainer.train_dataloader
    return [] if combined is None else tree_leaves(_loaders_in(combined))


class CopiedLoader:
    """What fit draws from, over copies of its dataloaders; yields ``(batch, batch_idx, loader)``."""

    def __init__(self, trainer: Trainer, copy: Callable[[Any], Any]) -> None:
        combined: Any = trainer.train_dataloader
        self._combined = type(combined)(tree_map(copy, _loaders_in(combined)), combined.mode)

    def __iter__(self) -> Iterator[tuple[Any, int, int]]:
        return ((batch, index, 0) for index, batch in enumerate(self._combined))


def _loaders_in(combined: Any) -> Any:
    """Return the user's own structure; where there are several, each is wrapped to start again at its end."""
    return tree_map(lambda loader: getattr(loader, "loader", loader), combined.loaders)


def convert_input(trainer: Trainer, batch: Any) -> Any:
    """Return a batch in the numbers of ``precision=64``, if that is asked for."""
    if not is_lightning(trainer.precision_plugin, "plugins.DoublePrecisionPlugin"):
        return batch
    return tree_map_only(Tensor, lambda x: x.double() if torch.is_floating_point(x) else x, batch)


def convert_module_(trainer: Trainer, module: nn.Module) -> None:
    """Bring a module to the precision that the Trainer brings it to later."""
    if is_lightning(trainer.precision_plugin, "plugins.DoublePrecisionPlugin"):
        module.double()


def set_up_data(trainer: Trainer) -> None:
    """Set up the training data. Lightning asks for the dataloaders again as fit begins."""
    trainer.reset_train_dataloader(trainer.lightning_module)  # type: ignore[attr-defined]


def set_up_as_after_an_epoch(trainer: Trainer) -> None:
    """Do with the training data what Lightning does between two epochs, and leaves out as fit resumes.

    That is to ask for the dataloaders again, if they are due; and workers that persist are there.
    """
    connector: Any = trainer._data_connector
    if connector._should_reload_train_dl:
        set_up_data(trainer)
        return
    for loader in train_loaders(trainer):
        if getattr(loader, "persistent_workers", False):
            iter(loader)


def fetches_ahead(trainer: Trainer) -> bool:
    """Tell whether Lightning fetches a batch before it is needed, to know which one is the last."""
    return bool(trainer.fit_loop.prefetch_batches)  # type: ignore[attr-defined]


def read_for(
    trainer: Trainer, read: Callable[[Any, Callable[[], Any]], Any], path: Any, load: Callable[[], Any]
) -> Any:
    """Let a checkpoint be read for a stage, with objects of classes of which the run has objects anyway.

    PyTorch reads few classes since its 2.6, and this Lightning has no argument to let it read others. It
    writes hyperparameters as they are, such as the class of an optimizer, and the path of a
    ``ModelCheckpoint``.
    """
    known: set[type] = {PosixPath, WindowsPath}
    for owner in (trainer.lightning_module, getattr(trainer, "datamodule", None)):
        values = dict(getattr(owner, "hparams", {})).values()
        known.update(value if isinstance(value, type) else type(value) for value in values)
    with torch.serialization.safe_globals(list(known)):
        checkpoint = read(path, load)
    if trainer.state.fn != "fit":
        _restore_callbacks_too(trainer)
    return checkpoint


def _restore_callbacks_too(trainer: Trainer) -> None:
    """Let callbacks have their states from a checkpoint to test or predict with, as they have them since 2.0.

    After the data module's, which are restored last.
    """
    connector: Any = trainer._checkpoint_connector

    def restore_datamodule() -> None:
        del connector.restore_datamodule
        connector.restore_datamodule()
        connector.restore_callbacks()

    connector.restore_datamodule = restore_datamodule


def restart_iterator(trainer: Trainer) -> None:
    """Make the iterator over the training data anew; batches counted so far stay counted."""
    fetcher: Any = trainer.fit_loop._data_fetcher
    fetched = fetcher.fetched
    if fetches_ahead(trainer):
        iter(fetcher)
    else:
        fetcher.dataloader_iter = iter(fetcher.dataloader)
    fetcher.fetched = fetched


def at_iterator(trainer: Trainer, prepare: Callable[[], None]) -> None:
    """Do something once, right after Lightning has made the next epoch's iterator."""
    loop: Any = trainer.fit_loop.epoch_loop
    before = vars(loop).get("on_run_start")
    run_start = loop.on_run_start

    def run_start_and_prepare(fetcher: Any) -> None:
        if before is None:
            del loop.on_run_start
        else:
            loop.on_run_start = before
        run_start(fetcher)
        prepare()

    loop.on_run_start = run_start_and_prepare


def wait_for_iterators(trainer: Trainer, take: Callable[[], T], keep: Callable[[T], None]) -> None:
    """Take something down right before Lightning makes an epoch's iterator, and keep it once it has."""
    loop: Any = trainer.fit_loop.epoch_loop

    def run_start_and_take(run_start: Callable[[Any], None], fetcher: Any) -> None:
        taken = take()
        run_start(fetcher)
        keep(taken)

    loop.on_run_start = partial(run_start_and_take, loop.on_run_start)


def iterators(trainer: Trainer) -> list[Any]:
    """Return the iterators over the dataloaders."""
    combined: Any = trainer.train_dataloader
    if combined is None or combined._iterator is None:
        return []
    leaves = tree_leaves(combined._iterator.loader_iters)
    return [getattr(leaf, "_loader_iter", leaf) for leaf in leaves]
