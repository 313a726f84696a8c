"""The objects of a recipe, built as `fit` builds them, for commands that do something else with them."""

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Any

from lightning_sparse.checks import SparsityError
from lightning_sparse.cli.composing import without_arguments
from lightning_sparse.cli.errors import mistake_in
from lightning_sparse.cli.wording import shorten
from lightning_sparse.extras import import_extra
from lightning_sparse.trainer.packages import LightningDataModule, LightningModule, Trainer, cli_module

__all__ = ["built"]

_OF_FIT = ("ckpt_path", "weights_only")


def built(recipe: dict[str, Any]) -> tuple[Trainer, LightningModule, LightningDataModule | None]:
    """Seed as a recipe says, and return its Trainer, its module and its data module if it names one.

    Args:
        recipe: As plain dicts and lists, whole.

    Raises:
        SparsityError: If it is of no use: what the command line says of it.
        ModuleNotFoundError: If jsonargparse is not installed.
    """
    import yaml

    import_extra("jsonargparse", "building what a recipe names")
    known = {key: value for key, value in recipe.items() if key not in _OF_FIT}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.yaml")
        path.write_text(yaml.safe_dump(known, sort_keys=False), encoding="utf-8")
        logging.disable(logging.INFO)  # nobody has asked which seeds and devices there are
        try:
            with without_arguments():
                cli: Any = cli_module().LightningCLI(
                    run=False,
                    subclass_mode_model=True,
                    save_config_callback=None,
                    parser_kwargs={"exit_on_error": False},
                    args=["--config", str(path)],
                )
        except argparse.ArgumentError as error:
            raise SparsityError(shorten(str(error))) from error
        except Exception as error:
            if (mistake := mistake_in(error)) is None:
                raise
            raise SparsityError(mistake) from error
        finally:
            logging.disable(logging.NOTSET)
    return cli.trainer, cli.model, cli.datamodule
