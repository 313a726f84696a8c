"""EPF gives every filter its equal share, whichever callback draws the masks."""

import pytest
from toy import loader, make_toy, masks_of, trainer

from lightning_sparse import DCTpSConversion, PruneAtInit, RigLCallback, SETCallback
from lightning_sparse.weights.found import sparse_weights


@pytest.mark.parametrize("density", [0.05, 0.13])
@pytest.mark.parametrize(
    "make",
    [
        lambda density: PruneAtInit("epf", density, seed=3),
        lambda density: RigLCallback(density, allocation="epf", every_n_steps=100, stop_at=200, seed=3),
        lambda density: SETCallback(density, allocation="epf", every_n_steps=100, stop_at=200, seed=3),
        lambda density: DCTpSConversion(density, allocation="epf", seed=3),
    ],
    ids=["PruneAtInit", "RigL", "SET", "DCTpS"],
)
def test_every_filter_of_the_net_keeps_as_many(tmp_path, make, density):
    module = make_toy()
    trainer(tmp_path, make(density), max_steps=1).fit(module, loader())
    masks = masks_of(module) or {name: weight.mask for name, weight in sparse_weights(module).items()}
    counts = [count for mask in masks.values() for count in mask.flatten(1).sum(1).tolist()]
    assert len(counts) == 8 + 4
    assert sum(counts) == int(density * 1016 + 0.5)
    assert max(counts) - min(counts) <= 1
