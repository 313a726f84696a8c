"""What files say of nets, by hand: entries, kept ones, bytes; every kind of file."""

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from toy import adamw, loader, make_toy, trainer

from lightning_sparse import (
    ASNISigmoidPruner,
    DCTpSConversion,
    PruneAtInit,
    convert_,
    load_masks,
    save_masks,
    sparsify_,
    summary,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.files.checkpoints import restore_
from lightning_sparse.reporting.stored import read_net

CONV, LINEAR = 8 * 3 * 9, 4 * 200  # weights of the toy's two layers
OTHERS = 4 * (8 + 4 * 8 + 4) + 8 + 16  # biases, batch norm (a count of 8 bytes), and the boolean buffer


def fitted(folder, *callbacks, name="net", epochs=1):
    toy = make_toy(optimizer=adamw)
    checkpoint = ModelCheckpoint(folder, filename=name, save_top_k=-1)
    trainer(folder, *callbacks, checkpoint, enable_checkpointing=True, max_epochs=epochs).fit(toy, loader())
    return toy


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with a checkpoint of each storage, and a ticket."""
    folder = tmp_path_factory.mktemp("runs")
    fitted(folder / "masked", PruneAtInit("erk", 0.1, seed=0))
    fitted(folder / "compact", PruneAtInit("erk", 0.1, seed=0, storage="compact"))
    fitted(folder / "dctps", DCTpSConversion(0.1, seed=0))
    asni = ASNISigmoidPruner(0.1, search_epochs=3, ticket_path=str(folder / "ticket.pt"))
    fitted(folder / "asni", asni, name="{epoch}", epochs=4)
    return folder


def rows(stored):
    return {
        layer.name: (layer.weights, layer.kept, layer.storage, layer.stored) for layer in stored.net.layers
    }


def test_masked_weights(runs):
    stored = read_net(runs / "masked" / "net.ckpt")
    masks = load_masks(runs / "masked" / "net.ckpt")
    kept = [int(masks[f"net.{i}.weight"].sum()) for i in (0, 6)]
    assert sum(kept) == 102  # floor(0.1 * 1016 + 0.5)
    assert rows(stored) == {
        "net.0": (CONV, kept[0], "masked", 4 * CONV + CONV // 8),
        "net.6": (LINEAR, kept[1], "masked", 4 * LINEAR + LINEAR // 8),
    }
    assert (stored.kind, stored.epoch, stored.step) == ("checkpoint", 0, 4)
    parameters = CONV + LINEAR + 8 + 16 + 4
    assert stored.net.file.others == OTHERS
    assert stored.net.file.optimizers == 2 * 4 * parameters + 6 * 4  # AdamW: two of each, and six counts
    assert stored.net.file.whole == (runs / "masked" / "net.ckpt").stat().st_size
    assert stored.made_by == (
        "PruneAtInit(method=Random(allocation='erk'), density=0.1, min_weights_per_layer=1)",
    )


@pytest.mark.parametrize(("name", "storage"), [("compact", "compact"), ("dctps", "dct + compact")])
def test_compact_layers(runs, name, storage):
    stored = read_net(runs / name / "net.ckpt")
    found = rows(stored)
    assert sum(kept for _, kept, _, _ in found.values()) == 102
    weights = torch.load(runs / name / "net.ckpt", weights_only=True)["state_dict"]
    for layer, size in {"net.0": CONV, "net.6": LINEAR}.items():
        values, indices = weights[f"{layer}.values"], weights[f"{layer}.indices"]
        assert found[layer] == (size, len(values), storage, values.nbytes + indices.nbytes)


def test_a_kept_entry_that_is_zero_counts_as_kept(runs, tmp_path):
    """Zeros of the weights would say less: the masks are in the file, and in force in the net."""
    content = torch.load(runs / "masked" / "net.ckpt", weights_only=True)
    content["state_dict"]["net.6.weight"].zero_()
    torch.save(content, tmp_path / "zeroed.ckpt")
    expected = rows(read_net(runs / "masked" / "net.ckpt"))
    assert rows(read_net(tmp_path / "zeroed.ckpt")) == expected
    toy = make_toy()
    restore_(toy, tmp_path / "zeroed.ckpt")
    assert [(layer.kept, layer.storage) for layer in summary(toy).layers] == [
        (kept, "masked") for _, kept, _, _ in expected.values()
    ]


def test_tickets_and_files_of_masks(runs, tmp_path):
    stored = read_net(runs / "ticket.pt")
    kept = [kept for _, kept, _, _ in rows(stored).values()]
    assert sum(kept) == 102
    bits = [CONV // 8, LINEAR // 8]  # and a byte for each sign, two numbers for each layer
    assert [stored for _, _, _, stored in rows(stored).values()] == [
        size + count + 8 for size, count in zip(bits, kept, strict=True)
    ]
    assert stored.kind == "ticket"
    assert "ASNISigmoidPruner(beta=0.5, density=0.1" in stored.made_by[0]
    net = nn.Sequential(nn.Linear(8, 8))
    sparsify_(net, "random", 0.5)
    save_masks(net, tmp_path / "masks.pt")
    assert rows(read_net(tmp_path / "masks.pt")) == {"0": (64, 32, "masked", 8)}
    torch.save(load_masks(tmp_path / "masks.pt"), tmp_path / "plain.pt")
    assert rows(read_net(tmp_path / "plain.pt")) == {"0": (64, 32, "masked", 64)}
    assert {read_net(tmp_path / name).kind for name in ("masks.pt", "plain.pt")} == {"file of masks"}


def test_state_dicts_by_their_zeros(tmp_path):
    """Tied weights are there once; spaces and dots in names, half precision, layers without any entry."""
    net = nn.ModuleDict(
        {"a b": nn.Linear(4, 4), "b": nn.Linear(4, 4), "none": nn.Linear(0, 4, device="meta")}
    )
    net = net.to_empty(device="cpu").half()
    nn.init.ones_(net["a b"].weight)
    net["b"].weight = net["a b"].weight
    net["b"].weight.data[:3] = 0
    torch.save(net.state_dict(), tmp_path / "my net.pt")
    stored = read_net(tmp_path / "my net.pt")
    assert rows(stored) == {"a b": (16, 4, "dense", 32), "none": (0, 0, "dense", 0)}
    assert stored.net.file.others == 3 * 8
    assert "100.0000%" in str(stored.net)  # nothing is missing where nothing is
    plain = nn.Linear(4, 4)
    convert_(layer := nn.Sequential(plain), 0.25)
    torch.save(layer.state_dict(), tmp_path / "compact.pt")
    assert rows(read_net(tmp_path / "compact.pt"))["0"][1:3] == (4, "dct + compact")


def test_what_is_dense_beside_masks_is_named_and_not_counted(runs, tmp_path):
    """As in the table that the fit prints: what an embedding is, and what a layer, the file does not say."""
    content = torch.load(runs / "masked" / "net.ckpt", weights_only=True)
    content["state_dict"]["embed.weight"] = torch.ones(100, 4)
    torch.save(content, tmp_path / "more.ckpt")
    stored = read_net(tmp_path / "more.ckpt")
    assert rows(stored) == rows(read_net(runs / "masked" / "net.ckpt"))
    assert "Dense and not counted: 400 of 1,416 weights (28.2%): embed (400)." in str(stored.net)
    assert stored.net.file.others == OTHERS + 1600
    toy = make_toy()
    toy.embed = nn.Linear(4, 100)  # a net that was built knows: it is a layer
    built = stored.with_flops_of(summary(toy))
    assert [(layer.name, layer.stored) for layer in built.layers][-1] == ("embed", 1600)
    assert built.file.others == OTHERS


def test_a_net_on_its_way_says_so(runs):
    said = "It is on its way: 1 of 2 prunings are made."
    assert said in str(read_net(runs / "asni" / "epoch=0.ckpt"))
    assert "on its way" not in str(read_net(runs / "asni" / "epoch=1.ckpt"))


@pytest.mark.parametrize("content", [{}, {"x": 1}, torch.ones(3), {"bias": torch.ones(3)}])
def test_files_without_a_net(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(
        SparsityError, match="`PATH` must be a checkpoint, a ticket, a file of masks or a state"
    ):
        read_net(tmp_path / "other.pt", "PATH")


def test_half_a_file(runs, tmp_path):
    whole = (runs / "masked" / "net.ckpt").read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "half.ckpt").write_bytes(whole[:size])
        with pytest.raises(SparsityError, match=r"`path` '.*half\.ckpt' (is damaged|cannot be read)"):
            read_net(tmp_path / "half.ckpt")
