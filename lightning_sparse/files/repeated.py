"""Keys that stand twice in one mapping of a file in YAML: readers take the last, and drop the others."""

from typing import Any

__all__ = ["repeated_key"]


def repeated_key(node: Any) -> tuple[str, int, int] | None:
    """Return the first key that stands twice in a mapping, and the numbers of both lines.

    Args:
        node: What ``yaml.compose`` returns.

    Returns:
        ``None`` if there is no such key.
    """
    if node is None or node.id == "scalar":
        return None
    if node.id == "sequence":
        return next(filter(None, map(repeated_key, node.value)), None)
    seen: dict[str, int] = {}
    for key, item in node.value:
        line = key.start_mark.line + 1
        if key.id == "scalar" and key.value in seen and key.value != "<<":
            return key.value, seen[key.value], line
        seen[str(key.value)] = line
        if found := repeated_key(item):
            return found
    return None
