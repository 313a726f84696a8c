"""A sweep on a local cluster of Ray: its table is that of the same cells one after another."""

import csv
from pathlib import Path

import pytest
import yaml

from lightning_sparse.cli.main import main

ray = pytest.importorskip("ray")
pytest.importorskip("ray.tune")

RECIPE = str(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")
SWEEP = {
    "recipe": RECIPE,
    "set": {"trainer.max_epochs": 1, "trainer.limit_train_batches": 10},
    "grid": {"trainer.callbacks.PruneAtInit.method": ["erk", "synflow"], "seed_everything": [0, 1]},
}


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes with a worker each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False)
    yield
    ray.shutdown()
    made.shutdown()


def table(path):
    with Path(path).open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_two_workers_give_the_table_of_one_run_after_another(tmp_path, monkeypatch, capsys, cluster):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Path(f"{name}.yaml").write_text(yaml.safe_dump(SWEEP | {"out": name}))
    main(["sweep", "one.yaml"])
    main(["sweep", "two.yaml", "--ray"])
    said = capsys.readouterr().out
    assert said.count("[4/4]") == 2
    assert table("one/table.csv") == table("two/table.csv")
    nodes = {node["NodeManagerHostname"] for node in ray.nodes()}
    assert len(ray.nodes()) == 2, nodes
    main(["sweep", "two.yaml", "--ray"])  # nothing is left to do
    assert "4 of 4 cells are finished already." in capsys.readouterr().out
