"""Parts of Lightning's Trainer that it does not show.

Those of resuming, of plateaus, of accumulated gradients and of clipping are in modules of their own.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast
from weakref import ProxyType

from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from lightning_sparse.checks import SparsityError
from lightning_sparse.trainer import before_two
from lightning_sparse.trainer.packages import (
    Callback,
    LightningModule,
    Trainer,
    is_lightning,
    overrides,
    package_of,
)

__all__ = [
    "AVERAGING",
    "averaged_copies",
    "averages_buffers",
    "before_restoring",
    "builds_layers_late",
    "callable_net",
    "callbacks_of",
    "called_net",
    "copied_train_loader",
    "for_the_step",
    "has_optimizers",
    "loss_scale",
    "planned_steps",
    "read_checkpoint_with",
    "scales_losses",
    "schedulers_of",
    "starts_other_processes",
    "step_scheduler",
    "tqdm_of",
    "train_loaders",
    "trainer_of",
    "unlogged",
    "unscale_gradients_",
]


AVERAGING = ("StochasticWeightAveraging", "WeightAveraging", "EMAWeightAveraging")
"""Lightning's callbacks that average weights."""


_LOGS = ("log", "log_dict")


def builds_layers_late(module: LightningModule) -> bool:
    """Tell whether a module makes layers in ``configure_model``, after the callbacks are set up."""
    return overrides(module, "configure_model") or overrides(module, "configure_sharded_model")


def before_restoring(trainer: Trainer, action: Callable[[bool], None]) -> None:
    """Do something after ``configure_model``, right before a checkpoint is loaded, if one is.

    A later call takes the place of an earlier one, which may be left from a stage that stopped in between.

    Args:
        trainer: In `setup` of a stage: whether it loads a checkpoint is known nowhere yet.
        action: Is told whether a checkpoint will be loaded.
    """
    name = "_restore_modules_and_callbacks"
    connector: Any = trainer if before_two.is_before_two(trainer) else trainer._checkpoint_connector
    stage = trainer.state.fn
    restore = partial(getattr(type(connector), name), connector)

    def act_and_restore(path: Any, *arguments: Any, **options: Any) -> None:
        vars(connector).pop(name, None)
        if trainer.state.fn == stage:  # else that stage has stopped before it came here
            action(path is not None)
        restore(path, *arguments, **options)

    setattr(connector, name, act_and_restore)


def callable_net(module: LightningModule, weights: Iterable[nn.Parameter]) -> nn.Module | None:
    """Return the module, if it has a ``forward``, or else the one child that holds all these weights."""
    if overrides(module, "forward"):
        return module
    wanted = {id(weight) for weight in weights}
    holders = [child for child in module.children() if wanted <= {id(p) for p in child.parameters()}]
    callable_ones = (c for c in holders if getattr(c.forward, "__func__", None) is not nn.Module.forward)
    return next(callable_ones, None)


def called_net(module: nn.Module, weights: Iterable[nn.Parameter], way_out: str) -> nn.Module:
    """Return what of any module is called with an input: the module, or what `callable_net` finds in it.

    Args:
        module: Any module; all but a LightningModule is called itself.
        weights: Those that the result has to hold.
        way_out: What a user may do instead, in an error: ``"export a child alone"``.

    Raises:
        SparsityError: If there is nothing to call.
    """
    if not is_lightning(module, "core.LightningModule"):
        return module
    net = callable_net(cast(LightningModule, module), weights)
    if net is None:
        raise SparsityError(
            f"`module` must have a `forward`, or one child that holds all its weights, got "
            f"{type(module).__name__}. Give it a `forward`, or {way_out}."
        )
    return net


def starts_other_processes(trainer: Trainer) -> bool:
    """Tell whether fit runs in processes of its own that hand back weights, but no callback's state."""
    return getattr(trainer.strategy, "_start_method", None) in ("spawn", "fork", "forkserver")


def averaged_copies(trainer: Trainer) -> list[nn.Module]:
    """Return the copies of the module that averaging callbacks made when they were set up."""
    copies = []
    for callback in callbacks_of(trainer):
        if is_lightning(callback, *(f"callbacks.{name}" for name in AVERAGING)):
            copy: nn.Module | None = getattr(callback, "_average_model", None)
            copies += [] if copy is None else [getattr(copy, "module", copy)]
    return copies


def averages_buffers(callback: Callback) -> bool:
    """Tell whether a callback averages buffers with the weights, those of integers too."""
    averaging = is_lightning(callback, *(f"callbacks.{name}" for name in AVERAGING))
    return averaging and bool(getattr(callback, "_use_buffers", False))


def train_loaders(trainer: Trainer) -> list[Any]:
    """Return the dataloaders that fit draws from, as Lightning has prepared them."""
    if before_two.is_before_two(trainer):
        return before_two.train_loaders(trainer)
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else list(combined.flattened)


def copied_train_loader(trainer: Trainer, copy: Callable[[Any], Any]) -> Iterable[tuple[Any, int, int]]:
    """Return what fit draws from, over copies of its dataloaders; yields ``(batch, batch_idx, loader)``."""
    if before_two.is_before_two(trainer):
        return before_two.CopiedLoader(trainer, copy)
    combined = trainer.fit_loop._combined_loader
    assert combined is not None, "made before training starts"
    again: Iterable[tuple[Any, int, int]] = type(combined)(tree_map(copy, combined.iterables), combined._mode)
    return again


def for_the_step(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    """Return a batch as ``training_step`` gets it: converted, by the module's hooks, on the device."""
    old = before_two.is_before_two(trainer)
    batch = before_two.convert_input(trainer, batch) if old else trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


@contextmanager
def unlogged(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Let steps log as they like; nothing of it arrives anywhere."""
    loggers, own = trainer.loggers, {name: vars(module)[name] for name in _LOGS if name in vars(module)}
    try:
        trainer.loggers = [package_of(trainer).loggers.logger.DummyLogger() for _ in loggers]
        vars(module).update(dict.fromkeys(_LOGS, _log_nothing))
        yield
    finally:
        trainer.loggers = loggers
        for name in _LOGS:
            del vars(module)[name]
        vars(module).update(own)


def _log_nothing(*_: Any, **__: Any) -> None:
    """Stand in for ``log`` and ``log_dict``."""


class _Reader:
    """Takes the place of a strategy's ``load_checkpoint`` once: Lightning knows the path only then."""

    def __init__(self, strategy: Any, read: Callable[[Any, Callable[[], Any]], Any]) -> None:
        self.strategy, self.read = strategy, read
        self.before = vars(strategy).get("load_checkpoint")
        if isinstance(self.before, _Reader):  # of a stage that loaded none
            self.before = self.before.before

    def __call__(self, path: Any, *arguments: Any, **options: Any) -> Any:
        if self.before is None:
            del self.strategy.load_checkpoint
        else:
            self.strategy.load_checkpoint = self.before
        return self.read(path, partial(self.strategy.load_checkpoint, path, *arguments, **options))


def read_checkpoint_with(trainer: Trainer, read: Callable[[Any, Callable[[], Any]], Any]) -> None:
    """Let the next checkpoint that the Trainer loads be read by a function.

    Args:
        trainer: In `setup` of a stage: it loads its checkpoint next, if there is one.
        read: Takes the path, as Lightning has found it for "last" or "best" too, and a function that loads
            the checkpoint as Lightning would; returns it.
    """
    strategy: Any = trainer.strategy
    if before_two.is_before_two(trainer):
        read = partial(before_two.read_for, trainer, read)
    strategy.load_checkpoint = _Reader(strategy, read)


def tqdm_of(trainer: Trainer) -> Callable[..., Any]:
    """Return the class of Lightning's tqdm bars, which depends on where they are shown."""
    bars: Callable[..., Any] = package_of(trainer).callbacks.progress.tqdm_progress.Tqdm
    return bars


def schedulers_of(trainer: Trainer) -> list[Any]:
    """Return the learning rate schedulers."""
    return [config.scheduler for config in trainer.lr_scheduler_configs]


def step_scheduler(trainer: Trainer, config: Any, value: Any) -> None:
    """Let the module make a scheduler's step; before 2.0 it is told of which optimizer, too."""
    which = [config.opt_idx] if before_two.is_before_two(trainer) else []
    step: Callable[..., None] = trainer.lightning_module.lr_scheduler_step
    step(config.scheduler, *which, value)


def planned_steps(trainer: Trainer) -> int | None:
    """Return how many batches fit will step on; None if nobody can know."""
    if any(_accumulates_otherwise(trainer, callback) for callback in callbacks_of(trainer)):
        return None
    try:
        total = trainer.estimated_stepping_batches
    except package_of(trainer).utilities.exceptions.MisconfigurationException:  # accumulation changes
        return None
    return None if total in (-1, math.inf) else int(total)


def _accumulates_otherwise(trainer: Trainer, callback: Any) -> bool:
    """Tell whether a callback changes how gradients are accumulated: the estimate leaves that out."""
    if not is_lightning(callback, "callbacks.GradientAccumulationScheduler"):
        return False
    return set(callback.scheduling.values()) != {trainer.accumulate_grad_batches}


def has_optimizers(trainer: Trainer) -> bool:
    """Tell whether anything is to be trained: without optimizers Lightning puts in one that does nothing."""
    stand_in: type[Optimizer] = package_of(trainer).core.optimizer._MockOptimizer
    return any(not isinstance(optimizer, stand_in) for optimizer in trainer.optimizers)


def loss_scale(trainer: Trainer) -> float:
    """Return the factor that losses are multiplied with in mixed precision by float16, else 1."""
    scaler = _scaler_of(trainer)
    return 1.0 if scaler is None else scaler.get_scale()


def unscale_gradients_(trainer: Trainer, optimizer: Optimizer) -> None:
    """Divide gradients by the loss scale, where Lightning leaves it to a fused optimizer's step.

    The scaler looks for infinities on the way, which it must have done even if the gradients then go.
    """
    scaler = _scaler_of(trainer)
    if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(optimizer)


def scales_losses(trainer: Trainer) -> bool:
    """Tell whether losses are multiplied with a factor, to find infinities in gradients."""
    return _scaler_of(trainer) is not None


def _scaler_of(trainer: Trainer) -> GradScaler | None:
    plugin: Any = trainer.precision_plugin
    mixed = ("plugins.MixedPrecision", "plugins.MixedPrecisionPlugin")  # the latter before 2.0
    return plugin.scaler if is_lightning(plugin, *mixed) else None


def trainer_of(module: LightningModule) -> Trainer:
    """Return the Trainer of a module, which before 2.0 knows it by a proxy that nothing can refer to."""
    trainer: Any = module.trainer
    found: Trainer = trainer.fit.__self__ if type(trainer) is ProxyType else trainer
    return found


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the Trainer's callbacks, an attribute that its class does not declare."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks
