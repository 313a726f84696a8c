"""What the console script says of itself: its commands in one list, and its version."""

import platform

import torch

from lightning_sparse.cli.commands import COMMANDS
from lightning_sparse.trainer.packages import lightning_versions
from lightning_sparse.version import VERSION

__all__ = ["ON_RECIPES", "help_text", "version_text"]

ON_RECIPES = {
    "fit": "Trains a net, and tests it if the data has a test set.",
    "validate": "Measures a trained net on the validation set.",
    "test": "Measures a trained net on the test set.",
    "predict": "Computes what a trained net says of the data.",
    "plan": "Prints the layers that would become sparse, and their cost in theory; trains nothing.",
}
"""The commands that a recipe is given to by ``--config``, and what each does."""

TEXT = """\
usage: lightning-sparse COMMAND ...

Trains sparse nets by recipes: files that say which net is trained on which data, and how it becomes sparse.
Begin with one of the package's own, which downloads nothing and is trained within a minute:

  lightning-sparse fit --config quickstart

Commands on a recipe (--config RECIPE, a file or a name out of `lightning-sparse recipes`):
{on_recipes}

Other commands:
{others}

What a command takes: lightning-sparse COMMAND --help
The versions of this package and of what it runs on: lightning-sparse --version"""


def help_text() -> str:
    """Return what ``lightning-sparse --help`` prints: every command with what it does."""
    others = {f"{command.name} {command.usage}": command.summary for command in COMMANDS.values()}
    width = max(map(len, (*ON_RECIPES, *others)))
    return TEXT.format(on_recipes=_lines(ON_RECIPES, width), others=_lines(others, width))


def version_text() -> str:
    """Return what ``lightning-sparse --version`` prints: what a report of a fault should name."""
    others = {**lightning_versions(), "torch": torch.__version__, "Python": platform.python_version()}
    return f"lightning-sparse {VERSION} ({', '.join(' '.join(one) for one in others.items())})"


def _lines(commands: dict[str, str], width: int) -> str:
    return "\n".join(f"  {usage:{width}}  {summary}" for usage, summary in commands.items())
