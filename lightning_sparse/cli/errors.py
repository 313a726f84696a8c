"""Which errors are mistakes on a command line or in a recipe, and what is said of them in a line or two.

An error in somebody's own code is none, and keeps its traceback. What remains is recognised by who raised it:
a check of ours (`SparsityError`); Lightning itself, with nobody else's code on the way; or PyTorch within our
nets, where sizes do not fit.
"""

import pickle
import re
import sys
from traceback import walk_tb
from typing import Any, NoReturn

from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.names import options_of

__all__ = ["mistake_in", "refusal_in", "stop"]

_LIGHTNING = ("pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities")
_LIBRARIES = {*_LIGHTNING, "fsspec", "torch", "torchvision", "torchmetrics", "jsonargparse"}
_REFUSALS = ("MisconfigurationException", "RuntimeError", "ValueError", "ImportError", "ModuleNotFoundError")

_SIZES = re.compile(
    r"shapes cannot be multiplied|to have \d+ channels|Kernel size can't be greater|Output size is too small"
    r"|size of tensor a .* must match|is invalid for input of size|expected input\["
)
_UNREADABLE = re.compile(
    r"(WeightsUnpickler error: )?Unsupported \w+: GLOBAL [\w.]+|Unsupported \S+ \S+ \S+"
    r"|WeightsUnpickler error: .{1,60}(?!\S)"
)
_CLASSES = re.compile(r"Target -?\d+ is out of bounds")

_WAYS_OUT = (
    (
        r"gpu backend|can not run on your system|torch_xla",
        "Set `accelerator` to a device of this machine, or to auto or cpu.",
    ),
    (r"devices|your machine only has", "Set `devices` to as many as this machine has, or to 1."),
    (r"dataloader`", "Name a data module: `data: {class_path: DigitsDataModule}`."),
    (r"stateful callback", "A second callback of that class stands in the recipe: leave one of them out."),
)


def stop(message: str) -> NoReturn:
    """End the program with an error and exit status 2, as for any mistake on a command line."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def refusal_in(error: BaseException | None) -> SparsityError | None:
    """Return the SparsityError that an error is, or was raised from; None if there is none.

    >>> refusal_in(KeyError("mine")) is None
    True
    """
    while error is not None and not isinstance(error, SparsityError):
        error = error.__cause__
    return error


def mistake_in(error: BaseException, model: Any = None) -> str | None:
    """Return what to say of an error if it is a mistake in a recipe; None if its traceback is needed.

    Args:
        error: As it was caught.
        model: The LightningModule, if it was made.
    """
    if (refusal := refusal_in(error)) is not None:
        return _as_raised(str(refusal))
    frames = [(str(frame.f_globals.get("__name__")), frame) for frame, _ in walk_tb(error.__traceback__)]
    rooms = [(name, frame) for name, frame in frames if not _is_library(name)]
    if not rooms or not rooms[-1][0].startswith("lightning_sparse.") or not _is_first(error):
        return None
    room, function = rooms[-1][0].split(".")[1], rooms[-1][1].f_code.co_name
    if room == "models":
        return _misfit(error, model, function)
    if room == "data" and isinstance(error, OSError):
        return (
            f"The data of `data` cannot be read or written: {error}. Look at its `data_dir` and `download`."
        )
    if frames[-1][0].partition(".")[0] in (*_LIGHTNING, "fsspec") and type(error).__name__ in _REFUSALS:
        return _with_way_out(" ".join(str(error).split()))
    return _of_checkpoint(error) if room == "cli" else None


def _as_raised(message: str) -> str:
    """Return what an error said where it was raised: that of a worker process has a traceback before it."""
    mark = f"{SparsityError.__name__}: "
    return message.rpartition(mark)[2].strip() if message.startswith("Caught ") else message


def _is_first(error: BaseException) -> bool:
    """Tell whether nothing but a failed import lies behind an error."""
    return error.__cause__ is None or isinstance(error.__cause__, ImportError)


def _is_library(name: str) -> bool:
    package = name.partition(".")[0]
    return package in _LIBRARIES or package in sys.stdlib_module_names


def _misfit(error: BaseException, model: Any, function: str) -> str | None:
    """Say which argument of one of our nets does not fit the data."""
    said = str(error).partition("\n")[0].rstrip(".")
    if isinstance(error, ValueError) and function == "configure_optimizers":
        return f"`model.optimizer`: {said}."
    net = type(getattr(model, "net", model))
    if isinstance(error, RuntimeError) and _SIZES.search(said):
        wanted = {"in_features", "in_channels", "image_size"}
    elif isinstance(error, IndexError) and _CLASSES.search(said):
        wanted = {"num_classes"}
    else:
        return None
    names = [f"`{name}`" for name in options_of(f"{net.__module__}.{net.__qualname__}") if name in wanted]
    check = f"Set its {' and '.join(names)} to what the data has" if names else "Change it"
    return f"`model.net` ({net.__name__}) does not fit the data: {said}. {check}, or choose other `data`."


def _of_checkpoint(error: BaseException) -> str | None:
    """Say that a checkpoint is of another net, or cannot be read."""
    said = " ".join(str(error).split())
    if isinstance(error, pickle.UnpicklingError):
        reason = _UNREADABLE.search(said)
        return (
            f"`ckpt_path` cannot be read ({reason[0] if reason else 'not a pickle of tensors'}). It is "
            "damaged, or holds objects of other classes than tensors, numbers and texts."
        )
    if isinstance(error, RuntimeError) and said.startswith("Error(s) in loading state_dict"):
        first = said.partition(": ")[2]
        return (
            f"`ckpt_path` must be of the recipe's net, got another's: {first[:200]}"
            f"{'...' if len(first) > 200 else ''} Use the recipe it was trained with: config.yaml in the "
            "folder of its run."
        )
    return None


def _with_way_out(said: str) -> str:
    way_out = next((text for pattern, text in _WAYS_OUT if re.search(pattern, said)), "")
    return f"{said if said.endswith(('.', '?')) else said.rstrip('!') + '.'} {way_out}".strip()
