"""Files that are damaged, cut short, incomplete or of someone else: one error that names them, or no harm."""

import copy
import io
import shutil
import zipfile

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from toy import Toy, assert_equal, loader, make_toy, trainer, weights_of

from lightning_sparse import (
    ASNISigmoidPruner,
    DCTpSConversion,
    ExactResume,
    FromFile,
    GradualMagnitudePruning,
    IterativeMagnitudePruning,
    PruneAtInit,
    RigLCallback,
    SETCallback,
    SparsityMonitor,
    load_from_checkpoint,
    load_masks,
    load_ticket,
    save_masks,
)
from lightning_sparse.checks import SparsityError
from lightning_sparse.files.record import RECORD
from lightning_sparse.weights.state import state_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:.* and `max_epochs` is:UserWarning", "ignore:The fit has ended with:UserWarning"
)

ROWS = {
    "PruneAtInit": lambda: [PruneAtInit("erk", 0.2)],
    "RigL": lambda: [RigLCallback(0.2, every_n_steps=2, stop_at=99)],
    "RigL from PruneAtInit": lambda: [
        PruneAtInit("erk", 0.2),
        RigLCallback(every_n_steps=2, stop_at=99),
    ],
    "SET": lambda: [SETCallback(0.2, every_n_steps=2, stop_at=99)],
    "ASNI": lambda: [ASNISigmoidPruner(density=0.2, search_epochs=2)],
    "IMP": lambda: [IterativeMagnitudePruning(0.2, rounds=2, epochs_per_round=1)],
    "gradual": lambda: [GradualMagnitudePruning(0.2, stop=5, every_n_steps=2)],
    "DCTpS": lambda: [DCTpSConversion(0.2)],
    "DCTpS, RigL": lambda: [DCTpSConversion(0.2), RigLCallback(every_n_steps=2, stop_at=99)],
    "ExactResume alone": list,
}
MASKED = ["PruneAtInit", "RigL", "RigL from PruneAtInit", "SET", "ASNI", "IMP", "gradual"]
STAGES = ["fit", "validate", "test"]


def run(path, row, stage="fit", epochs=3, module=None, **arguments):
    module = make_toy() if module is None else module
    runner = trainer(path.parent, *ROWS[row](), ExactResume(), max_epochs=epochs, **arguments)
    if stage == "fit":
        runner.fit(module, loader(2), loader(1), ckpt_path=path)
    else:
        getattr(runner, stage)(module, loader(1), ckpt_path=path, verbose=False)
    return module


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a copy of the checkpoint of a row after its first epoch, made once."""
    made = {}

    def make(row, to):
        if row not in made:
            folder = tmp_path_factory.mktemp("run")
            save = ModelCheckpoint(folder, save_last=True)
            callbacks = [*ROWS[row](), ExactResume(), save]
            limits = {"max_epochs": 1, "enable_checkpointing": True, "num_sanity_val_steps": 0}
            trainer(folder, *callbacks, **limits).fit(make_toy(), loader(2))
            made[row] = folder / "last.ckpt"
        return shutil.copy(made[row], to / "it.ckpt")

    return make


@pytest.fixture
def changed(saved, tmp_path):
    """Return a checkpoint in which something was changed, its checksums right, with its record or without."""

    def make(row, change, record=True):
        path = saved(row, tmp_path)
        content = torch.load(path, weights_only=True)
        change(content)
        if not record:
            del content[RECORD]
        torch.save(content, path)
        return path

    return make


def state_in(content, name):
    return content["callbacks"][name]


def refusal(path, call, *arguments, **options):
    """Return what is said of a file: one or two lines that name it, and no other error before."""
    with pytest.raises(SparsityError) as caught:
        call(*arguments, **options)
    error = caught.value
    assert path.name in str(error)
    assert str(error).count("\n") < 2
    assert "weights_only=False" not in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    return str(error)


def flip(path, needle, bit=6):
    content = bytearray(path.read_bytes())
    content[content.index(needle) + 3] ^= 1 << bit
    path.write_bytes(content)


# Damage.


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("monitor", [False, True])
def test_a_flipped_weight_is_found_without_a_callback_that_makes_sparse(saved, tmp_path, stage, monitor):
    path = saved("ExactResume alone", tmp_path)
    flip(path, torch.load(path, weights_only=True)["state_dict"]["net.6.weight"].numpy().tobytes())
    runner = trainer(tmp_path, SparsityMonitor() if monitor else ExactResume(), max_epochs=2)
    options = {} if stage == "fit" else {"verbose": False}
    said = refusal(path, getattr(runner, stage), make_toy(), loader(1), ckpt_path=path, **options)
    assert said.startswith(f"`ckpt_path` '{path}' is damaged ('archive/data/")


def test_a_damaged_checkpoint_is_found_before_anything_is_loaded(saved, tmp_path):
    path, loaded = saved("PruneAtInit", tmp_path), []

    class Loads(Toy):
        def on_load_checkpoint(self, checkpoint):
            loaded.append(checkpoint)

    flip(path, torch.load(path, weights_only=True)["state_dict"]["net.6.weight"].numpy().tobytes())
    refusal(path, run, path, "PruneAtInit", module=Loads())
    assert not loaded


def test_last_and_best_are_checked_too(tmp_path):
    save = ModelCheckpoint(tmp_path, save_last=True)
    toy = make_toy()
    for name in ("last", "best"):
        runner = trainer(tmp_path, ExactResume(), save, enable_checkpointing=True)
        runner.fit(toy, loader(1))
        path = tmp_path / "last.ckpt" if name == "last" else type(tmp_path)(save.best_model_path)
        flip(path, toy.net[6].weight.detach().numpy().tobytes())
        refusal(path, runner.test, toy, loader(1), ckpt_path=name, verbose=False)
        path.unlink()


def test_every_bit_of_the_table_of_contents(tmp_path):
    """Of one record, and of what follows the last: in one of them torch read what was in memory."""
    path, mask = tmp_path / "masks.pt", {"a": torch.rand(20, 20) < 0.5}
    torch.save(mask, path)
    whole = path.read_bytes()
    record = whole.index(b"PK\x01\x02", whole.index(b"masks/data/0", whole.index(b"PK\x01\x02")) - 60)
    after = whole.index(b"PK\x06\x06")
    same, said = 0, []
    for place in [*range(record, record + 60), *range(after, len(whole))]:
        for bit in range(place % 2, 8, 2):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                assert_equal(load_masks(path), mask)
                same += 1
            except SparsityError as error:
                said.append(str(error))
    assert all("masks.pt" in text for text in said)
    assert min(same, len(said)) > 50
    path.write_bytes(whole[: record + 38] + b"\x10" + whole[record + 39 :])
    assert "'masks/data/0' is marked as a folder" in refusal(path, load_masks, path)


BROKEN = {
    "empty": lambda whole: b"",
    "one byte": lambda whole: whole[:1],
    "cut": lambda whole: whole[: len(whole) // 2],
    "cut at its end": lambda whole: whole[:-5],
    "text": lambda whole: b"not a checkpoint\n" * 9,
    "no archive": lambda whole: b"\x80\x02" + whole[2:],
    "in the pickle": lambda whole: whole.replace(b"ctorch._utils", b"ctorch._itils", 1),
}


def readers(path):
    return {
        "fit": lambda: run(path, "PruneAtInit"),
        "test": lambda: run(path, "PruneAtInit", "test"),
        "monitor": lambda: trainer(path.parent, SparsityMonitor()).test(make_toy(), loader(1), path, False),
        "load_from_checkpoint": lambda: load_from_checkpoint(Toy, path),
        "an open file": lambda: load_from_checkpoint(Toy, io.FileIO(path)),
        "load_masks": lambda: load_masks(path),
        "load_ticket": lambda: load_ticket(path),
        "FromFile": lambda: trainer(path.parent, PruneAtInit(FromFile(path))).fit(make_toy(), loader(1)),
    }


@pytest.mark.parametrize("broken", BROKEN)
def test_whoever_reads_it_names_the_file(saved, tmp_path, broken):
    path = saved("PruneAtInit", tmp_path)
    content = BROKEN[broken](path.read_bytes())
    assert content != path.read_bytes()
    path.write_bytes(content)
    for read in readers(path).values():
        refusal(path, read)
    assert path.read_bytes() == content


def test_files_of_other_kinds_are_no_checkpoints(tmp_path):
    path = tmp_path / "masks.pt"
    torch.save({"net.6.weight": torch.ones(4, 200, dtype=torch.bool)}, path)
    assert "is no checkpoint of a Trainer" in refusal(path, run, path, "PruneAtInit")
    assert "is no checkpoint of a Trainer" in refusal(path, load_from_checkpoint, Toy, path)
    torch.save([1], path)
    assert "is no checkpoint of a Trainer" in refusal(path, run, path, "ExactResume alone", "test")


@pytest.mark.parametrize("part", ["centroids", "signs"])
def test_a_flipped_bit_in_a_ticket(tmp_path, part):
    path = tmp_path / "ticket.pt"
    asni = ASNISigmoidPruner(density=0.2, search_epochs=2, ticket_path=str(path))
    trainer(tmp_path, asni, max_epochs=3).fit(make_toy(), loader(1))
    whole = path.read_bytes()
    flip(path, torch.load(path, weights_only=True)[part]["net.6.weight"].numpy().tobytes())
    assert path.read_bytes() != whole
    for read in (load_ticket, load_masks):
        assert "is damaged" in refusal(path, read, path)


def test_a_flipped_bit_in_load_from_checkpoint(saved, tmp_path):
    path = saved("DCTpS", tmp_path)
    flip(path, torch.load(path, weights_only=True)["state_dict"]["net.6.values"].numpy().tobytes())
    assert "is damaged" in refusal(path, load_from_checkpoint, Toy, path)
    with path.open("rb") as file:
        assert "is damaged" in refusal(path, load_from_checkpoint, Toy, file)
    with pytest.raises(SparsityError, match="`path` 'an open BytesIO' is damaged"):
        load_from_checkpoint(Toy, io.BytesIO(path.read_bytes()))


def test_urls_are_checked(saved, tmp_path):
    path = saved("DCTpS", tmp_path)
    assert weights_of(load_from_checkpoint(Toy, f"file://{path}")).keys()
    flip(path, torch.load(path, weights_only=True)["state_dict"]["net.6.values"].numpy().tobytes())
    refusal(path, load_from_checkpoint, Toy, f"file://{path}")
    runner = trainer(tmp_path, DCTpSConversion(0.2))
    refusal(path, runner.test, make_toy(), loader(1), ckpt_path=f"file://{path}", verbose=False)


def test_files_without_checksums_load(saved, tmp_path):
    """By `set_crc32_options(False)`, or in the format before torch 1.6."""
    path = saved("DCTpS", tmp_path)
    content, without = torch.load(path, weights_only=True), tmp_path / "without.ckpt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, without)
        save_masks(run(saved("PruneAtInit", tmp_path), "PruneAtInit"), tmp_path / "masks.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    for file in (without, tmp_path / "old.ckpt"):
        run(file, "DCTpS")
        run(file, "DCTpS", "test")
        assert_equal(weights_of(load_from_checkpoint(Toy, file)), content["state_dict"])
    flip(tmp_path / "masks.pt", b"crc32")  # what is written here has checksums whatever the option says
    assert "is damaged" in refusal(tmp_path / "masks.pt", load_masks, tmp_path / "masks.pt")


def test_what_is_not_there_is_named_as_ever(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.ckpt"):
        run(tmp_path / "none.ckpt", "PruneAtInit")
    assert "does not exist" in refusal(
        tmp_path / "none.ckpt", load_from_checkpoint, Toy, tmp_path / "none.ckpt"
    )


def test_nothing_stays_in_the_trainer(saved, tmp_path):
    path, runner = saved("PruneAtInit", tmp_path), trainer(tmp_path, PruneAtInit("erk", 0.2), max_epochs=2)
    runner.fit(make_toy(), loader(1), ckpt_path=path)
    assert "load_checkpoint" not in vars(runner.strategy)
    copy.deepcopy(runner.strategy.load_checkpoint)
    assert runner.strategy.load_checkpoint(path)["global_step"] == 2


# Objects of other classes.


class Own:
    """What only `weights_only=False` reads."""

    def __init__(self, width=4):
        self.width = width

    def __reduce__(self):
        return Own, (self.width,)


class ReadsAll(Toy):
    """Settles `weights_only` by itself, as chemprop's modules do."""

    def __init__(self, own=None):
        super().__init__()
        self.save_hyperparameters()

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path, map_location=None, hparams_file=None, strict=True, **kwargs
    ):
        return super().load_from_checkpoint(
            checkpoint_path, map_location, hparams_file, strict, weights_only=False, **kwargs
        )


class ReadsLittle(Toy):
    def __init__(self, own=None):
        super().__init__()
        self.save_hyperparameters()


def saved_with_own(tmp_path, kind, *callbacks):
    torch.manual_seed(0)
    module, save = kind(Own(5)), ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, *callbacks, save, max_epochs=1, enable_checkpointing=True).fit(module, loader(1))
    return module, tmp_path / "last.ckpt"


@pytest.mark.parametrize("callback", [lambda: DCTpSConversion(0.2), lambda: PruneAtInit("erk", 0.2)])
@pytest.mark.parametrize("options", [{}, {"weights_only": False}])
def test_modules_that_pass_weights_only_themselves(tmp_path, callback, options):
    module, path = saved_with_own(tmp_path, ReadsAll, callback())
    loaded = load_from_checkpoint(ReadsAll, path, **options)
    assert_equal(weights_of(loaded), weights_of(module))
    assert loaded.hparams.own.width == 5
    with path.open("rb") as file:
        assert_equal(weights_of(load_from_checkpoint(ReadsAll, file, **options)), weights_of(module))


def test_others_say_which_class_it_is_about(tmp_path):
    module, path = saved_with_own(tmp_path, ReadsLittle, DCTpSConversion(0.2))
    with pytest.raises(SparsityError, match=r"`path` '.*last.ckpt' holds an object of .*Own, neither"):
        load_from_checkpoint(ReadsLittle, path)
    assert_equal(weights_of(load_from_checkpoint(ReadsLittle, path, weights_only=False)), weights_of(module))
    assert "holds an object of" in refusal(path, load_masks, path)


# Completeness.


@pytest.mark.parametrize("record", [True, False], ids=["record", "older file"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("row", MASKED)
def test_a_mask_that_is_missing(changed, row, stage, record):
    def lose(content):
        for state in content["callbacks"].values():
            state.get("masks", {}).pop("net.6.weight", None)

    path = changed(row, lose, record)
    with pytest.raises(SparsityError, match=r"net\.6\.weight"):
        run(path, row, stage)


@pytest.mark.parametrize("record", [True, False], ids=["record", "older file"])
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_mask_too_many(changed, stage, record):
    def add(content):
        masks = state_in(content, "PruneAtInit")["masks"]
        masks["net.1.weight"] = masks["net.6.weight"]

    path = changed("PruneAtInit", add, record)
    with pytest.raises(SparsityError, match=r"net\.1\.weight"):
        run(path, "PruneAtInit", stage)


@pytest.mark.parametrize("row", ROWS)
def test_files_without_a_record_resume(changed, row):
    path = changed(row, lambda content: None, record=False)
    run(path, row)
    run(path, row, "test")


@pytest.mark.filterwarnings("ignore:Frozen weights stay dense:UserWarning")
def test_frozen_weights_may_have_a_mask_or_none(changed):
    for name in ("net.6.weight", None):

        class Frozen(Toy):
            def __init__(self):
                super().__init__()
                self.net[6].weight.requires_grad_(False)

        def lose(content, name=name):
            state_in(content, "PruneAtInit")["masks"].pop(name, None)

        run(changed("PruneAtInit", lose, record=False), "PruneAtInit", module=Frozen())


PARTS = [
    ("RigL", ("RigLCallback", "history", "initial", "net.6.weight")),
    ("RigL", ("RigLCallback", "clock", "steps", 0)),
    ("SET", ("SETCallback", "draw_seed")),
    ("ASNI", ("ASNISigmoidPruner", "saved", "causal_mask")),
    ("IMP", ("IterativeMagnitudePruning", "saved", "net.0.bias")),
    ("IMP", ("IterativeMagnitudePruning", "start_states", "optimizers")),
    ("DCTpS", ("DCTpSConversion", "config", "alpha")),
    ("RigL from PruneAtInit", ("PruneAtInit",)),
    ("RigL from PruneAtInit", ("RigLCallback",)),
    ("DCTpS, RigL", ("RigLCallback",)),
    ("DCTpS", ("ExactResume",)),
]


@pytest.mark.parametrize(("row", "names"), PARTS)
def test_anything_missing_is_named(changed, row, names):
    def lose(content):
        part = content["callbacks"]
        for name in names[:-1]:
            part = part[name]
        del part[names[-1]]

    path = changed(row, lose)
    said = refusal(path, run, path, row)
    assert all(str(name) in said for name in names)


@pytest.mark.parametrize(
    ("row", "names", "message"),
    [
        ("RigL from PruneAtInit", ("PruneAtInit",), "no state of PruneAtInit, but one of RigLCallback"),
        ("RigL from PruneAtInit", ("RigLCallback",), "no state of RigLCallback, but one of PruneAtInit"),
        ("IMP", ("IterativeMagnitudePruning", "saved", "net.0.bias"), "lack 'net.0.bias'"),
        ("IMP", ("IterativeMagnitudePruning", "start_states", "optimizers"), "first states of optimizers"),
    ],
)
def test_what_older_files_lack_is_named_where_it_can_be_told(changed, row, names, message):
    def lose(content):
        part = content["callbacks"]
        for name in names[:-1]:
            part = part[name]
        del part[names[-1]]

    with pytest.raises(SparsityError, match=message):
        run(changed(row, lose, record=False), row)


@pytest.mark.parametrize("part", ["values", "indices"])
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_lenient_modules_need_all_of_a_converted_layer(changed, part, stage):
    class Lenient(Toy):
        strict_loading = False

    path = changed("DCTpS", lambda content: content["state_dict"].pop(f"net.6.{part}"))
    with pytest.raises(SparsityError, match=rf"lacks the {part} of the converted layer 'net.6'"):
        run(path, "DCTpS", stage, module=Lenient())
    assert "for the layer 'net.6'" in refusal(path, load_from_checkpoint, Toy, path)


def test_files_of_masks_say_what_is_in_them(saved, tmp_path):
    path = tmp_path / "masks.pt"
    save_masks(run(saved("PruneAtInit", tmp_path), "PruneAtInit"), path)
    content = torch.load(path, weights_only=True)
    del content["masks"]["net.6.weight"]
    torch.save(content, path)
    assert "lacks 'masks / net.6.weight'" in refusal(path, load_masks, path)
    torch.save({"masks": content["masks"]}, path)  # it says nothing else: these are the masks
    assert load_masks(path).keys() == {"net.0.weight"}


def test_a_ticket_without_one_of_its_layers(tmp_path):
    path = tmp_path / "ticket.pt"
    asni = ASNISigmoidPruner(density=0.2, search_epochs=2, ticket_path=str(path))
    trainer(tmp_path, asni, max_epochs=3).fit(make_toy(), loader(1))
    content = torch.load(path, weights_only=True)
    for part in ("masks", "signs", "centroids"):
        del content[part]["net.6.weight"]
    torch.save(content, path)
    assert "do not fit" in refusal(path, load_ticket, path)


# States of others.


FOREIGN = [
    {"total": 3},
    {"sums": {}, "config": {}, "finished": True, "masks": {}},
    {"config": {}, "finished": True, "masks": {"net.6.weight": {"bits": torch.zeros(3)}}},
    {"config": {}, "finished": True, "masks": {"net.6.weight": torch.ones(4, 200)}},
    {"config": 3, "finished": True, "masks": {}},
    "text",
]


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("foreign", FOREIGN, ids=range(len(FOREIGN)))
@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("PruneAtInit", "PruneAtInit"),
        ("RigL", "RigLCallback"),
        ("ASNI", "ASNISigmoidPruner"),
        ("IMP", "IterativeMagnitudePruning"),
        ("DCTpS", "DCTpSConversion"),
        ("ExactResume alone", "ExactResume"),
    ],
)
def test_a_state_of_another_class(changed, row, name, foreign, record):
    def put(content):
        content["callbacks"][name] = foreign

    path = changed(row, put, record)
    if not record and foreign == FOREIGN[1] and name == "PruneAtInit":
        pytest.skip("is such a state, of masks that were handed over")
    with pytest.raises(SparsityError, match=rf"{name}|net\.6\.weight") as caught:
        run(path, row)
    assert str(caught.value).count("\n") < 2


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        ("RigL", lambda c: c["RigLCallback"].update(history={"moved": {}}), "RigLCallback, history lacks"),
        ("RigL", lambda c: c["RigLCallback"].update(clock=[1]), "'clock' .* of type Mapping, got"),
        ("RigL", lambda c: c["RigLCallback"]["clock"].update(owed=None), "'owed' .* of type list, got None"),
        ("RigL", lambda c: c["RigLCallback"].pop("sums"), "lacks 'sums'"),
        ("IMP", lambda c: c["IterativeMagnitudePruning"].update(epoch="1"), "'epoch' .* of type int"),
        (
            "PruneAtInit",
            lambda c: c["PruneAtInit"]["masks"]["net.6.weight"].pop("crc32"),
            "mask of 'net.6.weight' must have bits, shape and crc32, got bits, shape",
        ),
        (
            "PruneAtInit",
            lambda c: c["PruneAtInit"]["masks"]["net.6.weight"].update(bits=torch.rand(100)),
            "mask of 'net.6.weight' must have a vector of bytes",
        ),
        (
            "PruneAtInit",
            lambda c: c["PruneAtInit"]["masks"]["net.6.weight"].update(shape="4"),
            "mask of 'net.6.weight' must have a vector of bytes and a list of sizes",
        ),
        ("ExactResume alone", lambda c: c["ExactResume"].update(ranks=[3]), "ExactResume must be a dict"),
        (
            "ExactResume alone",
            lambda c: c["ExactResume"]["ranks"][0]["rng"].pop("numpy"),
            "ExactResume lacks 'numpy'",
        ),
    ],
)
def test_another_layout_is_named(changed, row, change, message):
    path = changed(row, lambda content: change(content["callbacks"]), record=False)
    with pytest.raises(SparsityError, match=message):
        run(path, row)


def test_a_whole_drop_fraction_resumes(saved, tmp_path):
    """Numbers without a decimal point are numbers."""

    def moves():
        return RigLCallback(0.2, every_n_steps=1, stop_at=99, drop_fraction=1, drop_schedule="constant")

    save = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, moves(), save, max_epochs=1, enable_checkpointing=True).fit(make_toy(), loader(2))
    trainer(tmp_path, moves(), max_epochs=2).fit(make_toy(), loader(2), ckpt_path=tmp_path / "last.ckpt")


def test_masks_are_those_of_the_checkpoint(saved, tmp_path):
    """What is checked is what is then taken up."""
    path = saved("RigL from PruneAtInit", tmp_path)
    tested = run(path, "RigL from PruneAtInit", "test")
    assert_equal(state_of(tested).masks, load_masks(path))


# Files of other programs, and parts of other kinds.


def plain_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/hello.txt", "hello")


OTHERS = {
    "npz": (lambda path: np.savez(path.open("wb"), a=np.ones(3)), "it is a zip archive of something else"),
    "zip": (plain_zip, "it is a zip archive of something else"),
    "TorchScript": (lambda path: torch.jit.script(nn.Linear(2, 2)).save(path), "it is a TorchScript archive"),
    "zeros": (lambda path: path.write_bytes(b"\0" * 4096), "is no file of masks, ticket or checkpoint"),
    "module": (lambda path: torch.save(Own(), path), "an object of "),
    "folder": (lambda path: path.mkdir(), "folder|Is a directory"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("other", OTHERS)
def test_files_of_other_programs_are_named(tmp_path, other):
    path = tmp_path / "it.ckpt"
    make, message = OTHERS[other]
    make(path)
    for reader, read in readers(path).items():
        if other == "folder" and reader == "an open file":
            continue
        with pytest.raises(SparsityError, match=message) as caught:
            read()
        assert path.name in str(caught.value)
        assert "enforce fail" not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert ".  " not in str(caught.value)
        if not reader.startswith(("load_from", "an open")):
            assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("state_dict", None),
        ("state_dict", [1]),
        ("callbacks", 5),
        ("loops", [1]),
        ("optimizer_states", 5),
        (RECORD, {"callbacks": 5}),
        (RECORD, {"callbacks": {"PruneAtInit": [1]}}),
        (RECORD, 5),
    ],
)
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_parts_of_another_kind(changed, part, value, stage):
    path = changed("PruneAtInit", lambda content: content.update({part: value}), record=True)
    if part == "callbacks":
        content = torch.load(path, weights_only=True)
        del content[RECORD]
        torch.save(content, path)
    assert part in refusal(path, run, path, "PruneAtInit", stage)


def test_only_checkpoints_have_earlier_ones(tmp_path):
    path = tmp_path / "masks.pt"
    torch.save({"a": torch.rand(20, 20) < 0.5}, path)
    path.write_bytes(path.read_bytes()[:-5])
    for read in (load_masks, load_ticket):
        said = refusal(path, read, path)
        assert said.endswith("Use another file; this one was left as it is.")
    assert "Use an earlier checkpoint" in refusal(path, run, path, "PruneAtInit")


def test_a_path_in_a_checkpoint_is_a_plain_value(tmp_path):
    """Lightning 1.9 writes the folder of a `ModelCheckpoint` as the path that it was given."""
    runner = trainer(tmp_path, PruneAtInit("erk", 0.5))
    runner.fit(make_toy(), loader())
    runner.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    torch.save({**content, "folder": tmp_path}, tmp_path / "b.ckpt")
    assert_equal(load_masks(tmp_path / "a.ckpt"), load_masks(tmp_path / "b.ckpt"))
