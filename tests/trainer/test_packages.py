"""The same callbacks under ``pytorch_lightning`` and ``lightning.pytorch``, each in a process of its own.

Forks have imported ``pytorch_lightning`` first, then ours. That ours comes first makes no difference.
"""

import contextlib
import importlib
import io
import json
import sys
from pathlib import Path

import pytest

PACKAGES = ("pytorch_lightning", "lightning.pytorch")


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("task", ["fit_and_resume", "command_line"])
def test_package(tmp_path, package, task):
    import forked  # imports ours, and the processes below import this file

    before_ours = (task, package) == ("fit_and_resume", "lightning.pytorch")
    forked.run(Path(__file__), task, package, output=tmp_path / "output.txt", cold=before_ours)


# What the processes run.


def make_classes(package):
    """Return a module and a data module of ``package``."""
    import torch

    pl = importlib.import_module(package)

    class Net(pl.LightningModule):
        def __init__(self, width: int = 16):
            super().__init__()
            self.net = torch.nn.Sequential(
                torch.nn.Linear(8, width), torch.nn.ReLU(), torch.nn.Linear(width, 2)
            )

        def training_step(self, batch, _):
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def on_train_batch_end(self, *_):
            assert kept(self.state_dict()) == 40

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            data = torch.utils.data.TensorDataset(torch.randn(12, 8), torch.randint(0, 2, (12,)))
            return torch.utils.data.DataLoader(data, 4)

    return Net, Data


def kept(weights):
    """Return the number of weights, of the 160 that may be pruned, that are not zero."""
    return sum(int(weights[f"net.{i}.weight"].count_nonzero()) for i in (0, 2))


def check_checkpoint(path, step, make_net):
    import torch

    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == step
    assert kept(saved["state_dict"]) == 40
    make_net().load_state_dict(saved["state_dict"], strict=True)
    return saved["callbacks"]["PruneAtInit"]["masks"]


def fit_and_resume(package):
    """The package is imported before ours."""
    pl = importlib.import_module(package)
    import torch

    from lightning_sparse import ExactResume, PruneAtInit, SparsityMonitor
    from lightning_sparse.models import ImageClassifier

    assert issubclass(ImageClassifier, pl.LightningModule)
    make_net, make_data = make_classes(package)
    masks = []
    for epochs, path in ((1, None), (2, "last.ckpt")):
        checkpoint = importlib.import_module(f"{package}.callbacks").ModelCheckpoint(".", save_last=True)
        ours = [PruneAtInit("erk", 0.25, verify=True), SparsityMonitor(), ExactResume()]
        runner = pl.Trainer(callbacks=[*ours, checkpoint], max_epochs=epochs, accelerator="cpu", logger=False)
        runner.fit(make_net(), make_data(), ckpt_path=path)
        masks.append(check_checkpoint("last.ckpt", 3 * epochs, make_net))
    for name, entry in masks[0].items():
        assert torch.equal(entry["bits"], masks[1][name]["bits"])


def command_line(package):
    """Ours is imported before the package; nothing of ours is written out but the short names."""
    importlib.import_module("lightning_sparse.callbacks")
    cli = importlib.import_module(f"{package}.cli")
    make_net, make_data = make_classes(package)

    def run(*arguments):
        cli.LightningCLI(make_net, make_data, args=list(arguments), save_config_kwargs={"overwrite": True})

    def write(name, **ours):
        saves = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": ".", "save_last": True}}
        callbacks = [{"class_path": name, "init_args": ours}, {"class_path": "ExactResume"}, saves]
        trainer = {"callbacks": callbacks, "max_epochs": 1, "accelerator": "cpu", "logger": False}
        Path("recipe.yaml").write_text(json.dumps({"trainer": trainer}))  # JSON is YAML

    method = {"class_path": "Magnitude", "init_args": {"allocation": "erk"}}
    write("PruneAtInit", method=method, density=0.25, verify=True)
    run("fit", "--config=recipe.yaml")
    check_checkpoint("last.ckpt", 3, make_net)
    assert "class_path: lightning_sparse.PruneAtInit" in Path("config.yaml").read_text()
    run("fit", "--config=config.yaml", "--trainer.max_epochs=2", "--ckpt_path=last.ckpt")
    check_checkpoint("last.ckpt", 6, make_net)

    # The type of the Trainer's argument is checked, not only names.
    for name, ours, message in (
        ("PruneAtInit", {"method": "erk", "densty": 0.25}, "Option 'densty' is not accepted"),
        ("PruneAtInit", {"method": "erk", "density": "a lot"}, "Expected a <class 'float'>"),
        ("lightning_sparse.Magnitude", {}, "correspond to a subclass of Callback"),
        ("PruneAtInt", {}, "PruneAtInt"),
    ):
        write(name, **ours)
        with contextlib.redirect_stderr(io.StringIO()) as error, pytest.raises(SystemExit):
            run("fit", "--config=recipe.yaml")
        assert message in error.getvalue(), error.getvalue()


if __name__ == "__main__":
    task, package = sys.argv[1:]
    sys.argv[1:] = []  # LightningCLI is given arguments of its own
    {"fit_and_resume": fit_and_resume, "command_line": command_line}[task](package)
