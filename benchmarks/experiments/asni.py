"""Trains the variants of the ASNI paper from its recipes, and says what differs.

    python -m benchmarks.experiments.asni mnist_fc --data_dir data --seeds 0 1 2 3 4
    python -m benchmarks.experiments.asni mnist_fc --show --plot fc.png

D is the dense net, A the search, C the retraining from centroids (A and C in one run), S the mask on the
original weights. Controls, each with the mask of A: `signs` starts every survivor at its sign times the
standard deviation of Kaiming's initialisation, `new init` at the layer's original weights in other places;
`ERK` has as many weights at random. The accuracy on the test set is taken before the first step and after
every epoch; nothing is selected by it. Runs that are there already are not repeated.

`--epochs` shortens both trainings; gamma then shrinks such that the schedule ends at the same sparsity:
`gamma' = gamma (E' / 2 - 2) / (E / 2 - 2)`.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.harness import series
from benchmarks.harness.watch import Watch
from lightning_sparse.files.tickets import Ticket, load_ticket, save_ticket

VARIANTS = ("A", "D", "C", "S", "signs", "new init", "ERK")
AS_MEASURED = ("--trainer.limit_val_batches=0", "--data.val_fraction=0.1", "--trainer.precision=32-true")
"""What the tables of docs/results/asni.md were trained with: a tenth of the images left out, and no AMP."""
PAIRS = (("C", "D"), ("A", "D"), ("C", "S"), ("C", "signs"), ("C", "new init"), ("C", "ERK"))


@dataclass(frozen=True)
class Schedule:
    """What of a recipe the number of epochs changes."""

    epochs: int
    gamma: float
    has_rate: bool

    def arguments(self, trainings: int) -> list[str]:
        """Return the overrides for a run of so many trainings."""
        length = [f"--trainer.max_epochs={trainings * self.epochs}"]
        return length + [f"--model.lr_scheduler.init_args.epochs={self.epochs}"] * self.has_rate


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing of a recipe's variants, or show what is there."""
    options = _parse(argv)
    schedule = schedule_of(options.recipe, options.epochs)
    path = series.records_of(f"asni_{options.recipe}_{schedule.epochs}", options)
    if not options.show:
        torch.set_num_threads(options.threads)
        for seed in options.seeds:
            run(options, schedule, seed, path)
    records = series.read(path)
    print("\n".join(table(records)))
    if options.plot:
        plot(records, options.plot)


def schedule_of(recipe: str, epochs: int | None) -> Schedule:
    """Return the schedule of a recipe, or one of other length that ends at the same sparsity."""
    config = yaml.safe_load((series.ROOT / "recipes" / "asni" / f"{recipe}.yaml").read_text())
    pruner = config["trainer"]["callbacks"][-1]["init_args"]
    own = pruner["search_epochs"]
    gamma = pruner["gamma"] * ((epochs or own) / 2 - 2) / (own / 2 - 2)
    return Schedule(epochs or own, gamma, "lr_scheduler" in config["model"]["init_args"])


def run(options: argparse.Namespace, schedule: Schedule, seed: int, path: Path) -> None:
    """Train what ``path`` does not hold yet of one seed's variants."""
    ticket = path.with_name(f"{path.stem}-{seed}.ticket")
    for variant in options.variants:
        names = ("A", "C") if variant in ("A", "C") else (variant,)
        if any(r["seed"] == seed and r["variant"] == variant for r in series.read(path)):
            continue
        watch, seconds = fit(_arguments(options, schedule, variant, seed, ticket))
        epochs = len(watch.curve) // len(names)
        for place, name in enumerate(names):
            record = {"variant": name, "seed": seed, "start": watch.starts[place], "kept": watch.kept}
            record |= {"curve": watch.curve[place * epochs : (place + 1) * epochs], "seconds": seconds}
            print(json.dumps({**record, "curve": record["curve"][-1]}), flush=True)
            series.add(record, path)


def _arguments(
    options: argparse.Namespace, schedule: Schedule, variant: str, seed: int, ticket: Path
) -> list[str]:
    """Return the command line of one run."""
    recipes = series.ROOT / "recipes"
    args = ["fit", f"--config={recipes}/asni/{options.recipe}.yaml"]
    if variant in ("A", "C"):
        args += schedule.arguments(2)
        args += [f"--trainer.callbacks.{n}={v}" for n, v in _search(schedule, ticket).items()]
    else:
        overlay = {"D": "dense", "signs": "ticket_centroids"}.get(variant, "ticket")
        args += [f"--config={recipes}/overlays/{overlay}.yaml", *schedule.arguments(1)]
        args += [f"--trainer.callbacks.{n}={v}" for n, v in _start(variant, ticket).items()]
    args += ["--trainer.callbacks+=benchmarks.harness.watch.Watch", f"--seed_everything={seed}"]
    args += [f"--data={options.data}"] if options.data else []
    args += [f"--data.data_dir={options.data_dir}"] if options.data_dir else []
    args += AS_MEASURED
    args += [f"--trainer.{name}=false" for name in ("logger", "enable_progress_bar", "enable_model_summary")]
    return [*args, "--trainer.limit_train_batches=1"] if options.smoke else args


def _search(schedule: Schedule, ticket: Path) -> dict[str, Any]:
    return {"search_epochs": schedule.epochs, "gamma": schedule.gamma, "ticket_path": ticket}


def _start(variant: str, ticket: Path) -> dict[str, Any]:
    """Return the arguments of ``PruneAtInit`` for a variant with the ticket's mask, or as many weights."""
    if variant == "D":
        return {}
    if variant == "signs":
        return {"method.file": _with_kaiming_scale(ticket)}
    if variant == "ERK":
        found = load_ticket(ticket).provenance
        return {"method": "erk", "density": found["kept"] / found["alive_at_start"]}
    return {"method.file": ticket, **({"mask_ablation": "reinit"} if variant == "new init" else {})}


def _with_kaiming_scale(ticket: Path) -> Path:
    """Write the ticket with the standard deviation of Kaiming's initialisation in place of its centroids."""
    found, path = load_ticket(ticket), ticket.with_suffix(".signs")
    stds = {name: math.sqrt(2 / mask[0].numel()) for name, mask in found.masks.items()}
    save_ticket(Ticket(found.masks, found.signs, {n: torch.tensor([s, -s]) for n, s in stds.items()}), path)
    return path


def fit(args: list[str]) -> tuple[Watch, float]:
    """Run the command in this process, in a folder of its own; return what was noted, and seconds."""
    start = time.perf_counter()
    series.run_cli(args)
    return Watch.latest, round(time.perf_counter() - start, 1)


def table(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of two tables in Markdown: accuracies of the variants, and paired differences."""
    found = {v: {r["seed"]: r for r in records if r["variant"] == v} for v in VARIANTS}
    columns = {"before": _before, "epoch 1": _first, "last epoch": _last, "last 3": _last_three}
    lines = [f"| | kept | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for variant, runs in found.items():
        if runs:
            kept = (
                ", ".join(sorted({f"{run['kept']:,}" for run in runs.values()})) if variant != "D" else "all"
            )
            cells = [series.spread([take(run) for run in runs.values()], 2) for take in columns.values()]
            lines.append(f"| {variant} | {kept} | {' | '.join(cells)} |")
    lines += ["", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for one, other in PAIRS:
        if seeds := found[one].keys() & found[other].keys():
            cells = [
                series.difference([take(found[one][seed]) - take(found[other][seed]) for seed in seeds], 2)
                for take in columns.values()
            ]
            lines.append(f"| {one} - {other} | {' | '.join(cells)} |")
    return lines


def _before(run: dict[str, Any]) -> float:
    return float(run["start"])


def _first(run: dict[str, Any]) -> float:
    return float(run["curve"][0])


def _last(run: dict[str, Any]) -> float:
    return float(run["curve"][-1])


def _last_three(run: dict[str, Any]) -> float:
    return statistics.mean(run["curve"][-3:])


def plot(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the test accuracy after each epoch, the mean over seeds (the paper's figure 2b)."""
    with series.figure(path, xlabel="epoch") as axes:
        for variant in VARIANTS[:4]:
            curves = [record["curve"] for record in records if record["variant"] == variant]
            if curves:
                mean = [statistics.mean(values) for values in zip(*curves, strict=True)]
                axes.plot(
                    range(1, len(mean) + 1),
                    mean,
                    label=f"{variant} ({len(curves)} seed{'s' * (len(curves) > 1)})",
                )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = series.parser(__doc__)
    recipes = sorted(path.stem for path in (series.ROOT / "recipes" / "asni").glob("*.yaml"))
    parser.add_argument("recipe", choices=recipes)
    parser.add_argument("--data_dir", type=series.absolute, help="folder with the data, if not the recipe's")
    parser.add_argument("--data", help="class of the data module, if not the recipe's")
    parser.add_argument("--epochs", type=int, help="of each training; default: the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
