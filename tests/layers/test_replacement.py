"""A converted layer takes the old one's place wherever the forward pass may find it."""

import pytest
import torch
from torch import nn

from lightning_sparse.layers import compact_layers, convert_, to_dense_


class Held(nn.Module):
    """Calls its layer from where PyTorch does not look."""

    def __init__(self, how):
        super().__init__()
        self.layer = nn.Linear(6, 5)
        holders = {
            "list": [self.layer],
            "dict": {"only": self.layer},
            "nested": [{"layers": (nn.Tanh(), self.layer)}],
        }
        if how == "attribute":
            object.__setattr__(self, "again", self.layer)
        else:
            self.again = holders[how]

    def forward(self, x):
        found = torch.utils._pytree.tree_leaves(self.again)
        return found[-1](x)


@pytest.mark.parametrize("how", ["list", "dict", "nested", "attribute"])
def test_layers_in_plain_containers_are_replaced(how):
    net, x = Held(how), torch.randn(3, 6)
    convert_(net, 0.5)
    net(x).sum().backward()
    assert compact_layers(net)["layer"].values.grad is not None
    y = net(x)
    to_dense_(net)
    torch.testing.assert_close(net(x), y)
    assert not compact_layers(net)
    net(x).sum().backward()
    assert net.layer.weight.grad is not None
