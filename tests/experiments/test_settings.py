import copy

import pytest

from lightning_sparse.checks import SparsityError
from lightning_sparse.experiments.settings import first_difference, put_

RECIPE = {
    "seed_everything": 0,
    "trainer": {
        "max_epochs": 30,
        "logger": None,
        "callbacks": [
            {"class_path": "pl.ModelCheckpoint", "init_args": {"save_last": True}},
            {"class_path": "lightning_sparse.ExactResume"},
            {"class_path": "lightning_sparse.PruneAtInit", "init_args": {"method": "erk", "density": 0.05}},
            {"class_path": "lightning_sparse.RigLCallback", "init_args": {"density": None, "seed": None}},
        ],
    },
    "model": {"class_path": "Net", "init_args": {"optimizer": {"class_path": "torch.optim.Adam"}}},
}


def changed(key, value):
    recipe = copy.deepcopy(RECIPE)
    put_(recipe, key, value)
    return recipe


def callbacks(key, value):
    return {
        c["class_path"].rpartition(".")[2]: c.get("init_args")
        for c in changed(key, value)["trainer"]["callbacks"]
    }


def test_plain_keys():
    assert changed("seed_everything", 7)["seed_everything"] == 7
    assert changed("trainer.max_epochs", 3)["trainer"]["max_epochs"] == 3
    assert changed("trainer.logger.save_dir", "x")["trainer"]["logger"] == {"save_dir": "x"}


def test_arguments_of_classes_with_and_without_init_args():
    expected = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}}
    for key in ("model.optimizer.lr", "model.init_args.optimizer.init_args.lr"):
        assert changed(key, 0.1)["model"]["init_args"]["optimizer"] == expected


def test_a_class_without_arguments_gets_some():
    found = callbacks("trainer.callbacks.PruneAtInit.method.iterations", 5)["PruneAtInit"]["method"]
    assert found == {"class_path": "erk", "init_args": {"iterations": 5}}


def test_callbacks_go_by_their_class():
    assert callbacks("trainer.callbacks.PruneAtInit.density", 0.5)["PruneAtInit"]["density"] == 0.5
    assert callbacks("trainer.callbacks.RigLCallback.density", 0.5)["RigLCallback"]["density"] == 0.5


def test_an_argument_that_one_callback_sets_needs_no_class():
    """RigLCallback has a density too, which is null."""
    assert callbacks("trainer.callbacks.density", 0.5)["PruneAtInit"]["density"] == 0.5
    assert callbacks("trainer.callbacks.seed", 3)["RigLCallback"]["seed"] == 3


def test_an_argument_of_two_callbacks_needs_a_class():
    recipe = changed("trainer.callbacks.RigLCallback.density", 0.1)
    with pytest.raises(
        SparsityError, match=r"PruneAtInit and RigLCallback.*callbacks\.RigLCallback\.density\.$"
    ):
        put_(recipe, "trainer.callbacks.density", 0.5)


def test_an_argument_that_no_callback_sets_is_of_the_one_that_has_it():
    recipe = copy.deepcopy(RECIPE)
    put_(
        recipe,
        "trainer.callbacks.verbose",
        True,
        lambda item: ["verbose"] * ("Checkpoint" in item["class_path"]),
    )
    assert recipe["trainer"]["callbacks"][0]["init_args"]["verbose"] is True


def test_callbacks_come_and_go():
    assert "RigLCallback" not in callbacks("trainer.callbacks.RigLCallback", None)
    assert callbacks("trainer.callbacks.SETCallback", {"density": 0.1})["SETCallback"] == {"density": 0.1}
    assert callbacks("trainer.callbacks.PruneAtInit", {"density": 0.1})["PruneAtInit"] == {"density": 0.1}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("trainer.callbacks.PruneAtInt.density", 1, "'PruneAtInt'; did you mean PruneAtInit?"),
        ("trainer.callbacks.RigLCalback", None, "did you mean RigLCallback?"),
        ("trainer.callbacks.densty", 1, "'densty'; did you mean density?"),
        ("trainer.callbacks.Nothing.density", 1, "which has ModelCheckpoint, ExactResume, PruneAtInit,"),
    ],
)
def test_what_is_not_there_is_said(key, value, said):
    with pytest.raises(SparsityError) as refused:
        changed(key, value)
    assert said in str(refused.value)


def test_two_of_one_class_are_refused():
    recipe = copy.deepcopy(RECIPE)
    recipe["trainer"]["callbacks"].append({"class_path": "other.ModelCheckpoint"})
    with pytest.raises(SparsityError, match="got 2 of the name ModelCheckpoint"):
        put_(recipe, "trainer.callbacks.ModelCheckpoint.save_last", False)


def test_the_first_difference():
    assert first_difference(RECIPE, copy.deepcopy(RECIPE)) is None
    other = changed("trainer.callbacks.PruneAtInit.density", 0.1)
    place = "trainer.callbacks[2].init_args.density"
    assert first_difference(RECIPE, other) == (place, 0.05, 0.1)
    assert first_difference({"a": True}, {"a": 1}) == ("a", True, 1)
    assert first_difference({"a": [1]}, {"a": [1, 2]}) == ("a", [1], [1, 2])
    assert first_difference({"a": 1.0, "new": None}, {"a": 1}) is None
