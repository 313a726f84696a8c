"""LeNet-300-100 on MNIST under N:M against as many weights of each layer without a pattern.

``python -m benchmarks.experiments.nm DATA_DIR OUT.csv``: a row for each run, of three seeds; runs that have a
row are passed over. 1:8 is had by the first layer only (300 and 100 inputs are no multiples of 8): the others
stay dense in both.
"""

import csv
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl

from lightning_sparse import PruneAtInit, RigLCallback, masks_of
from lightning_sparse.data import MNISTDataModule
from lightning_sparse.functional.saliency import SNIP
from lightning_sparse.models import ImageClassifier, LeNet300100

EPOCHS = 3
DENSITIES = {"2:4": 0.5, "1:8": 0.125}
DENSE = {"2:4": [], "1:8": ["net.fcs.2.weight", "net.fcs.4.weight"]}


def callback(method: str, pattern: str, within: bool) -> pl.Callback:
    """Return what makes the net sparse, within groups or anywhere in the layer."""
    shared = {"pattern": pattern if within else "unstructured", "exclude": DENSE[pattern]}
    density = DENSITIES[pattern]
    if method == "rigl":
        return RigLCallback(density, allocation="uniform", every_n_steps=100, **shared)
    return PruneAtInit("uniform" if method == "random" else SNIP(allocation="uniform"), density, **shared)


def run(
    data: pl.LightningDataModule, method: str, pattern: str, within: bool, seed: int
) -> dict[str, object]:
    """Train once, and return the row."""
    pl.seed_everything(seed, verbose=False)
    module = ImageClassifier(LeNet300100(), weight_init="kaiming_normal")
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback(method, pattern, within)],
    )
    trainer.fit(module, data)
    [metrics] = trainer.test(module, data, verbose=False)
    kept = sum(int(mask.sum()) for mask in masks_of(module).values())
    return {
        "pattern": pattern,
        "method": method,
        "within": within,
        "seed": seed,
        "kept": kept,
        "acc": metrics["test/acc"],
    }


def main(data_dir: str, out: str) -> None:
    """Make the runs that are missing in the file."""
    path, data = Path(out), MNISTDataModule(data_dir, batch_size=128)
    there = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(row["pattern"], row["method"], row["within"], row["seed"]) for row in there}
    for seed in range(3):
        for pattern in DENSITIES:
            for method in ("random", "snip", "rigl"):
                for within in (True, False):
                    if (pattern, method, str(within), str(seed)) in done:
                        continue
                    row = run(data, method, pattern, within, seed)
                    print(row, flush=True)
                    with path.open("a", newline="") as file:
                        writer = csv.DictWriter(file, list(row))
                        if file.tell() == 0:
                            writer.writeheader()
                        writer.writerow(row)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    main(*sys.argv[1:])
