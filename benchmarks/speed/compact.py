"""Layers that are stored compactly, without an offset or beside a frozen weight: time and memory.

    python -m benchmarks.speed.compact --threads 1                  # all sections
    python -m benchmarks.speed.compact --threads 1 linear step      # some: linear, step, memory, tuning

A call is one forward and backward pass in float32, the gradient of the input included; in ``step`` a whole
training step. "auto" is ours. Rivals run beside it where they are installed, and are left out with a line
that says so elsewhere: sparselab (a C++ kernel for linear layers), LoRA and SHiRA of peft. sparselab's output
has columns together in memory; "in order" is with what puts it in rows, as dense layers and ours have it.

``memory`` are bytes of all tensors that outlive a step: parameters, gradients, Adam's state, positions, and
what the layer derives from them; measured, not computed. ``tuning`` is a frozen layer with a trained sparse
change of its weight.
"""

import argparse
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks.harness.memory import MIB, nbytes, peak_extra
from benchmarks.harness.report import Bar, Report
from benchmarks.harness.runner import add_sections, parse
from benchmarks.speed.dctps import compare, step
from benchmarks.speed.dctps_forms import (
    ForwardBackward,
    choice_of,
    compact_form,
    linear_case,
    take_turns,
)
from lightning_sparse.layers import convert_
from lightning_sparse.models import ResNet18

TUNING_AT_MOST, TUNING_PEAK_AT_MOST = 1.15, 60.0
ALLOCATIONS = ("epl", "uniform")


class Layer(NamedTuple):
    """A linear layer, its batch, and the bars.

    Args:
        inputs: Features.
        outputs: Features.
        rows: Of a batch.
        bars: How much of the dense time ours may take, by density; ``None`` for no bar.
    """

    inputs: int
    outputs: int
    rows: int
    bars: Mapping[float, float | None]


class Tables(NamedTuple):
    """What is measured: layers, a net with its batch and bars, a layer whose memory counts, a tuned one."""

    linear: Sequence[Layer]
    net: Callable[[], nn.Module]
    images: tuple[int, ...]
    step_bars: Mapping[float, float]
    memory: tuple[int, Mapping[float, float]]
    tuning: tuple[int, int, int]


FULL = Tables(
    linear=(
        Layer(4096, 4096, 128, {0.1: 0.50, 0.01: 0.13, 0.001: 0.06}),
        Layer(1024, 1024, 128, {0.1: None, 0.01: None, 0.001: None}),
        Layer(640, 2560, 1024, {0.1: None, 0.01: None}),
    ),
    net=ResNet18,
    images=(32, 3, 32, 32),
    step_bars={0.05: 0.90, 0.01: 0.75, 0.001: 0.55},
    memory=(4096, {0.1: 0.18, 0.01: 0.02}),
    tuning=(4096, 512, 8),
)
SMOKE = Tables(
    linear=(Layer(24, 16, 4, {0.1: 0.5}),),
    net=lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 10)),
    images=(2, 3, 4, 4),
    step_bars={0.1: 0.9},
    memory=(32, {0.1: 0.18}),
    tuning=(32, 4, 2),
)
SPARSELAB_FROM = 0.01  # from this density on ours shall be no slower


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(__doc__, argv, rounds=9, add_own=partial(add_sections, names=list(SECTIONS)))
    report = Report("compact", options)
    for name in options.sections:
        torch.manual_seed(0)
        print(f"{name}:\n{SECTIONS[name](report, options)}\n", flush=True)
    report.finish()


def linear(report: Report, options: argparse.Namespace) -> str:
    """Compare plain sparse layers with dense ones, and with sparselab's."""
    rival, names = installed("sparselab", "sparselab"), []
    kept = []  # sparselab finds what it has derived from a layer by its address: none may be made anew there
    for layer in tables(options).linear:
        case = linear_case(layer.inputs, layer.outputs, rows=layer.rows)
        for density, at_most in layer.bars.items():
            what = f"{case.name}, {layer.rows} rows, {density:g}"
            forms: dict[str, nn.Module] = {"dense": case.make()}
            forms["auto"] = compact_form(case.make, density, offset="none")
            bars = [Bar("auto", "dense", at_most)]
            if rival is not None:
                forms["sparselab"] = rival.SparseLinear(layer.inputs, layer.outputs, sparsity=1 - density)
                forms["sparselab, in order"] = InOrder(forms["sparselab"])
                kept.append(forms["sparselab"])
                bars.append(Bar("sparselab", "dense"))
                rival_bar = 1.0 if density >= SPARSELAB_FROM else None
                bars += [Bar("auto", name, rival_bar) for name in ("sparselab", "sparselab, in order")]
            x = torch.randn(case.input_size)
            compare(report, options, what, forms, x, bars)
            names.append(what)
    return report.overview(names, "dense")


class InOrder(nn.Module):
    """A layer whose output lies in memory as that of ``nn.Linear`` does, row by row.

    Args:
        layer: One that leaves columns together, for the next operation to put in order.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, contiguous."""
        return self.layer(x).contiguous()


def step_(report: Report, options: argparse.Namespace) -> str:
    """Compare training steps of a net whose convolutions are all compact; the rest is as it was."""
    names, found = [], tables(options)
    net, batch = found.net(), (torch.randn(found.images), torch.randint(10, found.images[:1]))
    kernels = [name for name, parameter in net.named_parameters() if parameter.dim() > 2]
    for allocation in ALLOCATIONS:
        forms = {"dense": deepcopy(net), "dense again": deepcopy(net)}
        for density in found.step_bars:
            forms[f"{density:g}"] = deepcopy(net)
            convert_(forms[f"{density:g}"], density, allocation, offset="none", include=kernels)
        turns = {
            name: step(form, Adam(form.parameters(), lr=1e-4, fused=True), batch)
            for name, form in forms.items()
        }
        bars = [Bar("dense again", "dense")]
        bars += [Bar(f"{density:g}", "dense", at_most) for density, at_most in found.step_bars.items()]
        names.append(f"a step, allocation {allocation}")
        report.add(names[-1], take_turns(turns, options), bars)
    return report.overview(names, "dense")


def memory(report: Report, options: argparse.Namespace) -> str:
    """Compare the bytes that outlive a step."""
    size, bars = tables(options).memory
    lines, case = [], linear_case(size, size, rows=2)
    x = torch.randn(case.input_size, requires_grad=True)
    dense = bytes_after_a_step(case.make(), x)
    for density, at_most in bars.items():
        layer = compact_form(case.make, density, offset="none", backend="transform")
        share = bytes_after_a_step(layer, x) / dense
        report.add_value(f"{case.name}, {density:g}", "bytes kept / dense", share, at_most)
        lines.append(f"{case.name}, {density:g}: {share:.4f} of the dense layer's {dense / MIB:.0f} MiB")
    return "\n".join(lines)


def bytes_after_a_step(layer: nn.Module, x: Tensor) -> int:
    """Return the bytes of all tensors that a layer and its optimizer hold after a step."""
    optimizer = Adam(layer.parameters(), fused=True)
    x.grad = None
    layer(x).square().sum().backward()
    optimizer.step()
    gradients = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
    own, states = tensors_in(layer.__dict__), tensors_in(optimizer.state_dict()["state"])
    return nbytes([*gradients, *own, *states])


def tensors_in(thing: Any) -> Iterator[Tensor]:
    """Yield the tensors in containers, and in objects of this package, however deep."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        for item in thing.values():
            yield from tensors_in(item)
    elif isinstance(thing, list | tuple):
        for item in thing:
            yield from tensors_in(item)
    elif type(thing).__module__.startswith("lightning_sparse."):
        yield from tensors_in(getattr(thing, "__dict__", {}))


def tuning(report: Report, options: argparse.Namespace) -> str:
    """Compare ways to train a few numbers beside a frozen linear layer."""
    size, rows, rank = tables(options).tuning
    frozen, values = nn.Linear(size, size).requires_grad_(False), rank * 2 * size
    sparse = nn.Sequential(deepcopy(frozen).requires_grad_())
    convert_(sparse, values / size**2, offset="pretrained")
    sparse[0].bias.requires_grad_(False)
    nn.init.normal_(sparse[0].values, std=0.01)
    forms, bars = {"frozen": frozen, "auto": sparse[0]}, [Bar("auto", "frozen", TUNING_AT_MOST)]
    peft = installed("peft", "LoRA and SHiRA")
    if peft is not None:
        make = {"LoRA": peft.LoraConfig, "SHiRA": partial(peft.ShiraConfig, mask_type="random")}
        for name, config in make.items():
            net = nn.Sequential(deepcopy(frozen))
            forms[name] = peft.get_peft_model(net, config(r=rank, target_modules=["0"]))
            bars.append(Bar(name, "frozen"))
    case, x = f"{size}^2, {rows} rows, {values} trained", torch.randn(rows, size)
    turns = {name: ForwardBackward(form, x) for name, form in forms.items()}
    report.add(case, take_turns(turns, options), bars)
    report.notes[case] = choice_of(sparse[0], x)
    for name, turn in turns.items():
        turn.forget()
        extra, at_most = peak_extra(turn), TUNING_PEAK_AT_MOST if name == "auto" else None
        turn.forget()
        if extra is not None:
            report.add_value(case, f"{name}: peak extra MiB", extra / MIB, at_most)
    return report.overview([case], "frozen")


def installed(package: str, what: str) -> ModuleType | None:
    """Return a rival's package, or say that it is left out."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        print(f"Left out: {what}, since {package} is not installed ({error}).")
        return None


def tables(options: argparse.Namespace) -> Tables:
    """Return what is to be measured."""
    return SMOKE if options.smoke else FULL


SECTIONS: dict[str, Callable[[Report, argparse.Namespace], str]] = {
    "linear": linear,
    "step": step_,
    "memory": memory,
    "tuning": tuning,
}


if __name__ == "__main__":
    main()
