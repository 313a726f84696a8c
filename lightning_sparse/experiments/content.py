"""What is in a sweep file: YAML, keys that are known, values of their kinds."""

import re
from pathlib import Path
from typing import Any

from lightning_sparse.checks import SparsityError, near, shown
from lightning_sparse.files.repeated import repeated_key

__all__ = ["mapping_in", "read_content", "refusal", "setting_of"]

_KEYS: dict[str, type | tuple[type, ...]] = {
    "recipe": str,
    "overlays": (str, list),
    "set": dict,
    "variants": dict,
    "grid": dict,
    "list": list,
    "metric": (str, list),
    "compare": str,
    "against": object,
    "out": str,
    "threads": int,
    "resources": dict,
}
_KINDS = {
    str: "a text",
    dict: "a mapping",
    list: "a list",
    int: "an integer",
    (str, list): "a text or a list",
}


def read_content(path: Path) -> dict[str, Any]:
    """Return what is in a sweep file, with keys that are known and values of their kinds."""
    content = _load(path)
    if not isinstance(content, dict):
        raise refusal(path, "hold a mapping", f"{shown(content)}. It begins with `recipe:`.")
    for key, value in content.items():
        if key not in _KEYS:
            close = near(str(key), _KEYS) or ". Settings of the recipe stand in `set`, `grid` or `list`."
            raise refusal(path, f"have the keys {', '.join(_KEYS)} alone", f"{key!r}{close}")
        if not isinstance(value, _KEYS[key]) or (isinstance(value, bool) and key == "threads"):
            raise refusal(path, f"have {_KINDS.get(_KEYS[key])} at `{key}`", f"{shown(value)}.")
    for key in ("variants", "grid", "list", "metric"):
        if key in content and not content[key]:
            raise refusal(path, f"have values in `{key}`", "none. Leave it out, or fill it.")
    metrics = content.get("metric")
    if isinstance(metrics, list) and not all(isinstance(metric, str) for metric in metrics):
        raise refusal(path, "have names of metrics at `metric`", f"{shown(metrics)}.")
    if content.get("threads", 1) < 1:
        raise refusal(path, "have at least 1 at `threads`", f"{content['threads']}.")
    return content


def setting_of(given: str) -> tuple[str, Any]:
    """Return key and value of ``KEY=VALUE``."""
    import yaml

    key, is_one, value = given.partition("=")
    if not key or not is_one:
        raise SparsityError(f"`--set` must be KEY=VALUE, as data.data_dir=data, got {given!r}.")
    try:
        return key, _parsed(value)
    except yaml.YAMLError:
        raise SparsityError(f"`--set` must have a value in YAML, got {given!r}.") from None


def _parsed(text: str, path: Path | None = None) -> Any:
    """Return what YAML says, and ``1e-3`` as a number, as in recipes; YAML 1.1 wants ``1.0e-3``."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Has a rule of its own."""

    number = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    if path is not None and (twice := repeated_key(yaml.compose(text, Loader))):
        raise refusal(path, "have each key once", "{!r} in lines {} and {}.".format(*twice))
    return yaml.load(text, Loader)  # a SafeLoader


def _load(path: Path) -> Any:
    import yaml

    if not path.is_file():
        folder = path.parent
        names = [file.name for file in folder.glob("*.y*ml")] if folder.is_dir() else []
        raise refusal(path, "be a file in YAML", f"nothing there{near(path.name, names) or '.'}")
    try:
        return _parsed(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError:
        raise refusal(path, "be a text", "other bytes. Save it as UTF-8.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark else "some line"
        said = getattr(error, "problem", None) or "it cannot be read"
        raise refusal(path, "be YAML", f"at {line}: {said}.") from None


def mapping_in(path: Path, place: str, value: Any) -> dict[str, Any]:
    """Return a value that is a mapping of texts; refuse another."""
    if not isinstance(value, dict) or not all(isinstance(key, str) and key for key in value):
        raise refusal(path, f"have values by keys that are texts at `{place}`", f"{shown(value)}.")
    return value


def refusal(path: Path, rule: str, got: str) -> SparsityError:
    """Return the error of a sweep file that breaks a rule."""
    return SparsityError(f"`{path}` must {rule}, got {got}")
