"""What scoring leaves alone; recurrent layers, which cuDNN differentiates only once and in train mode."""

import pytest
import torch
from devices import DEVICES
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_sparse import FORCE, SNIP, GraSP, PruningProblem, SynFlow
from lightning_sparse.functional.isolation import left_as_found
from lightning_sparse.functional.pruning import prune_along


class Recurrent(nn.Module):
    """A layer before an LSTM, so that gradients have to pass it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Linear(6, 20), nn.LSTM(20, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.lstm(self.embed(x))[0][-1]
        logits: Tensor = self.head(hidden)
        return logits


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "method", [SNIP(), SNIP(scoring_mode="eval"), GraSP(), FORCE(3), SynFlow(5)], ids=repr
)
def test_gradients_pass(method, device):
    torch.manual_seed(0)
    net = Recurrent()
    x, labels = torch.randn(5, 8, 6), torch.arange(8) % 4
    net, x, labels = net.to(device), x.to(device), labels.to(device)

    def loss():
        return F.cross_entropy(net(x), labels)

    problem = PruningProblem(
        net,
        {name: net.get_parameter(name) for name in ("embed.weight", "head.weight")},
        torch.Generator(),
        losses=lambda count: [loss] * count,
        inputs=lambda: x,
    )
    for masks in prune_along(method, problem, 0.5):
        last = masks
    assert sum(int(mask.sum()) for mask in last.values()) == 80
    assert torch.backends.cudnn.enabled


def test_generators_of_other_devices_keep_their_seeds(monkeypatch):
    """Nothing would give them back: a device that is not in use yet would start from the wrong seed."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("seeds all GPUs"))
    with left_as_found(nn.Linear(2, 2), training=True, seed=5):
        first = torch.rand(1)
    assert first == torch.rand(1, generator=torch.Generator().manual_seed(5))


def test_cudnn_is_used_where_there_is_nothing_recurrent():
    for net, used in ((Recurrent(), False), (nn.Linear(2, 2), True)):
        with left_as_found(net, training=True):
            assert torch.backends.cudnn.enabled is used
        assert torch.backends.cudnn.enabled
