"""What is to be done right before gradients are clipped, or right after."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from lightning_sparse.trainer.packages import Trainer, is_lightning

__all__ = ["before_clipping", "once_clipped"]

Action = Callable[[Optimizer], None]


class ClippingHook:
    """Stands in for a method of the Trainer's precision plugin that clips gradients, until it is removed.

    Args:
        trainer: Whose plugin clips.
        method: Name of the method.
        position: Place of the optimizer among its arguments.
        before: Called with the optimizer before gradients are clipped.
        after: Called with the optimizer after that.
    """

    def __init__(
        self,
        trainer: Trainer,
        method: str,
        position: int,
        before: Action | None = None,
        after: Action | None = None,
    ) -> None:
        self._attributes, self._method = vars(trainer.precision_plugin), method
        self._earlier = self._attributes.get(method)
        clip = getattr(trainer.precision_plugin, method)

        def clip_and_act(*arguments: Any, **options: Any) -> None:
            held = options["optimizer"] if "optimizer" in options else arguments[position]
            optimizer = held.optimizer if is_lightning(held, "core.optimizer.LightningOptimizer") else held
            if before is not None:
                before(optimizer)
            clip(*arguments, **options)
            if after is not None:
                after(optimizer)

        self._attributes[method] = self._in_place = clip_and_act

    def remove(self) -> None:
        """Give the plugin its own method back, unless somebody else has taken the place."""
        if self._attributes.get(self._method) is self._in_place:
            del self._attributes[self._method]
            if self._earlier is not None:
                self._attributes[self._method] = self._earlier


def before_clipping(trainer: Trainer, action: Action) -> ClippingHook:
    """Call a function whenever a module clips gradients itself, as it may under manual optimization."""
    return ClippingHook(trainer, "clip_gradients", 0, before=action)


def once_clipped(trainer: Trainer, optimizer: Optimizer, action: Action) -> None:
    """Call a function once, after everybody has seen the gradients of an optimizer's coming step.

    That is after the last hook before the step, and after clipping: nobody looks at them but the optimizer.
    """

    def act_once(held: Optimizer) -> None:
        if held is optimizer:
            hook.remove()
            action(held)

    hook = ClippingHook(trainer, "_clip_gradients", 1, after=act_once)
