"""A callback for ``transformers.Trainer`` that keeps a sparse net sparse, and moves its connections."""

import base64
import io
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_sparse.checks import SparsityError, check_number
from lightning_sparse.extras import import_extra
from lightning_sparse.functional.growth import GrowthRule
from lightning_sparse.functional.packing import pack_masks, unpack_masks
from lightning_sparse.loops.clipping import mask_gradients_
from lightning_sparse.loops.moving import ConnectionMover
from lightning_sparse.plain import keep_sparse_, release_
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.state import state_of
from lightning_sparse.weights.unmoved import NOBODY

__all__ = ["transformers_callback"]


def transformers_callback(
    rule: str | GrowthRule | None = None, *, stop_at: int | float = 0.75, **moving: Any
) -> Any:
    """Return a callback for ``transformers.Trainer``: it does what `keep_sparse_` does in a loop of your own.

    Make the net sparse first (`sparsify_`), then the Trainer. Pruned weights stay at zero, clipping sees the
    norm of the sparse net, and masks are kept in ``trainer_state.json`` of each checkpoint, from which
    ``train(resume_from_checkpoint=...)`` takes them up, whatever masks the net has then.

    Args:
        rule: ``"rigl"``, ``"set"`` or another rule: connections move, as by a `ConnectionMover`. ``None``:
            masks stay as they are.
        stop_at: Step from which on connections rest; a fraction in (0, 1] is a share of all steps.
        **moving: ``every_n_steps``, ``drop_fraction`` and the others, as `ConnectionMover` has them.

    Raises:
        ModuleNotFoundError: If transformers is not installed.
        SparsityError: If arguments about moving come without a rule, or, when training starts, if the net
            is not sparse, if gradients of moving connections would come in parts (reentrant gradient
            checkpointing), or as from `ConnectionMover`.
    """
    transformers = import_extra("transformers", "its Trainer")
    if rule is None and moving:
        raise SparsityError(f"`{next(iter(moving))}` needs `rule`, got None: it says how connections move.")
    if isinstance(stop_at, float):
        check_number("stop_at", stop_at, "(0, 1]", "It is a share of all steps, or a whole number of steps.")
    base: Any = transformers.TrainerCallback
    exportable: Any = import_extra("transformers.trainer_callback", "its Trainer").ExportableState

    class KeepSparse(base, exportable):  # type: ignore[misc]
        """Holds the net that the Trainer trains."""

        def __init__(self) -> None:
            self.held: _Held | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            _let_go(self.held)  # an earlier training may have stopped in between
            _refuse_parts_of_gradients(rule, args)
            wrapper = parts["optimizer"]  # by accelerate
            last = stop_at if isinstance(stop_at, int) else int(stop_at * state.max_steps)
            moves = None if rule is None else {"rule": rule, "stop_at": last, **moving}
            self.held = _Held(parts["model"], getattr(wrapper, "optimizer", wrapper), moves)
            state.stateful_callbacks.setdefault("KeepSparse", self.state())
            if state.global_step:
                self.held.restore_(state)

        def on_train_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            best = state.best_model_checkpoint
            if self.held is not None and args.load_best_model_at_end and best is not None:
                path = str(Path(best) / "trainer_state.json")
                self.held.restore_(transformers.TrainerState.load_from_json(path))  # as its weights were
            _let_go(self.held)
            self.held = None

        def state(self) -> dict[str, Any]:
            """Return what a checkpoint keeps, in words of JSON."""
            return {"args": {}, "attributes": {} if self.held is None else {"saved": self.held.saved()}}

    return KeepSparse()


def _refuse_parts_of_gradients(rule: str | GrowthRule | None, args: Any) -> None:
    options = args.gradient_checkpointing_kwargs or {}
    if rule is not None and args.gradient_checkpointing and options.get("use_reentrant"):
        raise SparsityError(
            "`gradient_checkpointing_kwargs` must have use_reentrant False while connections move, got True: "
            "gradients then come in parts, and nothing tells which is the last. Set it to False."
        )


def _let_go(held: "_Held | None") -> None:
    if held is not None:
        held.release()


class _Held:
    """A net that is trained, and hooks that mask its gradients once they are complete: nobody else tells."""

    def __init__(self, module: nn.Module, optimizer: Optimizer, moves: dict[str, Any] | None) -> None:
        self.module, self.optimizer = module, optimizer
        self.mover: ConnectionMover | None = None
        if moves is None:
            keep_sparse_(module, optimizer)
        else:
            self.mover = ConnectionMover(module, optimizer, **moves)
        self._accelerate = import_extra("accelerate.state", "Trainer of transformers")
        self._waits = False
        weights = sparse_weights(module).values()
        parameters: list[Any] = [weight.parameter for weight in weights]
        self._handles = [one.register_post_accumulate_grad_hook(self._gathered) for one in parameters]

    def release(self) -> None:
        """Take all hooks away."""
        for handle in self._handles:
            handle.remove()
        release_(self.module)

    def saved(self) -> str:
        """Return masks, and how far the mover has come, as text."""
        masks = {"masks": pack_masks(state_of(self.module).masks)}
        file = io.BytesIO()
        torch.save(masks if self.mover is None else self.mover.state_dict(), file)
        return base64.b64encode(file.getvalue()).decode()

    def restore_(self, state: Any) -> None:
        """Go on from a Trainer's state; a mover that was not there then counts from the step of that."""
        kept: dict[str, Any] = {"masks": {}}
        saved = state.stateful_callbacks.get("KeepSparse", {}).get("attributes", {}).get("saved")
        if saved is not None:
            kept = torch.load(io.BytesIO(base64.b64decode(saved)), weights_only=True)
        if self.mover is not None:
            self.mover.load_state_dict({**self.mover.state_dict(), "steps": [state.global_step], **kept})
        elif kept["masks"]:
            state_of(self.module).install_(self.module, unpack_masks(kept["masks"]), NOBODY)
            keep_sparse_(self.module, self.optimizer)

    def _gathered(self, _: torch.Tensor) -> None:
        """Wait for the end of this backward pass, behind what was told to wait for it before, as by DDP."""
        if not self._waits:
            self._waits = True
            engine = torch.autograd.Variable._execution_engine
            engine.queue_callback(lambda: engine.queue_callback(self._complete))

    def _complete(self) -> None:
        """Mask gradients, unless more batches are to be added up."""
        self._waits = False
        if self._accelerate.GradientState().sync_gradients:
            mask_gradients_(self.module, self.optimizer)
