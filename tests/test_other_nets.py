"""Nets that we did not write: which weights are chosen, and that training changes nothing else of them."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from toy import HoldsMasks, adamw, assert_equal, sgd, trainer, weights_of

from lightning_sparse import FORCE, SNIP, GraSP, PruneAtInit, PruningProblem, SynFlow
from lightning_sparse.functional.pruning import prune_along
from lightning_sparse.functional.saliency.synflow import synflow
from lightning_sparse.models import ResNet50
from lightning_sparse.weights.state import state_of

DENSITY = 0.1


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Attentive(nn.Module):
    """A Transformer with dropout, then attention to something of another width."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.stem = nn.Linear(8, 16)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.cross = nn.MultiheadAttention(16, 2, kdim=8, vdim=8, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        h = self.encoder(self.stem(x))
        return self.head((h + self.cross(h, x, x)[0]).mean(1))


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 16)
        self.mix = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.norm(self.mix(self.embed(x)))).mean(1)


def resnet() -> nn.Module:
    return pytest.importorskip("torchvision").models.resnet18(num_classes=10)


def mobilenet() -> nn.Module:
    return pytest.importorskip("torchvision").models.mobilenet_v3_small(num_classes=10)


def vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 32, "patch_size": 4, "depth": 2, "num_classes": 10}
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, **sizes)


class Bert(nn.Module):
    def __init__(self):
        super().__init__()
        transformers = pytest.importorskip("transformers")
        sizes = {"vocab_size": 10, "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 16}
        layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 10}
        config = transformers.BertConfig(**sizes, **layers)
        self.bert = transformers.BertForSequenceClassification(config)

    def forward(self, x):
        return self.bert(input_ids=x).logits


def images(number: int, generator: torch.Generator) -> Tensor:
    return torch.randn(number, 3, 32, 32, generator=generator)


def sequences(number: int, generator: torch.Generator) -> Tensor:
    return torch.randn(number, 6, 8, generator=generator)


def tokens(number: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 10, (number, 6), generator=generator)


@dataclass
class Row:
    """A net, its input, and what must be chosen of it by default.

    ``chosen`` is a pattern that whole names must match; together the weights have ``size`` entries.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int, torch.Generator], Tensor]
    chosen: str
    layers: int
    size: int


ROWS = {
    "resnet18": Row(
        resnet,
        images,
        r"(layer\d\.\d\.)?conv\d\.weight|layer\d\.0\.downsample\.0\.weight|fc\.weight",
        21,
        11_172_032,
    ),
    # 0 and 3 of a ConvNormActivation or of the classifier; 1 is a norm. fc1, fc2: squeeze and excitation.
    "mobilenet_v3_small": Row(
        mobilenet,
        images,
        r"features\.(\d+|\d+\.block\.\d)\.(0|fc1|fc2)\.weight|classifier\.[03]\.weight",
        54,
        1_512_072,
    ),
    "lstm": Row(Recurrent, sequences, r"head\.weight", 1, 320),
    "attention": Row(
        Attentive,
        sequences,
        r"(stem|head|encoder\.layers\.[01]\.(self_attn\.out_proj|linear1|linear2)|cross\.out_proj)\.weight",
        9,
        2 * 256 + 4 * 512 + 256 + 128 + 160,
    ),
    "tied": Row(Tied, tokens, r"mix\.weight", 1, 256),
    "timm vit": Row(
        vit,
        images,
        r"patch_embed\.proj\.weight|blocks\.[01]\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight|head\.weight",
        10,
        192 * 48 + 2 * 12 * 192**2 + 10 * 192,
    ),
    "transformers bert": Row(
        Bert,
        tokens,
        r"bert\.(bert\.encoder\.layer\.[01]\.(attention\.self\.(query|key|value)|(attention\.|)output\.dense"
        r"|intermediate\.dense)|bert\.pooler\.dense|classifier)\.weight",
        14,
        2 * (4 * 64**2 + 2 * 64 * 128) + 64**2 + 640,
    ),
}
SMALL = [name for name in ROWS if name != "resnet18"]


class Classifier(pl.LightningModule):
    def __init__(self, net, make_optimizer=adamw):
        super().__init__()
        self.net = net
        self.make_optimizer = make_optimizer

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())


def make(row, make_optimizer=adamw):
    torch.manual_seed(0)
    return Classifier(ROWS[row].make(), make_optimizer)


def batches(row, number=2):
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, 10, (4 * number,), generator=generator)
    return DataLoader(TensorDataset(ROWS[row].inputs(len(y), generator), y), 4)


def photograph(net):
    """Return all of a net that a callback could touch, but the values of its parameters."""
    seen: dict = {"state_dict": list(net.state_dict())}
    for name, layer in net.named_modules(remove_duplicate=False):
        seen[name, "class"] = type(layer)
        for key, value in vars(layer).items():
            # Parameters, buffers, children and hooks by identity; they are kept alive by the net.
            seen[name, key] = {k: id(v) for k, v in value.items()} if isinstance(value, dict) else id(value)
    for name, parameter in net.named_parameters():
        hooks = (parameter._backward_hooks, getattr(parameter, "_post_accumulate_grad_hooks", None))
        layout = (parameter.shape, parameter.stride(), parameter.dtype, parameter.data_ptr())
        seen[name] = (
            type(parameter),
            parameter.requires_grad,
            parameter.is_leaf,
            layout,
            hooks,
            list(vars(parameter)),
        )
    return seen


class Watch(pl.Callback):
    """Keeps the optimizers, which Lightning forgets after fit."""

    def on_fit_end(self, trainer, pl_module):
        self.optimizers = trainer.optimizers


class Trained:
    """One fit with masks checked after every step, and what there was before it."""

    def __init__(self, row, make_optimizer, folder):
        self.row, self.folder = row, folder
        self.module = make(row, make_optimizer)
        self.before = photograph(self.module.net)
        self.holds, self.watch = HoldsMasks(), Watch()
        callbacks = [PruneAtInit("erk", DENSITY, verify=True), self.holds, self.watch]
        checkpoint = ModelCheckpoint(folder, save_last=True)
        runner = trainer(folder, *callbacks, checkpoint, enable_checkpointing=True, max_epochs=1)
        runner.fit(self.module, batches(row))

    @property
    def path(self):
        return self.folder / "last.ckpt"

    @property
    def budget(self):
        return int(DENSITY * ROWS[self.row].size + 0.5)


@pytest.fixture(
    scope="module",
    params=[(row, optimizer) for row in ROWS for optimizer in (adamw, sgd)],
    ids=lambda pair: f"{pair[0]}-{pair[1].__name__}",
)
def trained(request, tmp_path_factory):
    return Trained(*request.param, tmp_path_factory.mktemp("net"))


def test_layers_chosen_by_default(trained):
    row = ROWS[trained.row]
    wanted = [n for n, _ in trained.module.net.named_parameters() if re.fullmatch(row.chosen, n)]
    assert len(wanted) == row.layers
    assert list(state_of(trained.module).masks) == [f"net.{name}" for name in wanted]


def test_counts_are_exact(trained):
    masks = state_of(trained.module).masks
    assert trained.holds.steps == 2
    assert sum(mask.numel() for mask in masks.values()) == ROWS[trained.row].size
    assert sum(int(mask.sum()) for mask in masks.values()) == trained.budget
    weights = [trained.module.get_parameter(name) for name in masks]
    assert sum(int(weight.count_nonzero()) for weight in weights) == trained.budget


def test_nothing_else_of_the_net_changes(trained):
    assert photograph(trained.module.net) == trained.before


def test_nothing_is_left_in_the_module(tmp_path):
    trained, dense = Trained("tied", adamw, tmp_path), make("tied")
    trainer(tmp_path, max_epochs=1).fit(dense, batches("tied"))
    assert vars(trained.module).keys() == vars(dense).keys()  # Lightning leaves something, we do not


def test_optimizer_is_as_the_user_made_it(trained):
    (optimizer,) = trained.watch.optimizers
    fresh = trained.module.make_optimizer(trained.module.parameters())
    (group,), (expected,) = optimizer.param_groups, fresh.param_groups
    assert group.keys() == expected.keys()
    assert [id(p) for p in group["params"]] == [id(p) for p in expected["params"]]
    assert all(group[key] == expected[key] for key in group if key != "params")
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_checkpoint_loads_into_the_untouched_net(trained):
    saved = torch.load(trained.path, weights_only=True)["state_dict"]
    net = ROWS[trained.row].make()
    net.load_state_dict({name.removeprefix("net."): value for name, value in saved.items()}, strict=True)
    assert_equal(weights_of(net), weights_of(trained.module.net))


def test_checkpoint_resumes(trained):
    torch.manual_seed(9)
    module, holds = Classifier(ROWS[trained.row].make(), trained.module.make_optimizer), HoldsMasks()
    runner = trainer(trained.folder, PruneAtInit("erk", DENSITY, verify=True), holds, max_epochs=2)
    runner.fit(module, batches(trained.row), ckpt_path=trained.path)
    assert holds.steps == 2
    assert_equal(state_of(module).masks, state_of(trained.module).masks)


@pytest.mark.parametrize("row", SMALL)
def test_density_one_is_dense_training(tmp_path, row):
    """Nothing is drawn from the generators of training, and no buffer or weight is touched."""
    dense, sparse = make(row), make(row)
    for module, callbacks in ((dense, []), (sparse, [PruneAtInit("erk", 1.0)])):
        torch.manual_seed(1)
        trainer(tmp_path, *callbacks, max_epochs=1).fit(module, batches(row))
    assert_equal(weights_of(dense), weights_of(sparse))


# Weights taken in and out by name, with the counts that must come of it.

NAMED = {
    "a weight of an LSTM": ("lstm", {"include": ["*.weight_ih_l0"]}, {"net.lstm.weight_ih_l0": 51}),
    "two of an LSTM, one with a density of its own": (
        "lstm",
        {"include": ["*.weight_?h_l1"], "density_overrides": {"*.weight_hh_l1": 0.15}},
        {"net.lstm.weight_ih_l1": 307 - 154, "net.lstm.weight_hh_l1": 154},
    ),
    "the joint projection of attention": (
        "attention",
        {"include": ["*.in_proj_weight"], "density_overrides": {"*.layers.0.*": 0.15}},
        {
            "net.encoder.layers.0.self_attn.in_proj_weight": 115,
            "net.encoder.layers.1.self_attn.in_proj_weight": 154 - 115,
        },
    ),
    "all but the Transformer": (
        "attention",
        {"exclude": ["net.stem.weight", "net.encoder.*"], "density_overrides": {"net.head.weight": 0.2}},
        {"net.cross.out_proj.weight": 42 - 32, "net.head.weight": 32},
    ),
    "an embedding by the name of its head": (
        "tied",
        {"include": ["net.head.weight"]},
        {"net.embed.weight": 16},
    ),
    "qkv of timm": (
        "timm vit",
        {"include": ["*.qkv.weight"]},
        {"net.blocks.0.attn.qkv.weight": 11_059, "net.blocks.1.attn.qkv.weight": 11_059},
    ),
}


@pytest.mark.parametrize("case", NAMED)
def test_weights_taken_by_name(tmp_path, case):
    row, arguments, budgets = NAMED[case]
    module, holds = make(row), HoldsMasks(budgets)
    callback = PruneAtInit("erk", DENSITY, verify=True, **arguments)
    trainer(tmp_path, callback, holds, max_epochs=1).fit(module, batches(row))
    assert holds.steps == 2
    assert list(state_of(module).masks) == list(budgets)
    for name in budgets:
        assert int(module.get_parameter(name).count_nonzero()) == budgets[name]


# Scores of nets that we did not write.

METHODS = [SNIP(), GraSP(), FORCE(4, 1), SynFlow(5)]


@pytest.mark.filterwarnings("ignore:No signal passes")  # queries and keys, at a tenth of their weights
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("row", ROWS)
def test_scored(tmp_path, row, method):
    """Every method: exact count, no empty layer, a first step as without scoring, where masks allow."""
    module, dense, holds = make(row, sgd), make(row, sgd), HoldsMasks()
    fit = {"max_steps": 2, "max_epochs": -1}
    if isinstance(method, SynFlow) and ROWS[row].inputs is tokens:
        with pytest.raises(ValueError, match="SynFlow needs an input that can be all ones"):
            trainer(tmp_path, PruneAtInit(method, DENSITY), **fit).fit(module, batches(row))
        return
    if isinstance(method, GraSP) and row == "mobilenet_v3_small":
        with pytest.raises(
            ValueError, match=r"none: derivative for aten::hardsigmoid_backward is not implemented. Use"
        ):
            trainer(tmp_path, PruneAtInit(method, DENSITY), **fit).fit(module, batches(row))
        return
    torch.manual_seed(1)
    gated = isinstance(method, SynFlow) and row == "mobilenet_v3_small"  # ones saturate its gates
    said = (
        pytest.warns(UserWarning, match=r"fc1.weight, .* are zero \(18 layers\)") if gated else nullcontext()
    )
    with said:
        trainer(tmp_path, PruneAtInit(method, DENSITY, verify=True), holds, **fit).fit(module, batches(row))
    masks = state_of(module).masks
    assert holds.steps == 2
    assert sum(int(mask.sum()) for mask in masks.values()) == int(DENSITY * ROWS[row].size + 0.5)
    assert all(mask.any() for mask in masks.values())
    if row in SMALL:
        module = make(row, sgd)
        for each, callbacks in ((dense, []), (module, [PruneAtInit(method, 1.0)])):
            torch.manual_seed(1)
            trainer(tmp_path, *callbacks, **fit).fit(each, batches(row))
        assert_equal(weights_of(dense), weights_of(module))


def test_synflow_on_a_deep_net_at_extreme_density():
    """In float32 all scores of this net overflow."""
    net = ResNet50()
    weights = {n: p for n, p in net.named_parameters() if p.ndim > 1}
    problem = PruningProblem(
        net, weights, torch.Generator(), inputs=lambda: torch.empty(()).expand(1, 3, 32, 32)
    )
    scores = SynFlow().scores(problem)
    assert all(score.isfinite().all() for score in scores.values())
    assert not all(
        s.isfinite().all() for s in synflow(net, weights, problem.inputs(), dtype=torch.float32).values()
    )
    *_, masks = prune_along(SynFlow(10), problem, 1e-4)
    size = sum(weight.numel() for weight in weights.values())
    assert size == 23_467_712
    assert sum(int(mask.sum()) for mask in masks.values()) == 2347
    assert all(mask.any() for mask in masks.values())
