"""The runs of ASNI's variants: their schedule, their tables, and that each variant is what it says."""

import json

import pytest
import torch

from benchmarks.experiments import asni
from lightning_sparse.data import SyntheticDataModule
from lightning_sparse.files.tickets import load_ticket

pytestmark = pytest.mark.usefixtures("settings_stay")


class Grey(SyntheticDataModule):
    """Images of the size of MNIST's."""

    def __init__(self, val_fraction: float = 0.1) -> None:
        super().__init__(shape=[1, 28, 28], size=64, batch_size=16, val_fraction=val_fraction)


def test_a_shorter_schedule_ends_at_the_same_sparsity():
    assert asni.schedule_of("mnist_fc", None) == asni.Schedule(50, 5.0, False)
    short = asni.schedule_of("mnist_fc", 10)
    assert (short.epochs, round(short.gamma, 3)) == (10, 0.652)
    assert asni.schedule_of("cifar10_vgg11", 80).arguments(2) == [
        "--trainer.max_epochs=160",
        "--model.lr_scheduler.init_args.epochs=80",
    ]


def record(variant, seed, *curve):
    return {"variant": variant, "seed": seed, "start": 10.0, "kept": 8, "curve": list(curve), "seconds": 1.0}


def test_table():
    records = [record("C", 0, 80, 90), record("C", 1, 82, 94), record("D", 0, 70, 89), record("S", 0, 60, 70)]
    lines = asni.table(records)
    assert "| C | 8 | 10.00 ± 0.00 (2) | 81.00 ± 1.41 (2) | 92.00 ± 2.83 (2) | 86.50 ± 2.12 (2) |" in lines
    assert "| D | all | 10.00 (1) | 70.00 (1) | 89.00 (1) | 79.50 (1) |" in lines
    assert "| C - D | +0.00 (1) | +10.00 (1) | +1.00 (1) | +5.50 (1) |" in lines
    assert not any("A - D" in line for line in lines)


@pytest.mark.filterwarnings("ignore:SparseCheckpoint has kept no net")  # D, which nothing is validated of
def test_every_variant_runs_and_is_not_repeated(tmp_path, capsys):
    args = ["mnist_fc", f"--data={__name__}.Grey", "--epochs=5", "--seeds=3", "--smoke"]
    asni.main([*args, f"--results={tmp_path}", f"--plot={tmp_path / 'curves.png'}"])
    path = tmp_path / "asni_mnist_fc_5-smoke.jsonl"
    records = {r["variant"]: r for r in map(json.loads, path.read_text().splitlines())}
    assert records.keys() == set(asni.VARIANTS)
    ticket = load_ticket(tmp_path / "asni_mnist_fc_5-smoke-3.ticket")
    kept = sum(int(mask.sum()) for mask in ticket.masks.values())
    assert {r["kept"] for name, r in records.items() if name != "D"} == {kept}
    assert all(len(r["curve"]) == 5 for r in records.values())
    assert records["A"]["start"] == records["D"]["start"]  # the same net, before its first step
    assert (tmp_path / "curves.png").stat().st_size > 0
    scaled = load_ticket(tmp_path / "asni_mnist_fc_5-smoke-3.signs")
    expected = torch.tensor([1.0, -1.0]) * (2 / 784) ** 0.5
    torch.testing.assert_close(scaled.centroids["net.fcs.0.weight"], expected)
    before = path.read_text()
    asni.main([*args, f"--results={tmp_path}"])
    assert path.read_text() == before
