import copy
import gc
import math
import weakref

import pytest
import torch
from ops import Ops
from torch import nn

import lightning_sparse.weights.changes as changes
import lightning_sparse.weights.plan as plans
from lightning_sparse.functional.packing import pack_masks, unpack_masks
from lightning_sparse.weights.enforcement import (
    all_finite_together,
    as_bit_factor,
    keep_only_,
    layout_mask,
    mask_of,
)
from lightning_sparse.weights.state import state_of


class Owner:
    pass


OWNER = Owner()


def net_and_mask(channels_last=False):
    torch.manual_seed(0)
    net = nn.Conv2d(32, 16, 3)  # over 1,000 weights: small tensors hide what fused optimizers do
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    return net, {"weight": torch.rand(net.weight.shape) < 0.3}


def test_install_zeroes_pruned_weights_and_keeps_the_others():
    net, masks = net_and_mask()
    before = net.weight.detach().clone()
    state_of(net).install_(net, masks, OWNER)
    assert torch.equal(net.weight, torch.where(masks["weight"], before, torch.zeros(())))
    assert state_of(net).owner is OWNER
    assert list(net.state_dict()) == ["weight", "bias"]
    assert not net._forward_hooks
    assert not net._forward_pre_hooks


def test_install_clears_optimizer_state_of_pruned_weights_only():
    net, masks = net_and_mask()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 32, 5, 5)).sum().backward()
    optimizer.step()
    state_of(net).install_(net, masks, OWNER, [optimizer])
    moment = optimizer.state[net.weight]["exp_avg"]
    assert moment[~masks["weight"]].eq(0).all()
    assert moment[masks["weight"]].ne(0).all()
    assert optimizer.state[net.weight]["step"] == 1


def test_install_refuses_masks_of_another_net():
    net, masks = net_and_mask()
    with pytest.raises(
        ValueError, match=r"'weight' is for a weight of shape \(2, 2\), but .* \(16, 32, 3, 3\)"
    ):
        state_of(net).install_(net, {"weight": torch.ones(2, 2, dtype=torch.bool)}, OWNER)
    with pytest.raises(ValueError, match="none of that name"):
        state_of(net).install_(net, {"fc.weight": masks["weight"]}, OWNER)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, fused=True),
        lambda p: torch.optim.Adam(p, 0.1, fused=True),
        lambda p: torch.optim.AdamW(p, 0.1, foreach=True),
    ],
)
def test_kept_weights_train_as_if_gradients_were_masked_by_hand(make, channels_last):
    net, masks = net_and_mask(channels_last)
    twin = copy.deepcopy(net)
    ours, by_hand = make(net.parameters()), make(twin.parameters())
    state = state_of(net)
    state.install_(net, masks, OWNER)
    state.attach([ours])
    twin.weight.data.mul_(masks["weight"])
    for seed in range(3):
        x = torch.randn(2, 32, 5, 5, generator=torch.Generator().manual_seed(seed))
        for model in (net, twin):
            model.zero_grad()
            model(x).square().mean().backward()
        state.mask_gradients_(ours)
        twin.weight.grad *= masks["weight"]
        ours.step()
        by_hand.step()
    assert torch.equal(net.weight, twin.weight)
    assert net.weight[~masks["weight"]].eq(0).all()


def test_gradients_are_masked_in_place():
    net, masks = net_and_mask(channels_last=True)
    state_of(net).install_(net, masks, OWNER)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(torch.randn(2, 32, 5, 5)).sum().backward()
    gradient, strides = net.weight.grad, net.weight.grad.stride()
    state_of(net).mask_gradients_(optimizer)
    assert net.weight.grad is gradient
    assert gradient.stride() == strides
    assert gradient[~masks["weight"]].eq(0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_gradient_of_a_pruned_weight_does_no_harm(bad):
    net, masks = net_and_mask()
    state_of(net).install_(net, masks, OWNER)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net.weight.grad = torch.where(masks["weight"], 1.0, bad)
    state_of(net).mask_gradients_(optimizer)
    assert torch.equal(net.weight.grad, masks["weight"].float())


def test_the_hook_guards_steps_that_nobody_announced():
    net, masks = net_and_mask()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    state_of(net).install_(net, masks, OWNER)
    state_of(net).attach([optimizer])
    net(torch.randn(2, 32, 5, 5)).sum().backward()
    optimizer.step()
    assert net.weight[~masks["weight"]].eq(0).all()


def test_an_unannounced_step_with_bad_gradients_leaves_pruned_weights_at_zero():
    net, masks = net_and_mask()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    state_of(net).install_(net, masks, OWNER)
    state_of(net).attach([optimizer])
    net.weight.grad = torch.where(masks["weight"], 1.0, float("nan"))
    optimizer.step()
    assert net.weight[~masks["weight"]].eq(0).all()


def test_grown_weights_start_without_a_past():
    net, masks = net_and_mask()
    optimizer = torch.optim.Adam(net.parameters())
    state = state_of(net)
    state.install_(net, masks, OWNER, [optimizer])
    net(torch.randn(2, 32, 5, 5)).sum().backward()
    optimizer.step()  # nothing masks this gradient: moments gather where weights are pruned
    moved = ~masks["weight"]
    assert optimizer.state[net.weight]["exp_avg"][moved].ne(0).any()
    state.move_({"weight": moved}, [optimizer])
    for key in ("exp_avg", "exp_avg_sq"):
        assert optimizer.state[net.weight][key].eq(0).all()  # dropped and grown: all of them moved
    assert torch.equal(state.masks["weight"], moved)


def test_weights_on_several_kinds_of_devices():
    """The mask of a weight that is not on the CPU says what is pruned, not what is kept."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    masks = {name: torch.eye(4, dtype=torch.bool) for name in ("0.weight", "1.weight")}
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    state = state_of(net)
    state.install_(net, masks, OWNER)
    state._keep["1.weight"] = ~masks["1.weight"]
    state._plans.clear()
    net(torch.randn(2, 4)).sum().backward()
    state.mask_gradients_(optimizer)
    for layer in net:
        assert layer.weight.grad[~masks["0.weight"]].eq(0).all()
        assert layer.weight.grad[masks["0.weight"]].ne(0).any()


def lay_out_as_on_a_gpu(state):
    for name, weight in state.weights.items():
        state._keep[name] = as_bit_factor(weight, state.mask(name))
    state._plans.clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_bits_are_kept_or_zero_whatever_they_stand_for(dtype):
    """NaN, infinities, zeros of either sign, numbers below normal: to the bit, in one call, unlooked at."""
    tiny = torch.finfo(dtype).smallest_normal / 4
    values = [math.nan, math.inf, -math.inf, -0.0, 0.0, tiny, -1.5, 2.0]
    tensor = torch.tensor(values, dtype=dtype).repeat(2).view(2, 8)
    mask = torch.arange(16).view(2, 8) < 8
    bits = as_bit_factor(tensor, mask).dtype
    before = tensor.clone().view(bits)
    assert keep_only_([tensor], [as_bit_factor(tensor, mask)], check=True)
    assert torch.equal(tensor.view(bits)[0], before[0])
    assert tensor.view(bits)[1].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "largest"])
def test_what_is_not_finite_is_found_among_many(dtype, value):
    tensors = [torch.ones(3, 4, dtype=dtype), torch.zeros(50, dtype=dtype)]
    assert all_finite_together(tensors)
    tensors[0][1:] = torch.finfo(dtype).max if value == "largest" else value  # their sum overflows
    assert all_finite_together(tensors) == (value == "largest")


def test_factors_of_bits_lie_in_memory_like_their_weights():
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    mask = torch.rand(4, 3, 2, 2) < 0.5
    factor = as_bit_factor(weight, mask)
    assert factor.stride() == weight.stride()
    assert torch.equal(mask_of(factor), mask)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_whose_type_changes_between_steps(dtype):
    """Their bits are not as wide as those of the factor any more."""
    net, masks = net_and_mask()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    state = state_of(net)
    state.install_(net, masks, OWNER)
    lay_out_as_on_a_gpu(state)
    net.to(dtype)
    net.weight.grad = torch.full_like(net.weight, math.nan)
    state.mask_gradients_(optimizer)
    assert torch.equal(net.weight.grad.isnan(), masks["weight"])
    net.weight.grad.nan_to_num_(1.0)
    optimizer.step()
    state.mask_weights_(optimizer)
    state.move_({"weight": masks["weight"].roll(1, 0)}, [optimizer])
    assert torch.equal(net.weight != 0, masks["weight"] & masks["weight"].roll(1, 0))


def test_gradients_of_another_type_than_their_weights():
    mask = torch.rand(4, 6) < 0.5
    gradients = [torch.ones(4, 6, dtype=dtype) for dtype in (torch.bfloat16, torch.float32, torch.float64)]
    keep_only_(gradients, [as_bit_factor(gradients[0], mask)] * 3)
    assert all(torch.equal(gradient != 0, mask) for gradient in gradients)


def test_away_from_the_cpu_small_weights_share_a_call_and_large_ones_are_filled():
    small = torch.empty(64, 64, 3, 3, device="meta", dtype=torch.bfloat16)
    large = torch.empty(4096, 4096, device="meta")
    layouts = [layout_mask(w, torch.empty(w.shape, device="meta", dtype=torch.bool)) for w in (small, large)]
    assert [layout.dtype for layout in layouts] == [torch.int16, torch.bool]


def test_away_from_the_cpu_a_step_is_masked_by_one_call_that_nobody_waits_for():
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(5)))
    masks = {f"{i}.weight": torch.rand(4, 4) < 0.5 for i in range(5)}
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    state = state_of(net)
    state.install_(net, masks, OWNER)
    lay_out_as_on_a_gpu(state)
    for step in range(2):
        for weight in net.parameters():
            weight.grad = torch.full_like(weight, math.nan if step else 1.0)
        with Ops() as gradients:
            state.mask_gradients_(optimizer)
        for name, weight in net.named_parameters():
            assert weight.grad[~masks[name]].eq(0).all()
            assert weight.grad[masks[name]].ne(0).all()
            weight.grad.nan_to_num_(1.0)
        state.mask_gradients_(optimizer)
        optimizer.step()
        with Ops() as weights:
            state.mask_weights_(optimizer)
        written = [name for name in gradients.names if name not in ("view", "detach")]  # these launch nothing
        assert written == ["_foreach_mul_"]
        assert weights.names == [] or step == 0


def test_a_fit_lays_masks_out_for_the_device_that_the_weights_are_on():
    net, masks = net_and_mask()
    state = state_of(net)
    state.install_(net, masks, OWNER)
    state._keep["weight"] = ~masks["weight"]  # as an earlier fit on a GPU has left it
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    state.attach([optimizer])
    assert state._keep["weight"].dtype == net.weight.dtype
    assert torch.equal(state.masks["weight"], masks["weight"])
    state.detach()


@pytest.mark.parametrize("stored", ["factor", "pruned positions", "factor of bits"])
def test_an_epsilon_that_half_precision_rounds_to_zero(stored):
    """Adam divides 0 by 0 then: a pruned weight would be NaN from the second step on."""
    torch.manual_seed(0)
    net = nn.Linear(8, 8, bias=False).half()
    masks = {"weight": torch.rand(8, 8) < 0.5}
    optimizer = torch.optim.Adam(net.parameters(), 0.01, foreach=False)
    state = state_of(net)
    state.install_(net, masks, OWNER)
    if stored == "pruned positions":  # as on a GPU
        state._keep["weight"] = ~masks["weight"]
    if stored == "factor of bits":
        state._keep["weight"] = as_bit_factor(net.weight, masks["weight"])
    for _ in range(4):
        net.weight.grad = torch.randn(8, 8).half()
        state.mask_gradients_(optimizer)
        optimizer.step()
        state.mask_weights_(optimizer)
    assert net.weight[~masks["weight"]].eq(0).all()
    assert net.weight.isfinite().all()


@pytest.mark.parametrize("stored", ["factor of bits", "pruned positions"])
def test_masks_that_change_together_change_as_one_by_one(monkeypatch, stored):
    """Weights, gradients, moments, counts; also where nothing moves, and gradients stay as they are."""
    found = []
    for at_once in (False, True):
        torch.manual_seed(0)
        convolution = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        net = nn.Sequential(convolution, nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        masks = {f"{i}.weight": torch.rand(net[i].weight.shape) < 0.5 for i in range(4)}
        optimizer = torch.optim.Adam(net.parameters())
        state = state_of(net)
        state.install_(net, masks, OWNER, [optimizer])
        for weight in net.parameters():
            weight.grad = torch.randn_like(weight)
        net[2].weight.grad = None
        optimizer.step()
        lay_out_as_on_a_gpu(state)
        if stored == "pruned positions":
            state._keep.update({name: ~mask_of(keep) for name, keep in state._keep.items()})
        monkeypatch.setattr(changes, "computes_later", lambda _, at_once=at_once: at_once)
        with state.together([optimizer]):
            for name, mask in masks.items():
                state.move_({name: mask if name == "1.weight" else mask.roll(1, 0)}, [optimizer])
        moments = [value for kept in optimizer.state.values() for value in kept.values()]
        tensors = [*net.parameters(), *moments, *state.masks.values()]
        gradients = [weight.grad for weight in net.parameters() if weight.grad is not None]
        assert state.counts == {name: int(mask.sum()) for name, mask in state.masks.items()}
        found.append([*tensors, *gradients])
    assert all(map(torch.equal, *found))


def test_an_error_among_moves_leaves_all_masks_as_they_were():
    net, masks = net_and_mask()
    state = state_of(net)
    state.install_(net, masks, OWNER)

    def move_and_stumble():
        with state.together([]):
            state.move_({"weight": ~masks["weight"]}, [])
            state.move_({"no such weight": masks["weight"]}, [])
            raise KeyError

    with pytest.raises(KeyError):
        move_and_stumble()
    assert torch.equal(state.masks["weight"], masks["weight"])
    state.move_({"weight": ~masks["weight"]}, [])
    assert torch.equal(state.masks["weight"], ~masks["weight"])


@pytest.mark.parametrize("through_data", [False, True])
def test_weights_that_somebody_swaps_in(through_data):
    """Writing to a parameter is noticed at the next step; to its `.data`, when all weights are masked."""
    net, masks = net_and_mask()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    state = state_of(net)
    state.install_(net, masks, OWNER, [optimizer])
    state.attach([optimizer])

    def step():
        optimizer.zero_grad()
        net(torch.randn(2, 32, 5, 5)).sum().backward()
        state.mask_gradients_(optimizer)
        optimizer.step()

    step()
    step()
    if through_data:
        net.weight.data.fill_(1.0)
        step()
        state.zero_pruned_of_(net)
    else:
        net.load_state_dict({"weight": torch.ones_like(net.weight), "bias": net.bias})
        step()
    assert net.weight[~masks["weight"]].eq(0).all()


def test_momentum_gathered_in_an_unannounced_step_cannot_revive_weights_later():
    net, masks = net_and_mask()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    state = state_of(net)
    state.install_(net, masks, OWNER, [optimizer])
    state.attach([optimizer])
    for announced in (True, False, True, True):
        optimizer.zero_grad()
        net(torch.randn(2, 32, 5, 5)).sum().backward()
        if announced:
            state.mask_gradients_(optimizer)
        optimizer.step()
        assert net.weight[~masks["weight"]].eq(0).all()


def test_common_optimizers_need_no_second_pass(monkeypatch):
    """The masking of weights is left out where it changes nothing."""
    net, masks = net_and_mask()
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    state = state_of(net)
    state.install_(net, masks, OWNER, [optimizer])
    state.attach([optimizer])
    calls = []
    original = plans.keep_only_
    monkeypatch.setattr(plans, "keep_only_", lambda *a, **k: calls.append(a) or original(*a, **k))
    for _ in range(4):
        net(torch.randn(2, 32, 5, 5)).sum().backward()
        state.mask_gradients_(optimizer)
        optimizer.step()
    assert len(calls) == 5  # gradients at each step, weights after the first
    assert net.weight[~masks["weight"]].eq(0).all()


def test_attach_twice_hooks_once_and_detach_removes():
    net, masks = net_and_mask()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    calls = []
    state = state_of(net)
    state.install_(net, masks, OWNER)
    state.attach([optimizer], calls.append)
    state.attach([optimizer], calls.append)
    optimizer.step()
    assert calls == [optimizer]
    state.detach()
    optimizer.step()
    assert calls == [optimizer]


def test_a_parameter_group_added_later_is_masked():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    masks = {name: torch.eye(4, dtype=torch.bool) for name in ("0.weight", "1.weight")}
    optimizer = torch.optim.SGD(net[0].parameters(), 0.1)
    state = state_of(net)
    state.install_(net, masks, OWNER)
    for parameters in ([], net[1].parameters()):
        if parameters:
            optimizer.add_param_group({"params": parameters})
        net(torch.randn(2, 4)).sum().backward()
        state.mask_gradients_(optimizer)
    assert net[1].weight.grad[~masks["1.weight"]].eq(0).all()


def test_state_dies_with_its_module_and_is_not_copied():
    net, masks = net_and_mask()
    state_of(net).install_(net, masks, OWNER)
    assert not state_of(copy.deepcopy(net)).masks
    assert state_of(torch.compile(net)) is state_of(net)
    state = weakref.ref(state_of(net))
    del net
    gc.collect()
    assert state() is None


def test_packed_masks_survive_a_checkpoint_and_tell_a_flipped_bit(tmp_path):
    _, masks = net_and_mask()
    torch.save(pack_masks(masks), tmp_path / "masks.pt")
    packed = torch.load(tmp_path / "masks.pt", weights_only=True)
    assert torch.equal(unpack_masks(packed)["weight"], masks["weight"])
    assert packed["weight"]["bits"].numel() == masks["weight"].numel() // 8
    packed["weight"]["bits"][3] ^= 16
    with pytest.raises(ValueError, match="mask of 'weight' is corrupt"):
        unpack_masks(packed)
