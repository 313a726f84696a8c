import pytest

from lightning_sparse.experiments.names import cell_name, in_words, short_names


def test_keys_are_called_by_as_few_words_as_tell_them_apart():
    keys = ["trainer.callbacks.A.density", "trainer.callbacks.B.density", "model.net", "seed_everything"]
    assert list(short_names(keys).values()) == ["A.density", "B.density", "net", "seed"]


def test_no_two_keys_have_one_name():
    """Each would be a column of its own, and the second would write over the first."""
    keys = ["trainer.callbacks.RigLCallback.seed", "seed_everything", "model.init_args.net.a", "model.net.a"]
    assert list(short_names(keys).values()) == ["RigLCallback.seed", "seed", *keys[2:]]


def test_class_paths_are_no_words_and_taken_names_are_left():
    assert short_names(["model.init_args.net.class_path"]) == {"model.init_args.net.class_path": "net"}
    assert short_names(["trainer.status", "x.test/acc"], ["status", "test/acc"]) == {
        "trainer.status": "trainer.status",
        "x.test/acc": "x.test/acc",
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.05, "0.05"),
        (1e-5, "1e-05"),
        (1, "1"),
        (True, "true"),
        (None, "none"),
        ([], "none"),
        (["a.*", "b"], "a.*+b"),
        ("runs/over.lay.yaml", "over.lay"),
        ({"class_path": "a.SynFlow"}, "SynFlow"),
        ({"class_path": "a.Adam", "init_args": {"lr": 0.1, "fused": True}}, "Adam(lr=0.1,fused=true)"),
    ],
)
def test_values_in_words(value, words):
    assert in_words(value) == words


def test_a_folder_can_have_the_name_of_any_cell():
    keys = {"variant": "variant", "a.b": "b"}
    assert cell_name({"variant": "DCTpS (EPL) / RigL", "a.b": "../../x"}, keys) == (
        "variant=DCTpS-(EPL)-RigL,b=..-..-x"
    )
    assert cell_name({"variant": "é: ü"}, keys) == "variant=é-ü"


def test_long_names_are_cut_and_stay_apart_and_the_same():
    one, other = ({"a.b": "x" * 200 + end} for end in "12")
    names = {"a.b": "b"}
    assert cell_name(one, names) != cell_name(other, names)
    assert cell_name(one, names) == cell_name(dict(one), names)
    assert len(cell_name(one, names)) <= 120
