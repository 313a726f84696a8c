"""The series of `benchmarks.experiments.accuracy`: which recipes, with how many weights, for how long."""

from dataclasses import dataclass
from functools import cache

from lightning_sparse.data import ImageFolderDataModule
from lightning_sparse.data.images import Labelled


@dataclass(frozen=True)
class Method:
    """A row of the table: a recipe, and what is changed in it."""

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    dense: bool = False


@dataclass(frozen=True)
class Experiment:
    """Methods by budgets; every method is compared with ``against``."""

    methods: tuple[Method, ...]
    budgets: tuple[int, ...]
    weights: int
    epochs: int
    against: str
    data: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)


class DecodedOnce(ImageFolderDataModule):
    """An image folder whose files are read once per process, whatever number of runs."""

    def _decode(self, part: str) -> Labelled:
        return _decoded(self.data_dir, self.image_size, part)


@cache
def _decoded(data_dir: str, image_size: int | None, part: str) -> Labelled:
    return ImageFolderDataModule._decode(ImageFolderDataModule(data_dir, image_size), part)


CIFAR10 = ("--data=benchmarks.experiments.DecodedOnce", "--data.data_dir={data_dir}", "--data.batch_size=64")
EXPERIMENTS = {
    "lenet5_budgets": Experiment(
        methods=(
            Method("random uniform", "cifar10/lenet5_epl", ("--trainer.callbacks.method=uniform",)),
            Method("random EPL", "cifar10/lenet5_epl"),
            Method("FORCE", "cifar10/lenet5_force"),
            Method("SynFlow", "cifar10/lenet5_synflow"),
            Method("DCTpS (EPL)", "cifar10/lenet5_dctps"),
            Method("DCTpS (EPL), chw", "cifar10/lenet5_dctps", ("--trainer.callbacks.patch_order=chw",)),
            Method("DCTpS (EPL) + RigL", "cifar10/lenet5_dctps_rigl"),
            Method("dense", "cifar10/lenet5_dense", dense=True),
        ),
        budgets=(100, 300, 1_000, 3_000, 20_000),
        weights=61_510,
        epochs=10,
        against="DCTpS (EPL)",
        data=CIFAR10,
    ),
    "lenet300_moving": Experiment(
        methods=(
            Method("static ERK", "mnist/lenet300_static"),
            Method("static EPL", "mnist/lenet300_epl"),
            Method("SET (ERK)", "mnist/lenet300_set"),
            Method("RigL (ERK)", "mnist/lenet300_rigl"),
            Method("RigL (EPL)", "mnist/lenet300_rigl", ("--trainer.callbacks.allocation=epl",)),
            Method("DCTpS (EPL)", "mnist/lenet300_dctps"),
            Method("DCTpS (EPL) + RigL", "mnist/lenet300_dctps_rigl"),
            Method("dense", "mnist/lenet300_dense", dense=True),
        ),
        budgets=(1_331, 2_662, 5_324),
        weights=266_200,
        epochs=15,
        against="DCTpS (EPL) + RigL",
        data=("--data.data_dir={data_dir}",),
        seeds=(0, 1, 2, 3, 4),
    ),
    "lenet300_tickets": Experiment(
        methods=(
            Method("IMP, rewinding to 0", "mnist/lenet300_imp", ("--trainer.max_epochs=44",)),
            Method(
                "IMP, rewinding to 100",
                "mnist/lenet300_imp",
                ("--trainer.max_epochs=44", "--trainer.callbacks.rewind_to_step=100"),
            ),
            Method("SNIP", "mnist/lenet300_snip"),
            Method("static ERK", "mnist/lenet300_erk"),
            Method("dense", "mnist/lenet300_dense", dense=True),
        ),
        budgets=(5_324,),
        weights=266_200,
        epochs=4,
        against="IMP, rewinding to 0",
        data=("--data.data_dir={data_dir}",),
        seeds=(0, 1, 2, 3, 4),
    ),
}
