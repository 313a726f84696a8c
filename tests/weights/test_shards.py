"""Weights that are split: which rows are here, their masks, and layouts that are refused.

In one process, which holds all rows of a mesh of its own; tests/test_sharded.py has two.
"""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from lightning_sparse import convert_, keep_sparse_, masks_of, release_, save_masks, sparsify_, summary
from lightning_sparse.checks import SparsityError
from lightning_sparse.files.masks import load_masks
from lightning_sparse.weights.found import sparse_weights
from lightning_sparse.weights.masked import weights_by_zeros
from lightning_sparse.weights.shards import as_shards, here, is_sharded, part_for, shards_of, whole
from lightning_sparse.weights.state import state_of


@pytest.fixture(scope="module", autouse=True)
def group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def mesh():
    return init_device_mesh("cpu", (1, 1), mesh_dim_names=("replicated", "split"))


def net(mesh, **how):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return fully_shard(module, mesh=mesh["split"], **how)


def split(mesh, *placements):
    return nn.Parameter(distribute_tensor(torch.ones(4, 6), mesh, placements))


def loss(module, batch):
    return module(batch).square().mean()


def test_what_is_here_is_the_weight_itself(mesh):
    weight = split(mesh, Replicate(), Shard(0))
    assert is_sharded(weight)
    assert here(weight) is here(weight)
    version = here(weight)._version
    with torch.no_grad():
        here(weight).zero_()
        weight.add_(1)
    assert (whole(weight.detach()) == 1).all()
    assert here(weight)._version > version
    plain = nn.Parameter(torch.ones(2, 2))
    assert not is_sharded(plain)
    assert here(plain) is plain
    assert whole(plain) is plain


def test_masks_are_split_as_weights_are(mesh):
    weight = split(mesh, Replicate(), Shard(0))
    mask = torch.rand(4, 6) < 0.5
    (shard,) = as_shards({"w": mask}, {"w": weight}).values()
    assert shard.shape == weight.shape
    assert torch.equal(whole(shard), mask)
    assert torch.equal(part_for(weight, shard), mask)
    assert torch.equal(part_for(weight, mask), mask)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda m: {"a": split(m, Replicate(), Shard(1))}, "'a' as R.*S.1.*masks of tensor parallel"),
        (lambda m: {"a": split(m, Shard(0), Shard(0))}, "over one dimension of the mesh, got 'a'"),
        (
            lambda m: {"a": split(m, Replicate(), Shard(0)), "b": nn.Parameter(torch.ones(2, 2))},
            "'b' is not sharded, and 'a' is.*or name it in `exclude`",
        ),
        (
            lambda m: {"a": split(m, Replicate(), Shard(0)), "b": split(m["split"], Shard(0))},
            "sharded over one mesh, got 'a' and 'b' over two",
        ),
    ],
)
def test_other_layouts_are_refused(mesh, weights, message):
    with pytest.raises(SparsityError, match=message):
        shards_of(weights(mesh))


@pytest.mark.parametrize("how", [lambda mesh: {}, lambda mesh: {"mesh": mesh["split"]}])
def test_layers_may_have_meshes_of_their_own_that_are_equal(mesh, how):
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    for layer in (module[0], module[2]):
        fully_shard(layer, **how(mesh))
    assert module[0].weight.device_mesh is not module[2].weight.device_mesh, "there is nothing to test"
    assert shards_of(dict(module.named_parameters())).count == 1


def test_a_net_without_fully_shard_is_no_matter(mesh):
    assert shards_of({"a": nn.Parameter(torch.ones(2, 2))}) is None
    assert shards_of({"a": split(mesh, Replicate(), Replicate())}).count == 1


@pytest.mark.parametrize("method", ["random", "erk", "magnitude", "snip"])
def test_plain_pytorch(tmp_path, mesh, method):
    """Without a Trainer: the same masks as of the net before it was split, and they hold."""
    batches = [torch.randn(8, 6, generator=torch.Generator().manual_seed(1))]
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    expected = sparsify_(dense, method, 0.3, seed=1, loss_fn=loss, batches=batches)
    module = net(mesh)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    masks = sparsify_(module, method, 0.3, seed=1, loss_fn=loss, batches=batches)
    assert all(p.grad is None for p in module.parameters())
    keep_sparse_(module, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        loss(module, batches[0]).backward()
        optimizer.step()
    assert {name: weight.storage_name for name, weight in sparse_weights(module).items()} == {
        "0.weight": "sharded",
        "2.weight": "sharded",
    }
    for name, mask in masks_of(module).items():
        weight = module.get_parameter(name)
        assert torch.equal(mask, expected[name])
        assert torch.equal(whole(masks[name]), mask)
        assert torch.equal(whole(weight.detach()) != 0, mask)
        assert not whole(optimizer.state[weight]["exp_avg"])[~mask].any()
    save_masks(module, tmp_path / "masks.pt")
    assert torch.equal(load_masks(tmp_path / "masks.pt")["0.weight"], expected["0.weight"])
    release_(module)


@pytest.mark.parametrize("number", [0, 1])
def test_masks_that_one_process_cannot_write_are_an_error_on_all(tmp_path, mesh, monkeypatch, number):
    """The other one would wait for it, or believe that they are saved."""
    module = net(mesh)
    sparsify_(module, "magnitude", 0.3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: number)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda failed: failed.add_(number))
    (tmp_path / "file").touch()
    message = "Process 0 has failed" if number else "`path` must be a file that can be written"
    with pytest.raises(SparsityError, match=message):
        save_masks(module, tmp_path / "file" / "masks.pt")


@pytest.mark.parametrize("method", ["synflow", "grasp", "force"])
def test_plain_pytorch_refuses_what_needs_whole_weights(mesh, method):
    module = net(mesh)
    with pytest.raises(SparsityError, match="cannot be used on sharded weights"):
        sparsify_(module, method, 0.3, loss_fn=loss, batches=[torch.randn(8, 6)])
    with pytest.raises(SparsityError, match=r"got '0.weight', which is split over processes. Use masks"):
        sparsify_(module, "erk", 0.3, storage="compact")
    with pytest.raises(SparsityError, match="which is split over processes"):
        convert_(module, 0.3)
    assert all(whole(p.detach()).count_nonzero() == p.numel() for p in module.parameters())


def test_whole_weights_of_a_forward_do_not_outlive_new_masks(mesh):
    """A forward without backward leaves whole weights behind, which the next one would use as they are."""
    module, x = net(mesh), torch.randn(8, 6)
    with torch.no_grad():
        module(x)
    assert not is_sharded(module[0].weight), "this FSDP has nothing to test"
    masks = sparsify_(module, "magnitude", 0.2)
    seen = []
    module[0].register_forward_pre_hook(lambda layer, _: seen.append(layer.weight.detach() != 0))
    module(x)
    module.reshard()
    for name, mask in masks.items():
        assert is_sharded(mask)
        assert torch.equal(whole(module.get_parameter(name).detach()) != 0, whole(mask))
    assert torch.equal(seen[0], whole(masks["0.weight"]))


def test_weights_that_others_write_to_are_masked_again(mesh):
    module = net(mesh)
    sparsify_(module, "magnitude", 0.2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    keep_sparse_(module, optimizer)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    state_of(module).hold_()
    assert whole(module[0].weight.detach()).count_nonzero() == state_of(module).counts["0.weight"]
    with torch.no_grad():
        here(module[0].weight).add_(1)
    module.state_dict()
    assert whole(module[0].weight.detach()).count_nonzero() == state_of(module).counts["0.weight"]


def test_zeros_are_counted_without_masks(mesh):
    module = net(mesh)
    with torch.no_grad():
        here(module[0].weight)[2:4] = 0
    assert {weight.name: weight.nnz for weight in weights_by_zeros(module)} == {
        "0.weight": 18,
        "2.weight": 15,
    }


def test_a_mask_that_another_process_would_not_know_of_is_an_error(mesh):
    module = net(mesh)
    sparsify_(module, "magnitude", 0.2)
    weight = sparse_weights(module)["0.weight"]
    before = weight.digest()
    assert before == sparse_weights(module)["0.weight"].digest()
    keep = state_of(module)._keep["0.weight"]
    keep[0] = 1 - keep[0]
    with pytest.raises(RuntimeError, match=r"weights of '0.weight' in all, instead of"):
        sparse_weights(module)["0.weight"].digest()


def test_summary_counts_what_is_here(mesh):
    module = net(mesh)
    sparsify_(module, "magnitude", 0.2)
    assert "total                45      9   20.0000%     sharded     360" in str(summary(module))
