"""Forecasts: neuralforecast's own LightningModules, with its data module."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from neuralforecast.losses.pytorch import MAE
from neuralforecast.models import LSTM, NBEATS, NHITS, PatchTST, TSMixer
from neuralforecast.tsdataset import TimeSeriesDataModule, TimeSeriesDataset

from benchmarks.nets.case import BATCH_SIZE, Build, Case


def net(kind: type[Any], **options: Any) -> Case:
    values = np.random.RandomState(0).randn(12, 40).cumsum(1).astype("float32")
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(12), 40),
            "ds": np.tile(pd.date_range("2020-01-01", periods=40), 12),
            "y": values.reshape(-1),
        }
    )
    dataset, *_ = TimeSeriesDataset.from_df(frame)
    sizes = {"h": 4, "input_size": 16, "batch_size": BATCH_SIZE, "windows_batch_size": 16}
    module = kind(**sizes, loss=MAE(), random_seed=torch.initial_seed(), **options)  # it seeds by itself
    data = TimeSeriesDataModule(dataset, batch_size=BATCH_SIZE, shuffle_train=True)
    return Case(module, data, fit={"weights_only": False})


BLOCKS = {"mlp_units": 3 * [[32, 32]]}
NETS: dict[str, Build] = {
    "NHITS": partial(net, NHITS, **BLOCKS),
    "NBEATS": partial(net, NBEATS, **BLOCKS),
    "LSTM": partial(net, LSTM, encoder_hidden_size=16, decoder_hidden_size=16),
    "PatchTST": partial(
        net, PatchTST, hidden_size=16, linear_hidden_size=32, n_heads=4, encoder_layers=1, patch_len=4
    ),
    "TSMixer": partial(net, TSMixer, n_series=BATCH_SIZE, n_block=1, ff_dim=16),
}
