import threading
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from lightning_sparse.experiments.folders import CellFolder, Result, locked, recipe_in

RECIPE = {
    "trainer": {
        "max_epochs": 2,
        "logger": {
            "class_path": "pl.loggers.TensorBoardLogger",
            "init_args": {"save_dir": "runs", "name": "x"},
        },
        "callbacks": [
            {"class_path": "pl.ModelCheckpoint", "init_args": {"dirpath": None}},
            {"class_path": "pl.ModelCheckpoint", "init_args": {"dirpath": "here"}},
            {
                "class_path": "ASNI",
                "init_args": {"ticket_path": "runs/a/ticket.pt", "note": "{cell}/note.txt"},
            },
            {"class_path": "SparsityReport", "init_args": {"path": "reports/a.html"}},
        ],
    },
    "data": {"class_path": "Data", "init_args": {"data_dir": "data"}},
}


def test_a_recipe_writes_into_the_cells_folder_alone():
    made = recipe_in(RECIPE, "/out/a b")
    trainer = made["trainer"]
    assert trainer["default_root_dir"] == "/out/a b"
    assert trainer["logger"]["init_args"] == {"save_dir": "/out/a b", "name": "run", "version": 0}
    assert [callback["init_args"] for callback in trainer["callbacks"]] == [
        {"dirpath": None},
        {"dirpath": "/out/a b/checkpoints"},
        {"ticket_path": "/out/a b/ticket.pt", "note": "/out/a b/note.txt"},
        {"path": "/out/a b/a.html"},
        {"path": "/out/a b/metrics.json"},
    ]
    assert made["data"] == RECIPE["data"]
    assert RECIPE["trainer"]["logger"]["init_args"]["save_dir"] == "runs"


@pytest.mark.parametrize("trainer", [None, {}, {"callbacks": None}, {"callbacks": {"class_path": "A"}}])
def test_recipes_with_few_words(trainer):
    made = recipe_in({"trainer": trainer})["trainer"]
    assert made["callbacks"][-1]["class_path"] == "lightning_sparse.experiments.CellMetrics"
    assert len(made["callbacks"]) == (2 if trainer and trainer.get("callbacks") else 1)
    assert made["enable_progress_bar"] is False


def test_what_has_changed_is_said_wherever_the_folder_lies(tmp_path):
    folder = CellFolder(tmp_path / "a")
    assert folder.difference(RECIPE) is None
    folder.begin(RECIPE, {"trainer.max_epochs": 2})
    (tmp_path / "a").rename(tmp_path / "b")
    folder = CellFolder(tmp_path / "b")
    assert folder.difference(RECIPE) is None
    assert yaml.safe_load(folder.recipe.read_text())["trainer"]["max_epochs"] == 2
    changed = {**RECIPE, "trainer": {**RECIPE["trainer"], "max_epochs": 3}}
    assert folder.difference(changed) == "`trainer.max_epochs` was 2, and is 3"


def test_results_are_kept_to_the_bit_and_broken_ones_are_none(tmp_path):
    folder = CellFolder(tmp_path)
    assert folder.result() is None
    result = Result("done", {"test/acc": 0.1 + 0.2}, 1.5)
    folder.write_result(result)
    assert folder.result() == result
    for text in ("", '{"status": "do', "[]"):
        (tmp_path / "result.json").write_text(text)
        assert folder.result() is None


def test_the_newest_whole_checkpoint_is_taken(tmp_path):
    folder = CellFolder(tmp_path)
    assert folder.checkpoint() is None
    places = [tmp_path / "run" / "version_0" / "checkpoints", tmp_path / "checkpoints"]
    for place in places:
        place.mkdir(parents=True)
    with zipfile.ZipFile(places[0] / "last.ckpt", "w") as file:
        file.writestr("a", "b")
    whole = (places[0] / "last.ckpt").read_bytes()
    (places[1] / "cut.ckpt").write_bytes(whole[:-10])
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as file:  # of a callback of its own
        file.writestr("a", "b")
    assert folder.checkpoint() == places[0] / "last.ckpt"


def test_one_process_at_a_time(tmp_path):
    folder = CellFolder(tmp_path / "a")
    assert not folder.is_running()
    with folder.locked() as lock:
        assert lock is not None
        assert folder.is_running()
        with folder.locked() as second:
            assert second is None
    assert not folder.is_running()


@pytest.mark.parametrize(("patience", "held"), [(0.01, False), (5, True)])
def test_who_holds_a_folder_is_waited_for(tmp_path, patience, held):
    with ExitStack() as other:
        other.enter_context(locked(tmp_path, 0))
        end = threading.Timer(0.1, other.pop_all().close)
        end.start()
        with locked(tmp_path, patience) as lock:
            assert (lock is not None) == held
        end.join()


def test_clearing_begins_with_the_result_and_ends_with_what_tells_whose_it_was(tmp_path, monkeypatch):
    """Who is killed in between leaves no result, and nothing that another recipe would go on from."""
    folder = CellFolder(tmp_path)
    folder.begin(RECIPE, {})
    folder.write_result(Result("done", {}, 1.0))
    (tmp_path / "run").mkdir()
    removed, unlink = [], Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **how: (removed.append(path.name), unlink(path, **how)))
    monkeypatch.setattr("shutil.rmtree", lambda path: removed.append(path.name))
    folder.clear()
    assert removed[0] == "result.json"
    assert {"run", "recipe.yaml"} < set(removed[: removed.index("cell.json")])
    assert removed.index("cell.json") == len(removed) - 1


def test_clearing_leaves_the_lock(tmp_path):
    folder = CellFolder(tmp_path / "a")
    with folder.locked():
        folder.begin(RECIPE, {})
        (folder.path / "run" / "version_0").mkdir(parents=True)
        folder.clear()
        assert [path.name for path in folder.path.iterdir()] == ["lock"]
        assert folder.is_running()
