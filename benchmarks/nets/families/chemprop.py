"""Message passing on molecules: chemprop's own LightningModule."""

from functools import partial
from typing import Any

from chemprop.data import MoleculeDatapoint, MoleculeDataset, build_dataloader
from chemprop.models import MPNN
from chemprop.nn import AtomMessagePassing, BondMessagePassing, MeanAggregation, RegressionFFN

from benchmarks.nets.case import BATCH_SIZE, Build, Case

MOLECULES = [
    "CCO",
    "c1ccccc1",
    "CC(=O)O",
    "CCN",
    "CCCC",
    "C1CCCCC1",
    "CC#N",
    "CCCl",
    "COC",
    "c1ccncc1",
    "CC=O",
    "CCS",
]


def mpnn(passing: type[Any]) -> Case:
    points = [MoleculeDatapoint.from_smi(smiles, [float(len(smiles))]) for smiles in MOLECULES]
    module = MPNN(
        passing(d_h=32), MeanAggregation(), RegressionFFN(input_dim=32, hidden_dim=32), batch_norm=True
    )
    data = build_dataloader(MoleculeDataset(points), BATCH_SIZE, shuffle=True)
    return Case(module, data, fit={"weights_only": False})  # its checkpoints hold classes of its own


NETS: dict[str, Build] = {
    "MPNN, bonds": partial(mpnn, BondMessagePassing),
    "MPNN, atoms": partial(mpnn, AtomMessagePassing),
}
