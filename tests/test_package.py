import subprocess
import sys

import lightning_sparse

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


def test_a_copy_that_is_not_installed_works():
    """As from a checkout on the path, on a machine that has all the rest."""
    version = run(
        "import importlib.metadata as metadata, pytorch_lightning, lightning.pytorch, torchmetrics\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\n"
        "import lightning_sparse; print(lightning_sparse.__version__)"
    )
    assert version == "0+unknown"
