"""Updates that take the place of a step: whoever looks at gradients then finds some."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from toy import Toy, assert_equal, loader, make_toy, trainer, weights_of

from lightning_sparse import DCTpSConversion, PruneAtInit, RigLCallback, SETCallback


def company(stored):
    """A callback that makes a support of the kind, for the others to move."""
    return PruneAtInit("erk", 0.2, seed=1) if stored == "masked" else DCTpSConversion(0.2, seed=1)


class Norms(pl.Callback):
    """Logs the norm of all gradients, as users do."""

    def __init__(self):
        self.norms = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(float(torch.stack(gradients).norm()))


class SAM(Optimizer):
    """Looks at gradients at a place beside the weights; takes all their norms together, and counts steps."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})
        self.base = SGD(self.param_groups, 0.1, momentum=0.9)

    @torch.no_grad()
    def step(self, closure=None):
        enabled = torch.enable_grad()(closure)
        loss = enabled()
        parameters = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
        for p in parameters:
            self.state[p]["before"] = p.detach().clone()
            self.state[p]["steps"] = self.state[p].get("steps", 0) + 1
            p.add_(p.grad, alpha=0.05 / (float(norm) + 1e-12))
        enabled()
        for p in parameters:
            p.copy_(self.state[p]["before"])
        self.base.step()
        return loss


class Before(pl.Callback):
    """Keeps weights and optimizer state as they are before and after each batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.seen.append((weights_of(pl_module), copy.deepcopy(trainer.optimizers[0].state_dict()["state"])))

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen[-1] += (
            weights_of(pl_module),
            copy.deepcopy(trainer.optimizers[0].state_dict()["state"]),
        )


CLIPPING = {
    "by value": {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
    "by norm": {"gradient_clip_val": 0.1},
    "none": {},
}


@pytest.mark.parametrize("stored", ["masked", "compact"])
@pytest.mark.parametrize("kind", [RigLCallback, SETCallback])
@pytest.mark.parametrize("clipping", CLIPPING)
def test_gradients_are_clipped_and_logged(tmp_path, kind, stored, clipping):
    """A step that is left out has gradients up to the end: clipping and norms stumble over a net of none."""
    norms, toy = Norms(), make_toy()
    moving = kind(every_n_steps=2, stop_at=99, skip_step_on_update=True)
    trainer(tmp_path, company(stored), norms, moving, **CLIPPING[clipping]).fit(toy, loader())
    assert len(norms.norms) == 8
    assert all(norm > 0 for norm in norms.norms)


@pytest.mark.parametrize("stored", ["masked", "compact"])
@pytest.mark.parametrize("optimizer", ["sgd", "sam"])
def test_all_but_what_moves_stays(tmp_path, stored, optimizer):
    """In such a step weights that stay active are not trained, and optimizers gather nothing."""
    make = {"sgd": lambda p: SGD(p, 0.1, momentum=0.9), "sam": SAM}[optimizer]
    toy, before = make_toy(optimizer=make, dropout=0.0), Before()
    rigl = RigLCallback(every_n_steps=2, stop_at=99)
    trainer(tmp_path, company(stored), rigl, before).fit(toy, loader())
    for step, (weights, state, after, state_after) in enumerate(before.seen, 1):
        trained = [n for n in ("net.0.bias", "net.6.bias") if not torch.equal(weights[n], after[n])]
        assert bool(trained) == (step % 2 == 1), step
        if step % 2 == 0:
            assert len(state) == len(state_after)
            for index, held in state.items():
                assert held.keys() == state_after[index].keys()
                assert held.get("steps") == state_after[index].get("steps")
        if step % 2 == 0 and optimizer == "sgd":  # biases: of weights, what moved is set to zero
            for index, name in enumerate(name for name, _ in toy.named_parameters()):
                if name.endswith("bias"):
                    assert torch.equal(state[index]["momentum_buffer"], state_after[index]["momentum_buffer"])


def test_gradients_are_there_again_after_the_step(tmp_path):
    """Who logs their norm at the end of a batch finds those that the update was made by."""
    seen = []
    act = pl.Callback()
    act.on_train_batch_end = lambda trainer, toy, *_: seen.append([p.grad is None for p in toy.parameters()])
    trainer(tmp_path, RigLCallback(0.2, every_n_steps=2, stop_at=99), act).fit(make_toy(), loader())
    assert len(seen) == 8
    assert not any(map(any, seen))


class Manual(Toy):
    """Optimizes by itself, and clips by a function of its own."""

    def __init__(self, clip, every):
        super().__init__(dropout=0.0)
        self.automatic_optimization = False
        self.clip, self.every = clip, every

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
        if (index + 1) % self.every == 0:
            self.clip(self, optimizer)
            optimizer.step()
            optimizer.zero_grad()


def manual(clip, every=1):
    torch.manual_seed(0)
    return Manual(clip, every)


def by_lightning(toy, optimizer):
    toy.clip_gradients(optimizer, gradient_clip_val=0.05, gradient_clip_algorithm="norm")


def by_torch(toy, optimizer):
    torch.nn.utils.clip_grad_norm_(toy.parameters(), 0.05)


@pytest.mark.parametrize("clip", [by_lightning, by_torch])
@pytest.mark.parametrize("kind", [None, RigLCallback, SETCallback])
@pytest.mark.parametrize("every", [1, 2])
def test_manual_clipping_sees_the_sparse_gradient(tmp_path, clip, kind, every):
    """As the automatic loop, which masks gradients before it clips them."""
    callbacks = [company("masked")]
    if kind is not None:
        callbacks.append(kind(every_n_steps=3, stop_at=99, skip_step_on_update=True))
    automatic, own = make_toy(dropout=0.0), manual(clip, every)
    options = {"gradient_clip_val": 0.05, "accumulate_grad_batches": every}
    if every > 1:  # Lightning divides accumulated losses
        automatic.training_step = lambda batch, *_: (
            2 * nn.functional.cross_entropy(automatic.net(batch[0]), batch[1])
        )
    trainer(tmp_path, *copy.deepcopy(callbacks), **options).fit(automatic, loader())
    trainer(tmp_path, *callbacks).fit(own, loader())
    assert_equal(weights_of(automatic), weights_of(own))


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("average", [1, 2])
def test_rigl_sees_the_whole_gradient_before_lightning_clips_it(tmp_path, skip, average):
    """Manual optimization too: it moves when the user clips, by gradients that nobody has touched."""
    rigl = {"every_n_steps": 3, "stop_at": 99, "skip_step_on_update": skip, "grad_average": average}
    automatic, own = make_toy(dropout=0.0), manual(by_lightning)
    trainer(tmp_path, RigLCallback(0.2, seed=1, **rigl), gradient_clip_val=0.05).fit(automatic, loader())
    trainer(tmp_path, RigLCallback(0.2, seed=1, **rigl)).fit(own, loader())
    assert_equal(weights_of(automatic), weights_of(own))
