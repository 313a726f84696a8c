"""What compact storage refuses, in two lines at most, before a batch is drawn."""

import pytest
import torch
from toy import Rotate, Toy, loader, make_toy, trainer

from lightning_sparse import (
    SNIP,
    ASNISigmoidPruner,
    DCTpSConversion,
    DynamicSparsity,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    Magnitude,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparseConversion,
    SparseFineTuning,
)
from lightning_sparse.checks import SparsityError

MOVING = {"every_n_steps": 2, "stop_at": 100}


class Untouched(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        raise AssertionError("a batch was drawn")


class Recurrent(Toy):
    def __init__(self):
        super().__init__()
        self.lstm, self.words = torch.nn.LSTM(8, 8), torch.nn.Embedding(10, 8)
        self.attention = torch.nn.MultiheadAttention(8, 2)


def on_meta():
    with torch.device("meta"):
        return Toy()


def refused(tmp_path, callbacks, module=None):
    data = torch.utils.data.DataLoader(Untouched(), 8)
    with pytest.raises((SparsityError, NotImplementedError)) as error:
        trainer(tmp_path, *callbacks).fit(module or make_toy(), data)
    said = error.value
    while not isinstance(said, SparsityError):  # Lightning cannot tear down a module on the meta device
        said = said.__context__
    assert len(str(said).splitlines()) <= 2
    return str(said)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (PruneAtInit, {"method": "erk", "storage": "compakt"}, "got 'compakt'; did you mean compact?"),
        (RigLCallback, {"storage": True}, "`storage` must be one of masked, compact, got True"),
        (
            ASNISigmoidPruner,
            {"search_epochs": 2, "storage": "compact"},
            r"PruneAtInit\(FromFile\('last.ckpt'\)",
        ),
        (
            IterativeMagnitudePruning,
            {"rounds": 1, "epochs_per_round": 1, "storage": "compact"},
            "`storage` of IterativeMagnitudePruning must be 'masked', got 'compact'",
        ),
        (
            GradualMagnitudePruning,
            {"storage": "compact"},
            "`storage` of GradualMagnitudePruning must be 'masked', got 'compact'",
        ),
        (Rotate, {"storage": "compact"}, "`storage` of Rotate must be 'masked', got 'compact'"),
    ],
)
def test_arguments(make, arguments, message):
    with pytest.raises(SparsityError, match=message):
        make(density=0.1, **arguments)


@pytest.mark.parametrize(
    "make", [RigLCallback, SETCallback, lambda **kwargs: DynamicSparsity("rigl", **kwargs)]
)
def test_a_storage_needs_a_density(make):
    with pytest.raises(
        SparsityError, match="`storage` needs `density`, got None: it is for what a callback draws"
    ):
        make(storage="compact")
    make(storage="masked", density_overrides={}, dense_first_layer=False)  # as recipes give defaults


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: ASNISigmoidPruner(density=0.1, search_epochs=2),
            "cannot prune what PruneAtInit stores as 'compact'",
        ),
        (
            lambda: IterativeMagnitudePruning(0.1, rounds=1, epochs_per_round=1),
            "cannot prune what PruneAtInit",
        ),
        (lambda: GradualMagnitudePruning(0.1), "GradualMagnitudePruning cannot prune what PruneAtInit"),
        (lambda: DCTpSConversion(0.1), "DCTpSConversion and PruneAtInit cannot run together"),
        (
            lambda: RigLCallback(0.1, storage="compact", **MOVING),
            "`density` of RigLCallback must be None beside",
        ),
        (lambda: Rotate(), "Rotate cannot prune what PruneAtInit stores as 'compact'"),
    ],
)
def test_company(tmp_path, other, message, first):
    pair = [PruneAtInit(SNIP(2), 0.2, storage="compact"), other()]
    assert message in refused(tmp_path, pair[:: 1 if first else -1])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "convert",
    [
        lambda: DCTpSConversion(0.2),
        lambda: DCTpSConversion(0.2, alpha="lsuv"),
        lambda: SparseConversion("none", 0.2, "erk"),
        lambda: SparseFineTuning(0.2, "gradient"),
    ],
)
def test_layers_of_a_conversion_are_moved_without_a_density(tmp_path, convert, first):
    """Whether they are made at once or wait for data, as compact layers do."""
    pair = [convert(), RigLCallback(0.1, storage="compact", **MOVING)]
    message = refused(tmp_path, pair[:: 1 if first else -1])
    name = type(pair[0]).__name__
    assert f"`density` of RigLCallback must be None beside {name}, whose support it starts from" in message


@pytest.mark.parametrize(
    "include", [["lstm.weight_ih_l0"], ["words"], ["attention.in_proj_weight", "net.6"], "all"]
)
def test_weights_that_no_compact_layer_can_hold(tmp_path, include):
    callback = PruneAtInit(SNIP(2), 0.1, include=include, storage="compact")
    message = refused(tmp_path, [callback], Recurrent())
    assert "`include` must name weights of linear and convolutional layers" in message
    assert message.endswith("masks (`storage='masked'`) take any weight.")


@pytest.mark.parametrize("method", [SNIP(2), Magnitude(), "synflow"])
def test_scores_on_the_meta_device(tmp_path, method):
    message = refused(tmp_path, [PruneAtInit(method, 0.1, storage="compact")], on_meta())
    assert "needs weights to choose from, got some on the meta device" in message


@pytest.mark.parametrize("method", ["erk", "magnitude"])
def test_a_second_fit_with_another_density(tmp_path, method):
    """Whether shapes or scores decide what each layer keeps."""
    toy = make_toy()
    trainer(tmp_path, PruneAtInit(method, 0.1, storage="compact"), max_steps=1).fit(toy, loader())
    message = refused(tmp_path, [PruneAtInit(method, 0.2, storage="compact")], toy)
    assert "`density` 0.2 and the other arguments ask for " in message
    trainer(tmp_path, PruneAtInit(method, 0.1, storage="compact"), max_steps=1).fit(toy, loader())


def test_layers_of_an_earlier_conversion(tmp_path):
    toy = make_toy()
    trainer(tmp_path, DCTpSConversion(0.1), max_steps=1).fit(toy, loader())
    message = refused(tmp_path, [PruneAtInit("magnitude", 0.1, storage="compact")], toy)
    assert "is for dense layers, got 'net.0.weight', which is stored as 'dct + compact'" in message
