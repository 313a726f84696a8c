"""Whether two nets give the same outputs."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn

from lightning_sparse.checks import SparsityError, first_line
from lightning_sparse.export.calls import WAY_OUT, Call

__all__ = ["check_outputs", "differences"]

_TOLERANCE = 1e-5


def differences(expected: Sequence[Tensor], found: Sequence[Tensor]) -> list[tuple[float, float]]:
    """Compare outputs one by one.

    Returns:
        For each the largest difference, and the largest magnitude of what was expected. The difference is 0
        where both are NaN or the same infinity, and infinite where shapes, or numbers of outputs, differ.

    Examples:
        >>> differences([torch.tensor([4.0, torch.nan])], [torch.tensor([3.0, torch.nan])])
        [(1.0, 4.0)]
        >>> differences([torch.tensor([torch.inf])], [torch.tensor([-torch.inf]), torch.ones(1)])
        [(inf, 0.0), (inf, 0.0)]
    """
    return [
        (math.inf, 0.0) if one is None or other is None else _difference(one, other)
        for one, other in zip_longest(expected, found)
    ]


def _difference(expected: Tensor, found: Tensor) -> tuple[float, float]:
    if expected.shape != found.shape:
        return math.inf, 0.0
    if expected.is_complex() and found.is_complex():
        expected, found = torch.view_as_real(expected), torch.view_as_real(found)
    same = (expected == found) | (expected.isnan() & found.isnan())
    if not expected.is_floating_point():
        return 0.0 if bool(same.all()) else math.inf, 0.0
    off = (expected.double() - found.double()).abs().nan_to_num(math.inf, math.inf).masked_fill(same, 0)
    finite = expected[expected.isfinite()].double().abs()
    return tuple(float(one.max()) if one.numel() else 0.0 for one in (off, finite))  # type: ignore[return-value]


def check_outputs(
    calls: Iterable[Call], reference: nn.Module, run: Callable[[Call], list[Tensor]], name: str
) -> None:
    """Compare what a file computes with the net that it was written of.

    Args:
        calls: At which inputs.
        reference: The net.
        run: Runs what the file holds.
        name: Of the format, for errors.

    Raises:
        SparsityError: If an output differs by more than 1e-5, or of outputs above 1 by that share of the
            largest; of half precision by more than rounding.
    """
    for call in calls:
        expected = call(reference)
        try:
            got = run(call)
        except Exception as error:  # whatever the other program raises
            raise SparsityError(
                f"`module` must run as {name!r}, and ends in {type(error).__name__}: {first_line(error)}; no "
                f"file was written. {WAY_OUT}"
            ) from error
        found = differences(expected, got)
        limits = [max(_TOLERANCE, _rounding(one)) for one in expected] + [0.0] * (len(found) - len(expected))
        if any(off > limit * max(1.0, top) for (off, top), limit in zip(found, limits, strict=True)):
            raise SparsityError(
                f"`module` must have the same outputs as {name!r}, got some that differ by "
                f"{max(off for off, _ in found):.2g} at an input of {call}; no file was written. {WAY_OUT}"
            )


def _rounding(output: Tensor) -> float:
    return 4 * torch.finfo(output.dtype).eps if output.is_floating_point() else 0.0
