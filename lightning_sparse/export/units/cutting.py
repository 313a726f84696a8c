"""What a net keeps of its parameters once its units have been followed, and a net with just that."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_sparse.export.units.flow import Flow, Mixer
from lightning_sparse.export.units.values import Value

__all__ = ["Cut", "decide", "kept_tensors"]


@dataclass(frozen=True)
class Cut:
    """Which units of a net stay.

    Args:
        flow: The net.
        kept: Whether a unit stays, by its number.
        last: Units that stay only because a layer of no units cannot be.
    """

    flow: Flow
    kept: Tensor
    last: frozenset[int]

    def slots(self, value: Value) -> Tensor:
        """Return which slots of a value stay."""
        return self.kept[value.ids]


def decide(flow: Flow) -> Cut:
    """Return which units stay: those needed, those held, all tied to them, and one of each layer."""
    roots = flow.units.roots()
    kept = flow.units.kept(flow.values, roots)
    last: set[int] = set()
    for each in flow.sliced:
        if not bool(kept[each.value.ids].any()):
            tied = roots == roots[each.value.ids[0]]
            kept |= tied
            last.update(tied.nonzero().flatten().tolist())
    return Cut(flow, kept, frozenset(last))


def kept_tensors(cut: Cut) -> dict[str, Tensor]:
    """Return all parameters and buffers that change, as they will be, by name.

    Weights of folded inputs, and of outputs that stay though nobody needs them, become 0; biases take up what
    is folded. A layer without a bias gets one only if there is something to take up.
    """
    old = cut.flow.trace.tensors
    new = {each.name: old[each.name].detach() for each in cut.flow.sliced}
    for mixer in cut.flow.mixers:
        new[mixer.weight] = _folded_weight(mixer, new[mixer.weight])
        if mixer.bias is not None:
            new[mixer.bias] = _folded_bias(mixer, new[mixer.bias])
    for each in cut.flow.sliced:
        slots = cut.slots(each.value)
        if not bool(slots.all()):
            new[each.name] = new[each.name].index_select(each.dim, slots.nonzero().flatten())
    for mixer in cut.flow.mixers:
        shift = torch.where(mixer.made.needed, mixer.shift, 0.0)
        if mixer.bias is None and bool((shift != 0).any()):
            name = f"{mixer.weight.removesuffix('weight')}bias"
            new[name] = shift[cut.slots(mixer.made)].to(new[mixer.weight].dtype)
    return {name: t.contiguous() for name, t in new.items() if name not in old or _differs(t, old[name])}


def _folded_weight(mixer: Mixer, weight: Tensor) -> Tensor:
    rows = weight.flatten(2) if weight.dim() > 2 else weight
    by_group = mixer.folded.view(mixer.groups, -1)
    gone = by_group.repeat_interleave(len(weight) // mixer.groups, 0) if mixer.groups > 1 else by_group
    gone = gone | ~mixer.made.needed[:, None]
    gone = gone[..., None] if weight.dim() > 2 else gone
    return rows.masked_fill(gone, 0.0).view(weight.shape)


def _folded_bias(mixer: Mixer, bias: Tensor) -> Tensor:
    return torch.where(mixer.made.needed, bias.double() + mixer.shift, 0.0).to(bias.dtype)


def _differs(tensor: Tensor, old: Tensor) -> bool:
    return tensor.shape != old.shape or not torch.equal(tensor, old)
