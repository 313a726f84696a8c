"""Arguments that would have no effect are refused, and messages name them as the function does."""

import pytest
import torch
from torch import nn

from lightning_sparse import convert_, sparsify_
from lightning_sparse.callbacks import PruneAtInit
from lightning_sparse.checks import SparsityError
from lightning_sparse.files.from_file import FromFile
from lightning_sparse.functional.allocation import allocate
from lightning_sparse.functional.masks import global_masks
from lightning_sparse.functional.patterns import UNSTRUCTURED

SHAPES = {"a": torch.Size([4, 4]), "b": torch.Size([2, 4])}


def net():
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))


def test_a_seed_beside_masks_of_a_file(tmp_path):
    file = tmp_path / "masks.pt"
    torch.save({"0.weight": torch.ones(6, 8, dtype=torch.bool)}, file)
    with pytest.raises(SparsityError, match=r"`seed` has no effect with FromFile, .* got 3\. Leave it out"):
        PruneAtInit(FromFile(str(file)), seed=3)
    with pytest.raises(SparsityError, match="`seed` has no effect with FromFile"):
        sparsify_(net(), FromFile(str(file)), seed=0)
    assert PruneAtInit(FromFile(str(file)), mask_ablation="shuffle", seed=3).seed == 3  # which draws


@pytest.mark.parametrize("alpha", [0.5, "match_norm", {"0.weight": 2.0}])
def test_an_alpha_without_an_offset(alpha):
    with pytest.raises(SparsityError, match="`alpha` scales the offset, and 'none' has nothing to scale"):
        convert_(net(), 0.1, offset="none", alpha=alpha)
    assert convert_(net(), 0.1, offset="none")


@pytest.mark.parametrize("k", [-1, 7, 2.0])
def test_numbers_that_cannot_be_kept(k):
    scores, shape = torch.arange(6.0).view(2, 3), torch.Size([2, 3])
    none = torch.empty(0, dtype=torch.int64)
    for keep in (
        lambda: UNSTRUCTURED.best({"a": scores}, k),
        lambda: UNSTRUCTURED.filled(none, scores, k),
        lambda: UNSTRUCTURED.filled_at_random(none, shape, k, torch.Generator()),
    ):
        with pytest.raises(SparsityError, match="`k` must be"):
            keep()


def test_fewer_than_are_kept_already():
    kept, scores = torch.tensor([0, 4]), torch.arange(6.0).view(2, 3)
    with pytest.raises(
        SparsityError, match=r"`k` must be an integer of at least 2, got 1\. There are 6 weights"
    ):
        UNSTRUCTURED.filled(kept, scores, 1)
    with pytest.raises(SparsityError, match="`k` must be an integer of at least 2, got 1"):
        UNSTRUCTURED.filled_at_random(kept, scores.shape, 1, torch.Generator())
    assert UNSTRUCTURED.filled(kept, scores, 2).sum() == 2


def test_functions_name_their_own_arguments():
    with pytest.raises(SparsityError, match="`fixed` must name layers among a, b, got 'c'"):
        allocate(SHAPES, 0.5, "epl", fixed={"c": 0.5})
    with pytest.raises(SparsityError, match=r"`fixed\['a'\]` must be in \(0, 1\]"):
        allocate(SHAPES, 0.5, "epl", fixed={"a": 2.0})
    with pytest.raises(SparsityError, match=r"lower `min_weights_per_layer` \(`min_weights` of `allocate`\)"):
        allocate(SHAPES, 0.1, "epl", min_weights=4)
    with pytest.raises(SparsityError, match="`allocate` calls the overrides `fixed`"):
        allocate(SHAPES, 0.1, "epl", fixed={"a": 1.0})
    scores = {name: torch.rand(shape) for name, shape in SHAPES.items()}
    with pytest.raises(SparsityError, match="`global_masks` calls these `min_weights` and `fixed`"):
        global_masks(scores, 5, min_weights=4, fixed={"a": 4})
