"""A search that is too short for its sigmoid is named when it starts."""

from pathlib import Path

import pytest
import yaml
from rounds import fit_asni, make

from lightning_sparse import ASNISigmoidPruner, IterativeMagnitudePruning
from lightning_sparse.callbacks.epochs.steepness import warn_of_steep_search

RECIPES = sorted((Path(__file__).parents[3] / "recipes" / "asni").glob("*.yaml"))


@pytest.mark.parametrize(
    ("arguments", "epochs", "text"),
    [
        (
            {"density": 0.1},
            6,
            r"90% of what is left at once, after epoch 1: from 993 weights to 103.*, 3 now",
        ),
        ({"density": 0.2, "search_epochs": 2}, 3, r"80% of what is left at once, after epoch 0: from 1,032"),
        ({"alpha": 98, "gamma": 0.1, "search_epochs": 5}, 6, r"97% .* after epoch 3: from .*`gamma` where"),
    ],
)
def test_a_steep_search_is_named_with_the_way_out(tmp_path, arguments, epochs, text):
    with pytest.warns(UserWarning, match=f"^ASNISigmoidPruner prunes {text}"):
        fit_asni(tmp_path, ASNISigmoidPruner(**arguments), epochs=epochs)


@pytest.mark.filterwarnings("error:.* at once:UserWarning")
def test_what_is_usual_is_not(tmp_path):
    fit_asni(tmp_path, ASNISigmoidPruner(0.3, search_epochs=6, reinit=None), epochs=6)
    fit_asni(
        tmp_path, IterativeMagnitudePruning(0.1, rounds=1, epochs_per_round=1), epochs=2
    )  # as it was told


@pytest.mark.filterwarnings("error:.* at once:UserWarning")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_no_recipe_is_steep(recipe):
    callbacks = yaml.safe_load(recipe.read_text())["trainer"]["callbacks"]
    (arguments,) = [c["init_args"] for c in callbacks if c["class_path"] == "ASNISigmoidPruner"]
    asni = ASNISigmoidPruner(**{**arguments, "ticket_path": None})
    warn_of_steep_search("ASNI", 10**6, asni.kept_path(10**6, 10**6), arguments["search_epochs"])


def test_half_is_not_too_much(recwarn):
    warn_of_steep_search("ASNI", 100, [50, 25, 25], 4)
    assert not recwarn
    assert make() is not None
