"""What is refused where weights are split over processes: a table, every row before any data is touched."""

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from pytorch_lightning.strategies import ModelParallelStrategy
from toy import loader, make_toy, trainer

from lightning_sparse import (
    SNIP,
    ASNISigmoidPruner,
    DCTpSConversion,
    DynamicSparsity,
    ExactResume,
    FromFile,
    GradualMagnitudePruning,
    HyperplaneProjection,
    IterativeMagnitudePruning,
    Magnitude,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparseFineTuning,
    SparsityMonitor,
    SparsityReport,
)
from lightning_sparse.checks import SparsityError

REFUSED = {
    "asni": (lambda: ASNISigmoidPruner(density=0.2, search_epochs=2), "ranks whole weights while training"),
    "imp": (lambda: IterativeMagnitudePruning(0.2, rounds=2, epochs_per_round=1), "ranks whole weights"),
    "gradual": (lambda: GradualMagnitudePruning(0.2), "ranks whole weights while training goes on"),
    "dctps": (lambda: DCTpSConversion(0.2), "replaces layers by others"),
    "fine-tuning": (lambda: SparseFineTuning(0.2), "replaces layers by others"),
    "hyperplane": (lambda: HyperplaneProjection(30), "draws its matrix for whole weights"),
    "compact": (lambda: PruneAtInit("erk", 0.2, storage="compact"), "`storage` 'compact'"),
    "compact rigl": (lambda: RigLCallback(0.2, storage="compact"), "`storage` 'compact'"),
    "synflow": (lambda: PruneAtInit("synflow", 0.2), "SynFlow needs the net and its weights whole"),
    "grasp": (lambda: PruneAtInit("grasp", 0.2), "GraSP needs the net and its weights whole"),
    "force": (lambda: PruneAtInit("force", 0.2), "FORCE needs the net and its weights whole"),
    "iterative snip": (lambda: PruneAtInit("iterative_snip", 0.2), "IterativeSNIP needs the net"),
    "reference": (lambda: PruneAtInit(SNIP(conformance="reference"), 0.2), "'reference' of SNIP"),
    "epf": (lambda: PruneAtInit(Magnitude("epf"), 0.2), "counts by filter"),
    "epf of rigl": (lambda: RigLCallback(0.2, allocation="epf"), "counts by filter"),
    "2:4": (lambda: PruneAtInit("magnitude", pattern="2:4"), "`pattern` 2:4 is not counted over"),
    "2:4 of rigl": (lambda: RigLCallback(pattern="2:4"), "`pattern` 2:4 is not counted over"),
    "shuffle": (lambda: PruneAtInit("snip", 0.2, mask_ablation="shuffle"), "`mask_ablation` 'shuffle'"),
    "ticket": (lambda: PruneAtInit(FromFile("t.pt", start="centroids")), "`start` 'centroids' of FromFile"),
    "set": (lambda: SETCallback(0.2), r"the rule SET\(\) looks at whole layers"),
    "another rule": (lambda: DynamicSparsity("set", 0.2), r"the rule SET\(\) looks at whole layers"),
    "mean gradient": (lambda: RigLCallback(0.2, grad_average=2), "`grad_average` gathers gradients"),
    "report": (lambda: SparsityReport(), "looks at whole weights on process 0 alone"),
    "histograms": (lambda: SparsityMonitor(log_histograms=True), "shows whole weights on process 0 alone"),
}
SERVED = {
    "random": lambda: PruneAtInit("random", 0.2),
    "erk": lambda: PruneAtInit("erk", 0.2),
    "magnitude": lambda: PruneAtInit("magnitude", 0.2),
    "snip": lambda: PruneAtInit("snip", 0.2),
    "gradient": lambda: PruneAtInit("gradient", 0.2),
    "file": lambda: PruneAtInit(FromFile("masks.pt")),
    "rigl": lambda: RigLCallback(0.2),
    "by rule": lambda: DynamicSparsity("rigl", 0.2),
    "monitor": lambda: SparsityMonitor(),
    "resume": lambda: ExactResume(),
}


def runner(tmp_path, *callbacks, **options):
    return pl.Trainer(
        callbacks=list(callbacks),
        strategy=ModelParallelStrategy(),
        accelerator="cpu",
        devices=1,
        default_root_dir=tmp_path,
        logger=False,
        **options,
    )


@pytest.mark.parametrize("row", REFUSED)
def test_refused_with_the_reason_and_a_way_out(tmp_path, row):
    make, reason = REFUSED[row]
    callback = make()
    name = type(callback).__name__
    message = (
        f"{name} cannot run under ModelParallelStrategy: .*{reason}.*Use one device, or `strategy='ddp'`"
    )
    with pytest.raises(SparsityError, match=message):
        callback.setup(runner(tmp_path, callback), make_toy(), "fit")


@pytest.mark.parametrize("row", SERVED)
def test_what_is_served_passes_setup(tmp_path, row):
    callback = SERVED[row]()
    assert not callback.needs_whole
    callback.setup(runner(tmp_path, callback), make_toy(), "fit") if row not in ("file", "resume") else None


@pytest.mark.parametrize("averaging", [lambda: EMAWeightAveraging(), lambda: StochasticWeightAveraging(0.1)])
def test_averages_are_refused(tmp_path, averaging):
    pair = PruneAtInit("erk", 0.2), averaging()
    with pytest.raises(SparsityError, match=r"beside .*Averaging: whether averages of split weights"):
        pair[0].setup(runner(tmp_path, *pair), make_toy(), "fit")


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy", "XLAStrategy", "XLAFSDPStrategy"])
@pytest.mark.parametrize("row", [*SERVED][:-2])
def test_other_strategies_stay_refused(tmp_path, row, strategy):
    callback = SERVED[row]()
    fits = trainer(tmp_path, callback)
    fits.strategy.__class__ = type(strategy, (type(fits.strategy),), {})
    with pytest.raises(SparsityError, match=f"cannot run under {strategy}, which splits .*or `strategy="):
        fits.fit(make_toy(), loader())


def test_a_module_that_nobody_has_sharded_is_refused(tmp_path):
    """Each process would train a net of its own, as nobody averages gradients there."""
    callback = PruneAtInit("erk", 0.2)
    fits = trainer(tmp_path, callback)
    fits.strategy.__class__ = type("ModelParallelStrategy", (type(fits.strategy),), {})
    with pytest.raises(SparsityError, match=r"`configure_model` must shard the module .*got no parameter"):
        fits.fit(make_toy(), loader())
