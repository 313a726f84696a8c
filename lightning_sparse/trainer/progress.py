"""A progress bar for what takes long before the first step, in the style of the Trainer's own."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from lightning_sparse.trainer.before_two import is_before_two
from lightning_sparse.trainer.packages import Trainer, is_lightning
from lightning_sparse.trainer.parts import tqdm_of

__all__ = ["with_progress"]

T = TypeVar("T")


def with_progress(trainer: Trainer, steps: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yield from ``steps`` beside a bar, if the Trainer shows one and there is more than one step."""
    bar: Any = trainer.progress_bar_callback
    for kind, beside_bar in (("TQDMProgressBar", _tqdm), ("RichProgressBar", _rich)):
        shown = is_lightning(bar, f"callbacks.{kind}") and bar.is_enabled and trainer.is_global_zero
        if shown and total > 1:
            return beside_bar(trainer, bar, steps, total, description)
    return iter(steps)


def _tqdm(trainer: Trainer, bar: Any, steps: Iterable[T], total: int, description: str) -> Iterator[T]:
    position, style = 2 * bar.process_position, getattr(bar, "BAR_FORMAT", None)  # since 2.0
    tqdm = tqdm_of(trainer)
    shown = tqdm(
        desc=description,
        total=total,
        position=position,
        leave=False,
        dynamic_ncols=True,
        file=sys.stdout,
        bar_format=style,
    )
    try:
        for step in steps:
            yield step
            shown.update()
    finally:
        shown.refresh()
        shown.close()


def _rich(trainer: Trainer, bar: Any, steps: Iterable[T], total: int, description: str) -> Iterator[T]:
    bar._init_progress(trainer)  # it may come after us in the Trainer's list; twice does no harm
    task = bar._add_task(total, description)
    try:
        for step in steps:
            yield step
            bar.progress.update(task, advance=1)
            bar.refresh()
    finally:
        if is_before_two(trainer):  # it finds its own tasks by their place among all
            bar.progress.update(task, visible=False)
        else:
            bar.progress.remove_task(task)
