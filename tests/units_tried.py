"""Which units a net could do without, found by trying every one of them: no look at its weights or its graph.

A unit has no effect if noise in its place changes no output. It is constant if it is the same for all inputs
and at all positions. Nets here have smooth activations, so that neither is so by chance.
"""

import torch


def brute_force(net, inputs, readers, ties=(), held=()):
    """Return how many units of each layer are left.

    Args:
        net: In double precision, in eval mode.
        inputs: A batch of several different ones.
        readers: By the name of a layer, those that read its units and pad with zeros: a constant other than 0
            (as it arrives there) has to stay for these.
        ties: Pairs of layers whose units are cut together, one by one.
        held: Layers that stay whole.
    """
    gone = {name: useless(net, inputs, name, padding) for name, padding in readers.items()}
    members = groups(gone, ties)
    for group in members:
        goes = all(gone[name][unit] for name, unit in group) and not {name for name, _ in group} & set(held)
        for name, unit in group:
            gone[name][unit] = goes
    for name in gone:
        if all(gone[name]):
            for other, unit in next(group for group in members if (name, 0) in group):
                gone[other][unit] = False
    return {name: units.count(False) for name, units in gone.items()}


def groups(gone, ties):
    found = [{(name, unit)} for name, units in gone.items() for unit in range(len(units))]
    for one, other in ties:
        for unit in range(len(gone[one])):
            first = next(group for group in found if (one, unit) in group)
            second = next(group for group in found if (other, unit) in group)
            if first is not second:
                found.remove(second)
                first |= second
    return found


def useless(net, inputs, name, padding):
    """Tell, unit by unit of a layer, whether it has no effect, or is a constant that can move on."""
    layer = net.get_submodule(name)
    seen = {}

    def see(key, tensor):
        seen[key] = tensor

    hooks = [layer.register_forward_hook(lambda _, __, out: see("made", out))]
    for reader in padding:
        read = net.get_submodule(reader)
        hooks.append(read.register_forward_pre_hook(lambda _, given, key=reader: see(key, given[0])))
    expected = net(inputs)
    for hook in hooks:
        hook.remove()
    made = channels(seen["made"])
    moves = [
        constant(made[unit]) and all(not channels(seen[reader])[unit].any() for reader in padding)
        for unit in range(len(made))
    ]
    return [moves[unit] or not effect(net, inputs, layer, unit, expected) for unit in range(len(made))]


def channels(tensor):
    return tensor.movedim(1, 0).flatten(1)


def constant(numbers):
    return bool((numbers - numbers[0]).abs().max() < 1e-12)


def effect(net, inputs, layer, unit, expected):
    def noise(_, __, out):
        out = out.clone()
        out[:, unit] += 3 * torch.randn_like(out[:, unit])
        return out

    hook = layer.register_forward_hook(noise)
    found = net(inputs)
    hook.remove()
    return bool((found - expected).abs().max() > 1e-12)
