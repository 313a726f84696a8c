"""Random numbers of data: a resumed run draws what the undisturbed one draws, or says that it does not."""

import random
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from resumed import Noisy, Small, assert_goes_on, plain, rows, whole_and_resumed
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)
from torchdata.stateful_dataloader import StatefulDataLoader

EPOCH_END, MID_EPOCH = ("on_train_epoch_end", 2), ("on_train_batch_end", 8)  # of six batches an epoch
DRAWS = {
    "torch": lambda: torch.randn(6),
    "numpy": lambda: torch.from_numpy(np.random.randn(6).astype(np.float32)),  # noqa: NPY002
    "python": lambda: torch.tensor([random.random() for _ in range(6)]),
}


def stateful(data, **arguments):
    return StatefulDataLoader(data, 4, **arguments)


@pytest.mark.parametrize("number", [1, 8])
@pytest.mark.parametrize("draws", DRAWS)
def test_augmentation_in_mid_epoch(draws, number, tmp_path):
    def make():
        return stateful(Noisy(DRAWS[draws]), shuffle=True)

    assert_goes_on(*whole_and_resumed(tmp_path, make, "on_train_batch_end", number))


@pytest.mark.parametrize("make", [plain, stateful, partial(plain, shuffle=True)])
def test_augmentation_at_the_end_of_an_epoch(make, tmp_path):
    assert_goes_on(*whole_and_resumed(tmp_path, lambda: make(Noisy())))


class EpochSampler(Sampler):
    """No child of DistributedSampler."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 24

    def __iter__(self):
        return iter(torch.randperm(24, generator=torch.Generator().manual_seed(self.epoch)).tolist())


class DrawsEach(Sampler):
    """Draws each place when it is asked for it."""

    def __init__(self, generator=None):
        self.generator = generator

    def __len__(self):
        return 24

    def __iter__(self):
        return (int(torch.randint(24, (), generator=self.generator)) for _ in range(24))


def seeded():
    return torch.Generator().manual_seed(3)


SAMPLERS = {
    "subset": lambda: SubsetRandomSampler(range(24)),
    "subset, own generator": lambda: SubsetRandomSampler(range(24), generator=seeded()),
    "weighted": lambda: WeightedRandomSampler([1.0] * 12 + [3.0] * 12, 24),
    "random": lambda: RandomSampler(range(24)),
    "random, own generator": lambda: RandomSampler(range(24), generator=seeded()),
    "with replacement": lambda: RandomSampler(range(24), replacement=True, generator=seeded()),
    "set_epoch": EpochSampler,
    "one by one": DrawsEach,
    "one by one, own generator": lambda: DrawsEach(seeded()),
}


@pytest.mark.parametrize("moment", [EPOCH_END, ("on_train_batch_end", 3), MID_EPOCH], ids=str)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(sampler, moment, tmp_path):
    """With a dataloader that knows how many batches it gave, but not what its sampler drew."""
    assert_goes_on(
        *whole_and_resumed(tmp_path, lambda: stateful(Noisy(), sampler=SAMPLERS[sampler]()), *moment)
    )


@pytest.mark.parametrize("moment", [EPOCH_END, MID_EPOCH], ids=str)
@pytest.mark.parametrize("sampler", ["subset, own generator", "set_epoch", "random"])
def test_batch_samplers(sampler, moment, tmp_path):
    def make():
        return StatefulDataLoader(Noisy(), batch_sampler=BatchSampler(SAMPLERS[sampler](), 4, False))

    assert_goes_on(*whole_and_resumed(tmp_path, make, *moment))


@pytest.mark.parametrize("moment", [EPOCH_END, MID_EPOCH], ids=str)
@pytest.mark.parametrize("sampler", ["set_epoch", "weighted", "random, own generator"])
def test_samplers_with_workers(sampler, moment, tmp_path):
    def make():
        return stateful(rows(), sampler=SAMPLERS[sampler](), num_workers=1)

    assert_goes_on(*whole_and_resumed(tmp_path, make, *moment, max_epochs=2 if moment == MID_EPOCH else 3))


OWN = {
    "torch": lambda: torch.Generator().manual_seed(1),
    "numpy": lambda: np.random.default_rng(1),
    "numpy MT19937": lambda: np.random.Generator(np.random.MT19937(1)),
    "numpy Philox": lambda: np.random.Generator(np.random.Philox(1)),
    "numpy SFC64": lambda: np.random.Generator(np.random.SFC64(1)),
    "numpy RandomState": lambda: np.random.RandomState(1),
    "python": lambda: random.Random(1),
}


def draw_from(generator):
    if isinstance(generator, torch.Generator):
        return torch.randn(6, generator=generator)
    if isinstance(generator, random.Random):
        return torch.tensor([generator.gauss(0, 1) for _ in range(6)])
    return torch.from_numpy(generator.normal(size=6).astype(np.float32))


@pytest.mark.parametrize("moment", [EPOCH_END, MID_EPOCH], ids=str)
@pytest.mark.parametrize("kind", OWN)
def test_a_generator_of_the_data_set(kind, moment, tmp_path):
    assert_goes_on(
        *whole_and_resumed(tmp_path, lambda: stateful(Noisy(partial(draw_from, OWN[kind]()))), *moment)
    )


class Transform:
    def __init__(self):
        self.rng = np.random.default_rng(2)

    def __call__(self):
        return draw_from(self.rng)


class Compose:
    def __init__(self, *transforms):
        self.transforms = list(transforms)

    def __call__(self):
        return sum(transform() for transform in self.transforms)


class Slots:
    __slots__ = ("generator",)

    def __init__(self):
        self.generator = torch.Generator().manual_seed(4)

    def __call__(self):
        return draw_from(self.generator)


def closure():
    rng = random.Random(5)
    return lambda: draw_from(rng)


class Collates:
    def __init__(self):
        self.rng = random.Random(6)

    def collate(self, items):
        x, y = default_collate(items)
        return x + self.rng.random(), y


def add_noise(generator, items):
    x, y = default_collate(items)
    return x + torch.randn(x.shape, generator=generator), y


PLACES = {
    "transforms": lambda make: make(Noisy(Compose(Transform(), Transform()))),
    "a subset of a concatenation": lambda make: make(
        Subset(ConcatDataset([Noisy(Transform(), 12), Noisy(Transform(), 12)]), range(24))
    ),
    "slots": lambda make: make(Noisy(Slots())),
    "a closure": lambda make: make(Noisy(closure())),
    "a method that collates": lambda make: make(rows(), collate_fn=Collates().collate),
    "a partial that collates": lambda make: make(rows(), collate_fn=partial(add_noise, seeded())),
}


@pytest.mark.parametrize(("make", "moment"), [(plain, EPOCH_END), (stateful, MID_EPOCH)])
@pytest.mark.parametrize("place", PLACES)
def test_generators_wherever_they_are(place, make, moment, tmp_path):
    assert_goes_on(*whole_and_resumed(tmp_path, lambda: PLACES[place](make), *moment))


class Draws(Small):
    """Has generators of its own, in itself, in a child and in a dict."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(9)
        self.net.rng = np.random.default_rng(9)
        self.more = {"of": [random.Random(9)]}

    def on_after_batch_transfer(self, batch, _):
        noise = sum(draw_from(one) for one in (self.generator, self.net.rng, self.more["of"][0]))
        return batch[0] + noise + torch.rand(()), batch[1]


@pytest.mark.parametrize(("make", "moment"), [(plain, EPOCH_END), (stateful, MID_EPOCH)])
def test_generators_of_the_module(make, moment, tmp_path):
    """And the global one, between the dataloader and the first hook of a batch."""
    assert_goes_on(
        *whole_and_resumed(tmp_path, lambda: make(rows(), shuffle=True), *moment, make_module=Draws)
    )


class DrawsInHooks(Small):
    """Draws when training and epochs start, and tells the data its epoch, as the sampler of workers needs."""

    def on_train_start(self):
        torch.rand(3)

    def on_train_epoch_start(self):
        torch.rand(2)
        self.trainer.train_dataloader.dataset.scale = self.current_epoch + 1


class Scaled(Noisy):
    scale = 1

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x * self.scale, y


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_set_when_an_epoch_starts(workers, tmp_path):
    """Iterators, and copies of the data in workers, are made after that."""

    def make():
        return plain(Scaled(), shuffle=True, num_workers=workers)

    assert_goes_on(*whole_and_resumed(tmp_path, make, make_module=DrawsInHooks, max_epochs=2, number=1))


class Endless(IterableDataset):
    """Draws from the global generator and its own; no length."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(2)

    def __iter__(self):
        for x, y in rows():
            yield x + torch.rand(6) + torch.rand(6, generator=self.generator), y


def test_data_without_length_at_the_end_of_an_epoch(tmp_path):
    assert_goes_on(*whole_and_resumed(tmp_path, lambda: plain(Endless())))


@pytest.mark.parametrize("mode", ["max_size_cycle", "min_size", "max_size"])
@pytest.mark.parametrize(("make", "moment"), [(plain, EPOCH_END), (stateful, MID_EPOCH)])
def test_two_dataloaders(make, moment, mode, tmp_path):
    class Both(Small):
        def training_step(self, batch, batch_idx):
            first, second = batch["a"], batch["b"]
            joined = (
                first if second is None else [torch.cat(both) for both in zip(first, second, strict=True)]
            )
            return super().training_step(joined, batch_idx)

    def make_both():
        both = {"a": make(Noisy(), shuffle=True), "b": make(Noisy(Transform(), 16), shuffle=True)}
        return CombinedLoader(both, mode)

    number = 6 if mode == "min_size" and moment == MID_EPOCH else moment[1]
    assert_goes_on(*whole_and_resumed(tmp_path, make_both, moment[0], number, make_module=Both))


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit_train_batches": 4},
        {"max_steps": 18, "max_epochs": -1},
        {"max_epochs": 4, "reload_dataloaders_every_n_epochs": 1},
        {"max_epochs": 4, "reload_dataloaders_every_n_epochs": 2},
    ],
    ids=lambda arguments: " ".join(arguments),
)
@pytest.mark.parametrize(("make", "moment"), [(plain, EPOCH_END), (stateful, MID_EPOCH)])
def test_arguments_of_the_trainer(make, moment, arguments, tmp_path):
    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            torch.rand(1)  # as a split would
            return make(Noisy(), shuffle=True)

        def val_dataloader(self):
            return plain(Noisy(), shuffle=True)

    number = 7 if moment == MID_EPOCH and "limit_train_batches" in arguments else moment[1]
    assert_goes_on(*whole_and_resumed(tmp_path, Data, moment[0], number, **arguments))


def test_workers_that_persist_are_named(tmp_path):
    """The order of the data goes on; random numbers of the workers do not."""
    arguments = {"max_epochs": 2, "number": 1}
    with pytest.warns(UserWarning, match=r"ExactResume: .*`persistent_workers=True`"):
        whole_and_resumed(
            tmp_path, lambda: plain(Noisy(), num_workers=1, persistent_workers=True), **arguments
        )
    assert_goes_on(
        *whole_and_resumed(
            tmp_path,
            lambda: plain(rows(), num_workers=1, persistent_workers=True, shuffle=True),
            **arguments,
        )
    )


def test_workers_resumed_in_mid_epoch_are_named(tmp_path):
    with pytest.warns(UserWarning, match="in mid-epoch worker processes start their random numbers afresh"):
        whole_and_resumed(tmp_path, lambda: stateful(Noisy(), num_workers=1), *MID_EPOCH, max_epochs=2)


def test_a_dataloader_that_starts_again_is_named(tmp_path):
    with pytest.warns(UserWarning, match="without `state_dict` starts again"):
        whole_and_resumed(tmp_path, lambda: plain(rows()), *MID_EPOCH)


def test_a_batch_fetched_ahead_is_named(tmp_path):
    with pytest.warns(UserWarning, match="fetches a batch ahead"):
        whole_and_resumed(tmp_path, lambda: stateful(Endless()), *MID_EPOCH)


@pytest.mark.parametrize("number", [8, 12], ids=["mid-epoch", "last batch of an epoch"])
def test_a_checkpoint_written_in_the_middle_of_a_step_is_named(tmp_path, number):
    """As Lightning does when SLURM sends SIGUSR1: the batch of that step is lost."""
    with pytest.warns(UserWarning, match="in the middle of a step") as told:
        whole_and_resumed(tmp_path, lambda: stateful(rows()), "on_after_backward", number)
    named = [str(warning.message) for warning in told if "in the middle of a step" in str(warning.message)]
    assert len(named) == 2  # when it is written, and when fit goes on from it


class Skips(DataLoader):
    """Finds its place by reading from the start, as a loader of one's own may do."""

    given, start = 0, 0

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.start = state["given"]

    def __iter__(self):
        start, self.start = self.start, 0
        for self.given, batch in enumerate(super().__iter__(), 1):
            if self.given > start:
                yield batch


def test_a_dataloader_of_ones_own(tmp_path):
    assert_goes_on(*whole_and_resumed(tmp_path, lambda: Skips(rows(), 4), *MID_EPOCH))
    with pytest.warns(UserWarning, match="the dataloader drew random numbers"):
        whole_and_resumed(tmp_path, lambda: Skips(Noisy(), 4), *MID_EPOCH)


def test_a_validation_left_out_is_named(tmp_path):
    with pytest.warns(UserWarning, match="before the validation that followed"):
        whole_and_resumed(
            tmp_path,
            lambda: stateful(rows()),
            "on_train_batch_end",
            3,
            val=plain(Noisy()),
            val_check_interval=0.5,
        )


@pytest.mark.filterwarnings("ignore:ExactResume.*before the validation that followed:UserWarning")
@pytest.mark.parametrize("number", [3, 6, 9])
def test_a_validation_left_out_that_draws_no_more_than_its_iterator(number, tmp_path):
    """Lightning makes that iterator all the same, which draws a seed for workers."""
    arguments = {"val": plain(rows(4)), "val_check_interval": 0.5}
    assert_goes_on(*whole_and_resumed(tmp_path, augmented, "on_train_batch_end", number, **arguments))


def augmented():
    return stateful(Noisy(), shuffle=True)


def test_an_epoch_that_lightning_takes_up_though_it_had_ended_is_named(tmp_path):
    with pytest.warns(UserWarning, match="with `max_steps` and no validation"):
        whole_and_resumed(tmp_path, augmented, max_steps=15, max_epochs=-1)


def test_a_generator_that_is_gone_is_named(tmp_path):
    kinds = iter(["torch", "python"])
    with pytest.warns(UserWarning, match=r"no generator 'train\[0\].dataset.draw.args\[0\]'"):
        whole_and_resumed(tmp_path, lambda: plain(Noisy(partial(draw_from, OWN[next(kinds)]()))))
