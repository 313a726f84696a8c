"""Every Python example in README and docs runs; every table of names holds those that the code has."""

import contextlib
import importlib.util
import re
import runpy
import sys
from ast import literal_eval
from importlib import import_module
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from markdown.extensions.toc import slugify

import lightning_sparse
import lightning_sparse.data
import lightning_sparse.models
from lightning_sparse.export import EXPORT_FORMATS
from lightning_sparse.functional import allocation
from lightning_sparse.functional.allocation import ALLOCATIONS
from lightning_sparse.functional.growth import GROWTH_RULES
from lightning_sparse.functional.patterns import PATTERNS
from lightning_sparse.functional.saliency import METHODS
from lightning_sparse.layers.backends import BACKEND_ROWS, choose_backend
from lightning_sparse.layers.offsets import OFFSETS
from lightning_sparse.reporting import REPORT_PAGES
from lightning_sparse.weights.found import STORAGES

ROOT = Path(__file__).parents[1]
START = ROOT / "docs" / "start.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NEEDS = {
    "bolts": ("pl_bolts",),
    "pretrained_nets": ("timm", "transformers"),
    "transformers": ("transformers", "accelerate"),
}
"""Packages that pages show, and that we need for nothing else: without them these pages are left out."""
BLOCKS = {page: re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL) for page in PAGES}
TABLES = {
    "METHODS": METHODS,
    "ALLOCATIONS": ALLOCATIONS,
    "OFFSETS": OFFSETS,
    "BACKEND_ROWS": BACKEND_ROWS,
    "GROWTH_RULES": GROWTH_RULES,
    "PATTERNS": PATTERNS,
    "STORAGES": STORAGES,
    "EXPORT_FORMATS": EXPORT_FORMATS,
    "REPORT_PAGES": REPORT_PAGES,
}


@pytest.fixture
def tables_stay():
    """Examples register what they define, for their whole process."""
    tables = [*TABLES.values(), allocation._PROPORTIONS]
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)
    choose_backend.cache_clear()


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCKS[p]], ids=lambda page: page.stem)
@pytest.mark.usefixtures("tables_stay")
def test_examples_run(page, tmp_path, monkeypatch):
    """In order and in one namespace, as a reader would paste them."""
    for package in NEEDS.get(page.stem, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "pasted"}
    for block in BLOCKS[page]:
        exec(compile(block, str(page), "exec"), namespace)


def test_the_files_of_get_started_run(tmp_path, monkeypatch, capsys):
    """Each is written under its name and run as a script, in order, as a reader would do it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in re.findall(r'```python title="(.*?)"\n(.*?)```', START.read_text(), flags=re.DOTALL):
        Path(name).write_text(text)
        runpy.run_path(name, run_name="__main__")
    sys.modules.pop("digits")
    printed = capsys.readouterr().out
    for line in ("total                      56,952   2,848    5.0007%", "net.5.weight: 2181 of 51200\n"):
        assert line in START.read_text()
        assert line in printed


def rows_under(page, heading):
    """The cells of the table whose first line is ``heading``, row by row."""
    lines = (ROOT / page).read_text().split("\n")
    found = lines.index(heading) + 2
    end = next(i for i in range(found, len(lines)) if not lines[i].startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[found:end]]


def names_in(cells):
    """Names in backticks, with or without quotes; calls such as ``Random(...)`` are none."""
    return [name for cell in cells for name in re.findall(r'`"?([a-z_-]+)"?`', cell)]


def test_the_table_of_tables_names_what_they_hold():
    rows = rows_under("docs/extending.md", "| table | import it from | names |")
    named = {table.strip("`"): sorted(names_in([names])) for table, _, names in rows}
    assert named == {name: sorted(table) for name, table in TABLES.items()}


def test_the_table_of_tables_says_where_they_are():
    for table, module, _ in rows_under("docs/extending.md", "| table | import it from | names |"):
        assert getattr(import_module(module.strip("`")), table.strip("`")) is TABLES[table.strip("`")]


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        ("docs/reference/callbacks.md", "| method | keeps the weights | page |"),
        ("docs/guides/choose.md", "| `method` | keeps | per layer |"),
    ],
)
def test_tables_of_methods_are_complete(page, heading):
    names = names_in(row[0] for row in rows_under(page, heading))
    assert sorted(names) == sorted({*METHODS, *ALLOCATIONS})


def test_the_table_of_allocations_is_complete():
    rows = rows_under("docs/methods/allocation.md", "| name | proportion | so that |")
    assert names_in(row[0] for row in rows) == list(ALLOCATIONS)


def test_the_table_of_offsets_is_complete():
    rows = rows_under("docs/methods/dctps.md", "| `offset` | C |")
    assert names_in(row[0] for row in rows) == list(OFFSETS)


def reference():
    """The hook that writes the pages of the reference."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "reference" / "pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    return pages


def imported(name):
    with contextlib.suppress(ModuleNotFoundError):
        return import_module(name)
    module, _, own = name.rpartition(".")
    return getattr(import_module(module), own)


@pytest.mark.parametrize("package", ["", ".data", ".export", ".layers", ".models", ".plain", ".reporting"])
def test_every_public_object_has_a_page(package):
    names = [name for objects in reference().groups().values() for name in objects]
    shown = {
        id(getattr(lightning_sparse, name.rpartition(".")[2], None)) for name in names if name.count(".") == 1
    }
    shown |= {id(imported(name)) for name in names if name.count(".") > 1}
    module = import_module(f"lightning_sparse{package}")
    assert [name for name in module.__all__ if id(getattr(module, name)) not in shown] == []


def test_pages_of_the_reference_have_names_of_their_own():
    """Also where capitals do not count."""
    pages = reference()
    names = [pages.page_of(name).lower() for objects in pages.groups().values() for name in objects]
    assert len({*names, "index", "callbacks"}) == len(names) + 2


SHARED = [row[0] for row in rows_under("docs/reference/callbacks.md", "| argument | default | meaning |")]


@pytest.mark.parametrize(
    "name",
    [
        "PruneAtInit",
        "DCTpSConversion",
        "RigLCallback",
        "GradualMagnitudePruning",
        "ASNISigmoidPruner",
        "IterativeMagnitudePruning",
        "HyperplaneProjection",
    ],
)
def test_the_table_of_callbacks_has_their_arguments_and_defaults(name):
    """Its own in its row, those that all share in the table below, but for what the row says is not there."""
    rows = rows_under("docs/reference/callbacks.md", "| callback | does | arguments and defaults |")
    own, *missing = next(row[2] for row in rows if row[0].startswith(f"[`{name}`]")).split("; no ")
    parser = ArgumentParser()
    parser.add_class_arguments(getattr(lightning_sparse, name), "callback")
    defaults = vars(parser.get_defaults().callback)
    named = re.findall(r"`(\w+)(?:=(.+?))?`", own)
    assert {argument: literal_eval(value) for argument, value in named if value} == {
        argument: defaults[argument] for argument, value in named if value
    }
    shared = set(names_in(SHARED)) - set(names_in(missing))
    assert {argument for argument, _ in named} | shared == set(defaults)


def test_the_figure_shows_the_rooms_of_the_import_contract():
    """Floor by floor, from top to bottom."""
    contract = re.search(r"\nlayers = \[\n(.*?)\n\]", (ROOT / "pyproject.toml").read_text(), flags=re.DOTALL)
    floors = re.findall(r'"(.*?)"', contract[1])
    rooms = [sorted(re.findall(r"lightning_sparse\.(\w+)", floor)) for floor in floors]
    figure = (ROOT / "docs" / "images" / "architecture.svg").read_text()
    drawn = re.findall(r'<text class="name" x="[\d.]+" y="([\d.]+)">([a-z]+)</text>', figure)
    heights = sorted({float(y) for y, _ in drawn})
    assert [sorted(name for y, name in drawn if float(y) == height) for height in heights] == rooms


def test_files_and_decorators_of_the_architecture_are_there():
    rows = rows_under("docs/architecture.md", "| a new ... | file | it registers by | tests |")
    for addition, files, registers, tests in rows:
        for path in re.findall(r"`([\w/]+(?:/|\.py)|[\w/]+/)(?:<name>\.py)?`", files):
            assert (ROOT / "lightning_sparse" / path).exists(), (addition, path)
        for path in re.findall(r"`(tests/[\w/.]+)`", tests):
            assert (ROOT / path).exists(), (addition, path)
        for name in re.findall(r"`@?(\w+)", registers):
            used = BLOCKS[ROOT / "docs" / "extending.md"]
            assert name == "Pattern" or any(f"{name}(" in block or f"@{name}" in block for block in used)


REPOSITORY = "https://github.com/lightning-sparse/lightning_sparse/blob/main/"


def test_links_of_the_readme_are_whole_addresses_of_what_is_there():
    """It is shown by package indexes too, where no path leads anywhere."""
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert len(links) > 10
    for link in links:
        assert link.startswith(REPOSITORY), link
        path, _, anchor = link.removeprefix(REPOSITORY).partition("#")
        assert (ROOT / path).is_file(), link
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), flags=re.MULTILINE)
        assert not anchor or anchor in {slugify(heading.replace("`", ""), "-") for heading in headings}, link


def test_the_version_is_the_same_everywhere():
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.*)"$', project, flags=re.MULTILINE)[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"{{{version}}}" in (ROOT / "docs" / "cite.md").read_text()
