"""LeNet-5's step by `lenet5.cpp`: compiled once by ``g++``, called without a copy."""

import ctypes
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

BATCH = 64
"""Images that a pass is made for, whether there are as many or not."""
LAYERS = (450, 2_400, 48_000, 9_840, 820)
WEIGHTS = sum(LAYERS)
_SOURCE = Path(__file__).with_name("lenet5.cpp")
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")


class State(NamedTuple):
    """A net as the compiled step sees it.

    Args:
        indices: Ascending positions of the trained weights in all layers end to end, int32.
        values: The trained weights, which the step reads where they lie.
        scales: Those of the offsets of the five layers; none without an offset.
        offset: C of all layers, end to end; ``None`` without an offset.
    """

    indices: Tensor
    values: Tensor
    scales: Tensor
    offset: Tensor | None


@cache
def library(folder: Path) -> Any:
    """Compile the step into a folder, unless it is there, and load it."""
    if shutil.which("g++") is None:
        raise SystemExit("`g++` must be there: the trainings are compiled, or they would take days.")
    name = hashlib.sha256(_SOURCE.read_bytes() + " ".join(_FLAGS).encode()).hexdigest()[:12]
    path = folder / f"lenet5-{name}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["g++", *_FLAGS, "-o", f"{path}.part", str(_SOURCE)], check=True)
        Path(f"{path}.part").replace(path)
    loaded = ctypes.CDLL(str(path))
    loaded.lenet5.restype = ctypes.c_float
    return loaded


def bind(
    folder: Path, state: State, gradients: tuple[Tensor, Tensor] | None = None
) -> Callable[[Tensor, Tensor], tuple[float, int]]:
    """Return the step of a net: from images and labels to the mean loss and how many are classified rightly.

    Args:
        folder: Where what is compiled is kept.
        state: Of the net; its tensors are read anew in every step and must stay where they are.
        gradients: Where those of values and scales are written to; without them there is only a forward pass.
    """
    right = ctypes.c_int32()
    fixed = (
        *map(_pointer, state[:2]),
        len(state.values),
        _pointer(state.scales),
        _pointer(state.offset),
        *(map(_pointer, gradients) if gradients else (None, None)),
        ctypes.byref(right),
    )
    function = library(folder).lenet5
    kept = state, gradients

    def step(images: Tensor, labels: Tensor) -> tuple[float, int]:
        assert kept
        assert images.is_contiguous()
        assert images.shape == (3, 32, 32, BATCH)
        assert labels.dtype == torch.int64
        loss = function(_pointer(images), _pointer(labels), len(labels), *fixed)
        return loss, right.value

    return step


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())
