"""Patterns by what they are written as: a name, N:M or n:M."""

import re

from lightning_sparse.checks import SparsityError, shown
from lightning_sparse.functional.patterns.base import PATTERNS, Pattern
from lightning_sparse.functional.patterns.layerwise import LayerwiseNM
from lightning_sparse.functional.patterns.nm import NM

__all__ = ["pattern_from_name"]


def pattern_from_name(pattern: str | int | Pattern) -> Pattern:
    """Return the pattern that a text stands for, or the pattern itself.

    Args:
        pattern: ``"unstructured"`` or another name in `PATTERNS`; N and M such as ``"2:4"``; or ``"n:4"``,
            with another N for each layer. YAML reads an unquoted 2:4 as 124, a number to the base 60; that is
            taken back.

    Raises:
        SparsityError: If the text is none of these.

    >>> pattern_from_name("2:4"), pattern_from_name("n:8"), pattern_from_name(124)
    (NM(n=2, m=4), LayerwiseNM(m=8), NM(n=2, m=4))
    """
    if isinstance(pattern, Pattern):
        return pattern
    if isinstance(pattern, str) and pattern in PATTERNS:
        return PATTERNS[pattern]()
    text: object = pattern
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 60:
        text = "{}:{}".format(*divmod(pattern, 60))
    found = re.fullmatch(r"(\d+|n):(\d+)", text) if isinstance(text, str) else None
    if found is None:
        raise SparsityError(
            f"`pattern` must be {', '.join(PATTERNS)}, N:M such as '2:4', or n:M such as 'n:4', "
            f"got {shown(pattern)}."
        )
    m = int(found[2])
    return LayerwiseNM(m) if found[1] == "n" else NM(int(found[1]), m)
