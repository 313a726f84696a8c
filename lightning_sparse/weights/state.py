"""The masks of one module, and what keeps its pruned weights at zero.

A masked weight is an ordinary dense ``nn.Parameter`` whose pruned entries are zeros. Before each optimizer
step the gradients of pruned weights are set to zero, after it the weights are; what the optimizer keeps for
them stays zero as well. Nothing is planted in the module, but for a hook while it is trained that masks
weights before they are saved: a registry that forgets a module when the program does has the state.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.functional.shards.layout import Shards
from lightning_sparse.selection import parameters_by_name
from lightning_sparse.types import Budgets, Masks
from lightning_sparse.weights.changes import Masked, change_masks_
from lightning_sparse.weights.enforcement import layout_mask, mask_of, versions_of
from lightning_sparse.weights.optimizers import forget_curvature_, parameters_of
from lightning_sparse.weights.places import Places, refuse_untied, weights_for
from lightning_sparse.weights.plan import Plans
from lightning_sparse.weights.shards import as_shards, here, part_for, reshard_, shards_of, whole
from lightning_sparse.weights.stepping import Handle, when_loaded, when_stepped
from lightning_sparse.weights.unmoved import Owner

__all__ = ["SparseState", "state_of"]

AfterStep = Callable[[Optimizer], None]


class SparseState:
    """Masks of one module, their owner, and their enforcement.

    Attributes:
        weights: The masked weights by name.
        counts: How many entries each of them keeps, on all processes that hold parts of it.
        shards: Which rows of the weights this process holds; ``None`` if all.
        enforced: Whether the masks are in force; after a fit they are only known.
        finished: Callbacks that have done their part for this module, and do nothing in a second fit.
        asked: Names of weights whose gradient somebody wants to have whole before the coming step.
        before_step: What masks gradients before each step, and may change masks first, in a plain loop.
    """

    def __init__(self) -> None:
        self.weights: dict[str, nn.Parameter] = {}
        self.counts: Budgets = {}
        self.shards: Shards | None = None
        self.enforced = False
        self.finished: weakref.WeakSet[Owner] = weakref.WeakSet()
        self.asked: set[str] = set()
        self._owner: weakref.ReferenceType[Owner] | None = None
        self._module: weakref.ReferenceType[nn.Module] | None = None
        self._places: Places | None = None
        self._keep: dict[str, Tensor] = {}
        self._waiting: dict[str, Tensor] | None = None
        self._plans = Plans(self.weights, self._keep)
        self._seen: list[int] = []
        self._handles: weakref.WeakKeyDictionary[Optimizer, list[Handle]] = weakref.WeakKeyDictionary()
        self._other_handles: list[Handle] = []
        self._after_step: AfterStep | None = None
        self.before_step: AfterStep | None = None

    @property
    def owner(self) -> "Owner | None":
        """Who may change the masks, None if nobody may."""
        return self._owner() if self._owner is not None else None

    @owner.setter
    def owner(self, owner: Owner) -> None:
        self._owner = weakref.ref(owner)

    @property
    def masks(self) -> Masks:
        """Boolean mask per weight, whole, True where it is kept; read off what is enforced."""
        return {name: self.mask(name) for name in self._keep}

    def mask(self, name: str) -> Tensor:
        """Return the boolean mask of one weight, on its device; made anew, of a split one by gathering it."""
        return whole(as_shards({name: self.part(name)}, self.weights)[name])

    def part(self, name: str) -> Tensor:
        """Return the mask of what this process holds of a weight: of all of it, unless that is split."""
        return mask_of(self._keep[name]).to(here(self.weights[name]).device)

    def keep(self, name: str) -> Tensor:
        """Return what masks a weight, as `layout_mask` makes it."""
        return self._keep[name]

    def mask_bytes(self, name: str) -> int:
        """Return the bytes of what is kept of one mask; 0 where there is none."""
        return self._keep[name].nbytes if name in self._keep else 0

    def install_(
        self,
        module: nn.Module,
        masks: Mapping[str, Tensor],
        owner: Owner,
        optimizers: Iterable[Optimizer] = (),
    ) -> None:
        """Take over ``masks`` and set the pruned weights of ``module``, and their optimizer state, to zero.

        Raises:
            SparsityError: If the module has no such weight, one of another shape, or one for two masks.
        """
        module = _original(module)
        reshard_(module)
        weights = weights_for(masks, module)
        with torch.inference_mode(False):  # masks may be taken up while testing, and trained with later
            self._module, self.owner = weakref.ref(module), owner
            self._places = Places(module, weights)
            self.weights, self.shards = weights, shards_of(weights)
            self._lay_out({name: part_for(weights[name], mask) for name, mask in masks.items()})
            self.move_(masks, optimizers)

    @torch.no_grad()
    def move_(self, masks: Mapping[str, Tensor], optimizers: Iterable[Optimizer]) -> None:
        """Change masks: dropped weights become zero, and what ``optimizers`` keep for moved ones as well."""
        if self._waiting is not None:
            self._waiting |= masks
            return
        optimizers = list(optimizers)
        self._plans.find_mixed_state_()
        self._plans.expect_changes_()
        parts = {name: part_for(self.weights[name], mask) for name, mask in masks.items()}
        masked = [Masked(self.weights[name], self._keep[name], part) for name, part in parts.items()]
        changed = change_masks_(masked, optimizers)
        kept = [one.kept for one in changed]
        self.counts |= zip(masks, kept if self.shards is None else self.shards.total(kept), strict=True)
        if any(one.moved for one in changed):
            forget_curvature_(optimizers)

    @contextmanager
    def together(self, optimizers: Iterable[Optimizer]) -> Iterator[None]:
        """Let the masks that are changed in here wait for each other; none changes if there is an error."""
        self._waiting = {}
        try:
            yield
        finally:
            masks, self._waiting = self._waiting, None
        self.move_(masks, optimizers)

    @torch.no_grad()
    def zero_pruned_of_(self, copy: nn.Module) -> None:
        """Set the pruned weights of a copy of the module to zero."""
        parameters = parameters_by_name(copy)
        for name, mask in self.masks.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)

    def find_mixed_state_(self, loaded: Iterable[Optimizer] = ()) -> None:
        """Find out what optimizers keep in the shape of a weight, but not entry by entry.

        The states of ``loaded`` have just been loaded, and were gathered under these masks.
        """
        self._plans.find_mixed_state_(loaded)

    @torch.no_grad()
    def hold_(self, however_written: bool = False) -> None:
        """Mask the weights if somebody has written to them, or put others in their place.

        Args:
            however_written: Mask them even if nothing tells of it: ``weight.data.copy_()`` leaves no trace.

        Raises:
            SparsityError: If a weight is gone, has another shape, or is the same as another one now.
        """
        replaced = self._follow_()
        weights = list(map(here, self.weights.values()))
        if replaced or however_written or self._seen != versions_of(weights):
            for weight, keep in zip(weights, self._keep.values(), strict=True):
                pruned = ~mask_of(keep)
                if (weight.detach() != 0).logical_and_(pruned).any():  # a needless write is in autograd's way
                    weight.masked_fill_(pruned, 0)
            self._plans.accept_changes_()
        self._seen = versions_of(weights)

    @torch.no_grad()
    def clean_(self, optimizers: Iterable[Optimizer]) -> None:
        """Set pruned weights, and what ``optimizers`` keep for them, to zero, whoever has written there."""
        self._follow_()
        self.move_(as_shards(self._parts(), self.weights), optimizers)
        self._seen = versions_of(list(map(here, self.weights.values())))

    def mask_gradients_(self, optimizer: Optimizer) -> None:
        """Set the gradients of pruned weights to zero, NaN and infinite ones too."""
        if self.enforced and optimizer not in self._handles:  # made anew while fit was running
            self._hook(optimizer)
        self._follow_()
        self._plans.mask_gradients_(optimizer)

    def mask_gradients_early_(self, optimizer: Optimizer) -> None:
        """Mask gradients long before the step, unless somebody wants to have some of them whole."""
        held = {id(parameter) for parameter in parameters_of(optimizer)}
        if not any(name in self.asked and id(weight) in held for name, weight in self.weights.items()):
            self.mask_gradients_(optimizer)

    def mask_weights_(self, optimizer: Optimizer) -> None:
        """Set the pruned weights that ``optimizer`` holds to zero."""
        self._plans.mask_weights_(optimizer)

    def attach(
        self,
        optimizers: Sequence[Optimizer],
        after_step: AfterStep | None = None,
        before_step: AfterStep | None = None,
    ) -> None:
        """Keep pruned weights at zero after every step of ``optimizers``, in whatever loop they are used.

        Args:
            optimizers: Those that train the module.
            after_step: Called after each step, once weights are masked.
            before_step: Called before each step, to mask gradients where nobody else does.
        """
        self.detach()
        self._lay_out(self._parts())  # the weights may be on another device than in an earlier fit
        self.enforced = True
        self._after_step, self.before_step = after_step, before_step
        self._seen = []
        for optimizer in optimizers:
            self._hook(optimizer, before_step)

    def until_detached(self, handles: Iterable[Handle]) -> None:
        """Take hooks away when these are taken away."""
        self._other_handles += handles

    @property
    def attached(self) -> list[Optimizer]:
        """The optimizers that keep pruned weights at zero."""
        return list(self._handles)

    def detach(self) -> None:
        """Remove the hooks; the masks stay known for a later fit."""
        for handle in [*chain(*self._handles.values()), *self._other_handles]:
            handle.remove()
        self._handles.clear()
        self._other_handles.clear()
        self.asked.clear()
        self._plans.clear()
        self._after_step = self.before_step = None
        self.enforced = False
        if self._plans.elsewhere:
            self._lay_out(self._parts())  # Lightning has taken the module back: nothing stays on its device

    def _parts(self) -> Masks:
        return {name: self.part(name) for name in self._keep}

    def _lay_out(self, parts: Mapping[str, Tensor]) -> None:
        self._keep = {name: layout_mask(here(weight), parts[name]) for name, weight in self.weights.items()}
        self._plans = Plans(self.weights, self._keep)

    def _follow_(self) -> bool:
        """Take the weights that are in the places of the masked ones now; tell whether they are others."""
        module = self._module() if self._module is not None else None
        if module is None or self._places is None:
            return False
        replaced = self._places.changed
        if replaced and self.shards is not None:
            reshard_(module)  # whole weights may have been in their places
            replaced = self._places.changed
        if replaced:
            masks, before = self.masks, self._places
            self.weights = weights_for(masks, module)
            self._places, self.shards = Places(module, self.weights), shards_of(self.weights)
            refuse_untied(before, self._places)
            self._lay_out({name: part_for(self.weights[name], mask) for name, mask in masks.items()})
        elif self._plans.elsewhere:
            self._lay_out(self._parts())
        return replaced

    def _hook(self, optimizer: Optimizer, before: AfterStep | None = None) -> None:
        def after_step(optimizer: Optimizer) -> None:
            self.mask_weights_(optimizer)
            if self._after_step is not None:
                self._after_step(optimizer)
            self._seen = versions_of(list(map(here, self.weights.values())))

        def forget_plan(optimizer: Optimizer) -> None:
            self._plans.forget(optimizer)  # what was loaded may be a dense net's

        self._handles[optimizer] = [
            *when_stepped(optimizer, before, after_step),
            *when_loaded(optimizer, forget_plan),
        ]


_states: "weakref.WeakKeyDictionary[nn.Module, SparseState]" = weakref.WeakKeyDictionary()


def state_of(module: nn.Module) -> SparseState:
    """Return the one ``SparseState`` of ``module``, an empty one at first."""
    return _states.setdefault(_original(module), SparseState())


def _original(module: nn.Module) -> nn.Module:
    original: nn.Module = getattr(module, "_orig_mod", module)  # Lightning trains what `compile` wrapped
    return original
