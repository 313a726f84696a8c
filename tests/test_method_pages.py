"""The pages in docs/methods: the same headings, all arguments with their defaults, measured figures."""

import re
from ast import literal_eval
from inspect import Parameter, signature
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from matplotlib import pyplot

import lightning_sparse
from benchmarks.pictures import OUT, PICTURES, fingerprint

ROOT = Path(__file__).parents[1]
PAGES = {page.stem: page.read_text() for page in sorted((ROOT / "docs" / "methods").glob("*.md"))}
RESULTS = "\n".join(page.read_text() for page in (ROOT / "docs" / "results").glob("*.md"))
HEADINGS = [
    "When to use it",
    "How it works",
    "Usage",
    "Arguments",
    "What is exact",
    "Cost",
    "Differences from the paper's code",
    "Results",
    "Source",
]
CONCEPTS = {"allocation", "patterns", "scoring"}
"""Pages of what several methods share; they begin like the others, and have headings of their own."""
ARGUMENTS = [  # page, class, and rows of its table that the class does not have
    ("asni", "ASNISigmoidPruner", ()),
    ("dctps", "DCTpSConversion", ("offset",)),
    ("dctps", "SparseConversion", ("patch_order",)),
    ("fine_tuning", "SparseFineTuning", ()),
    ("force", "FORCE", ()),
    ("force", "IterativeSNIP", ()),
    ("gradient", "Gradient", ()),
    ("gradual", "GradualMagnitudePruning", ()),
    ("grasp", "GraSP", ()),
    ("imp", "IterativeMagnitudePruning", ()),
    ("magnitude", "Magnitude", ()),
    ("projection", "HyperplaneProjection", ()),
    ("random", "Random", ()),
    ("rigl", "RigLCallback", ()),
    ("scoring", "PruneAtInit", ()),
    ("set", "SETCallback", ()),
    ("snip", "SNIP", ()),
    ("synflow", "SynFlow", ()),
]
REFUSED = {"SparseFineTuning": {"last_layer_factor"}}  # handed on, but an error with any other value


def headings(page):
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    return re.findall(r"^## (.*)", prose, flags=re.MULTILINE)


def section(page, heading):
    """What stands under a heading of the second level that begins so."""
    found = re.search(rf"^## {heading}.*?\n(.*?)(?=^## |\Z)", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    return found[1]


@pytest.mark.parametrize("page", sorted(PAGES.keys() - CONCEPTS))
def test_pages_of_methods_have_the_same_headings(page):
    assert headings(page) == HEADINGS


@pytest.mark.parametrize("page", sorted(CONCEPTS))
def test_pages_of_concepts_begin_like_those_of_methods(page):
    assert headings(page)[:2] == HEADINGS[:2]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_begins_with_its_purpose_in_one_sentence(page):
    title, purpose, heading = PAGES[page].split("\n\n")[:3]
    assert title.startswith("# ")
    assert heading.startswith(f"## {HEADINGS[0]}")
    assert purpose.endswith(".")
    assert not re.search(r"[.!?]\s", purpose)


@pytest.mark.parametrize("page", sorted(PAGES.keys() - CONCEPTS))
def test_a_formula_or_a_picture_shows_how_it_works(page):
    assert re.search(r"^\$\$$|^!\[", section(page, "How it works"), flags=re.MULTILINE)


def test_formulas_and_code_do_not_mix():
    """Outside code a dollar sign begins or ends a formula: a paragraph has an even number of them."""
    for page, text in PAGES.items():
        prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
        for paragraph in prose.split("\n\n"):
            assert paragraph.count("$") % 2 == 0, (page, paragraph)


@pytest.mark.parametrize(("page", "name", "absent"), ARGUMENTS)
def test_the_table_of_arguments_is_complete_and_has_the_defaults(page, name, absent):
    text = section(page, "Arguments")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .* \|$", text, flags=re.MULTILINE)
    shared = re.search(r"^Shared by all callbacks: (.*?) \(", text, flags=re.MULTILINE)
    shared = set(re.findall(r"`(\w+)`", shared[1])) if shared else set()
    kind, parser = getattr(lightning_sparse, name), ArgumentParser()
    parser.add_class_arguments(kind, "made")
    defaults = vars(parser.get_defaults().made)
    own = {argument: default for argument, default in rows if argument not in absent}
    assert len(rows) == len({argument for argument, _ in rows})
    assert own.keys() | shared == defaults.keys() - REFUSED.get(name, set())
    assert not own.keys() & shared
    for argument, default in own.items():
        if default == "required":
            assert signature(kind).parameters[argument].default is Parameter.empty
        else:
            assert literal_eval(default.strip("`")) == defaults[argument], argument


def test_every_page_of_a_method_has_its_arguments_compared():
    assert {page for page, _, _ in ARGUMENTS} == (PAGES.keys() - CONCEPTS) | {"scoring"}


@pytest.mark.parametrize("page", sorted(PAGES.keys() - {"gradual"}))  # whose own table is the first place
def test_accuracies_are_those_of_the_pages_of_results(page):
    for figure in re.findall(r"\d+\.\d+ ± \d+\.\d+", PAGES[page]):
        assert figure in RESULTS, figure


def test_pictures_are_drawn_and_shown():
    shown = {name for text in PAGES.values() for name in re.findall(r"images/methods/(\w+)\.svg", text)}
    assert shown == PICTURES.keys() == {file.stem for file in OUT.glob("*.svg")}


@pytest.mark.parametrize("name", sorted(PICTURES.keys() - {"dctps"}))  # that has matrices alone
def test_pictures_show_what_the_functions_return(name):
    """If not, ``python -m benchmarks.pictures`` draws them anew."""
    figure = PICTURES[name]()
    assert f"<dc:description>{fingerprint(figure)}</dc:description>" in (OUT / f"{name}.svg").read_text()
    pyplot.close(figure)
