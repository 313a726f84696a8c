import torch

from lightning_sparse.functional.ablation import redraw_, shuffled


def test_shuffled_masks_keep_their_counts_at_other_places():
    generator = torch.Generator().manual_seed(0)
    masks = {"a": torch.rand(30, 20) < 0.3, "b": torch.arange(12).view(3, 4) < 5}
    new = shuffled(masks, generator)
    for name, mask in masks.items():
        assert new[name].shape == mask.shape
        assert int(new[name].sum()) == int(mask.sum())
        assert not torch.equal(new[name], mask)
    assert torch.equal(shuffled(masks, torch.Generator().manual_seed(0))["a"], new["a"])


def test_every_place_is_as_likely():
    generator, mask = torch.Generator().manual_seed(0), torch.tensor([[True, False], [False, False]])
    counts = torch.stack([shuffled({"a": mask}, generator)["a"] for _ in range(2000)]).sum(0)
    assert counts.sub(500).abs().max() < 80  # four standard deviations


def test_redrawn_weights_are_the_same_values_elsewhere():
    weight = torch.nn.Parameter(torch.randn(20, 30).to(memory_format=torch.contiguous_format))
    before = weight.detach().clone()
    redraw_({"w": weight}, torch.Generator().manual_seed(0))
    assert torch.equal(weight.detach().flatten().sort().values, before.flatten().sort().values)
    assert (weight.detach() != before).float().mean() > 0.9
