"""What a file says that it holds: the names in it, beside the values.

A mask, a support or a snapshot that is missing leaves a file that reads well, and a layer that trains dense.
So what this package saves goes with a list of its names, and is compared with it when it is read.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lightning_sparse.checks import SparsityError

__all__ = ["RECORD", "add_record_", "refuse_incomplete", "with_record"]

RECORD = "lightning_sparse"
"""Key of the list of names, in checkpoints and in files of our own."""

_CALLBACKS = "callbacks"
"""Where a checkpoint has the states of callbacks, those of others among them."""


def with_record(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be saved together with the names of all that it holds."""
    return {**content, RECORD: _names(content)}


def add_record_(checkpoint: dict[str, Any], states: Collection[str]) -> None:
    """Let a checkpoint say what our callbacks have put into it.

    Args:
        checkpoint: Holds the states of all callbacks by now; one without a state is not among them.
        states: The keys under which ours are.
    """
    found = checkpoint.get(_CALLBACKS, {})
    checkpoint[RECORD] = {_CALLBACKS: {key: _names(found[key]) for key in states if key in found}}


def refuse_incomplete(content: Mapping[str, Any], source: str, argument: str) -> None:
    """Refuse a file in which something is missing, or too much; one without a record passes.

    Args:
        content: What the file holds.
        source: How errors show the file.
        argument: What errors call it.

    Raises:
        SparsityError: It names what is missing.
    """
    record = content.get(RECORD)
    if record is None:
        return
    if not isinstance(record, Mapping):
        raise SparsityError(
            f"`{argument}` {source} must list what it holds under {RECORD!r}, got a "
            f"{type(record).__name__}. Use another file."
        )
    if any(not isinstance(names, Mapping | None) for names in _nested(record)):
        raise SparsityError(
            f"`{argument}` {source} must list the names of what it holds under {RECORD!r}, got other values. "
            "Use another file."
        )
    if (found := next(_differences(record, _comparable(content, record)), None)) is not None:
        path, what = found
        in_state = path[0] == _CALLBACKS and len(path) > 2
        place, names = (f"the state of {path[1]}", path[2:]) if in_state else ("it", path)
        raise SparsityError(
            f"`{argument}` {source} is incomplete: {place} {what} {' / '.join(map(str, names))!r}, unlike "
            "when it was saved. Use another file."
        )


def _names(value: object) -> dict[Any, Any] | None:
    """Return the keys of nested dicts, None for all that is no dict."""
    return {key: _names(part) for key, part in value.items()} if isinstance(value, Mapping) else None


def _nested(record: object) -> Iterator[object]:
    """Yield all parts of a record: dicts of names, and None behind what is no dict."""
    yield record
    for part in record.values() if isinstance(record, Mapping) else ():
        yield from _nested(part)


def _comparable(content: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record tells of: of a checkpoint's callbacks only ours."""
    parts = {key: content[key] for key in record if key in content}
    ours, states = record.get(_CALLBACKS), parts.get(_CALLBACKS)
    if isinstance(ours, Mapping) and isinstance(states, Mapping):
        parts[_CALLBACKS] = {key: states[key] for key in ours if key in states}
    return parts


def _differences(names: Mapping[Any, Any], there: object) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield the path of each name that is missing or too many, and which of the two it is."""
    found = there if isinstance(there, Mapping) else {}
    for name, inner in names.items():
        if name not in found:
            yield (name,), "lacks"
        elif isinstance(inner, Mapping):
            yield from (((name, *path), what) for path, what in _differences(inner, found[name]))
    yield from (((name,), "has") for name in found if name not in names)
