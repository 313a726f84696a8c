"""What our command line makes of recipes: all of them put together, or a refusal in a line or two."""

import contextlib
import importlib
import io
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.names import options_of
from lightning_sparse.trainer.packages import cli_module

__all__ = ["arguments_of", "check_recipe", "composed", "without_arguments"]

MAIN = "lightning_sparse.cli.main"  # by name: it knows the commands, one of which asks here


def composed(configs: Sequence[str]) -> dict[str, Any]:
    """Return the recipe that several ones put together are, with every default: left out, some would change.

    A rate of 0.001, Adam's own default, is not that of a module whose default is another optimizer.

    Args:
        configs: A recipe and overlays, as `fit --config` takes them.

    Raises:
        SparsityError: If they are no recipe of use: what the command line says of it.
    """
    import yaml

    words = [word for config in configs for word in ("--config", config)]
    said = _said(["fit", *words, "--print_config"])
    content = yaml.safe_load(said)
    if not isinstance(content, dict):
        raise SparsityError(f"`recipe` must be a recipe, got {' '.join(configs)}, which comes to nothing.")
    return content


def arguments_of(item: dict[str, Any]) -> list[str]:
    """Return the arguments of the callback or logger that an entry of a recipe names, by path or by name.

    >>> "density" in arguments_of({"class_path": "PruneAtInit"})
    True
    """
    path = str(item.get("class_path"))
    package = cli_module().__name__.removesuffix(".cli")
    places = [""] if "." in path else ["lightning_sparse.", f"{package}.callbacks.", f"{package}.loggers."]
    return next(filter(None, (options_of(f"{place}{path}") for place in places)), [])


def check_recipe(recipe: dict[str, Any]) -> None:
    """Refuse a recipe that `lightning-sparse plan` refuses: it makes all its objects, and trains nothing.

    Raises:
        SparsityError: It says what the command line says of it.
    """
    import yaml

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.yaml")
        path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        _said(["plan", "--config", str(path)])


def _said(words: list[str]) -> str:
    """Run our command line in this process, and return what it prints."""
    said, complaint = io.StringIO(), io.StringIO()
    status: Any = 0
    logging.disable(logging.INFO)  # nobody has asked which seeds and devices there are
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complaint), without_arguments():
        try:
            importlib.import_module(MAIN).main(words)
        except SystemExit as stopped:
            status = stopped.code
        finally:
            logging.disable(logging.NOTSET)
    if status:
        complaints = complaint.getvalue().strip().splitlines() or [str(status)]
        raise SparsityError(complaints[-1].removeprefix("error: "))
    return said.getvalue()


@contextlib.contextmanager
def without_arguments() -> Iterator[None]:
    """Take away the arguments of this process: LightningCLI warns where it is given others."""
    before = sys.argv
    sys.argv = before[:1]
    try:
        yield
    finally:
        sys.argv = before
