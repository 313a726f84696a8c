"""Models of single cells: scvi's modules in its own training plan."""

from functools import partial
from typing import Any

import anndata
import numpy as np
from scvi.dataloaders import AnnDataLoader
from scvi.model import PEAKVI, SCVI, LinearSCVI
from scvi.train import TrainingPlan

from benchmarks.nets.case import BATCH_SIZE, Build, Case


def model(kind: type[Any], **options: Any) -> Case:
    counts = np.random.RandomState(0).poisson(1.0, (12, 20)).astype("float32")
    data = anndata.AnnData(counts)
    data.obs["batch"] = ["a", "b"] * 6
    kind.setup_anndata(data, batch_key="batch")
    made = kind(data, n_hidden=16, **options)
    loader = AnnDataLoader(made.adata_manager, batch_size=BATCH_SIZE, shuffle=True)
    return Case(TrainingPlan(made.module), loader, fit={"weights_only": False})


NETS: dict[str, Build] = {
    "SCVI": partial(model, SCVI, n_latent=4),
    "LinearSCVI": partial(model, LinearSCVI, n_latent=4),
    "PEAKVI": partial(model, PEAKVI, n_latent=4),
}
