"""Trains each case twice in processes that exchange gradients: all of them, and those that masks keep.

Rank 0 leaves in ``<out>/rank0.json`` for each case what differs, and how many numbers were sent in each step.
"""

import json
import math
import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

sys.path.insert(0, str(Path(__file__).parents[1]))
from toy import Toy, flat, loader, masks_of

from lightning_sparse import (
    ASNISigmoidPruner,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
)

WORLD, RANK = (int(os.environ.get(name, "0")) for name in ("WORLD_SIZE", "LOCAL_RANK"))


def erk(sent):
    return [PruneAtInit("erk", 0.1, communication=sent, verify=True)]


def rigl(sent, **arguments):
    return [RigLCallback(0.1, every_n_steps=3, stop_at=100, communication=sent, verify=True, **arguments)]


class Overflows(Toy):
    """In the third batch one rank's gradient has an infinite entry, in a place that is kept or is not."""

    def __init__(self, kept):
        super().__init__()
        self.kept, self.batch = kept, 0

    def training_step(self, batch, index):
        self.batch = index
        return super().training_step(batch)

    def on_train_start(self):
        weight = self.net[6].weight
        mask = masks_of(self)["net.6.weight"].flatten()
        place = int((mask if self.kept else ~mask).nonzero()[0])

        def hit(gradient):
            hits = self.batch == 2 and self.global_rank == 1
            return (
                gradient.flatten().index_fill(0, torch.tensor(place), math.inf).view_as(gradient)
                if hits
                else None
            )

        weight.register_hook(hit)


class Tied(Toy):
    """One weight in two places, and another that is frozen."""

    def __init__(self):
        super().__init__()
        self.net[6] = nn.Sequential(nn.Linear(200, 200), nn.Linear(200, 200), nn.Linear(200, 4))
        self.net[6][1].weight = self.net[6][0].weight
        self.net[0].weight.requires_grad_(False)


class Untraced(Toy):
    """Lightning takes it for compiled, which is all that matters here; to trace it would take a second."""

    training_step = torch.compiler.disable(Toy.training_step)


class Unused(Toy):
    """A layer that some batches leave out, on all ranks or on one, and one that no batch uses."""

    def __init__(self):
        super().__init__()
        self.sometimes, self.never = nn.Linear(192, 4), nn.Linear(30, 20)

    def training_step(self, batch, index):
        loss = super().training_step(batch)
        if index % 4 == 3 or (index % 4 == 1 and self.global_rank == 1):
            loss = loss + self.sometimes(batch[0].flatten(1)).square().mean()
        return loss


class Gan(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 192))
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.ReLU(), nn.Linear(40, 1))

    def training_step(self, batch, _):
        for optimizer, sign in zip(self.optimizers(), (-1, 1), strict=True):
            self.toggle_optimizer(optimizer)
            noise = torch.linspace(-1, 1, 64).view(8, 8)
            optimizer.zero_grad()
            self.manual_backward(
                sign * (self.critic(self.generator(noise)).mean() - self.critic(batch[0]).mean())
            )
            self.clip_gradients(optimizer, 0.1, "norm")
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return [torch.optim.AdamW(net.parameters(), 0.01) for net in (self.generator, self.critic)]


def scaled():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


class RegistersHook(pl.Callback):
    """Does what Lightning leaves out on the CPU: plain DDP with a hook."""

    def __init__(self, hook):
        self.hook = hook

    def on_fit_start(self, trainer, pl_module):
        trainer.strategy.model.register_comm_hook(None, self.hook)


class Case:
    """One case: how callbacks are made, and what differs from the plainest run."""

    def __init__(
        self, callbacks=erk, net=Toy, wrap=None, hook=None, prepare=None, scaler=False, fits=1, **arguments
    ):
        self.callbacks, self.net, self.wrap, self.hook = callbacks, net, wrap or {}, hook
        self.prepare, self.arguments = prepare or (lambda module: module), arguments
        self.scaler, self.fits = scaler, fits


fp16 = default_hooks.fp16_compress_hook
CASES = {
    "plain": Case(),
    "bucket views": Case(wrap={"gradient_as_bucket_view": True}),
    "small buckets": Case(wrap={"bucket_cap_mb": 1e-3}),
    "unused, bucket views": Case(
        net=Unused, wrap={"find_unused_parameters": True, "gradient_as_bucket_view": True}
    ),
    "static graph, bucket views": Case(
        wrap={"static_graph": True, "gradient_as_bucket_view": True, "bucket_cap_mb": 1e-3}
    ),
    "channels last": Case(prepare=lambda module: module.to(memory_format=torch.channels_last)),
    "tied and frozen": Case(net=Tied),
    "accumulation": Case(accumulate_grad_batches=3),
    "accumulation, bucket views": Case(accumulate_grad_batches=3, wrap={"gradient_as_bucket_view": True}),
    "clipping": Case(gradient_clip_val=0.1),
    "bf16-true": Case(precision="bf16-true"),
    "scaler, kept overflow": Case(net=lambda: Overflows(True), scaler=True),
    "scaler, pruned overflow": Case(net=lambda: Overflows(False), scaler=True),
    "no scaler, pruned overflow": Case(net=lambda: Overflows(False)),
    "compiled": Case(net=Untraced, prepare=lambda module: torch.compile(module, backend="eager")),
    "second fit, after a validation": Case(fits=2),
    "fp16 hook": Case(hook=fp16),
    "fp16 hook, scaler": Case(hook=fp16, net=lambda: Overflows(False), scaler=True),
    "fp16 wrapper": Case(hook=default_hooks.fp16_compress_wrapper(default_hooks.allreduce_hook)),
    "RigL": Case(rigl),
    "RigL, three gradients": Case(lambda sent: rigl(sent, grad_average=3, skip_step_on_update=False)),
    "RigL, scaler": Case(rigl, net=lambda: Overflows(False), scaler=True),
    "RigL, two optimizers": Case(rigl, net=Gan, wrap={"find_unused_parameters": True}),
    "RigL, accumulation, bucket views": Case(
        rigl, accumulate_grad_batches=2, wrap={"gradient_as_bucket_view": True}
    ),
    "RigL from PruneAtInit": Case(lambda sent: [RigLCallback(every_n_steps=3, stop_at=100), *erk(sent)]),
    "RigL of one layer": Case(
        lambda sent: [*erk(sent), RigLCallback(every_n_steps=3, stop_at=100, include=["net.0.weight"])]
    ),
    "SET": Case(lambda sent: [SETCallback(0.1, every_n_steps=3, stop_at=100, communication=sent)]),
    "gradual": Case(lambda sent: [GradualMagnitudePruning(0.1, stop=6, every_n_steps=2, communication=sent)]),
    "ASNI": Case(
        lambda sent: [ASNISigmoidPruner(density=0.1, search_epochs=2, communication=sent)], max_epochs=3
    ),
    "IMP": Case(
        lambda sent: [IterativeMagnitudePruning(0.1, rounds=1, epochs_per_round=1, communication=sent)],
        max_epochs=2,
    ),
}


def trained(case, sent):
    """Return what there is after a fit, and what was sent, bucket by bucket."""
    torch.manual_seed(0)
    numbers = []
    hook = case.hook or default_hooks.allreduce_hook

    def counting(state, bucket):
        numbers.append(bucket.buffer().numel())
        return hook(None, bucket)

    kept = sent == "kept"
    strategy = DDPStrategy(ddp_comm_hook=counting if kept else None, **case.wrap)
    extra = [RegistersHook(case.hook)] if case.hook and not kept else []
    module = case.prepare(case.net())
    trainer = pl.Trainer(
        callbacks=[*case.callbacks(sent), *extra],
        strategy=strategy,
        devices=WORLD,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1, **case.arguments, **(scaled() if case.scaler else {})},
    )
    torch.manual_seed(RANK)  # of dropout
    for number in range(case.fits):
        if number:
            trainer.validate(module, loader(2), verbose=False)
            trainer.fit_loop.max_epochs += 1
        trainer.fit(module, loader(6 * WORLD))
    own = getattr(module, "_orig_mod", module)
    left = {
        "weights": own.state_dict(),
        "masks": masks_of(own),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "steps": trainer.global_step,
    }
    return flat(left), numbers


def compared(name):
    case = CASES[name]
    (every, _), (kept, numbers) = trained(case, "all"), trained(case, "kept")
    pairs = {key: (value, kept[key]) for key, value in every.items()}
    return {
        "missing": sorted(every.keys() ^ kept.keys()),
        "differ": [key for key, (a, b) in pairs.items() if not torch.equal(a, b)],
        "distance": max(
            float((a - b).double().abs().max())
            for a, b in pairs.values()
            if a.numel() and a.dtype != torch.bool
        ),
        "numbers": numbers,
        "sum": float(sum(value.double().sum() for key, value in kept.items() if "running" not in key)),
    }


def main():
    out, names = Path(sys.argv[1]), sys.argv[2:] or list(CASES)
    (out / f"rank{RANK}.json").write_text(json.dumps({name: compared(name) for name in names}))


if __name__ == "__main__":
    main()
