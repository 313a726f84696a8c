"""``lightning-sparse diagnose RECIPE``: whether nets can learn at all, before their first step."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from lightning_sparse.checks import SparsityError, check_density
from lightning_sparse.cli.building import built
from lightning_sparse.cli.commands.base import Command, register_command
from lightning_sparse.cli.composing import arguments_of, composed
from lightning_sparse.cli.inputs import add_input_size
from lightning_sparse.cli.library import meant_recipes, recipe_file
from lightning_sparse.cli.recipes import near_file
from lightning_sparse.experiments.content import setting_of
from lightning_sparse.experiments.diagnoses import Case, Look, Looked, look_at_all
from lightning_sparse.experiments.overlaid import WITHOUT_DENSITY, known_methods, sparse_by, with_density
from lightning_sparse.experiments.settings import Config, put_
from lightning_sparse.reporting.diagnosis.compared import Seen, compared, write_tables
from lightning_sparse.reporting.diagnosis.figures import draw_layers, draw_signals, draw_spectra

__all__ = ["DiagnoseCommand"]

OF_THE_RECIPE = "recipe"
"""Stands in the place of a method for what the recipe itself does."""


@register_command
class DiagnoseCommand(Command):
    """Look at nets before their first step: are they connected, what is empty, how large is the first loss.

    Each method at each density is looked at once, and kept in a file: called again, the command goes on.
    """

    name = "diagnose"
    usage = "RECIPE"
    summary = (
        "Says whether a recipe's net can learn at all, before its first step; draws its Jacobian and layers."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what to look at, and how."""
        parser.add_argument(
            "recipe", metavar="RECIPE", help="a file, or a name out of `lightning-sparse recipes`"
        )
        parser.add_argument(
            "--methods",
            metavar="NAME,...",
            type=_names,
            default=[OF_THE_RECIPE],
            help=f"{', '.join(known_methods())}, an overlay's file or name, or `{OF_THE_RECIPE}` for what "
            "the recipe does itself; default: that",
        )
        parser.add_argument(
            "--densities", metavar="SHARE,...", type=_numbers, help="0.1,0.01,...; default: the recipe's"
        )
        parser.add_argument(
            "--set", metavar="KEY=VALUE", action="append", default=[], help="as sweeps take it"
        )
        parser.add_argument(
            "--min-weights-per-layer",
            metavar="N",
            type=int,
            help="0 lets methods empty a layer; default: theirs",
        )
        parser.add_argument(
            "--inputs",
            choices=("data", "noise"),
            default="data",
            help="of the recipe, or made-up images of the same shape, which need no data set; default: data",
        )
        add_input_size(parser, "for --inputs noise")
        parser.add_argument(
            "--count", metavar="N", type=int, default=8, help="inputs that Jacobians are taken of; default: 8"
        )
        parser.add_argument(
            "--batch-norm",
            choices=("running", "batch"),
            default="running",
            help="its statistics in the Jacobian: running ones, or those of the inputs; default: running",
        )
        parser.add_argument("--out", metavar="FOLDER", help="default: diagnoses/<name of the recipe>")
        parser.add_argument("--anew", action="store_true", help="look again at what was looked at before")

    def run(self, arguments: argparse.Namespace) -> None:
        """Look at each net, write tables and figures, and print what they say."""
        if arguments.count < 1:
            raise SparsityError(f"`--count` must be 1 or more, got {arguments.count}.")
        if arguments.min_weights_per_layer is not None and arguments.min_weights_per_layer < 0:
            raise SparsityError(
                f"`--min-weights-per-layer` must be 0 or more, got {arguments.min_weights_per_layer}."
            )
        file = _file_of(arguments.recipe)
        cases = list(_cases(file, arguments))
        size = arguments.input_size
        look = Look(
            arguments.inputs, arguments.count, arguments.batch_norm, None if size is None else size[1:]
        )
        out = Path(arguments.out or Path("diagnoses", Path(file).stem))
        looked = _look_at(cases, look, out, arguments.anew)
        seen = [Seen(one.case.method, one.case.density, one.found, one.error) for one in looked]
        if len(seen) == 1 and seen[0].found is not None:
            print(seen[0].found)
        else:
            print(compared(seen))
        print("\n".join(f"wrote {path}" for path in write_tables(seen, out)))
        if any(one.found for one in seen):
            print("\n".join(_figures(seen, out)))
        if any(one.found is None for one in seen):
            sys.exit(1)


def _look_at(cases: Sequence[Case], look: Look, out: Path, anew: bool) -> list[Looked]:
    """Look at all of them, with a line for each that is done, above a bar."""
    looked: list[Looked] = []
    hidden = len(cases) == 1 or not sys.stderr.isatty()
    with tqdm(total=len(cases), unit="net", disable=hidden, leave=False) as bar:
        try:
            for one in look_at_all(cases, look, out, built, anew):
                looked.append(one)
                bar.update()
                if len(cases) > 1 and not one.is_old:
                    what = "failed" if one.found is None else "done"
                    bar.write(
                        f"[{len(looked)}/{len(cases)}] {one.case.name}  {what} ({one.seconds:.1f} s of CPU)"
                    )
        except KeyboardInterrupt:
            bar.close()
            sys.exit("\nStopped. The same command goes on from here.")
    old = sum(one.is_old for one in looked)
    if old:
        print(f"{old} of {len(looked)} nets were looked at before (--anew looks again).")
    return looked


def _figures(seen: Sequence[Seen], out: Path) -> Iterator[str]:
    """Draw, and yield what to print; without matplotlib say so, as the tables are there all the same."""
    try:
        yield f"wrote {draw_spectra(seen, out / 'spectrum.png')}"
        yield f"wrote {draw_layers(seen, out / 'layers.png')}"
        if (path := draw_signals(seen, out / "signals.png")) is not None:
            yield f"wrote {path}"
    except ModuleNotFoundError as error:
        yield f"left out the figures: {error}"


def _cases(file: str, arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield the nets that are asked for, method by method."""
    known: dict[tuple[str, ...], Config] = {}
    least, settings = arguments.min_weights_per_layer, [setting_of(given) for given in arguments.set]
    for method in arguments.methods:
        overlay = recipe_file(method, "--methods")
        is_file = method not in (*known_methods(), OF_THE_RECIPE) and Path(overlay).is_file()
        configs = (file, overlay) if is_file else (file,)
        if configs not in known:
            known[configs] = composed(configs)
            for key, value in settings:
                put_(known[configs], key, value, arguments_of)
        for density in (arguments.densities if method not in WITHOUT_DENSITY else None) or [None]:
            recipe = known[configs]
            is_ours = is_file or method == OF_THE_RECIPE
            if not is_ours:
                recipe = sparse_by(recipe, method, density)
            recipe = with_density(recipe, density if is_ours else None, least, arguments_of)
            yield Case(Path(method).stem if is_file else method, density, recipe)


def _file_of(given: str) -> str:
    """Return the file of a recipe, or of the package's recipe of that name."""
    file = recipe_file(given, "RECIPE")
    if not Path(file).is_file():
        close = near_file(given) or meant_recipes(given) or ". List those: lightning-sparse recipes"
        raise SparsityError(f"`RECIPE` must be a file, or a recipe of the package, got {given!r}{close}")
    return file


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"must be names with commas between them, each once, got {text!r}")
    return names


def _numbers(text: str) -> list[float]:
    try:
        densities = [float(number) for number in text.split(",")]
        for density in densities:
            check_density("--densities", density)
    except ValueError as error:
        if isinstance(error, SparsityError):
            raise argparse.ArgumentTypeError(str(error)) from None
        raise argparse.ArgumentTypeError(f"must be numbers such as 0.1,0.01, got {text!r}") from None
    if len(set(densities)) < len(densities):
        raise argparse.ArgumentTypeError(f"must be each once, got {text!r}")
    return densities
