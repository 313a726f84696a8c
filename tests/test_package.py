import subprocess
import sys

import pytest

import lightning_sparse
from lightning_sparse.trainer import packages

EXTRAS = ("torchvision", "tensorboard", "matplotlib", "sklearn", "jsonargparse", "rich")


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _module(value):
    return getattr(value, "__module__", "")


def test_import_brings_in_no_extra_that_lightning_does_not_bring_in_itself():
    new = run(
        "import sys, torchmetrics, pytorch_lightning, lightning.pytorch; before = set(sys.modules);"
        "import lightning_sparse, lightning_sparse.data, lightning_sparse.models;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    assert not set(EXTRAS) & set(new.split()), new


def test_public_names_are_all_that_is_imported_and_have_docstrings():
    ours = (n for n, value in vars(lightning_sparse).items() if _module(value).startswith("lightning_sparse"))
    assert sorted(lightning_sparse.__all__) == sorted(ours)
    for name in lightning_sparse.__all__:
        assert getattr(lightning_sparse, name).__doc__, name


def test_lightning_alone_is_enough():
    """Nothing of the other package is imported, and nets and callbacks are those of this one."""
    said = run(
        "import sys\n"
        "for name in ('pytorch_lightning', 'lightning_fabric'): sys.modules[name] = None\n"
        "import lightning_sparse, lightning.pytorch as pl\n"
        "from lightning_sparse.cli.help import version_text\n"
        "from lightning_sparse.models import ImageClassifier\n"
        "assert issubclass(ImageClassifier, pl.LightningModule)\n"
        "assert issubclass(lightning_sparse.PruneAtInit, pl.Callback)\n"
        "print(version_text())"
    )
    assert "lightning.pytorch 2" in said
    assert "pytorch_lightning" not in said


def test_without_lightning_the_error_names_both_packages(monkeypatch):
    monkeypatch.setattr(packages, "_PACKAGES", ("no_such_lightning", "nor.this"))
    with pytest.raises(ModuleNotFoundError, match="pip install pytorch-lightning, or pip install lightning"):
        packages._import_installed()


def test_a_copy_that_is_not_installed_works():
    """As from a checkout on the path, on a machine that has all the rest."""
    version = run(
        "import importlib.metadata as metadata, pytorch_lightning, lightning.pytorch, torchmetrics\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\n"
        "import lightning_sparse; print(lightning_sparse.__version__)"
    )
    assert version == "0+unknown"
