"""The console script ``lightning-sparse``: LightningCLI that knows our callbacks, nets and data by name.

``fit``, ``validate``, ``test`` and ``predict`` are Lightning's own; ``plan`` shows what a recipe would do.
What takes no recipe has a file of its own in ``commands/``.
"""

import argparse
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from lightning_sparse.callbacks.choosing import chooses_best
from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.commands import COMMANDS, run_command
from lightning_sparse.cli.errors import mistake_in, stop
from lightning_sparse.cli.help import help_text, version_text
from lightning_sparse.cli.lightnings import find_modules_here, run_under_its_package
from lightning_sparse.cli.names import meant
from lightning_sparse.cli.places import check_ckpt_path, check_folders
from lightning_sparse.cli.plan import PlanTrainer
from lightning_sparse.cli.recipes import check_recipes, replaced, with_files, without_model
from lightning_sparse.cli.wording import shorten, unknown_argument
from lightning_sparse.extras import import_extra
from lightning_sparse.files.reading import short_path
from lightning_sparse.trainer.packages import (
    LightningDataModule,
    LightningModule,
    cli_module,
    is_lightning,
    overrides,
    quiet_lightning,
    rank_zero_warn,
)

__all__ = ["main"]

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a command that was sent SIGTERM, as shells have it."""

ABOUT = {"-h": help_text, "--help": help_text, "--version": version_text}
"""What is printed without a command."""

PLUGINS = "lightning_sparse"
"""Entry points of other packages: their modules are imported first, and register what they bring."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; a mistake in it ends with one or two lines and exit status 2."""
    words = sys.argv[1:] if args is None else args
    _prepare(words, from_shell=args is None)
    if words and words[0] in ABOUT:
        return print(ABOUT[words[0]]())
    if words and words[0] in COMMANDS:
        return run_command(words[0], words[1:])
    try:
        import_extra("jsonargparse", "the command line")
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}")
    session = _Session()
    sparse_cli = _make_cli(cli_module().LightningCLI, session)
    _refuse_unknown(words, [*sparse_cli.subcommands(), *COMMANDS])
    try:
        check_recipes(words)
        for overlay, recipe in replaced(words):
            rank_zero_warn(
                f"The callbacks of {overlay} are replaced by those of {recipe}, which comes after it. An "
                "overlay goes behind its recipe."
            )
        found = with_files(words)
        if args is None:
            sys.argv[1:] = found  # also what Lightning starts other processes with
        with _status_of_sigterm(), quiet_lightning() if words[0] == "plan" else nullcontext():
            sparse_cli(
                trainer_class=PlanTrainer,
                subclass_mode_model=True,
                save_config_kwargs={"overwrite": True},
                parser_kwargs=_parser_options(sparse_cli.subcommands()),
                args=None if args is None else found,
            )
    except argparse.ArgumentError as error:
        said, command = str(error), words[0]
        first = f" The command comes first: lightning-sparse fit {command} ..." if command[0] == "-" else ""
        unknown = unknown_argument(said, command, session.arguments(command))
        stop((_missing(said, words) or unknown or shorten(said)) + first)
    except Exception as error:
        if (mistake := mistake_in(error, session.model)) is None:
            raise
        stop(mistake)


@dataclass
class _Session:
    """What a command line has come to, for the errors that end it."""

    parsers: dict[str, Any] = field(default_factory=dict)
    model: LightningModule | None = None

    def arguments(self, command: str) -> list[str]:
        """Return the names of a command's arguments."""
        parser = self.parsers.get(command)
        return [] if parser is None else ["config", "print_config", "help", *parser.get_defaults().keys()]


def _parser_options(commands: Iterable[str]) -> dict[str, Any]:
    """Return the options of all parsers: among others, that no argument goes by a part of its name."""
    return {
        "exit_on_error": False,
        "allow_abbrev": False,
        "prog": "lightning-sparse",
        **{command: {"allow_abbrev": False} for command in commands},
    }


def _missing(message: str, words: list[str]) -> str:
    """Say what a recipe without a model, such as an overlay, is to stand behind; "" if it is not that."""
    if "required" not in message or f"{words[0]}.model" not in message:
        return ""
    if overlays := without_model(words):
        behind = " ".join(f"--config {overlay}" for overlay in overlays)
        return (
            f"`--config` must name a recipe, got {', '.join(overlays)}, which has no `model`. An overlay "
            f"goes behind a recipe: lightning-sparse {words[0]} --config RECIPE {behind}"
        )
    example = f"lightning-sparse {words[0]} --config quickstart"
    return f"`--config` must name a recipe, got none. For example: {example}"


def _prepare(words: list[str], from_shell: bool) -> None:
    """See to it that this process is of the words' own Lightning, and import what plugs in here."""
    if from_shell:
        find_modules_here()
    try:
        run_under_its_package(words, may_restart=from_shell)
        for plugin in entry_points(group=PLUGINS):
            plugin.load()
    except SparsityError as error:
        stop(str(error))


def _refuse_unknown(words: list[str], commands: list[str]) -> None:
    """Stop at a command that is none; LightningCLI would not name those of ours among them."""
    rule = f"the command must be one of {', '.join(commands)}, got"
    if not words:
        stop(f"{rule} none (see `lightning-sparse --help`)")
    if words[0].startswith("-") and (close := meant(words[0], ABOUT)):
        stop(f"There is no argument {words[0]} without a command{close}")
    if not words[0].startswith("-") and words[0] not in commands:
        stop(f"{rule} {words[0]!r}" + (meant(words[0], commands) or "."))


def _make_cli(base: type, session: _Session) -> Any:
    """Return our LightningCLI; its base is chosen when it is used, as it needs jsonargparse."""

    class SparseCLI(base):  # type: ignore[misc]
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            known: dict[str, set[str]] = base.subcommands()  # type: ignore[attr-defined]
            return {**known, "plan": {"model", "dataloaders", "datamodule"}}

        def add_arguments_to_parser(self, parser: Any) -> None:
            """Remember the parsers, which are made in the order of the commands."""
            command = list(self.subcommands())[len(session.parsers)]
            session.parsers[command] = parser

        def parse_arguments(self, parser: Any, args: Any) -> None:
            """Look at the checkpoint before LightningCLI reads it."""
            super().parse_arguments(parser, args)
            check_ckpt_path(self.config[self.config.subcommand].get("ckpt_path"))

        def before_instantiate_classes(self) -> None:
            """Look at the folders that will be written to."""
            trainer = self.config[self.subcommand].trainer
            if self.subcommand != "plan" and not trainer.fast_dev_run:
                check_folders(trainer)

        def instantiate_classes(self) -> None:
            with _as_argument_error():
                super().instantiate_classes()
            session.model = self.model

        def after_fit(self) -> None:
            _test_if_possible(self.trainer, self.model, self.datamodule)

    return SparseCLI


@contextmanager
def _status_of_sigterm() -> Iterator[None]:
    """End a command that was sent SIGTERM with a status that says so.

    Lightning ends it by a SystemExit without a status, which means that all went well.
    """
    try:
        yield
    except SystemExit as stopped:
        if is_lightning(stopped, "utilities.exceptions.SIGTERMException"):
            sys.exit(TERMINATED)
        raise


@contextmanager
def _as_argument_error() -> Iterator[None]:
    """Take a ValueError of a constructor for what it is, an argument that is wrong.

    jsonargparse tries every type that an argument may have, and keeps of their errors only the text.
    """
    try:
        yield
    except ValueError as error:
        raise argparse.ArgumentError(None, str(error)) from error


def _test_if_possible(trainer: Any, model: LightningModule, datamodule: LightningDataModule | None) -> None:
    """Test the trained net if it can be tested, and the data has a test set: the best one, if it is kept."""
    can_test = overrides(model, "test_step") and not trainer.interrupted
    if datamodule is not None and can_test and _has_test_set(datamodule):
        trainer.test(model, datamodule=datamodule, ckpt_path=_to_test(trainer))


def _to_test(trainer: Any) -> str | None:
    """Return the checkpoint of the net that was chosen by its metric, and say so; None for the last net."""
    chosen = None if trainer.fast_dev_run else chooses_best(trainer)
    if chosen is None:
        return None
    if not chosen.best_model_path:
        rank_zero_warn(
            f"SparseCheckpoint has kept no net: none was sparse when {chosen.monitor} was measured. The last "
            "net is tested."
        )
        return None
    if trainer.is_global_zero:
        print(f"Tested: the best net by {chosen.monitor}, {short_path(chosen.best_model_path)}", flush=True)
    return chosen.best_model_path


def _has_test_set(datamodule: LightningDataModule) -> bool:
    if type(datamodule).test_dataloader is LightningDataModule.test_dataloader:
        return False
    datamodule.setup("test")
    return bool(datamodule.test_dataloader())


if __name__ == "__main__":
    main()
