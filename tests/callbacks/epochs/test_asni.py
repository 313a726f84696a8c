"""ASNI prunes: how many weights, when, and what is measured, saved and logged of it."""

import itertools
import math

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins import MixedPrecision
from rounds import SEARCH, Scaled, fit_asni
from toy import HoldsMasks, Toy, loader, logged

from lightning_sparse import ASNISigmoidPruner, PruneAtInit, load_masks
from lightning_sparse.functional.masks import count_kept
from lightning_sparse.weights.state import state_of

WEIGHTS = 1016


# How many weights there are, and when.


def test_counts_by_hand(tmp_path):
    """s(e) = 80 / (1 + exp(2 - e)): 9.54, 21.52 and 40 percent of 1,016, each removal rounded down."""
    asni = ASNISigmoidPruner(alpha=80, gamma=1, search_epochs=4, verify=True)
    toy = Toy()
    assert fit_asni(tmp_path, asni, toy=toy, epochs=7).kept() == [920, 799, 611, 611, 611, 611, 611]
    assert asni.path == [920, 799, 611]


def test_counts_with_removals_left_out(tmp_path):
    """13.24 percent is not more than 14: nothing goes, and the third removal still is 23.55 percent."""
    asni = ASNISigmoidPruner(alpha=80, gamma=1, search_epochs=4, min_increment=14, reinit=None)
    assert fit_asni(tmp_path, asni, toy=Toy(), epochs=4).kept() == [1016, 1016, 777, 777]


@pytest.mark.parametrize("density", [0.005, 0.1, 0.5, 0.987])
def test_a_density_is_met_exactly(tmp_path, density):
    asni = ASNISigmoidPruner(density=density, search_epochs=4, reinit=None, verify=True)
    kept = fit_asni(tmp_path, asni, toy=Toy(), epochs=4).kept()
    assert kept[-2:] == [math.floor(density * WEIGHTS + 0.5)] * 2
    assert kept == sorted(kept, reverse=True)


def test_the_smallest_go_over_all_layers(tmp_path):
    records = fit_asni(tmp_path, ASNISigmoidPruner(density=0.3, reinit=None, **SEARCH), toy=Toy(), epochs=3)
    toy, sizes = records.toy, [int(mask.sum()) for mask in records.validated_masks[1].values()]
    assert sum(sizes) == 305
    assert sizes[0] / 216 != pytest.approx(sizes[1] / 800, abs=0.05)  # not a share of each
    assert toy.net[0].weight.count_nonzero() == sizes[0]


def test_from_the_masks_of_prune_at_init(tmp_path):
    start = PruneAtInit("erk", 0.5)
    for asni in (
        ASNISigmoidPruner(alpha=80, gamma=1, search_epochs=4, reinit=None, verify=True),
        ASNISigmoidPruner(density=0.1, search_epochs=4, reinit=None, verify=True),
    ):
        toy = Toy()
        kept = fit_asni(tmp_path, asni, start, toy=toy, epochs=4).kept()
        # By hand: int(508 * 9.5362 %) = 48; int(460 * 13.2419 %) = 60; int(400 * 23.5520 %) = 94.
        assert kept == [460, 400, 306, 306] if asni.alpha else kept[-1] == 102
        assert asni.path[0] < 508


def test_masks_that_are_too_sparse_to_start_from(tmp_path):
    asni = ASNISigmoidPruner(density=0.5, search_epochs=3)
    with pytest.raises(ValueError, match="`density` is more than what is alive"):
        fit_asni(tmp_path, asni, PruneAtInit("erk", 0.1))
    with pytest.raises(ValueError, match="`density` is more than what is alive"):  # nor at a second try
        fit_asni(tmp_path, asni, PruneAtInit("erk", 0.1))


def test_layers_with_a_density_of_their_own(tmp_path):
    overrides = {"net.0.weight": 0.25, "net.7.weight": 1.0}
    asni = ASNISigmoidPruner(
        density=0.1, search_epochs=6, reinit=None, density_overrides=overrides, verify=True
    )
    counts = [
        [int(masks[f"net.{i}.weight"].sum()) for i in (0, 6, 7)]
        for masks in fit_asni(tmp_path, asni).validated_masks.values()
    ]
    assert counts[-1] == [54, 33, 16]  # 103 of 1,032
    assert all(count[2] == 16 for count in counts)
    assert all(a[0] >= b[0] and a[1] >= b[1] for a, b in itertools.pairwise(counts))


def test_a_few_weights_at_a_time_beside_layers_with_a_density_of_their_own(tmp_path):
    """A narrow sigmoid removes few weights at first and at last; no layer gets some of its own back."""
    overrides = {"net.0.weight": 0.2, "net.7.weight": 0.5}
    asni = ASNISigmoidPruner(
        alpha=90, gamma=1.0, search_epochs=18, reinit=None, density_overrides=overrides, verify=True
    )
    records = fit_asni(tmp_path, asni, epochs=18, data=loader(1))
    assert {a - b for a, b in zip([1032, *asni.path], asni.path, strict=False)} > {0, 1}
    for before, after in itertools.pairwise(records.validated_masks.values()):
        assert not any((after[name] & ~mask).any() for name, mask in before.items())


@pytest.mark.parametrize("cut", ["skipped", "steps"])
def test_an_epoch_cut_short_is_an_epoch(tmp_path, cut):
    class Skips(Scaled):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if cut == "skipped" and batch_idx == 2 else None

    asni = ASNISigmoidPruner(density=0.1, reinit=None, **SEARCH)
    torch.manual_seed(0)
    arguments = {"max_steps": 6} if cut == "steps" else {}
    records = fit_asni(tmp_path, asni, HoldsMasks(), toy=Skips(), epochs=3, **arguments)
    assert asni.epoch == (2 if cut == "steps" else 3)
    assert records.trainer.global_step == 6
    assert count_kept(state_of(records.toy).masks) == 103


@pytest.mark.parametrize(
    "arguments", [{"accumulate_grad_batches": 3}, {"limit_train_batches": 3}, {"val_check_interval": 0.5}]
)
def test_counts_however_an_epoch_is_run(tmp_path, arguments):
    asni = ASNISigmoidPruner(density=0.1, **SEARCH)
    assert fit_asni(tmp_path, asni, **arguments).kept() == [asni.path[0], 103, 103, 103, 103, 103]


def test_data_without_a_length(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from loader().dataset

    asni = ASNISigmoidPruner(density=0.1, **SEARCH)
    records = fit_asni(tmp_path, asni, data=torch.utils.data.DataLoader(Stream(), 8))
    assert records.kept() == [asni.path[0], 103, 103, 103, 103, 103]


def test_an_overflow_in_the_last_step_of_an_epoch(tmp_path):
    class Overflows(Scaled):
        def training_step(self, batch, index):
            return super().training_step(batch) * (1e38 if index == 3 else 1)

    torch.manual_seed(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    asni, plugin = ASNISigmoidPruner(density=0.1, **SEARCH), MixedPrecision("16-mixed", "cpu", scaler=scaler)
    records = fit_asni(tmp_path, asni, HoldsMasks(), toy=Overflows(), plugins=[plugin])
    assert scaler.get_scale() < 2.0**8
    assert records.kept()[1:] == [103] * 5


# Metric, checkpoint and mask.


@pytest.mark.parametrize("saving", [{}, {"val_check_interval": 0.5}], ids=["epoch end", "validation end"])
@pytest.mark.parametrize("reinit", ["centroids", "original", None])
def test_metric_checkpoint_and_mask_agree(tmp_path, saving, reinit):
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    asni = ASNISigmoidPruner(density=0.1, reinit=reinit, **SEARCH)
    records = fit_asni(tmp_path, asni, checkpoint, enable_checkpointing=True, **saving)
    assert len(records.validated) == 6
    for epoch, found in records.validated.items():
        path = tmp_path / f"step={4 * epoch + 4}.ckpt"
        saved, masks = torch.load(path, "cpu", weights_only=True), load_masks(path)
        assert count_kept(masks) == [asni.path[0], 103, 103, 103, 103, 103][epoch]
        for name, value in saved["state_dict"].items():
            assert torch.equal(value, found[name]), name  # what was validated is what is saved
        for name, mask in masks.items():
            assert torch.equal(mask, records.validated_masks[epoch][name])
            assert torch.equal(mask, saved["state_dict"][name] != 0)
        state = saved["callbacks"]["ASNISigmoidPruner"]
        assert state["epoch"] == epoch + 1
        assert state["search_epochs"] == 3
        assert state["restarted"] is (reinit is not None and epoch >= 3)


def test_what_is_logged(tmp_path):
    asni = ASNISigmoidPruner(alpha=80, gamma=1, search_epochs=4, reinit=None)
    records = fit_asni(tmp_path, asni, toy=Toy(), epochs=4, logger=CSVLogger(tmp_path))
    table = logged(records.trainer.logger, "asni/sparsity")
    assert [float(row["asni/sparsity"]) for row in table] == pytest.approx(
        [1 - n / 1016 for n in (920, 799, 611, 611)]
    )
    assert [float(row["asni/target_sparsity"]) for row in table] == pytest.approx(
        [0.8 / (1 + math.exp(2 - e)) for e in (0, 1, 2, 2)]
    )
    weight = records.validated[3]["net.6.weight"].numpy()
    last = {name: float(table[-1][f"centroids/net.6/{name}"]) for name in ("plus", "minus")}
    assert last == pytest.approx({"plus": weight[weight > 0].mean(), "minus": weight[weight < 0].mean()})
