"""Trained values of converted layers that no optimizer holds: an error, not a fit that trains nothing."""

import pytest
import torch
from pytorch_lightning.callbacks import BackboneFinetuning, BaseFinetuning
from torch import nn
from toy import Toy, loader, make_toy, sgd, trainer

from lightning_sparse import DCTpSConversion, RigLCallback
from lightning_sparse.checks import SparsityError
from lightning_sparse.layers import DensePlusSparse, compact_layers, convert_

NOT_HELD = "must hand over all trained values of converted layers"


def fit(tmp_path, module, *callbacks, **arguments):
    runner = trainer(tmp_path, *(callbacks or (DCTpSConversion(0.1),)), max_epochs=1, **arguments)
    runner.fit(module, loader())
    return module


def with_optimizers(configure, **arguments):
    module = make_toy(**arguments)
    module.configure_optimizers = lambda: configure(module)
    return module


def of_layers(module, *kinds):
    return [p for m in module.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False)]


def norms_and(*kinds):
    return lambda module: sgd(of_layers(module, nn.BatchNorm2d, *kinds))


@pytest.mark.parametrize(
    ("configure", "told"),
    [
        (norms_and(nn.Linear, nn.Conv2d), "4 of 4 in no optimizer, such as 'net.0.values'"),
        (lambda module: sgd(module.net[:6].parameters()), "2 of 4 in no optimizer, such as 'net.6.values'"),
        (
            lambda module: sgd(p for n, p in module.named_parameters() if not n.endswith("alpha")),
            "2 of 4 in no optimizer, such as 'net.0.alpha'",
        ),
        (
            lambda module: sgd(p for p in module.parameters() if p.ndim == 0),
            "2 of 4 in no optimizer, such as 'net.0.values'",
        ),
    ],
    ids=["isinstance", "a layer", "alphas", "values"],
)
def test_values_in_no_optimizer_are_refused(tmp_path, configure, told):
    with pytest.raises(SparsityError, match=f"{NOT_HELD}, got {told}"):
        fit(tmp_path, with_optimizers(configure))


def test_an_optimizer_made_before_the_conversion_is_refused(tmp_path):
    module = make_toy()
    early = sgd(module.parameters())  # as in `__init__`: of the weights that are replaced
    module.configure_optimizers = lambda: early
    with pytest.raises(SparsityError, match="4 of 4 in no optimizer"):
        fit(tmp_path, module)


@pytest.mark.parametrize("convolutions_only", [False, True])
def test_groups_of_matrices_find_no_values(tmp_path, convolutions_only):
    """As optimizers for matrices ask for: PyTorch says that there are none, not why."""

    def matrices(parameters):
        return torch.optim.SGD([p for p in parameters if p.ndim == (4 if convolutions_only else 2)], 0.1)

    with pytest.raises(ValueError, match=r"values of converted layers, such as 'net\.0\.values', got none"):
        trainer(tmp_path, DCTpSConversion(0.2)).fit(make_toy(optimizer=matrices), loader())


def test_so_are_layers_converted_before_beside_another_callback(tmp_path):
    module = with_optimizers(norms_and(nn.Linear, nn.Conv2d))
    convert_(module, 0.1)
    with pytest.raises(SparsityError, match="4 of 4 in no optimizer"):
        fit(tmp_path, module, RigLCallback(every_n_steps=2, stop_at=6))


@pytest.mark.parametrize(
    "configure",
    [
        norms_and(DensePlusSparse),
        lambda module: [{"params": of_layers(module, DensePlusSparse)}, {"params": [module.net[1].weight]}],
    ],
)
def test_asking_for_the_class_too_is_the_way_out(tmp_path, configure):
    def optimizer(module):
        made = configure(module)
        return made if isinstance(made, torch.optim.Optimizer) else torch.optim.Adam(made)

    module = fit(tmp_path, with_optimizers(optimizer))
    assert all(layer.values.any() for layer in compact_layers(module).values())


def test_values_may_be_shared_out_over_optimizers(tmp_path):
    class Manual(Toy):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, *_):
            self.manual_backward(super().training_step(batch))
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

        def configure_optimizers(self):
            return [sgd(self.net[:6].parameters()), sgd(self.net[6].parameters())]

    fit(tmp_path, Manual())


def test_alpha_may_be_fixed_and_values_frozen(tmp_path):
    def only_head(module):
        module.net[0].requires_grad_(False)
        return sgd(p for n, p in module.named_parameters() if p.requires_grad and not n.endswith("alpha"))

    module = fit(tmp_path, with_optimizers(only_head), DCTpSConversion(0.1, alpha_requires_grad=False))
    values = {name: bool(layer.values.any()) for name, layer in compact_layers(module).items()}
    assert values == {"net.0": False, "net.6": True}


def test_without_an_optimizer_nothing_is_said(tmp_path):
    fit(tmp_path, with_optimizers(lambda module: None))


def test_manual_optimization_is_warned(tmp_path):
    class ByHand(Toy):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, *_):
            loss = super().training_step(batch)
            values = self.net[6].values
            (gradient,) = torch.autograd.grad(loss, values)
            values.data.sub_(0.1 * gradient)

        def configure_optimizers(self):
            return sgd(self.net[:6].parameters())

    with pytest.warns(UserWarning, match="2 of 4 in no optimizer, such as 'net.6.values'"):
        module = fit(tmp_path, ByHand())
    assert module.net[6].values.any()


class Unfreeze(BaseFinetuning):
    """Freezes the convolution, and hands it over after the first epoch."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)


def trained_only(module):
    return sgd(p for p in module.parameters() if p.requires_grad)


def test_finetuning_may_hand_them_over_later(tmp_path):
    module = with_optimizers(trained_only)
    trainer(tmp_path, DCTpSConversion(0.1), Unfreeze()).fit(module, loader())
    assert all(layer.values.any() for layer in compact_layers(module).values())


def test_finetuning_that_leaves_them_trained_is_warned(tmp_path):
    class Later(Unfreeze):
        def freeze_before_training(self, pl_module):
            pass

    with pytest.warns(UserWarning, match="2 of 4 in no optimizer, such as 'net.0.values'"):
        trainer(tmp_path, DCTpSConversion(0.1), Later()).fit(
            with_optimizers(lambda module: sgd(module.net[1:].parameters())), loader()
        )


def test_a_backbone_of_lightning_s_own_callback(tmp_path):
    class Backbone(Toy):
        def __init__(self):
            super().__init__()
            self.backbone = self.net[:6]

        def configure_optimizers(self):
            return trained_only(self)

    torch.manual_seed(0)
    module = Backbone()
    trainer(tmp_path, DCTpSConversion(0.1), BackboneFinetuning(1, lambda epoch: 1.0)).fit(module, loader())
    assert all(layer.values.any() for layer in compact_layers(module).values())


def test_a_branch_that_passed_a_converted_layer_by_is_named():
    net = nn.Sequential(nn.Linear(6, 5))
    convert_(net, 0.5)
    with pytest.raises(SparsityError, match=r"`isinstance\(layer, nn.Linear\)` before\? .* `exclude` it"):
        net(torch.randn(2, 4))
