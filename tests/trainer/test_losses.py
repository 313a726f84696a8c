"""Scores from a module's own loss, and a training that does not notice."""

import random
import weakref
from collections import defaultdict
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import CombinedLoader
from saliency_golden import case
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader
from toy import Toy, assert_equal, loader, make_toy, trainer, weights_of

from lightning_sparse import FORCE, SNIP, GraSP, IterativeSNIP, PruneAtInit, SynFlow
from lightning_sparse.functional import pruning
from lightning_sparse.weights.state import state_of

DATA_DRIVEN = [SNIP(2), GraSP(2), IterativeSNIP(3, 2), FORCE(3, 3), SynFlow(3)]


def name_of(method):
    return type(method).__name__


class Busy(Toy):
    """Logs, updates metrics, counts, keeps lists, draws from every generator, augments, returns a dict."""

    def __init__(self):
        super().__init__()
        self.accuracy = torchmetrics.MetricCollection([torchmetrics.Accuracy("multiclass", num_classes=4)])
        self.mean = torchmetrics.MeanMetric()
        self.all = torchmetrics.CatMetric()
        self.steps, self.seen, self.by_epoch = 0, [], defaultdict(list)
        self.key = nn.Parameter(torch.ones(4), requires_grad=False)
        self.draws = torch.Generator().manual_seed(2)
        self.register_buffer("average", torch.zeros(()))

    def on_after_batch_transfer(self, batch, _):
        x, y = batch
        self.seen.append(len(self.seen))
        return x + 0.01 * torch.randn_like(x) * random.random() * np.random.rand(), y  # noqa: NPY002

    def training_step(self, batch, index):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.accuracy(logits, y)
        self.mean.update(loss)
        self.all.update(loss)
        self.average = 0.9 * self.average + 0.1 * loss.detach()
        self.steps += 1
        self.seen.append(float(x.sum()))
        self.by_epoch[self.current_epoch].append(index)
        self.key.mul_(0.9).add_(torch.rand(1, generator=self.draws).to(self.device))
        self.log("loss", loss, on_step=True)
        self.log_dict(self.accuracy, on_epoch=True)
        self.logger.experiment.log_metrics({"by_hand": loss.item()}, self.global_step)
        return {"loss": loss, "logits": logits}

    def on_train_epoch_end(self):
        self.log("mean", self.mean)
        self.log("entries", float(self.all.compute().numel()))


def loaders():
    def own_generator():
        return loader(shuffle=True, generator=torch.Generator().manual_seed(5))

    data = loader().dataset
    return {
        "in order": loader,
        "shuffled": lambda: loader(shuffle=True),
        "two workers": lambda: loader(shuffle=True, num_workers=2),
        "persistent workers": lambda: loader(shuffle=True, num_workers=1, persistent_workers=True),
        "a generator of its own": own_generator,
        "a batch sampler that draws": lambda: DataLoader(data, batch_sampler=Draws(data)),
        "data that draw": lambda: DataLoader(Noisy(data), 8),
        "stateful": lambda: StatefulDataLoader(data, 8, shuffle=True),
        "iterable": lambda: DataLoader(Stream(), 8),
    }


class Draws(torch.utils.data.BatchSampler):
    def __init__(self, data):
        super().__init__(torch.utils.data.SequentialSampler(data), 8, False)
        self.generator, self.old = torch.Generator().manual_seed(4), np.random.RandomState(3)

    def __iter__(self):
        for _ in range(len(self)):
            yield torch.randint(0, 32, (8,), generator=self.generator).tolist()[: self.old.randint(4, 8)]


class Noisy(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data, self.draws = data, np.random.default_rng(0)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return x + self.draws.random(dtype=np.float32), y


class Stream(IterableDataset):
    """Goes on where it was: what is drawn once is gone."""

    def __init__(self):
        self.position = 0

    def __iter__(self):
        for _ in range(32):
            generator = torch.Generator().manual_seed(self.position)
            self.position += 1
            yield torch.randn(3, 8, 8, generator=generator), self.position % 4


def run(tmp_path, callbacks, data, **arguments):
    """Train and return all that training leaves behind."""
    pl.seed_everything(3)
    module, data = Busy(), data()
    logger = CSVLogger(tmp_path, name="run" if callbacks else "without")
    trainer(tmp_path, *callbacks, logger=logger, log_every_n_steps=1, **arguments).fit(module, data)
    with open(f"{logger.log_dir}/metrics.csv") as file:
        header, *rows = (line.strip().split(",") for line in file)
    logged = [
        {k: v for k, v in zip(header, row, strict=True) if v and not k.startswith("sparsity")} for row in rows
    ]
    left = {"steps": module.steps, "seen": module.seen, "by_epoch": module.by_epoch}
    return weights_of(module), left, [row for row in logged if len(row) > 2], torch.rand(2), random.random()


@pytest.mark.parametrize("data", loaders())
def test_training_sees_what_it_would_have_seen(tmp_path, data):
    """With a mask of ones, batches, draws, batch statistics, metrics and logs are those of dense training."""
    dense = run(tmp_path, [], loaders()[data])
    callbacks = [PruneAtInit(FORCE(2, 3), density=1.0)]  # more batches than an epoch has
    masked = run(tmp_path, callbacks, loaders()[data])
    assert_equal(dense[0], masked[0])
    assert dense[1] == masked[1]
    assert dense[2] == masked[2]
    assert torch.equal(dense[3], masked[3])
    assert dense[4] == masked[4]


@pytest.mark.parametrize("method", DATA_DRIVEN, ids=name_of)
def test_no_method_leaves_a_trace(tmp_path, method):
    dense = run(tmp_path, [], partial(loader, shuffle=True))
    masked = run(tmp_path, [PruneAtInit(method, density=1.0)], partial(loader, shuffle=True))
    assert_equal(dense[0], masked[0])
    assert dense[1:3] == masked[1:3]


def test_every_iteration_has_the_next_batches(tmp_path):
    scored = []

    def loss(module, batch):
        scored.append(batch[0].cpu())
        return F.cross_entropy(module.net(batch[0]), batch[1])

    callback = PruneAtInit(IterativeSNIP(3, 2), 0.2, loss_fn=loss)
    trainer(tmp_path, callback, max_epochs=1).fit(make_toy(), loader())
    every = [x for x, _ in loader()]
    # After the last batch comes the first; two more tell whether the net is still whole.
    for ours, theirs in zip(scored, every + every, strict=True):
        assert torch.equal(ours, theirs)


def test_limited_batches_are_all_there_is(tmp_path):
    seen = []

    def loss(module, batch):
        seen.append(float(batch[0].sum()))
        return F.cross_entropy(module.net(batch[0]), batch[1])

    callback = PruneAtInit(SNIP(4), 0.2, loss_fn=loss)
    trainer(tmp_path, callback, limit_train_batches=2, max_epochs=1).fit(make_toy(), loader())
    assert seen == 4 * seen[:2]
    assert seen[0] != seen[1]


def test_several_dataloaders(tmp_path):
    class TwoSources(Toy):
        def training_step(self, batch):  # without the index
            (x, y), (u, v) = batch["a"], batch["b"]
            return F.cross_entropy(self.net(torch.cat([x, u])), torch.cat([y, v]))

    for data in (
        {"a": loader(), "b": loader(3, shuffle=True)},
        CombinedLoader({"a": loader(), "b": loader(3)}, "max_size_cycle"),
    ):
        torch.manual_seed(0)
        module = TwoSources()
        trainer(tmp_path, PruneAtInit(SNIP(2), 0.2)).fit(module, data)
        assert sum(int(mask.sum()) for mask in state_of(module).masks.values()) == 203


def masks_of(tmp_path, module, method=None, data=None, **arguments):
    callback = PruneAtInit(method or SNIP(2), 0.2, **arguments.pop("options", {}))
    trainer(tmp_path, callback, max_steps=1, **arguments).fit(module, loader() if data is None else data)
    return state_of(module).masks


@pytest.mark.parametrize("method", DATA_DRIVEN, ids=name_of)
def test_mixed_precision_and_compilation_change_no_score(tmp_path, method):
    plain = masks_of(tmp_path, make_toy(dropout=0.0), method)
    assert_equal(plain, masks_of(tmp_path, make_toy(dropout=0.0), method, precision="bf16-mixed"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(make_toy(dropout=0.0), backend="aot_eager")
    callback = PruneAtInit(method, 0.2)
    trainer(tmp_path, callback, max_steps=1).fit(compiled, loader())
    assert_equal(plain, state_of(compiled).masks)
    inner = make_toy(dropout=0.0)
    inner.net = torch.compile(inner.net, backend="aot_eager")
    assert_equal(plain, masks_of(tmp_path, inner, method))


@pytest.mark.parametrize("method", DATA_DRIVEN, ids=name_of)
@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_true_precision(tmp_path, method, precision):
    masks = masks_of(tmp_path, make_toy(), method, precision=precision)
    assert sum(int(mask.sum()) for mask in masks.values()) == 203


def test_a_dict_and_a_loss_of_one_entry(tmp_path):
    class Returns(Toy):
        def training_step(self, batch, _):
            loss = super().training_step(batch)
            return {"loss": loss[None], "other": 3}

        def backward(self, loss):
            loss.sum().backward()

    torch.manual_seed(0)
    plain = masks_of(tmp_path, make_toy(dropout=0.0))
    torch.manual_seed(0)
    assert_equal(plain, masks_of(tmp_path, Returns(dropout=0.0)))


def gan(**forward):
    class Gan(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.critic = nn.Linear(8, 192), nn.Linear(192, 1)

        def training_step(self, batch, _):
            raise AssertionError("would train")

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return type("Gan", (Gan,), forward)()


def fit_refused(tmp_path, module, method, match, data=None, **arguments):
    drawn = []
    data = loader(collate_fn=drawn.append) if data is None else data
    with pytest.raises(ValueError, match=match):
        trainer(tmp_path, PruneAtInit(method, 0.2, **arguments)).fit(module, data)
    assert not drawn


def test_manual_optimization_needs_a_loss_function(tmp_path):
    fit_refused(tmp_path, gan(), "snip", r"SNIP needs a loss.*manual optimization.*`loss_fn")

    def loss(module, batch):
        return (
            module.critic(module.generator(torch.randn(8, 8, device=module.device))).mean()
            - module.critic(batch[0].flatten(1)).mean()
        )

    class Steps(type(gan())):
        def training_step(self, batch, _):
            return None

    masks = masks_of(tmp_path, Steps(), options={"loss_fn": loss})
    assert set(masks) == {"generator.weight", "critic.weight"}


def test_a_step_that_draws_by_itself_needs_a_loss_function(tmp_path):
    class Draws(Toy):
        def training_step(self, dataloader_iter):
            return None

    fit_refused(tmp_path, Draws(), "grasp", r"GraSP needs a loss for a batch.*dataloader_iter")


def test_synflow_needs_something_to_call(tmp_path):
    fit_refused(tmp_path, gan(), "synflow", r"SynFlow calls the net, and Gan has no `forward`")


def test_what_synflow_calls_and_with_what(tmp_path):
    """The module, or the child that holds all weights; an example, a shape given, or the first batch."""
    plain = masks_of(tmp_path, make_toy(), SynFlow(5))
    given = masks_of(tmp_path, make_toy(), SynFlow(5, input_shape=[3, 8, 8]))
    assert_equal(plain, given)
    by_example = make_toy()
    by_example.example_input_array = torch.zeros(2, 3, 8, 8)
    assert_equal(plain, masks_of(tmp_path, by_example, SynFlow(5), loader(collate_fn=_labels_first)))

    class Forward(Toy):
        def forward(self, image):
            return self.net(image)

    torch.manual_seed(0)
    by_keyword = Forward()
    by_keyword.example_input_array = {"image": torch.zeros(2, 3, 8, 8)}
    assert_equal(plain, masks_of(tmp_path, by_keyword, SynFlow(5)))


def _labels_first(items):
    x, y = torch.utils.data.default_collate(items)
    return x, y


def test_tokens(tmp_path):
    class Words(Toy):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 4))

    data = DataLoader(TensorDataset(torch.randint(0, 9, (16, 3)), torch.randint(0, 4, (16,))), 8)
    fit_refused(tmp_path, Words(), "synflow", r"SynFlow needs an input that can be all ones", data)
    masks = masks_of(tmp_path, Words(), SNIP(), data)
    assert sum(int(mask.sum()) for mask in masks.values()) == 10  # 0.2 of 48


@pytest.mark.parametrize(
    ("returned", "found"),
    [(None, "NoneType"), (torch.zeros(3), r"a tensor of shape \(3,\)"), ({"other": 1}, "NoneType")],
)
def test_what_is_not_a_loss(tmp_path, returned, found):
    class Returns(Toy):
        def training_step(self, batch, _):
            return returned

    with pytest.raises(ValueError, match=f"`training_step` must return a loss.*got {found}"):
        masks_of(tmp_path, Returns())


def test_a_loss_that_depends_on_nothing(tmp_path):
    class Detached(Toy):
        def training_step(self, batch, _):
            return super().training_step(batch).detach()

    with pytest.raises(ValueError, match="depends on no selected weight"):
        masks_of(tmp_path, Detached())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers(tmp_path, bad):
    class Overflows(Toy):
        def training_step(self, batch, _):
            return super().training_step(batch) * bad

    before = weights_of(make_toy())
    module = make_toy()
    module.__class__ = Overflows
    with pytest.raises(ValueError, match=r"\d+ scores of 'net.0.weight' are not finite"):
        masks_of(tmp_path, module)
    assert_equal(before, weights_of(module))
    assert "log" not in vars(module)


def test_a_net_that_starts_with_zeros(tmp_path):
    module = make_toy()
    nn.init.zeros_(module.net[6].weight)
    with pytest.raises(ValueError, match="Only 0 scores are not zero, but 203 weights"):
        masks_of(tmp_path, module)


def test_a_layer_that_is_not_reached_is_named(tmp_path):
    module = make_toy()
    module.spare = nn.Linear(5, 5)
    with pytest.warns(UserWarning, match=r"All scores of spare.weight are zero \(1 layers\): no signal"):
        masks_of(tmp_path, module)


def test_grasp_names_what_cannot_be_differentiated_twice(tmp_path):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return 2 * g * ctx.saved_tensors[0]

    class Squares(Toy):
        def training_step(self, batch, _):
            return F.cross_entropy(Once.apply(self.net(batch[0])), batch[1])

    with pytest.raises(
        ValueError, match=r"GraSP needs second derivatives.*OnceBackward.*another method \(`snip`"
    ):
        masks_of(tmp_path, Squares(), "grasp")
    assert masks_of(tmp_path, Squares(), "snip")


def test_grasp_through_attention(tmp_path):
    class Attends(Toy):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
            self.net = nn.Sequential(nn.Flatten(2), nn.Linear(64, 8), layer, nn.Flatten(), nn.Linear(24, 4))

    assert masks_of(tmp_path, Attends(), "grasp")


def test_the_references_masks_through_the_callback(tmp_path):
    reference = case("oneshot_conv_warm")

    class Wrapped(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = reference.net()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch):
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.0)

    x, y = reference.tensor("x"), reference.tensor("y")
    data = DataLoader(TensorDataset(x, y), len(x) // 2)
    for method, run in ((SNIP, "snip"), (GraSP, "grasp")):
        module = Wrapped()
        scoring = method(2, scoring_mode="train", conformance="reference")
        trainer(tmp_path, PruneAtInit(scoring, 0.1), max_steps=1).fit(module, data)
        expected = reference.masks(f"{run}_train_2b_d0.1.maskbits", module.net)
        assert_equal({f"net.{name}": mask for name, mask in expected.items()}, state_of(module).masks)


def test_a_loader_that_cannot_be_copied_is_used_with_a_warning(tmp_path):
    class Locked(Stream):
        def __deepcopy__(self, memo):
            raise TypeError("no copies")

    with pytest.warns(UserWarning, match=r"Locked cannot be copied \(no copies\)"):
        masks_of(tmp_path, make_toy(), data=DataLoader(Locked(), 8))


def test_a_generator_for_a_dataloader(tmp_path):
    batches = [(torch.randn(8, 3, 8, 8), torch.randint(0, 4, (8,))) for _ in range(8)]
    with pytest.warns(UserWarning, match="generator cannot be copied"):
        masks_of(tmp_path, make_toy(), data=(batch for batch in batches))


def test_a_step_may_change_its_batch(tmp_path):
    class Pops(Toy):
        def training_step(self, batch, _):
            batch[0].sub_(1)
            return super().training_step((batch[0], batch.pop(1)))

    class Plain(Toy):
        def training_step(self, batch, _):
            return super().training_step((batch[0] - 1, batch[1]))

    torch.manual_seed(0)
    changed = masks_of(tmp_path, Pops(dropout=0.0), "grasp")
    torch.manual_seed(0)
    assert_equal(changed, masks_of(tmp_path, Plain(dropout=0.0), "grasp"))


def test_one_batch_tells_synflow_the_shape(tmp_path):
    drawn = []

    def collate(items):
        drawn.append(len(items))
        return torch.utils.data.default_collate(items)

    trainer(tmp_path, PruneAtInit(SynFlow(20), 0.2), max_steps=1).fit(make_toy(), loader(collate_fn=collate))
    assert len(drawn) <= 3


def test_only_the_last_masks_are_kept(tmp_path, monkeypatch):
    alive = weakref.WeakSet()
    original = pruning.masks_from_scores

    def spy(*arguments, **options):
        masks = original(*arguments, **options)
        alive.update(masks.values())
        assert len(alive) <= 6, "masks of three iterations"
        return masks

    monkeypatch.setattr(pruning, "masks_from_scores", spy)
    masks_of(tmp_path, make_toy(), SynFlow(20))


def test_no_batch(tmp_path):
    class Empty(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match=r"The training data holds no batch. .*`drop_last`"):
        masks_of(tmp_path, make_toy(), data=DataLoader(Empty(), 8))
