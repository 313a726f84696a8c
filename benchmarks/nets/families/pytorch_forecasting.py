"""Forecasts: pytorch-forecasting's own LightningModules."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from pytorch_forecasting import DeepAR, NBeats, NHiTS, TemporalFusionTransformer, TimeSeriesDataSet

from benchmarks.nets.case import BATCH_SIZE, Build, Case


def series(known: bool) -> TimeSeriesDataSet:
    values = np.random.RandomState(0).randn(2, 30).cumsum(1)
    frame = pd.DataFrame(
        {
            "time": np.tile(np.arange(30), 2),
            "series": np.repeat(["a", "b"], 30),
            "value": values.reshape(-1),
        }
    )
    return TimeSeriesDataSet(
        frame,
        time_idx="time",
        target="value",
        group_ids=["series"],
        max_encoder_length=8,
        min_encoder_length=8,
        max_prediction_length=4,
        time_varying_unknown_reals=["value"],
        time_varying_known_reals=["time"] if known else [],
        add_relative_time_idx=False,
    )


def net(kind: type[Any], known: bool, **options: Any) -> Case:
    data = series(known)
    module = kind.from_dataset(data, learning_rate=1e-3, **options)
    return Case(module, data.to_dataloader(train=True, batch_size=BATCH_SIZE), fit={"weights_only": False})


NETS: dict[str, Build] = {
    "TemporalFusionTransformer": partial(
        net, TemporalFusionTransformer, True, hidden_size=8, attention_head_size=2
    ),
    "NBeats": partial(net, NBeats, False, widths=[16, 16], num_blocks=[1, 1], num_block_layers=[2, 2]),
    "NHiTS": partial(net, NHiTS, False, hidden_size=16),
    "DeepAR": partial(net, DeepAR, True, hidden_size=8),
}
