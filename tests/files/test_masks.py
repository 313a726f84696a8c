"""Masks from files: of our own, of checkpoints, of others."""

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from toy import HoldsMasks, Rotate, assert_equal, loader, make_toy, masks_of, trainer

from lightning_sparse import (
    DCTpSConversion,
    ExactResume,
    FromFile,
    PruneAtInit,
    RigLCallback,
    load_masks,
    save_masks,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.weights.state import state_of


def fitted(tmp_path, *callbacks):
    toy = make_toy()
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    arguments = {"enable_checkpointing": True}
    trainer(tmp_path, *callbacks, ExactResume(), checkpoint, **arguments).fit(toy, loader())
    return toy


def test_masks_of_a_file_and_of_a_checkpoint(tmp_path):
    toy = fitted(tmp_path, PruneAtInit("random", 0.1, seed=4))
    save_masks(toy, tmp_path / "masks.pt")
    assert (tmp_path / "masks.pt").stat().st_size < 4000  # bits, not bytes
    for path in (tmp_path / "masks.pt", tmp_path / "last.ckpt"):
        assert_equal(load_masks(path), state_of(toy).masks)
        other = make_toy()
        trainer(tmp_path, PruneAtInit(FromFile(str(path)), verify=True), HoldsMasks()).fit(other, loader())
        assert_equal(state_of(other).masks, state_of(toy).masks)


MOVING = {"every_n_steps": 3, "stop_at": 100}
COMPACT = {
    "fixed": lambda: [PruneAtInit("random", 0.1, seed=4, storage="compact")],
    "moved": lambda: [RigLCallback(0.1, seed=4, storage="compact", **MOVING)],
}


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("row", COMPACT)
def test_masks_of_compact_layers_start_nets_of_either_storage(tmp_path, row, storage):
    toy = fitted(tmp_path, *COMPACT[row]())
    save_masks(toy, tmp_path / "masks.pt")
    expected = masks_of(toy)
    assert sum(int(mask.sum()) for mask in expected.values()) == 102
    for path in (tmp_path / "masks.pt", tmp_path / "last.ckpt"):
        assert_equal(load_masks(path), expected)
        other = make_toy()
        start = PruneAtInit(FromFile(str(path)), storage=storage, verify=True)
        trainer(tmp_path, start, HoldsMasks()).fit(other, loader())
        assert_equal(masks_of(other), expected)
        assert bool(state_of(other).masks) == (storage == "masked")


def test_layers_beside_a_dense_matrix_have_no_masks_to_save(tmp_path):
    toy = fitted(tmp_path, DCTpSConversion(0.1))
    with pytest.raises(SparsityError, match="`module` must have masks, got none"):
        save_masks(toy, tmp_path / "masks.pt")
    with pytest.raises(SparsityError, match="holds no masks"):
        load_masks(tmp_path / "last.ckpt")


def test_positions_that_do_not_belong_to_the_layer_are_damage(tmp_path):
    fitted(tmp_path, *COMPACT["fixed"]())
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    content["state_dict"]["net.6.indices"][-1] = 800
    torch.save({"state_dict": content["state_dict"]}, tmp_path / "damaged.ckpt")
    with pytest.raises(
        SparsityError, match=r"`path` '.*damaged.ckpt' is damaged: .* positions from 0 to 799"
    ):
        load_masks(tmp_path / "damaged.ckpt")


def test_masks_of_who_moved_them(tmp_path):
    toy = fitted(tmp_path, PruneAtInit("random", 0.1, seed=4), Rotate())
    assert_equal(load_masks(tmp_path / "last.ckpt"), state_of(toy).masks)


def test_a_plain_dict_of_masks(tmp_path):
    mask = torch.rand(4, 200) < 0.2
    torch.save({"net.6.weight": mask}, tmp_path / "mine.pt")
    toy = make_toy()
    trainer(tmp_path, PruneAtInit(FromFile(str(tmp_path / "mine.pt")))).fit(toy, loader())
    assert_equal(state_of(toy).masks, {"net.6.weight": mask})
    assert toy.net[0].weight.ne(0).all()


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_a_resumed_run_does_not_need_the_file(tmp_path, storage):
    torch.save({"net.6.weight": torch.rand(4, 200) < 0.2}, tmp_path / "mine.pt")
    path = str(tmp_path / "mine.pt")
    toy = fitted(tmp_path, PruneAtInit(FromFile(path), storage=storage))
    (tmp_path / "mine.pt").unlink()
    again = make_toy()
    trainer(tmp_path, PruneAtInit(FromFile(path), storage=storage), HoldsMasks(), max_epochs=3).fit(
        again, loader(), ckpt_path=tmp_path / "last.ckpt"
    )
    assert_equal(masks_of(again), masks_of(toy))
    with pytest.raises(ValueError, match=r"`file` is 'other.pt', but the checkpoint was made with"):
        trainer(tmp_path, PruneAtInit(FromFile("other.pt"), storage=storage), max_epochs=3).fit(
            make_toy(), loader(), ckpt_path=tmp_path / "last.ckpt"
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"`(path|file)` must be a file, got .*x.pt', which does not exist"),
        (b"not a file of torch", r"`(path|file)` .*x.pt' cannot be read: "),
        (
            {"state_dict": {}, "callbacks": {"ModelCheckpoint": {}}},
            "holds no masks. Give a file of `save_masks`",
        ),
        ({"net.6.weight": torch.ones(4, 200)}, "holds no masks"),
        ([1, 2], "holds no masks"),
        (
            {"net.6.weight": torch.ones(4, 3, dtype=torch.bool)},
            r"shape \(4, 3\) for 'net.6.weight'.*\(4, 200\)",
        ),
        (
            {"net.9.weight": torch.ones(4, 3, dtype=torch.bool)},
            "'net.9.weight', and the module has none of that name",
        ),
    ],
)
def test_files_that_do_not_fit(tmp_path, content, message):
    path = tmp_path / "x.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    drawn = []
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, PruneAtInit(FromFile(str(path)))).fit(make_toy(), loader(collate_fn=drawn.append))
    assert not drawn


def test_a_flipped_bit(tmp_path):
    save_masks(fitted(tmp_path, PruneAtInit("erk", 0.1)), tmp_path / "masks.pt")
    content = torch.load(tmp_path / "masks.pt", weights_only=True)
    content["masks"]["net.6.weight"]["bits"][3] ^= 4
    torch.save(content, tmp_path / "masks.pt")
    with pytest.raises(ValueError, match=r"mask of 'net.6.weight' is corrupt"):
        load_masks(tmp_path / "masks.pt")


def test_a_module_without_masks(tmp_path):
    with pytest.raises(ValueError, match="`module` must have masks, got none"):
        save_masks(make_toy(), tmp_path / "masks.pt")
