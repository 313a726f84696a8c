"""Checks what the quickstart leaves: the table it printed, and a net as sparse as its recipe says."""

import re
import sys
from pathlib import Path

import torch

TABLE = {  # as README.md shows it: weights, kept
    "net.fcs.0": (19_200, 1_045),
    "net.fcs.2": (30_000, 1_149),
    "net.fcs.4": (1_000, 316),
    "total": (50_200, 2_510),
}


def printed(log: str) -> dict[str, tuple[int, int]]:
    """Return the rows of the table of layers: weights, kept."""
    table = log.partition("Weights kept:\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^ +(\S+) .*?([\d,]+) +([\d,]+) +[\d.]+%$", table, re.MULTILINE)
    return {name: (int(weights.replace(",", "")), int(kept.replace(",", ""))) for name, weights, kept in rows}


def left(runs: Path) -> dict[str, tuple[int, int]]:
    """Return the same of the net in the checkpoint: weights, those that are not zero."""
    (path,) = runs.rglob("last.ckpt")
    weights = torch.load(path, "cpu", weights_only=True)["state_dict"]
    layers = {name: weights[f"{name}.weight"] for name in TABLE if name != "total"}
    rows = {name: (weight.numel(), int(weight.count_nonzero())) for name, weight in layers.items()}
    return {**rows, "total": tuple(map(sum, zip(*rows.values(), strict=True)))}


log, runs = Path(sys.argv[1]).read_text(), Path(sys.argv[2])
for what, found in {"the table printed": printed(log), "the net trained": left(runs)}.items():
    if found != TABLE:
        sys.exit(f"quickstart: {what} must be {TABLE}, got {found or 'none'}.\n{log}")
if "test/acc" not in log:
    sys.exit(f"quickstart: the test accuracy must be printed.\n{log}")
print("quickstart: the net is as sparse as the table that was printed, and it was tested.")
