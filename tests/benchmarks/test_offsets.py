"""The series of offsets: order of runs, a smoke run, and that its short loop does what the callbacks do."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.experiments import offset_nets, offset_training, offsets
from benchmarks.experiments.gaussian import GaussianOffset
from benchmarks.experiments.offset_nets import NETS, ROWS, Images, Net, Row
from benchmarks.harness.series import add, read
from lightning_sparse import RigLCallback, masks_of
from lightning_sparse.layers import DCTOffset, SignedDCTOffset, alpha_groups

pytestmark = pytest.mark.usefixtures("settings_stay")

TINY = Net(
    lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)),
    data="none",
    weights=240,
    budgets=(60, 120),
    epochs=2,
    batch_size=8,
)


def tiny_images():
    draws = torch.Generator().manual_seed(3)
    parts = [
        (torch.randn(n, 1, 4, 4, generator=draws), torch.randint(4, (n,), generator=draws))
        for n in (44, 8, 8)
    ]
    return Images(*parts)


def test_what_tells_most_comes_first():
    names = [row.name for row in ROWS]
    cells = list(offsets.cells(["conv", "lenet5"], (0, 1, 2), names))
    assert len(cells) == len({(n, r.name, b, s) for n, r, b, s in cells}) == 14 * 3 * (2 + 4)
    first = cells[:16]
    assert {(n, b, s) for n, _, b, s in first} == {("conv", 300, 0), ("lenet5", 300, 0)}
    assert {r.name for _, r, _, _ in first} == {row.name for row in ROWS if not row.rigl}
    assert all(r.rigl and b != 300 and s > 0 for _, r, b, s in cells[-12:])


def test_weights_are_counted():
    for net in NETS.values():
        assert sum(p.numel() for p in net.make().parameters() if p.dim() > 1) == net.weights


def test_a_gaussian_has_the_norm_of_the_dct():
    shape = torch.Size((6, 4, 3, 3))
    matrix = GaussianOffset(1).matrix(shape, torch.float64, torch.device("cpu"))
    assert float(matrix.norm()) == pytest.approx(GaussianOffset(1).norm(shape)) == DCTOffset().norm(shape)
    assert not torch.equal(matrix, GaussianOffset(2).matrix(shape, torch.float64, torch.device("cpu")))


@pytest.mark.parametrize("row", [row for row in ROWS if not row.rigl], ids=lambda row: row.name)
def test_every_row_starts_with_the_weights_it_should(row):
    images = tiny_images()
    record = offset_training.train(TINY, row, 60, 0, images, epochs=1)
    assert (record["trained"], record["error"], len(record["val"])) == (60, None, 1)
    expected = {"DCT": [1, 1], "signed DCT, last x 0.1": [1, 0.1], "SynFlow": [], "random EPL": []}
    if row.name in expected:
        assert record["alphas"] == pytest.approx(expected[row.name])
    assert record == record | {
        key: offset_training.train(TINY, row, 60, 0, images, epochs=1)[key]
        for key in ("accuracy", "first_loss")
    }


def test_scales_from_data_are_those_of_the_training_images():
    images = tiny_images()
    torch.manual_seed(0)
    net = TINY.make()
    offset_training.start_(net, Row("", SignedDCTOffset, lsuv=True, last=0.1), 0.25, 0, images.train[0])
    hidden = net[:2](images.train[0]) - net[1].bias
    assert float(hidden.std(correction=0).detach()) == pytest.approx(1, rel=1e-4)
    out = net(images.train[0]) - net[3].bias
    assert float(out.std(correction=0).detach()) == pytest.approx(0.1, rel=1e-4)


class Task(pl.LightningModule):
    def __init__(self, net, batches, steps):
        super().__init__()
        self.net, self.batches, self.steps = net, batches, steps

    def train_dataloader(self):
        return DataLoader(self.batches, batch_size=None)

    def training_step(self, batch, _):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(alpha_groups(self, 5e-4), lr=1e-3, fused=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_loop_moves_as_the_callback_does():
    images, steps = tiny_images(), 12
    torch.manual_seed(0)
    net = TINY.make()
    offset_training.start_(net, Row("", SignedDCTOffset), 0.25, 0, images.train[0])
    twin = copy.deepcopy(net)
    batches = list(offset_training.batches(TINY, images.train, torch.Generator().manual_seed(0))) * 2
    assert len(batches) == steps
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "max_epochs": 1}
    trainer = pl.Trainer(
        callbacks=[RigLCallback(every_n_steps=3, drop_fraction=0.3, stop_at=0.75)],
        enable_checkpointing=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(Task(net, batches, steps))
    optimizer = torch.optim.Adam(alpha_groups(twin, 5e-4), lr=1e-3, fused=True)
    mover = offset_training.Mover(twin, optimizer, last_step=int(0.75 * steps), every_n_steps=3)
    for batch in batches:
        offset_training.step(twin, optimizer, batch, mover)
    assert mover.moved > 0
    for name, mask in masks_of(net).items():
        assert torch.equal(mask, masks_of(twin)[name])
    for ours, theirs in zip(twin.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_moving_connections_keep_their_number():
    record = offset_training.train(TINY, Row("", SignedDCTOffset, rigl=True), 60, 0, tiny_images(), epochs=40)
    assert record["trained"] == 60
    assert record["moved"] > 0


def test_runs_are_kept_and_not_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(offsets, "random_images", lambda net: tiny_images())
    monkeypatch.setitem(offset_nets.NETS, "lenet300", TINY)
    some = ["--nets", "lenet300", "--rows", "DCT", "SynFlow", "--seeds", "0", "1"]
    options = [*some, "--smoke", "--results", str(tmp_path)]
    offsets.main(options)
    path = tmp_path / "offsets-smoke.jsonl"
    kept = read(path)
    assert len(kept) == 2 * 2 * 2
    assert "| SynFlow - DCT | " in capsys.readouterr().out
    offsets.main(options)
    assert read(path) == kept


def test_a_run_that_fails_is_a_gap(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(offsets, "random_images", lambda net: tiny_images())
    monkeypatch.setitem(offset_nets.NETS, "lenet300", TINY)
    monkeypatch.setattr(offsets, "train", lambda *_: torch.zeros(2) @ torch.zeros(3))
    offsets.main(
        ["--nets", "lenet300", "--rows", "DCT", "--seeds", "0", "--smoke", "--results", str(tmp_path)]
    )
    assert all("RuntimeError" in record["error"] for record in read(tmp_path / "offsets-smoke.jsonl"))
    assert "| DCT | - | - |" in capsys.readouterr().out


def test_tables_are_of_one_net(tmp_path):
    for net, value in (("lenet5", 30.0), ("conv", 40.0)):
        for method, more in (("DCT", 0), ("SynFlow", 2)):
            add(
                {"net": net, "method": method, "budget": 300, "seed": 0, "accuracy": value + more},
                tmp_path / "r",
            )
    lines = offsets.table("conv", read(tmp_path / "r"), "SynFlow")
    assert "| DCT | 40.0 (1) | - |" in lines
    assert "| SynFlow - DCT | +2.0 (1) | - |" in lines


def test_images_are_split_and_normalised_once(tmp_path, monkeypatch):
    images = {
        part: torch.randint(256, (n, 1, 28, 28), dtype=torch.uint8)
        for part, n in (("train", 40), ("test", 10))
    }
    made = []

    class Data(offset_nets.MNISTDataModule):
        def load_train(self):
            made.append(self)
            return images["train"], torch.arange(40) % 10

        def load_test(self):
            return images["test"], torch.arange(10)

    monkeypatch.setattr(offset_nets, "MNISTDataModule", Data)
    loaded = [offset_nets.load_images("mnist", tmp_path, tmp_path / "cache") for _ in range(2)]
    assert len(made) == 1
    assert [len(part[1]) for part in (loaded[1].train, loaded[1].val, loaded[1].test)] == [36, 4, 10]
    assert float(loaded[1].train[0].mean()) == pytest.approx(0, abs=1e-3)
    assert torch.equal(loaded[0].test[0], loaded[1].test[0])
