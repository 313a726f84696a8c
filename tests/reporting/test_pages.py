"""What a page of one's own must have, said when it is registered."""

from dataclasses import field, make_dataclass

import pytest

from lightning_sparse.checks import SparsityError
from lightning_sparse.reporting.pages import REPORT_PAGES, ReportPage, register_page

HELP = {"help": "a thing to draw"}


def page_with(option, kind=str):
    return make_dataclass(
        "Mine", [("option", kind, option)], bases=(ReportPage,), frozen=True, namespace={"name": "mine"}
    )


@pytest.fixture(autouse=True)
def pages_as_they_were():
    yield
    REPORT_PAGES.pop("mine", None)


@pytest.mark.parametrize("default", ["loss", 3, 0.5])
def test_texts_and_numbers_are_options(default):
    register_page(page_with(field(default=default, metadata=HELP), type(default)))
    assert "mine" in REPORT_PAGES


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            field(metadata=HELP),
            "`option` of the page 'mine' must be a text or a number with a default, got none",
        ),
        (field(default=None, metadata=HELP), "must be a text or a number with a default, got None"),
        (field(default=True, metadata=HELP), "must be a text or a number with a default, got True"),
        (field(default="loss"), "`option` of the page 'mine' must have a `help` in its `metadata`, got none"),
    ],
)
def test_fields_that_cannot_be_options(option, message):
    with pytest.raises(SparsityError, match=message):
        register_page(page_with(option))
    assert "mine" not in REPORT_PAGES


def test_a_name_that_is_taken():
    register_page(page_with(field(default=3, metadata=HELP), int))
    with pytest.raises(SparsityError, match="'mine'"):
        register_page(
            make_dataclass("Again", [], bases=(ReportPage,), frozen=True, namespace={"name": "mine"})
        )
