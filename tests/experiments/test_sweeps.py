from pathlib import Path

import pytest

from lightning_sparse.checks import SparsityError
from lightning_sparse.experiments.sweeps import read_sweep

GRID = """\
recipe: quickstart
set: {trainer.max_epochs: 5, model.lr: 1}
grid:
  trainer.callbacks.PruneAtInit.method: [erk, synflow]
  trainer.callbacks.PruneAtInit.density: [0.1, 1e-2]
  seed_everything: [0, 1]
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def sweep(text=GRID, old="", new=""):
    assert old in text
    Path("a.yaml").write_text(text.replace(old, new, 1) if old else text)
    return read_sweep("a.yaml")


def test_a_grid_has_all_combinations_the_last_key_changing_fastest():
    found = sweep()
    assert [cell.name for cell in found.cells[:3]] == [
        "method=erk,density=0.1,seed=0",
        "method=erk,density=0.1,seed=1",
        "method=erk,density=0.01,seed=0",
    ]
    assert len(found.cells) == 8
    assert found.cells[2].changes["trainer.callbacks.PruneAtInit.density"] == 0.01  # YAML would say "1e-2"
    assert found.cells[0].changes["trainer.max_epochs"] == 5
    assert found.cells[0].configs == ("quickstart",)
    assert (found.out, found.metrics) == (Path("sweeps/a"), ("test/acc",))
    assert (found.compare, found.against) == ("trainer.callbacks.PruneAtInit.method", "erk")


def test_files_beside_the_sweep_are_taken_from_there(tmp_path, monkeypatch):
    (tmp_path / "over.yaml").touch()
    (tmp_path / "in").mkdir()
    sweep(old="recipe: quickstart", new="recipe: over.yaml\noverlays: [over.yaml, elsewhere.yaml]")
    monkeypatch.chdir(tmp_path / "in")
    found = read_sweep("../a.yaml").cells[0].configs
    assert found == (str(tmp_path / "over.yaml"), str(tmp_path / "over.yaml"), "elsewhere.yaml")


VARIANTS = """\
recipe: static
variants:
  static: {}
  RigL (EPL): {recipe: rigl, trainer.callbacks.allocation: epl, model.lr: 2}
grid: {trainer.callbacks.density: [0.1, 0.2]}
list:
  - {variant: dense, recipe: dense, seed_everything: 3}
set: {model.lr: 1}
against: RigL (EPL)
"""


def test_every_variant_runs_through_the_grid_and_the_list_stands_beside_it():
    found = sweep(VARIANTS)
    assert [cell.name for cell in found.cells] == [
        "variant=static,density=0.1",
        "variant=static,density=0.2",
        "variant=RigL-(EPL),density=0.1",
        "variant=RigL-(EPL),density=0.2",
        "variant=dense,recipe=dense,seed=3",
    ]
    assert [cell.configs for cell in found.cells] == 2 * [("static",)] + 2 * [("rigl",)] + [("dense",)]
    assert [cell.changes["model.lr"] for cell in found.cells] == [1, 1, 2, 2, 1]
    assert "variant" not in found.cells[-1].changes
    assert (found.compare, found.against) == ("variant", "RigL (EPL)")


def test_a_variant_can_leave_out_a_setting_of_the_grid():
    found = sweep(VARIANTS, "  static: {}", "  static: {without: [trainer.callbacks.density]}")
    assert [cell.settings for cell in found.cells[:2]] == [
        {"variant": "static"},
        {"variant": "RigL (EPL)", "trainer.callbacks.density": 0.1},
    ]
    assert "without" not in found.cells[0].changes
    assert (
        sweep(old="against: RigL (EPL)\n", text=Path("a.yaml").read_text()).against == "RigL (EPL)"
    )  # has all
    with pytest.raises(
        SparsityError, match=r"`variants: static: without`, got \['x'\]\. It has trainer.call"
    ):
        sweep(VARIANTS, "  static: {}", "  static: {without: [x]}")


def test_overlays_can_be_a_setting():
    found = sweep(old="  seed_everything: [0, 1]", new="  overlays: [[], dense.yaml]")
    assert [cell.configs for cell in found.cells[:2]] == [("quickstart",), ("quickstart", "dense.yaml")]
    assert "overlays" not in found.cells[0].changes
    assert found.cells[1].name.endswith("overlays=dense")


def test_cells_are_run_seed_by_seed():
    seeds = [cell.settings["seed_everything"] for cell in sweep().shard()]
    assert seeds == 4 * [0] + 4 * [1]


def test_the_command_line_has_the_last_word():
    sweep(VARIANTS)
    found = read_sweep("a.yaml", ["model.lr=1e-2", "data.data_dir=x=y"], "elsewhere", "static")
    assert found.cells[0].changes["model.lr"] == 0.01
    assert found.cells[2].changes["model.lr"] == 2  # a variant's own
    assert found.cells[0].changes["data.data_dir"] == "x=y"
    assert (found.out, found.against) == (Path("elsewhere"), "static")
    for given in ("model.lr", "=1"):
        with pytest.raises(SparsityError, match="`--set` must be KEY=VALUE"):
            read_sweep("a.yaml", [given])
    with pytest.raises(SparsityError, match="`--set` must have a value in YAML"):
        read_sweep("a.yaml", ["a=[1"])


@pytest.mark.parametrize("count", [1, 3, 5, 8, 11])
def test_shards_have_every_cell_once(count):
    found = sweep()
    shares = [found.shard(number, count) for number in range(1, count + 1)]
    assert sorted(cell.name for share in shares for cell in share) == sorted(c.name for c in found.cells)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("grid:", "gird:", "'gird'; did you mean grid?"),
        ("set:", "trainer.max_epochs: 5\nset:", "Settings of the recipe stand in `set`, `grid` or `list`."),
        ("[0.1, 1e-2]", "[]", "a list of values at `grid`: `trainer.callbacks.PruneAtInit.density`, got []."),
        (
            "[0.1, 1e-2]",
            "0.1",
            "a list of values at `grid`: `trainer.callbacks.PruneAtInit.density`, got 0.1.",
        ),
        ("[0.1, 1e-2]", "[0.1, 0.1]", "each cell once, got method=erk,density=0.1,seed=0 twice."),
        ("[erk, synflow]", "[erk, ERK]", "a name of its own, got two that are called method=ERK,"),
        ("recipe: quickstart", "metric: test/acc", "name a `recipe`, got none."),
        ("recipe: quickstart", "recipe: 3", "have a text at `recipe`, got 3."),
        ("set:", "list: []\nset:", "have values in `list`, got none."),
        ("set:", "list: [3]\nset:", "values by keys that are texts at `list, entry 1`, got 3."),
        ("set:", "variants: {a: 3}\nset:", "values by keys that are texts at `variants: a`, got 3."),
        ("set:", "compare: methd\nset:", "`compare`, got 'methd'; did you mean method?"),
        ("set:", "against: snip\nset:", "`against`, got 'snip'. It has erk, synflow."),
        ("set:", "threads: 0\nset:", "at least 1 at `threads`, got 0."),
        ("seed_everything: [0, 1]", "1: [0, 1]", "values by keys that are texts at `grid`, got "),
        ("set:", "variants: {7: {}}\nset:", "values by keys that are texts at `variants`, got {7: {}}."),
        ("set:", "metric: [1]\nset:", "have names of metrics at `metric`, got [1]."),
        ("grid:", "set: {}\ngrid:", "have each key once, got 'set' in lines 2 and 3."),
        (
            "  trainer.callbacks.PruneAtInit.method:",
            "  seed_everything: [3]\n  trainer.callbacks.PruneAtInit.method:",
            "have each key once, got 'seed_everything' in lines 4 and 7.",
        ),
        ("set: {", "set: {{", "be YAML, got at line "),
        ("quickstart", "[a", "be YAML, got at line "),
    ],
)
def test_mistakes_are_said(old, new, said):
    with pytest.raises(SparsityError) as refused:
        sweep(old=old, new=new)
    assert str(refused.value).startswith("`a.yaml` must ")
    assert said in str(refused.value)


def test_numbers_alone_are_not_compared():
    with pytest.raises(SparsityError, match=r"say what is compared if it has `against`, got '0' alone"):
        sweep("recipe: a\ngrid: {seed_everything: [0, 1]}\nagainst: '0'\n")


@pytest.mark.parametrize(
    ("text", "said"), [("", "hold a mapping, got None"), ("recipe: a", "have cells, got none")]
)
def test_a_sweep_needs_cells(text, said):
    with pytest.raises(SparsityError) as refused:
        sweep(text)
    assert said in str(refused.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    sweep()
    with pytest.raises(SparsityError, match=r"got nothing there; did you mean a\.yaml\?"):
        read_sweep("aa.yaml")
    Path("b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SparsityError, match="must be a text"):
        read_sweep("b.yaml")
