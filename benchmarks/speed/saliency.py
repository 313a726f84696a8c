"""Making masks: exact global ranking, iterations of SynFlow, steps of FORCE, each against the authors' way.

    python -m benchmarks.speed.saliency --threads 2

Each turn makes the next masks of a run of 100 iterations (SynFlow, to density 0.01) or 60 (FORCE, to 0.1):
the first of them, and of SynFlow the last as well, from random masks; not whole runs. The authors' ways are
written here from what their code does, without its data loaders and printing.

Memory is what the process holds at most during one more turn, above what it held before: resident pages, so
on Linux only.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness.memory import MIB, peak_extra
from benchmarks.harness.nets import cifar_resnet18, tiny_net, weights_of, wide_mlp
from benchmarks.harness.report import Bar, Report
from benchmarks.harness.runner import interleave, parse, timed
from lightning_sparse import FORCE, SynFlow
from lightning_sparse.functional.masks import global_masks
from lightning_sparse.functional.pruning import prune_along
from lightning_sparse.functional.saliency import PruningMethod, PruningProblem
from lightning_sparse.types import Masks, Scores

RANKING_AT_MOST, SYNFLOW_AT_MOST, FORCE_AT_MOST = 0.12, 0.5, 0.65
EXTRA_MIB_AT_MOST = 64
IMAGE = (3, 32, 32)

Turn = Callable[[], Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(__doc__, argv, rounds=9)
    report = Report("saliency", options)
    rank(report, options)
    flow(report, options)
    flow_to_the_end(report, options)
    push(report, options)
    report.finish()


def rank(report: Report, options: argparse.Namespace) -> None:
    """Compare ranking over all layers with ``topk`` of their scores laid end to end, which makes no masks."""
    for name, make in nets_to_rank(options.smoke).items():
        scores = random_scores(make())
        size = sum(score.numel() for score in scores.values())
        for density in (0.1, 0.01):
            k = int(density * size)
            turns = ranking_turns(scores, k)
            case = f"ranking {name}, density {density}"
            compare(report, options, case, turns, [Bar("ours", "topk", RANKING_AT_MOST)], EXTRA_MIB_AT_MOST)


def ranking_turns(scores: Scores, k: int) -> dict[str, Turn]:
    """Return what ranks all scores: ours, and ``topk`` of them laid end to end."""
    return {"ours": partial(global_masks, scores, k), "topk": partial(_topk, [*scores.values()], k)}


def nets_to_rank(smoke: bool) -> dict[str, Callable[[], nn.Module]]:
    """Return the nets whose weights are ranked."""
    if smoke:
        return {"tiny": tiny_net}
    from torchvision.models import resnet18, resnet50

    return {"11M": resnet18, "25M": resnet50}


def flow(report: Report, options: argparse.Namespace) -> None:
    """Compare SynFlow with the authors' way in float64 and, as their code now is, in float32."""
    torch.manual_seed(0)
    net = tiny_net() if options.smoke else cifar_resnet18()
    bars = [Bar("ours", "authors' in float64", SYNFLOW_AT_MOST), Bar("ours", "authors' in float32")]
    for which in ("first", "last"):
        method = Stretch(options.rounds + 2, which)  # one turn to warm up, one for memory
        density = 0.1 if options.smoke else 0.01
        path = method.path(density)
        masks = random_masks(net, path[0]) if which == "last" else None
        turns = synflow_turns(net, method, density, masks)
        compare(report, options, f"SynFlow, {which} iterations", turns, bars)


def synflow_turns(net: nn.Module, method: SynFlow, density: float, masks: Masks | None) -> dict[str, Turn]:
    """Return what makes the next masks: our way, and the authors' in either precision."""
    problem = PruningProblem(net, weights_of(net), torch.Generator(), masks)
    path = method.path(density)
    return {
        "ours": prune(method, problem, density),
        "authors' in float64": authors_synflow(deepcopy(net).double(), path, masks).__next__,
        "authors' in float32": authors_synflow(deepcopy(net), path, masks).__next__,
    }


def flow_to_the_end(report: Report, options: argparse.Namespace) -> None:
    """Compare the time of all 100 iterations, ours and theirs in turn."""
    torch.manual_seed(0)
    net = tiny_net() if options.smoke else cifar_resnet18()
    iterations, density = (5, 0.1) if options.smoke else (100, 0.01)
    method = SynFlow(iterations, list(IMAGE))
    problem = PruningProblem(net, weights_of(net), torch.Generator())
    theirs = authors_synflow(deepcopy(net).double(), method.path(density)).__next__
    turns = {"ours": timed(prune(method, problem, density)), "theirs": timed(theirs)}
    samples = interleave(turns, rounds=iterations, warmup=0)
    ours, theirs_spent = (sum(sample.cpu for sample in samples[name]) for name in turns)
    case, figure = f"SynFlow, {iterations} iterations", "CPU time, ours / authors' in float64"
    report.add_value(case, figure, ours / theirs_spent, SYNFLOW_AT_MOST)


def push(report: Report, options: argparse.Namespace) -> None:
    """Compare FORCE with the authors' way, on a net whose gradients are dear and one where they are cheap."""
    nets = {"tiny": tiny_net} if options.smoke else {"ResNet-18": cifar_resnet18, "MLP": wide_mlp}
    for name, make in nets.items():
        torch.manual_seed(0)
        net = make()
        batch = (
            torch.randn(4 if options.smoke else 128, *IMAGE),
            torch.randint(10, (4 if options.smoke else 128,)),
        )
        turns = force_turns(net, batch)
        compare(report, options, f"FORCE, {name}", turns, [Bar("ours", "authors'", FORCE_AT_MOST)])


def force_turns(net: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Turn]:
    """Return what makes the next masks of 60 steps, our way and the authors'."""
    method, losses = FORCE(60, num_batches=1), [partial(_cross_entropy, net, batch)]
    problem = PruningProblem(net, weights_of(net), torch.Generator(), losses=lambda _: losses)
    return {
        "ours": prune(method, problem, 0.1),
        "authors'": authors_force(deepcopy(net), batch, method.path(0.1)).__next__,
    }


def compare(
    report: Report,
    options: argparse.Namespace,
    case: str,
    turns: Mapping[str, Turn],
    bars: Sequence[Bar],
    mib_at_most: float | None = None,
) -> None:
    """Time the alternatives in turn; then let each have one more turn for its memory."""
    report.add(case, interleave({name: timed(turn) for name, turn in turns.items()}, options.rounds), bars)
    for name, turn in turns.items():
        if (extra := peak_extra(turn)) is not None:
            at_most = mib_at_most if name == "ours" else None
            report.add_value(case, f"peak extra MiB, {name}", extra / MIB, at_most)


def prune(method: PruningMethod, problem: PruningProblem, density: float) -> Turn:
    """Return what makes the next masks, as ``PruneAtInit`` does."""
    return prune_along(method, problem, density).__next__


def authors_synflow(
    net: nn.Module, path: Sequence[float], masks: Masks | None = None
) -> Iterator[list[Tensor]]:
    """Make masks as Synaptic-Flow's code does: buffers by which the layers multiply weights."""
    layers = prunable(net)
    for layer in layers:
        layer.register_buffer("mask", torch.ones_like(layer.weight))
        layer.forward = partial(_masked_forward, layer)
    for layer, mask in zip(layers, (masks or {}).values(), strict=False):
        layer.mask.copy_(mask)
    net.eval()
    for density in path:
        signs = {name: value.sign() for name, value in net.state_dict().items()}
        for value in net.state_dict().values():
            value.abs_()
        net(layers[0].weight.new_ones(1, *IMAGE)).sum().backward()
        scores = [(layer.weight.grad * layer.weight).detach().abs_() for layer in layers]
        for layer in layers:
            layer.weight.grad.zero_()
        for name, value in net.state_dict().items():
            value.mul_(signs[name])
        flat = torch.cat([score.flatten() for score in scores])
        if (k := int((1 - density) * flat.numel())) >= 1:
            threshold = flat.kthvalue(k).values
            for layer, score in zip(layers, scores, strict=True):
                layer.mask.copy_(torch.where(score <= threshold, 0.0, 1.0))
        yield [layer.mask for layer in layers]


def authors_force(
    net: nn.Module, batch: tuple[Tensor, Tensor], path: Sequence[float]
) -> Iterator[list[Tensor]]:
    """Make masks as FORCE's code does: gradients of a copy of the net whose pruned weights are zero."""
    originals, masks = [layer.weight.detach() for layer in prunable(net)], []
    for density in path:
        pruned = deepcopy(net)
        layers = prunable(pruned)
        for layer, mask in zip(layers, masks, strict=False):
            layer.weight.data[mask == 0] = 0
        _cross_entropy(pruned, batch).backward()
        gradients = [layer.weight.grad.clone() for layer in layers]
        saliencies = [(w * g).abs() for w, g in zip(originals, gradients, strict=True)]
        threshold = _topk(saliencies, int(density * sum(s.numel() for s in saliencies)))
        masks = [(saliency >= threshold).float() for saliency in saliencies]
        yield masks


class Stretch(SynFlow):
    """Some iterations of a run of 100, the first or the last ones."""

    def __init__(self, length: int, which: str) -> None:
        super().__init__(100, list(IMAGE))
        self.length, self.which = length, which

    def path(self, density: float) -> list[float]:
        """Return the densities of these."""
        whole = super().path(density)
        return whole[: self.length] if self.which == "first" else whole[-self.length :]


def random_masks(net: nn.Module, density: float) -> Masks:
    """Return masks that keep a little more than ``density``, for the next iteration to prune."""
    return {name: torch.rand_like(w) < 1.05 * density for name, w in weights_of(net).items()}


def random_scores(net: nn.Module) -> Scores:
    """Return ``|w * g|`` of each weight and a random gradient."""
    return {name: (w.detach() * torch.randn_like(w)).abs() for name, w in weights_of(net).items()}


def prunable(net: nn.Module) -> list[Any]:
    """Return the linear and convolutional layers."""
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def _topk(scores: Sequence[Tensor], k: int) -> Tensor:
    return torch.cat([score.flatten() for score in scores]).topk(k).values[-1]


def _cross_entropy(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.cross_entropy(net(images), labels)


def _masked_forward(layer: Any, x: Tensor) -> Tensor:
    weight = layer.mask * layer.weight
    return (
        F.linear(x, weight, layer.bias)
        if isinstance(layer, nn.Linear)
        else layer._conv_forward(x, weight, layer.bias)
    )


if __name__ == "__main__":
    main()
