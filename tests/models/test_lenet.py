import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightning_sparse.models import LeNet5, LeNet300100

GOLDEN = Path(__file__).parents[1] / "golden" / "lenet_forward.npz"


def _counts(net: nn.Module) -> tuple[int, int]:
    parameters = list(net.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.dim() > 1)


@pytest.mark.parametrize(
    ("net", "parameters", "weights"),
    [
        (LeNet300100(), 266_610, 266_200),
        (LeNet5(), 61_510, 61_510),
        (LeNet5(in_channels=1, num_classes=100), 68_590, 68_590),
    ],
)
def test_parameter_counts(net: nn.Module, parameters: int, weights: int) -> None:
    assert _counts(net) == (parameters, weights)


def test_lenet_300_100_flattens_images() -> None:
    assert LeNet300100(in_features=192, num_classes=7)(torch.zeros(2, 3, 8, 8)).shape == (2, 7)


def test_lenet5_gives_the_logits_of_the_reference_code() -> None:
    golden = np.load(GOLDEN)
    net = LeNet5().double()
    net.load_state_dict(
        {name: _golden_weight(name, p, int(golden["seed"])) for name, p in net.named_parameters()}
    )
    with torch.no_grad():
        logits = net(torch.from_numpy(golden["x"]).double())
    expected = torch.from_numpy(golden["logits_f64"])
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)


def _golden_weight(name: str, like: torch.Tensor, seed: int) -> torch.Tensor:
    """Rebuild a weight as the golden case says: float32 normal numbers from a seed hashed from the name."""
    rng = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    gain = 2 if like.dim() == 4 else 1
    values = rng.standard_normal(like.numel()).reshape(like.shape) * np.sqrt(gain / like[0].numel())
    return torch.from_numpy(values.astype(np.float32)).double()
