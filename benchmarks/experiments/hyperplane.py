"""Trains LeNet-5 in random hyperplanes, the yardstick of figure 1 of the DCTpS paper, beside `offsets`.

    python -m benchmarks.experiments.hyperplane --data_dir data --results results
    python -m benchmarks.experiments.hyperplane --show --results results

Nets, data, seeds, order of the images and epochs are those of `benchmarks.experiments.offsets`, so that its
rows can stand beside these. A line per run is added to `<results>/hyperplane.jsonl`, and no run is repeated.
A number of theta moves every weight by its share, ``1 / sqrt(n)``, so rates are larger than those of weights.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim import Adam

from benchmarks.experiments.offset_nets import NETS, Images, Net, load_images, random_images
from benchmarks.experiments.offset_training import DECAY, accuracy, batches, step
from benchmarks.harness import series
from lightning_sparse import project_
from lightning_sparse.models import ImageClassifier

NET = "lenet5"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, or show what is there."""
    options = _parse(argv)
    path = series.records_of("hyperplane", options)
    if not options.show:
        series.settle(options.threads)
        run(options, path)
    print("\n".join(table(series.read(path))))


def run(options: argparse.Namespace, path: Path) -> None:
    """Train what ``path`` does not hold yet."""
    net, images = NETS[NET], None
    for seed in options.seeds:
        for budget in options.budgets:
            for rate in options.rates:
                cell = {"net": NET, "budget": budget, "rate": rate, "seed": seed}
                if series.matching(series.read(path), cell):
                    continue
                if images is None:
                    images = (
                        random_images(net)
                        if options.smoke
                        else load_images(net.data, options.data_dir, options.cache)
                    )
                record = cell | train(net, budget, rate, seed, images, 1 if options.smoke else net.epochs)
                print(json.dumps(record), flush=True)
                series.add(record, path)


def train(net: Net, budget: int, rate: float, seed: int, images: Images, epochs: int) -> dict[str, Any]:
    """Train from a seed; return the accuracy on test images after the last epoch, and what led there."""
    cpu = time.process_time()
    torch.manual_seed(seed)
    module = ImageClassifier(net.make(), weight_init="kaiming_normal").net
    module.to(memory_format=torch.channels_last)
    optimizer = Adam(module.parameters(), lr=rate, weight_decay=DECAY, fused=True)
    hyperplane = project_(module, optimizer, budget, seed=seed)
    order = torch.Generator().manual_seed(seed)
    losses, curve = [], []
    for _ in range(epochs):
        module.train()
        losses += [float(step(module, optimizer, batch, None)) for batch in batches(net, images.train, order)]
        curve.append(accuracy(module, images.val))
    return {
        "epochs": epochs,
        "accuracy": accuracy(module, images.test),
        "val": curve,
        "first_loss": losses[0],
        "last_losses": sum(losses[-100:]) / len(losses[-100:]),
        "length": float(hyperplane.theta.detach().norm()),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def table(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of a table: mean, standard deviation and number of seeds, by numbers and rate."""
    rates = sorted({record["rate"] for record in records})
    lines = ["| trained numbers |" + "".join(f" Adam {rate:g} |" for rate in rates)]
    lines.append("|---|" + "---|" * len(rates))
    for budget in sorted({record["budget"] for record in records}):
        row = [series.matching(records, {"budget": budget, "rate": rate}) for rate in rates]
        cells = [series.spread([record["accuracy"] for record in runs], 1) for runs in row]
        lines.append(f"| {budget:,} | " + " | ".join(cells) + " |")
    return lines


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = series.parser(__doc__)
    parser.add_argument("--data_dir", type=series.absolute, default=Path("data"), help="folder with the data")
    parser.add_argument(
        "--cache", type=series.absolute, default=Path("data"), help="folder for decoded images"
    )
    parser.add_argument("--budgets", type=int, nargs="+", default=[300])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.001, 0.01, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
