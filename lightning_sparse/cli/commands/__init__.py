"""Commands of the console script beside those of LightningCLI: a file each, found by itself."""

from lightning_sparse.cli.commands.base import COMMANDS, Command, register_command, run_command
from lightning_sparse.registry import modules_in

__all__ = ["COMMANDS", "Command", "register_command", "run_command"]

modules_in(__name__, __path__)
