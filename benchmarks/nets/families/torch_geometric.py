"""Nets on graphs; most of their layers have a Linear of PyG's own."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GAT, GCN, GIN, GraphSAGE

from benchmarks.nets.case import BATCH_SIZE, Build, Case, Task, draws


def graphs() -> list[Data]:
    generator = draws()

    def graph() -> Data:
        return Data(
            x=torch.randn(10, 8, generator=generator),
            edge_index=torch.randint(0, 10, (2, 30), generator=generator),
            y=torch.randint(0, 4, (10,), generator=generator),
        )

    return [graph() for _ in range(12)]


def labelled(net: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(net(batch.x, batch.edge_index), batch.y)


def net(kind: type[Any], inputs: int = 8, **options: Any) -> Case:
    return Case(
        Task(kind(inputs, 32, 2, 4, **options), labelled), DataLoader(graphs(), BATCH_SIZE, shuffle=True)
    )


NETS: dict[str, Build] = {
    "GCN": partial(net, GCN),
    "GAT": partial(net, GAT, heads=2),
    "GraphSAGE": partial(net, GraphSAGE),
    "GIN": partial(net, GIN),
    "GIN, lazy": partial(net, GIN, inputs=-1),
}
