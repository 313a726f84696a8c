"""Short runs of the quickstart, for what looks at the folders of finished ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_sparse.cli.main import main

RECIPE = str(Path(__file__).parents[1] / "recipes" / "quickstart.yaml")
MASKED = ("PruneAtInit", "--trainer.callbacks.method=erk")
COMPACT = (*MASKED, "--trainer.callbacks.storage=compact")
DCTPS = ("DCTpSConversion",)


def short_runs(folder: Path, callbacks: Mapping[str, Sequence[str]]) -> Path:
    """Train a run of two steps by name, each with a callback at a density of 5%, and return the folder."""
    common = ["fit", "--config", RECIPE, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    for name, (callback, *options) in callbacks.items():
        where = [f"--trainer.logger.save_dir={folder}", f"--trainer.logger.name={name}"]
        words = [f"--trainer.callbacks={callback}", *options, "--trainer.callbacks.density=0.05"]
        main([*common, *where, *words, "--trainer.callbacks+=ModelCheckpoint"])
    return folder
