"""Tickets in files and in checkpoints."""

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from toy import HoldsMasks, Toy, assert_equal, loader, make_toy, trainer, weight_of

from lightning_sparse import (
    ASNISigmoidPruner,
    FromFile,
    PruneAtInit,
    Ticket,
    load_masks,
    load_ticket,
    save_masks,
    save_ticket,
)
from lightning_sparse.functional.packing import pack_masks
from lightning_sparse.weights.state import state_of

MASKS = {"a": torch.tensor([[True, False, True], [False, True, True]]), "b": torch.tensor([False, True])}
SIGNS = {"a": torch.tensor([1, -1, 0, 1], dtype=torch.int8), "b": torch.tensor([-1], dtype=torch.int8)}
CENTROIDS = {"a": torch.tensor([0.5, -0.25]), "b": torch.tensor([0.0, -1.0])}
TICKET = Ticket(MASKS, SIGNS, CENTROIDS, {"alpha": 98.0, "gamma": None, "seed": 7, "torch": "2"})


def test_round_trip(tmp_path):
    save_ticket(TICKET, tmp_path / "new folder" / "ticket.pt")
    for path in (tmp_path / "new folder" / "ticket.pt", str(tmp_path / "new folder" / "ticket.pt")):
        loaded = load_ticket(path)
        for part in ("masks", "signs", "centroids"):
            assert_equal(getattr(loaded, part), getattr(TICKET, part))
            assert [v.dtype for v in getattr(loaded, part).values()] == [
                v.dtype for v in getattr(TICKET, part).values()
            ]
        assert loaded.provenance == TICKET.provenance
        assert_equal(load_masks(path), MASKS)
    content = torch.load(tmp_path / "new folder" / "ticket.pt", weights_only=True)
    assert set(content) == {"masks", "signs", "centroids", "provenance"}
    assert content["masks"]["a"]["bits"].tolist() == [0b10101100]


def test_size_is_that_of_bits_and_signs(tmp_path):
    mask = torch.zeros(1000, 1000, dtype=torch.bool)
    mask[0] = True
    one = {"a": torch.ones(1000, dtype=torch.int8)}
    save_ticket(Ticket({"a": mask}, one, {"a": torch.zeros(2)}), tmp_path / "ticket.pt")
    assert (tmp_path / "ticket.pt").stat().st_size < 1_000_000 / 8 + 1000 + 4000


@pytest.fixture
def run(tmp_path):
    toy = make_toy()
    checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    asni = ASNISigmoidPruner(density=0.2, search_epochs=2, ticket_path=str(tmp_path / "ticket.pt"))
    trainer(tmp_path, asni, checkpoint, max_epochs=3, enable_checkpointing=True).fit(toy, loader())
    return toy


def test_a_checkpoint_of_the_retraining_has_the_ticket(run, tmp_path):
    """The centroids are those of the search, not of the weights as they are by now."""
    written, saved = load_ticket(tmp_path / "ticket.pt"), load_ticket(tmp_path / "epoch=2.ckpt")
    for part in ("masks", "signs", "centroids"):
        assert_equal(getattr(written, part), getattr(saved, part))
    assert written.provenance == saved.provenance
    assert_equal(saved.masks, state_of(run).masks)


def test_a_checkpoint_of_the_search_has_none(run, tmp_path):
    with pytest.raises(ValueError, match=r"`path` '.*epoch=1.ckpt' holds no centroids. Give a ticket") as e:
        load_ticket(tmp_path / "epoch=1.ckpt")
    assert "\n" not in str(e.value)


def changed(**parts):
    whole = {"masks": pack_masks(MASKS), "signs": SIGNS, "centroids": CENTROIDS, "provenance": {}}
    return {name: part for name, part in {**whole, **parts}.items() if part is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(signs=None, centroids=None), "holds no centroids"),
        (changed(masks=None), "holds no centroids"),
        (changed(masks={}), "holds no centroids"),
        ({}, "holds no centroids"),
        ([1, 2], "holds no centroids"),
        ({"callbacks": {"PruneAtInit": {"masks": pack_masks(MASKS)}}}, "holds no centroids"),
        (changed(signs={"a": SIGNS["a"][:3], "b": SIGNS["b"]}), "masks, signs and centroids do not fit"),
        (changed(signs={"a": SIGNS["a"]}), "masks, signs and centroids do not fit"),
        (changed(centroids={"a": CENTROIDS["a"]}), "masks, signs and centroids do not fit"),
        (
            changed(centroids={"a": torch.zeros(3), "b": torch.zeros(2)}),
            "masks, signs and centroids do not fit",
        ),
        (
            changed(masks={n: {**m, "crc32": 1} for n, m in pack_masks(MASKS).items()}),
            "mask of 'a' is corrupt",
        ),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=message) as error:
        load_ticket(tmp_path / "file.pt")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_damaged(tmp_path):
    with pytest.raises(ValueError, match=r"`(path|file)` must be a file, got .* does not exist"):
        load_ticket(tmp_path / "none.pt")
    save_ticket(TICKET, tmp_path / "ticket.pt")
    content = (tmp_path / "ticket.pt").read_bytes()
    (tmp_path / "ticket.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        load_ticket(tmp_path / "ticket.pt")


# Started from.


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_prune_at_init_starts_from_it(run, tmp_path, storage):
    toy = Toy()
    ticket = load_ticket(tmp_path / "ticket.pt")
    start = PruneAtInit(
        FromFile(str(tmp_path / "ticket.pt"), start="centroids"), storage=storage, verify=True
    )
    frozen = {"limit_train_batches": 1, "max_epochs": 1, "num_sanity_val_steps": 0}
    toy.make_optimizer = lambda p: torch.optim.SGD(p, 0.0)
    trainer(tmp_path, start, HoldsMasks(), **frozen).fit(toy, loader())
    for name, mask in ticket.masks.items():
        plus, minus = ticket.centroids[name]
        expected = torch.where(ticket.signs[name] > 0, plus, minus)
        assert torch.equal(weight_of(toy, name)[mask], expected)
        assert weight_of(toy, name)[~mask].eq(0).all()
    assert toy.net[0].bias.eq(0).all()
    assert toy.net[1].num_batches_tracked == 1


def test_only_its_masks_may_be_taken(run, tmp_path):
    toy, fresh = make_toy(), make_toy()
    toy.make_optimizer = lambda p: torch.optim.SGD(p, 0.0)
    start = PruneAtInit(FromFile(str(tmp_path / "ticket.pt")))
    trainer(tmp_path, start, max_epochs=1).fit(toy, loader())
    mask = load_masks(tmp_path / "ticket.pt")["net.6.weight"]
    assert torch.equal(toy.net[6].weight[mask], fresh.net[6].weight[mask])


def test_a_resumed_run_does_not_need_the_file(run, tmp_path):
    def start():
        return PruneAtInit(FromFile(str(tmp_path / "ticket.pt"), start="centroids"), verify=True)

    save, toy, again = ModelCheckpoint(tmp_path / "s", save_last=True), make_toy(), make_toy()
    trainer(tmp_path, start(), save, max_epochs=1, enable_checkpointing=True).fit(toy, loader())
    (tmp_path / "ticket.pt").unlink()
    trainer(tmp_path, start()).fit(again, loader(), ckpt_path=tmp_path / "s" / "last.ckpt")
    assert_equal(state_of(again).masks, state_of(toy).masks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_ablation": "shuffle"}, "`start` 'centroids' .* got `mask_ablation` 'shuffle' beside it"),
        ({"start": "zeros"}, "`start` must be one of centroids, None"),
        ({"density": 0.1}, "`method` FromFile says what is kept, got `density` beside it"),
    ],
)
def test_arguments(arguments, message):
    start = arguments.pop("start", "centroids")
    with pytest.raises(ValueError, match=message):
        PruneAtInit(FromFile("a.pt", start), **arguments)


def test_masks_alone_give_no_weights(run, tmp_path):
    save_masks(run, tmp_path / "masks.pt")
    start = PruneAtInit(FromFile(str(tmp_path / "masks.pt"), start="centroids"))
    with pytest.raises(ValueError, match="holds no centroids"):
        trainer(tmp_path, start).fit(make_toy(), loader())


def test_a_ticket_for_another_net(run, tmp_path):
    other = make_toy()
    other.net[6] = torch.nn.Linear(200, 5)
    start = PruneAtInit(FromFile(str(tmp_path / "ticket.pt"), start="centroids"))
    with pytest.raises(ValueError, match=r"has a mask of shape \(4, 200\) for 'net.6.weight'"):
        trainer(tmp_path, start).fit(other, loader())
