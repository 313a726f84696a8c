import pytest
import torch

from lightning_sparse.layers.backends import choose_backend

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("shape", "density", "rows", "threads", "expected"),
    [
        ((4096, 4096), 0.05, 128, 2, "transform"),
        ((1024, 1024), 0.05, 1024, 1, "transform"),
        ((1024, 1024), 0.6, 128, 1, "materialize"),
        ((300, 784), 0.01, 32, 1, "transform"),
        ((300, 784), 0.01, 1024, 1, "materialize"),
        ((10, 784), 0.001, 128, 2, "materialize"),  # a thin head
        ((128, 128), 0.001, 128, 1, "materialize"),
        ((512, 512), 0.01, 1, 1, "transform"),  # building the weight twice takes longer still
        ((100, 300), 0.01, 1, 1, "materialize"),
        ((2, 2), 1.0, 0, 1, "materialize"),  # an empty batch
        ((256, 256, 3, 3), 0.01, 2048, 1, "transform"),
        ((256, 256, 3, 3), 0.01, 2048, 2, "materialize"),  # threads share matrix products above all
        ((128, 128, 3, 3), 0.01, 8192, 1, "materialize"),
        ((64, 64, 3, 3), 0.01, 32768, 1, "materialize"),
        ((512, 512, 3, 3), 0.05, 512, 1, "transform"),
        ((2048, 512, 1, 1), 0.01, 512, 1, "transform"),
        ((64, 256, 1, 1), 0.01, 32768, 1, "materialize"),
    ],
)
def test_the_rule(shape: tuple[int, ...], density: float, rows: int, threads: int, expected: str) -> None:
    size = torch.Size(shape)
    assert choose_backend(size, int(density * size.numel()), rows, CPU, threads) == expected


def test_groups_and_gpus_take_the_weight_as_a_whole() -> None:
    shape = torch.Size((512, 512, 3, 3))
    assert choose_backend(shape, 100, 512, CPU, 1, groups=2) == "materialize"
    assert choose_backend(torch.Size((4096, 4096)), 100, 128, torch.device("cuda"), 1) == "materialize"
