"""Units followed through a net: forwards what is constant, backwards what is needed."""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import Node

from lightning_sparse.export.units.trace import Trace, operator_name, place_of
from lightning_sparse.export.units.values import Units, Value

__all__ = ["HANDLERS", "Flow", "Handler", "Mixer", "NotFollowedError", "Sliced", "understands"]


class NotFollowedError(Exception):
    """An operator through which units cannot be followed; says why, in words that follow "kept: ..."."""


@dataclass(frozen=True)
class Sliced:
    """A dimension of a parameter or buffer that runs over the slots of a value."""

    name: str
    dim: int
    value: Value


@dataclass(frozen=True)
class Mixer:
    """A linear or convolutional layer at work.

    Args:
        weight: Name of its weight.
        bias: Name of its bias, if it has one.
        given: What it reads; ``None`` if that does not run over units.
        made: What it makes.
        groups: Of a convolution.
        why_blocked: What keeps constants other than 0 from moving into the bias; "" if nothing does.
        folded: Inputs that are constant and move into the bias, ``(inputs,)``.
        blocked: Inputs that are constant and needed, ``(inputs,)``.
        shift: What the folded inputs add to the bias, ``(outputs,)``.
    """

    weight: str
    bias: str | None
    given: Value | None
    made: Value
    groups: int
    why_blocked: str
    folded: Tensor = field(default_factory=Tensor)
    blocked: Tensor = field(default_factory=Tensor)
    shift: Tensor = field(default_factory=Tensor)

    @property
    def layer(self) -> str:
        """Name of the layer."""
        return self.weight.removesuffix(".weight")


class Flow:
    """What is known of the units of a net.

    Args:
        trace: The net.
        fixed: Whether views are to keep their sizes, as the net asks for these by number, and with them
            layers of other classes than PyTorch's linear and convolutional ones.
    """

    def __init__(self, trace: Trace, fixed: bool) -> None:
        self.trace, self.fixed = trace, fixed
        self.units = Units()
        self.values: list[Value] = []
        self.mixers: list[Mixer] = []
        self.sliced: list[Sliced] = []
        self.left: dict[str, str] = {}
        """Why a parameter is as it was, by its name."""
        self._of: dict[Node, Value] = {}
        self._backward: list[Callable[[], None]] = []

    def run(self) -> None:
        """Follow the net forwards, then backwards."""
        for node in self.trace.nodes:
            if node.op == "output":
                self.keep(node, "")
            elif node.op == "call_function":
                self._follow(node)
        for step in reversed(self._backward):
            step()

    def of(self, node: Any) -> Value | None:
        """Return what is known of a tensor; ``None`` if its axes do not run over units."""
        return self._of.get(node) if isinstance(node, Node) else None

    def value(self, like: Value, shape: torch.Size, axis: int, source: Tensor | None = None) -> Value:
        """Return a new value with the units of another one, of which nothing is known as constant.

        Args:
            like: The other one.
            shape: Of the new one.
            axis: Of the new one.
            source: The slot of the other one for each slot of the new one; the same without it.
        """
        ids = like.ids if source is None else like.ids[source]
        return self.new(shape, axis, ids)

    def new(self, shape: torch.Size, axis: int, ids: Tensor) -> Value:
        """Return a new value, of which nothing is known as constant."""
        known = torch.zeros(len(ids), dtype=torch.bool)
        self.values.append(Value(shape, axis, ids, known, torch.zeros(len(ids), dtype=torch.float64)))
        return self.values[-1]

    def behind(self, step: Callable[[], None]) -> None:
        """Do something on the way back, when it is known what is needed of all that comes later."""
        self._backward.append(step)

    def pass_back(self, made: Value, givers: Iterable[Value]) -> None:
        """Let what is needed of a value be needed of those that it is made of, slot by slot."""

        def step() -> None:
            for giver in givers:
                giver.needed |= made.needed

        self.behind(step)

    def own(self, node: Any) -> str:
        """Return the name of a parameter or buffer that may be sliced.

        Raises:
            NotFollowedError: If the node is none, or it is used elsewhere too.
        """
        name = self.trace.names.get(node) if isinstance(node, Node) else None
        if name is None:
            raise NotFollowedError("its weights are computed in the forward pass")
        if name in self.trace.shared:
            raise NotFollowedError(f"{name!r} is used in more than one place")
        return name

    def keep(self, node: Node, reason: str) -> None:
        """Keep all units that an operator reads, and its parameters as they are."""
        for giver in node.all_input_nodes:
            if (value := self.of(giver)) is not None:
                self.units.hold(value.ids, reason)
                value.needed[:] = True
            if giver in self.trace.names:
                self.left.setdefault(self.trace.names[giver], reason)

    def evaluate(self, node: Node) -> tuple[Tensor, Tensor] | None:
        """Run an operator on what is constant; return its outcome, and where its values are constants.

        Where a value is not, zeros stand for it: operators that come here treat every slot by itself.

        Returns:
            ``None`` if no slot is constant, or anything but values, parameters and numbers goes in.
        """
        givers = node.all_input_nodes
        values = [value for value in map(self.of, givers) if value is not None]
        if not any(bool(value.known.any()) for value in values):
            return None
        if any(self.of(giver) is None and giver not in self.trace.names for giver in givers):
            return None

        def stand_in(giver: Node) -> Tensor:
            value = self.of(giver)
            if value is None:
                return self.trace.tensors[self.trace.names[giver]].detach()
            return value.along_axis(value.constant.to(giver.meta["val"].dtype)).contiguous()

        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), stand_in)
        with torch.no_grad():
            outcome = node.target(*args, **kwargs)  # type: ignore[operator]
        outcome = outcome[0] if isinstance(outcome, tuple) else outcome
        known = values[0].known.clone()
        for value in values[1:]:
            known &= value.known
        return outcome, known

    def note_constants(self, made: Value, found: tuple[Tensor, Tensor] | None) -> None:
        """Write down which slots an evaluated operator has made constant: alike at every position."""
        if found is None:
            return
        outcome, known = found
        eps = torch.finfo(outcome.dtype).eps if outcome.is_floating_point() else 0.0
        rows = (
            outcome.movedim(made.axis, 0).flatten(1).double()
        )  # comparisons are of bool, which has no minus
        low, high = rows.amin(1), rows.amax(1)
        close = high - low <= 64 * eps * torch.maximum(low.abs(), high.abs())
        made.known = known & close & high.isfinite() & low.isfinite()
        middle = torch.where(low == high, low, rows.mean(1))
        made.constant = torch.where(made.known, middle, 0.0)

    def _follow(self, node: Node) -> None:
        if not getattr(getattr(node.target, "_schema", None), "returns", True):
            return  # a check, such as that of a type
        if node.target is operator.getitem:
            giver, index = node.args
            if index == 0 and (value := self.of(giver)) is not None:
                self._of[node] = value
            return
        name = operator_name(node)
        try:
            handler = handler_of(node, name)
            made = handler(self, node)
        except NotFollowedError as reason:
            self.keep(node, f"{_where(node, name)}: {reason}")
        else:
            if made is not None:
                self._of[node] = made


Handler: TypeAlias = Callable[[Flow, Node], Value | None]
"""Returns what an operator makes of units, or raises `NotFollowedError` before anything is noted."""

HANDLERS: dict[str, Handler] = {}
"""What operators do with units, by name; ``"pointwise"`` stands for all that torch tags so."""

_MIX_ALL = {
    "aten::layer_norm": "it takes mean and variance over all units",
    "aten::native_layer_norm": "it takes mean and variance over all units",
    "aten::rms_norm": "it takes the variance over all units",
    "aten::group_norm": "it takes mean and variance over groups of units",
    "aten::native_group_norm": "it takes mean and variance over groups of units",
    "aten::scaled_dot_product_attention": "attention looks at all units of a head together",
    "aten::embedding": "rows of embeddings are chosen by number",
    "aten::lstm": "recurrent layers feed their units back to themselves",
    "aten::gru": "recurrent layers feed their units back to themselves",
    "aten::rnn_tanh": "recurrent layers feed their units back to themselves",
    "aten::rnn_relu": "recurrent layers feed their units back to themselves",
    "aten::softmax": "it divides by a sum over units",
}


def understands(*names: str) -> Callable[[Handler], Handler]:
    """Register what operators of these names do with units; a decorator."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


def handler_of(node: Node, name: str) -> Handler:
    """Return what is known of an operator.

    Raises:
        NotFollowedError: If nothing is.
    """
    tags = getattr(node.target, "tags", ())
    if name not in HANDLERS and torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags:
        name = "pointwise"
    if name not in HANDLERS:
        raise NotFollowedError(_MIX_ALL.get(name, "what it does with units is not known"))
    return HANDLERS[name]


def _where(node: Node, name: str) -> str:
    place = place_of(node)
    short = name.rpartition("::")[2]
    return f"{short} in {place!r}" if place else short
