"""Callbacks under N:M and n:M: every group exact at every step, and what is refused."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from toy import Toy, assert_equal, loader, masks_of, trainer, weights_of

from lightning_sparse import (
    FORCE,
    SNIP,
    ASNISigmoidPruner,
    DCTpSConversion,
    FromFile,
    GraSP,
    IterativeSNIP,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SynFlow,
    plan,
    save_masks,
    sparsify_,
    summary,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.functional.patterns import NM, LayerwiseNM
from lightning_sparse.functional.pruning import random_positions

pytestmark = pytest.mark.filterwarnings("ignore:Weights without a multiple of")

FITS = {"net.1.weight": 256, "net.3.weight": 288, "net.6.weight": 256}
"""What has a multiple of four inputs, and how many weights: two convolutions, one in groups, and the head."""


class Grouped(Toy):
    """Three convolutions, the first of three channels and the last in groups, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 32, 1),
            nn.ReLU(),
            nn.Conv2d(32, 4, 3, groups=4, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 4),
        )


def make():
    torch.manual_seed(0)
    return Grouped()


def per_group(mask, m=4):
    return mask.unflatten(1, (-1, m)).sum(2)


class HoldsGroups(pl.Callback):
    """After every step: every group of every masked weight keeps n."""

    def __init__(self, n, m=4):
        self.n, self.m, self.steps, self.seen = n, m, 0, []

    def on_train_batch_end(self, trainer, pl_module, *_):
        masks = masks_of(pl_module)
        for name, mask in masks.items():
            n = self.n[name] if isinstance(self.n, dict) else self.n
            assert per_group(mask, self.m).eq(n).all(), name
        self.steps += 1
        self.seen.append(torch.cat([mask.flatten() for mask in masks.values()]))


def fit(tmp_path, *callbacks, n=2, m=4, **arguments):
    module, holds = make(), HoldsGroups(n, m)
    trainer(tmp_path, *callbacks, holds, **arguments).fit(module, loader())
    assert holds.steps > 0
    return module, holds


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize(
    "method",
    ["random", "uniform", "magnitude", "gradient", SNIP(), GraSP(), SynFlow(5), FORCE(3), IterativeSNIP(3)],
    ids=str,
)
def test_every_method_keeps_two_of_four(tmp_path, method, storage):
    module, _ = fit(tmp_path, PruneAtInit(method, pattern="2:4", storage=storage, verify=True), max_epochs=1)
    masks = masks_of(module)
    assert list(masks) == list(FITS)
    assert all(2 * int(mask.sum()) == mask.numel() for mask in masks.values())
    assert module.net[0].weight.count_nonzero() == 216


@pytest.mark.parametrize("ablation", ["shuffle", "reinit", "invert"])
def test_ablations_stay_within_groups(tmp_path, ablation):
    callbacks = [PruneAtInit("magnitude", pattern="1:4", mask_ablation=ablation) for _ in range(2)]
    (a, _), (b, _) = (fit(tmp_path, one, n=1, max_epochs=1) for one in callbacks)
    assert_equal(masks_of(a), masks_of(b))
    plain = masks_of(fit(tmp_path, PruneAtInit("magnitude", pattern="1:4"), n=1, max_epochs=1)[0])
    assert torch.equal(plain["net.6.weight"], masks_of(a)["net.6.weight"]) == (ablation == "reinit")


def test_each_layer_has_an_n_of_its_own(tmp_path):
    callback = PruneAtInit("erk", 0.45, pattern="n:4")
    shapes = {name: p.shape for name, p in make().named_parameters() if name in FITS}
    budgets = callback.planned_budgets(shapes)
    ns = {name: budgets[name] * 4 // shape.numel() for name, shape in shapes.items()}
    assert len(set(ns.values())) > 1
    module, _ = fit(tmp_path, callback, n=ns)
    assert {name: int(mask.sum()) for name, mask in masks_of(module).items()} == budgets
    fixed = PruneAtInit(SNIP(allocation="uniform"), 0.5, pattern="n:4", density_overrides={"*.6.*": 1.0})
    assert masks_of(fit(tmp_path, fixed, n={"net.1.weight": 1, "net.3.weight": 1, "net.6.weight": 4})[0])


MOVING = {
    "RigL, own": lambda: [RigLCallback(0.25, pattern="1:4", every_n_steps=2, stop_at=100, verify=True)],
    "RigL, own, compact": lambda: [
        RigLCallback(0.25, pattern="1:4", every_n_steps=2, stop_at=100, storage="compact", verify=True)
    ],
    "SET, own": lambda: [SETCallback(0.25, pattern="1:4", every_n_steps=2, stop_at=100, verify=True)],
    "RigL from PruneAtInit": lambda: [
        PruneAtInit("magnitude", pattern="1:4"),
        RigLCallback(pattern="1:4", every_n_steps=2, stop_at=100, verify=True),
    ],
    "SET from PruneAtInit, compact": lambda: [
        PruneAtInit("snip", pattern="1:4", storage="compact"),
        SETCallback(pattern="1:4", every_n_steps=2, stop_at=100, verify=True),
    ],
    "RigL, n:4": lambda: [RigLCallback(0.25, pattern="n:4", every_n_steps=2, stop_at=100, verify=True)],
}


@pytest.mark.parametrize("row", MOVING)
def test_connections_move_within_groups(tmp_path, row):
    module, holds = fit(tmp_path, *MOVING[row](), n=1, max_epochs=2)
    assert list(masks_of(module)) == list(FITS)
    assert not torch.equal(holds.seen[0], holds.seen[-1])
    assert len({int(seen.sum()) for seen in holds.seen}) == 1


@pytest.mark.parametrize("row", ["RigL, own", "RigL from PruneAtInit", "SET from PruneAtInit, compact"])
def test_resumed_is_undisturbed(tmp_path, row):
    checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole, _ = fit(tmp_path, *MOVING[row](), checkpoint, n=1, enable_checkpointing=True, max_epochs=3)
    module, holds = make(), HoldsGroups(1)
    runner = trainer(tmp_path, *MOVING[row](), holds, max_epochs=3)
    runner.fit(module, loader(), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert_equal(weights_of(whole), weights_of(module))


@pytest.mark.parametrize("row", ["RigL, own", "RigL from PruneAtInit"])
def test_another_pattern_does_not_resume(tmp_path, row):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    fit(tmp_path, *MOVING[row](), checkpoint, n=1, enable_checkpointing=True)
    others = MOVING[row]()
    for other in others:
        other.pattern = other.support_pattern = NM(2, 8)  # of the same density
    with pytest.raises(SparsityError, match=r"`pattern` is '2:8', but the checkpoint was made with '1:4'"):
        trainer(tmp_path, *others, max_epochs=3).fit(make(), loader(), ckpt_path=tmp_path / "last.ckpt")


def test_masks_of_a_file(tmp_path):
    """A file says itself what is kept; connections that start from it may move within its groups."""
    module, _ = fit(tmp_path, PruneAtInit("magnitude", pattern="1:4"), n=1, max_epochs=1)
    file = tmp_path / "masks.pt"
    save_masks(module, file)
    moves = {"every_n_steps": 2, "stop_at": 100}
    fit(tmp_path, PruneAtInit(FromFile(file)), RigLCallback(pattern="1:4", **moves), n=1)
    with pytest.raises(SparsityError, match=r"^`pattern` must be that of the masks .* got 2:4 for 'net.1"):
        fit(tmp_path, PruneAtInit(FromFile(file)), RigLCallback(pattern="2:4", **moves))
    with pytest.raises(SparsityError, match="FromFile says what is kept, got `pattern` beside it"):
        PruneAtInit(FromFile(file), pattern="2:4")


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (
            lambda: [PruneAtInit("magnitude", pattern="2:4"), RigLCallback()],
            r"`pattern` must be the same .* got 2:4 in PruneAtInit and unstructured in RigLCallback",
        ),
        (
            lambda: [PruneAtInit("magnitude", pattern="2:4"), SETCallback(pattern="1:4")],
            r"got 1:4 in SETCallback and 2:4 in PruneAtInit",
        ),
        (
            lambda: [DCTpSConversion(0.5), RigLCallback(pattern="2:4")],
            r"got 2:4 in RigLCallback and unstructured in DCTpSConversion",
        ),
        (
            lambda: [ASNISigmoidPruner(density=0.2, search_epochs=2), PruneAtInit("snip", pattern="2:4")],
            r"got 2:4 in PruneAtInit and unstructured in ASNISigmoidPruner",
        ),
        (
            lambda: [PruneAtInit("snip", 0.5, pattern="n:4")],
            r"n:4 needs a count for each layer, got 3",
        ),
        (
            lambda: [PruneAtInit("erk", 0.1, pattern="n:4")],
            r"at least 200 weights .`pattern` is n:4",
        ),
        (
            lambda: [PruneAtInit("snip", pattern="2:5")],
            r"multiple of 5 inputs, and no selected weight",
        ),
        (lambda: [PruneAtInit("erk", pattern="2:4")], r"`allocation` must be 'uniform' or 'global' with"),
        (lambda: [PruneAtInit("snip", 0.1, pattern="2:4")], r"`density` must be 0.5 with `pattern` 2:4"),
        (lambda: [PruneAtInit("erk", pattern="n:4")], r"`density` is required"),
        (lambda: [RigLCallback(0.1, pattern="2:4")], r"`density` must be 0.5 with `pattern` 2:4"),
        (lambda: [SETCallback(pattern="2:4")], r"`density` of SETCallback must be given"),
    ],
)
def test_what_is_refused(tmp_path, callbacks, message):
    with pytest.raises(SparsityError, match=message):
        trainer(tmp_path, *callbacks()).fit(make(), loader())


def test_what_stays_dense_is_said_and_not_counted(tmp_path, recwarn):
    callback = PruneAtInit("magnitude", pattern="2:4")
    (part,) = plan(make(), callback).parts
    assert part.kept == sum(layer.kept for layer in part.layers) == 400
    module = make()
    trainer(tmp_path, callback, max_epochs=1).fit(module, loader())
    assert summary(module).total.kept == 616  # with the 216 that stay dense
    said = [str(one.message) for one in recwarn if "stay dense" in str(one.message)]
    assert all("net.0.weight (1 in all). They hold 216 weights" in one for one in said)


def test_without_a_trainer(tmp_path):
    by_trainer, by_hand = make(), make()
    trainer(tmp_path, PruneAtInit("magnitude", pattern="1:4", seed=3), max_epochs=1).fit(by_trainer, loader())
    masks = sparsify_(by_hand, "magnitude", pattern="1:4", seed=3)
    assert_equal(masks, masks_of(by_trainer))
    compact, dense = make(), make()
    assert_equal(sparsify_(compact, "magnitude", pattern=NM(1, 4), storage="compact"), masks)
    assert list(sparsify_(copy.deepcopy(dense), "erk", 0.5, pattern="n:4")) == list(masks)
    with pytest.raises(SparsityError, match=r"`density` must be 0.25 with `pattern` 1:4"):
        sparsify_(dense, "magnitude", 0.5, pattern="1:4")
    with pytest.raises(SparsityError, match="`density`"):
        sparsify_(dense, "magnitude")


def test_shapes_alone_are_enough(tmp_path):
    """On the meta device nothing but shapes is there; what is drawn is what it would be under masks."""
    with torch.device("meta"):
        bare = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4))
    ordinary = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4))
    for pattern, density, method in (("1:4", None, "random"), ("n:4", 0.5, "erk")):
        drawn = PruneAtInit(method, density, pattern=pattern).draw
        assert drawn.pattern == PruneAtInit(method, density, pattern=pattern).pattern
        masks = sparsify_(copy.deepcopy(ordinary), method, density, pattern=pattern, seed=1)
        shapes = {name: weight.shape for name, weight in bare.named_parameters() if weight.ndim == 2}
        generator = torch.Generator().manual_seed(1)
        at = random_positions(shapes, density or 0.25, drawn.allocation, generator, pattern=drawn.pattern)
        assert all(torch.equal(at[name], mask.flatten().nonzero().flatten()) for name, mask in masks.items())


@pytest.mark.parametrize(
    ("text", "density", "pattern"),
    [("2:4", "null", NM(2, 4)), ("1:8", "0.125", NM(1, 8)), ("n:8", "0.5", LayerwiseNM(8))],
)
def test_the_command_line_reads_2_4_without_quotes(text, density, pattern):
    parser = ArgumentParser()
    parser.add_argument("--callback", type=pl.Callback)
    given = ["--callback=PruneAtInit", "--callback.method=uniform", f"--callback.density={density}"]
    made = parser.instantiate(parser.parse_args([*given, f"--callback.pattern={text}"])).callback
    assert made.pattern == pattern
