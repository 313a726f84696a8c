"""One net with one method: fit, look, resume, look again."""

import importlib
import math
import re
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning
import torch
from torch import Tensor, nn

import lightning_sparse
from benchmarks.nets.case import Build, Case
from benchmarks.nets.found import compact, masked
from benchmarks.nets.methods import BY_HAND, DENSE, METHODS, Method
from benchmarks.nets.states import States
from benchmarks.nets.watch import ByHand, Watch
from lightning_sparse import ExactResume, to_dense_
from lightning_sparse.checks import SparsityError
from lightning_sparse.weights.optimizers import parameters_of

BATCHES = 3
LOUDEST = 10  # times the dense net's first loss

EQUAL = "equal"

Verdict = Literal["exact", "warned", "clear error", "FAULT"]
"""Everything held; it did, with words of ours; refused in our words; anything else."""


@dataclass
class Outcome:
    """What came of a cell.

    Attributes:
        kept: Weights that masks keep, or trained entries of S, counted in the module after fit.
        total: Weights they are chosen from.
        parameters: Of the whole net, before.
        seconds: Time of the processor that the cell took.
        texts: The error, the warnings, or what is wrong.
    """

    net: str
    method: str
    verdict: Verdict
    texts: list[str] = field(default_factory=list)
    kept: int = 0
    total: int = 0
    parameters: int = 0
    seconds: float = 0.0


@dataclass
class Fitted:
    """What a fit left."""

    case: Case
    trainer: Any
    watch: Watch
    states: States

    @property
    def module(self) -> Any:
        return self.case.module


@dataclass
class _Findings:
    """What a cell has found so far."""

    kept: int = 0
    total: int = 0
    parameters: int = 0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run(net: str, build: Build, name: str, folder: Path) -> Outcome:
    """Train a net with a method, and say what came of it."""
    start, found = time.process_time(), _Findings()
    with our_warnings() as said:
        try:
            _look(build, name, folder, found, said)
            verdict: Verdict = "FAULT" if found.wrong else "warned" if said else "exact"
            texts = [*(found.wrong or said), *found.notes]
        except SparsityError as error:
            ours = not _in_a_layer(error) or "`exclude`" in str(error)  # with a way out
            verdict, texts = ("clear error", [str(error)]) if ours else ("FAULT", [_told(error)])
        except Exception as error:  # whatever others' code raises, or PyTorch with our reason put in
            explained = isinstance(error, ValueError) and str(error).startswith("`")
            verdict, texts = ("clear error", [str(error)]) if explained else ("FAULT", [_told(error)])
    counts = found.kept, found.total, found.parameters
    return Outcome(net, name, verdict, texts, *counts, time.process_time() - start)


def _look(build: Build, name: str, folder: Path, found: _Findings, said: list[str]) -> None:
    method = METHODS[name]
    whole = fitted(build, method, folder)
    found.kept, found.total = counted(whole.module)
    found.wrong += [*_miscounted(whole, found, method), *_unheld(whole), *whole.case.problems(whole.module)]
    found.wrong += _dense_products(whole, said)
    found.wrong += [text for key, text in whole.states.wrong.items() if not _is_told(key, said)]
    if name.startswith("DCTpS") and not said:
        found.wrong += _loud(build, whole, folder)
    if name == BY_HAND:
        found.wrong += _unlike_by_hand(build, whole, folder)
    refusal = _resume(build, method, name, folder, whole, found)
    to_dense_(whole.module)
    dense_net = build().module
    found.parameters = sum(p.numel() for p in whole.module.parameters())
    if list(whole.module.state_dict()) != list(dense_net.state_dict()):
        found.wrong.append("the state dict has other keys than the dense net's")
    if refusal is not None and not found.wrong:
        raise refusal


def _is_told(key: str, said: list[str]) -> bool:
    """Tell whether a warning of ours has named what an optimizer keeps and that cannot be set to zero."""
    return any("keeps" in text and repr(key.rpartition(".")[2]) in text for text in said)


def fitted(build: Build, method: Method, folder: Path, resume: Path | None = None) -> Fitted:
    """Make a net and fit it.

    One that is resumed is made from another seed, so that all has to come from the file.
    """
    torch.manual_seed(0 if resume is None else 1)
    case, watch = build(), Watch()
    states = States(case.rounding)
    is_first = isinstance(case.module, pytorch_lightning.LightningModule)
    package = pytorch_lightning if is_first else importlib.import_module("lightning.pytorch")
    package.seed_everything(0, workers=True)
    saving = package.callbacks.ModelCheckpoint(
        str(folder), "{epoch}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True
    )
    trainer = package.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=method.epochs,
        limit_train_batches=BATCHES,
        limit_val_batches=0,
        callbacks=[watch, states, *method.callbacks(), ExactResume(), saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(case.module, case.data, ckpt_path=resume, **case.fit)
    return Fitted(case, trainer, watch, states)


def counted(module: nn.Module) -> tuple[int, int]:
    """Return how many weights are kept, and of how many; frozen copies of layers are left out."""
    masks = masked(module).values()
    layers = [layer for layer in compact(module).values() if layer.values.requires_grad]
    kept = sum(int(mask.sum()) for mask in masks) + sum(layer.values.numel() for layer in layers)
    return kept, sum(mask.numel() for mask in masks) + sum(layer.weight.numel() for layer in layers)


def _miscounted(whole: Fitted, found: _Findings, method: Method) -> Iterator[str]:
    """Say where counts are not those that were asked for."""
    if method == METHODS[DENSE]:
        return
    budget = math.floor(Fraction(str(method.density)) * found.total + Fraction(1, 2))
    if found.kept != budget or not budget:
        yield f"keeps {found.kept} of {found.total} weights instead of {budget}"
    weights = dict(whole.module.named_parameters())
    for layer, mask in masked(whole.module).items():
        if alive := int(weights[layer].detach()[~mask].count_nonzero()):
            yield f"{alive} pruned weights of {layer} are not zero"
    if not all(math.isfinite(loss) for loss in whole.watch.losses):
        yield f"the loss is not finite: {whole.watch.losses}"


def _unheld(whole: Fitted) -> Iterator[str]:
    """Say which trained entries no optimizer has."""
    held = {id(p) for optimizer in whole.trainer.optimizers for p in parameters_of(optimizer)}
    loose = [
        name
        for name, layer in compact(whole.module).items()
        if layer.values.requires_grad and id(layer.values) not in held
    ]
    if loose:
        yield f"no optimizer has the values of {len(loose)} converted layers, such as {loose[0]}"


def _dense_products(whole: Fitted, said: list[str]) -> Iterator[str]:
    """Say which layers multiply with a dense weight, unless a warning does; it names a few of many."""
    found = whole.watch.dense_products
    told = [words for words in said if "in the product" in words]
    if found and not any(layer in words for layer in found for words in told):
        layer, alive = next(iter(found.items()))
        yield (
            f"{len(found)} layers are sparse in their parameters and not in their products, such as {layer}: "
            f"{alive} pruned entries are not zero there"
        )


def _loud(build: Build, whole: Fitted, folder: Path) -> Iterator[str]:
    """Say that a converted net starts far from where the dense one does."""
    first, *_ = [*whole.watch.losses, None]
    if first is None:
        return
    dense = fitted(build, Method(list, epochs=1), folder / "loud").watch.losses[0]
    if not abs(first) <= LOUDEST * max(abs(dense), 0.1):
        yield f"the first loss is {first:.3g}, that of the dense net {dense:.3g}, without a word"


def _unlike_by_hand(build: Build, whole: Fitted, folder: Path) -> Iterator[str]:
    """Say where training under fixed masks is not what one would have written by hand."""
    by_hand = Method(lambda: [ByHand(masked(whole.module))])
    other = fitted(build, by_hand, folder / "by hand").module
    torch.manual_seed(0)
    start = build().module.state_dict()
    for name, weight in whole.module.named_parameters():
        hand = other.get_parameter(name)
        off, moved = (weight - hand).abs(), (hand - start[name]).abs()
        if off.sum() > whole.case.rounding * moved.sum() + 1e-4 * hand.abs().sum() + 1e-6:
            yield f"{name} is not what it is when trained by hand, {off.max():.2g} off"
            return


def _resume(
    build: Build, method: Method, name: str, folder: Path, whole: Fitted, found: _Findings
) -> SparsityError | None:
    """Resume, and note what does not come back, or return the error by which we refuse to.

    Where the dense net does no better, it is a note and no fault.
    """
    resumed = _resumed(build, method, folder, whole)
    if resumed == EQUAL:
        return None
    dense = resumed if name == DENSE else _resumed(build, METHODS[DENSE], folder)
    if type(resumed) is type(dense) and dense != EQUAL:
        found.notes.append(f"resumed: {_told(resumed)}, dense nets too")
    elif isinstance(resumed, SparsityError):
        return resumed
    else:
        found.wrong.append(f"resumed: {_told(resumed)}")
    return None


def _resumed(build: Build, method: Method, folder: Path, whole: Fitted | None = None) -> str | Exception:
    """Say whether a run that goes on from a checkpoint ends where the undisturbed one does."""
    whole = whole or fitted(build, method, folder / "dense")
    checkpoint = Path(whole.trainer.checkpoint_callback.dirpath) / f"epoch={method.resume_after - 1}.ckpt"
    try:
        resumed = fitted(build, method, folder / "resumed", checkpoint).module.state_dict()
    except Exception as error:  # a checkpoint that Lightning cannot read, say
        return error
    undisturbed = whole.module.state_dict()
    same = undisturbed.keys() == resumed.keys() and all(
        _same(value, resumed[key]) for key, value in undisturbed.items()
    )
    return EQUAL if same else "not the undisturbed run"


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor):
        return bool(one == other)
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


@contextmanager
def our_warnings() -> Iterator[list[str]]:
    """Yield what our own code warns of, each text once; nothing is printed."""
    home, said = str(Path(lightning_sparse.__file__).parent), []

    def note(message: Warning | str, _: type[Warning], filename: str, *__: Any) -> None:
        if filename.startswith(home) and str(message) not in said:
            said.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        yield said


def _in_a_layer(error: Exception) -> bool:
    """Tell whether a net's own code met an error in one of our layers: that is no refusal of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(
        frame.name == "forward" and "lightning_sparse" in Path(frame.filename).parts for frame in frames
    )


def _told(error: str | Exception) -> str:
    """Return an error with the last line of ours that it passed, and the line that raised it."""
    if isinstance(error, str):
        return error
    if isinstance(error, SparsityError):
        return re.sub(r"'\S*/(epoch=\d+\.ckpt)'", r"'\1'", str(error))
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "lightning_sparse" in Path(frame.filename).parts]
    places = [f"{Path(f.filename).name}:{f.lineno}" for f in (*ours[-1:], frames[-1])]
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]} ({', '.join(dict.fromkeys(places))})"
