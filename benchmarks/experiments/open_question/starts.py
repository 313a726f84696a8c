"""The ways to start that are compared, made by the package, and what the compiled step takes of them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.experiments.offset_nets import ROWS, Row
from benchmarks.experiments.offset_training import LSUV_IMAGES, start_
from benchmarks.experiments.open_question.kernel import LAYERS, WEIGHTS, State
from benchmarks.experiments.open_question.stream import PADDING, Stream
from lightning_sparse import masks_of, sparsify_
from lightning_sparse.functional.saliency import FORCE, PruningMethod, SynFlow, method_from_name
from lightning_sparse.layers import compact_layers
from lightning_sparse.models import ImageClassifier, LeNet5


@dataclass(frozen=True)
class Start:
    """A way to start.

    Args:
        name: Of the row in tables.
        init: Of the weights; DCTpS nets have none.
        offset: The row of `offset_nets` that says which offset and scales; ``None`` for masks.
        masks: Makes the pruning method.
    """

    name: str
    init: str = "default"
    offset: Row | None = None
    masks: Callable[[], PruningMethod] | None = None


_OFFSETS = {row.name: row for row in ROWS}
_MASKS: dict[str, Callable[[], PruningMethod]] = {
    "SynFlow": partial(SynFlow, iterations=100),
    "FORCE": partial(FORCE, iterations=60, num_batches=1),
    "EPL": partial(method_from_name, "epl"),
}
PLAIN, MENDED = "DCTpS", "DCTpS, chw, LSUV, last x 0.1"
STARTS = (
    Start(PLAIN, offset=_OFFSETS["DCT"]),
    Start(MENDED, offset=_OFFSETS["DCT (chw), LSUV, last x 0.1"]),
    *(
        Start(f"{method}, {said}", init, masks=make)
        for method, make in _MASKS.items()
        for said, init in (("Kaiming", "kaiming_normal"), ("default", "default"))
    ),
)


def make(start: Start, budget: int, seed: int, stream: Stream) -> nn.Module:
    """Return the net as the package makes it, sparse.

    The images that scores or scales are taken from are training images without a crop: the first 512 for
    scales, and for FORCE one batch of 64, drawn from the seed.
    """
    torch.manual_seed(seed)
    init = start.init if start.offset is None else "kaiming_normal"
    net: nn.Module = ImageClassifier(LeNet5(), weight_init=init).net  # type: ignore[arg-type]
    if start.offset is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start_(net, start.offset, budget / WEIGHTS, seed, _plain(stream, torch.arange(LSUV_IMAGES))[0])
        return net
    assert start.masks is not None
    draws = torch.Generator().manual_seed(seed)
    images, labels = _plain(stream, torch.randperm(len(stream.labels), generator=draws)[:64])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparsify_(net, start.masks(), budget / WEIGHTS, loss_fn=_loss, batches=[(images, labels)], seed=seed)
    return net


def _loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


def _plain(stream: Stream, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return images as they are, one after the other, with their labels."""
    places = places[places < len(stream.labels)]
    corners = torch.full((2, len(places)), PADDING)
    images = stream.batch(places, corners, torch.zeros(len(places), dtype=torch.bool))
    return images[..., : len(places)].permute(3, 0, 1, 2).contiguous(), stream.labels[places]


def state_of(net: nn.Module) -> State:
    """Return positions, values, scales and offset of a net."""
    layers = list(compact_layers(net).values())
    starts = [sum(LAYERS[:number]) for number in range(len(LAYERS))]
    if not layers:
        kept = torch.cat([mask.flatten() for mask in masks_of(net).values()])
        indices = kept.nonzero().flatten()
        whole = torch.cat([weight.detach().flatten() for weight in net.parameters()])
        return State(indices.int(), whole[indices], torch.zeros(0), None)
    indices = torch.cat([layer.indices + first for layer, first in zip(layers, starts, strict=True)])
    matrices = [layer.offset.matrix(layer.shape, torch.float32, indices.device) for layer in layers]
    return State(
        indices.int(),
        torch.cat([layer.values.detach() for layer in layers]),
        torch.stack([layer.alpha.detach() for layer in layers if layer.alpha is not None]),
        torch.cat([matrix.reshape(-1) for matrix in matrices]).contiguous(),
    )


def has_path(state: State) -> bool:
    """Tell whether any output depends on any input; without that, no step changes an output."""
    if state.offset is not None:
        return True
    whole = torch.zeros(WEIGHTS, dtype=torch.float64)
    whole[state.indices.long()] = 1
    net = LeNet5().double()
    with torch.no_grad():
        for weight, ones in zip(net.parameters(), whole.split(LAYERS), strict=True):
            weight.copy_(ones.view_as(weight))
        return bool(net(torch.ones(1, 3, 32, 32, dtype=torch.float64)).any())
