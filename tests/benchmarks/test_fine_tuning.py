"""The experiment on fine-tuning: which rates are tried, what runs next, which data seeds get, the tables."""

import argparse
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.experiments.fine_tuning import method_rate, work
from benchmarks.experiments.tuning import digits, images, sentences
from benchmarks.experiments.tuning.queue import Plan
from benchmarks.experiments.tuning.rates import best_of, next_to_try, rate
from benchmarks.experiments.tuning.sentences import SENTENCES, Sentence
from benchmarks.experiments.tuning.tables import tables
from benchmarks.experiments.tuning.task import TUNING_SEED, Budget, Data, Images, Task, bucketed
from benchmarks.harness import series


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        ({}, -5),
        ({-5: 1.0}, -4),
        ({-5: 1.0, -4: 0.0}, -6),
        ({-5: 2.0, -4: 1.0, -6: 1.0}, None),  # the best has neighbours on both sides
        ({-5: 1.0, -4: 2.0, -6: 0.0}, -3),
        ({-5: 1.0, -4: 0.0, -6: 2.0}, -7),
        ({-5: 1.0, -4: 1.0, -6: 1.0}, -7),  # of equals the smaller is the best
        ({-5: 1.0, -4: 2.0, -6: 0.0, -3: 3.0, -2: 4.0, -1: 5.0}, None),  # six are enough
    ],
)
def test_rates_are_tried_until_the_best_is_inside(tried, expected):
    assert next_to_try(-5, tried, most=6) == expected


def test_rates_are_half_decades():
    assert [rate(number) for number in (-9, -8, -7, -6)] == [3e-5, 1e-4, 3e-4, 1e-3]
    assert best_of({-4: 1.0, -5: 1.0, -3: 0.0}) == -5


def test_rates_are_read_by_method():
    assert method_rate("LoRA=0.003") == ("LoRA", -5)
    for text in ("LoRA=0.002", "LoRA", "LoRA=much"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"must be METHOD=RATE, got '{text}'"):
            method_rate(text)


def test_batches_of_like_lengths_hold_every_item_once():
    lengths = torch.randint(1, 50, (100,), generator=torch.Generator().manual_seed(1)).tolist()
    batches = bucketed(range(100), lengths, 8, torch.Generator().manual_seed(0), buckets=4)
    assert sorted(item for batch in batches for item in batch) == list(range(100))
    padding = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches) / sum(lengths)
    assert padding < 1.25


def test_no_sentence_of_a_run_that_counts_has_chosen_a_rate(monkeypatch):
    every = [Sentence([number] * (1 + number % 7), number % 2) for number in range(10_000)]
    monkeypatch.setattr(sentences, "read", lambda _: every)

    def numbers(seed):
        parts = sentences.data("", seed, 2, False)
        return [[int(row) for (tokens, _), _ in part for row in tokens[:, 0]] for part in parts]

    (first, for_rates), (train, test) = numbers(TUNING_SEED), numbers(0)
    assert len(train) == 2 * sentences.TRAIN
    assert len(set(train)) == sentences.TRAIN
    assert (len(for_rates), len(test)) == (sentences.VALIDATION, sentences.TEST)
    assert not set(train) & set(test)
    assert not set(first) & set(for_rates)
    assert not (set(train) | set(test)) & (set(first) | set(for_rates))
    assert numbers(0) == [train, test] != numbers(1)


def test_no_image_of_a_run_that_counts_has_chosen_a_rate(monkeypatch):
    def photos(data_dir, part, count):
        labels = torch.arange(count) + (0 if part == "train" else 10**6)
        return Images(torch.zeros(count, 3, 1, 1, dtype=torch.uint8), labels)

    monkeypatch.setattr(images, "read", photos)
    tuned, counted = (
        [torch.cat([labels for _, labels in part]).tolist() for part in images.data("", seed, 2, False)]
        for seed in (TUNING_SEED, 0)
    )
    assert len(set(counted[0])) == images.TRAIN
    assert len(counted[1]) == images.TEST
    assert min(counted[1]) >= 10**6  # of the test folder
    assert not set(counted[0]) & (set(tuned[0]) | set(tuned[1]))


def test_tasks_count_what_their_budgets_say():
    attention, feed = 4 * (384 + 384), 2 * (384 + 1536)
    assert digits.DIGITS.weights == 784 * 256 + 256 * 256 + 256 * 10
    assert digits.DIGITS.budgets[0].count == (784 + 256) + (256 + 256) + (256 + 10)
    assert SENTENCES.weights == 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    assert [b.count for b in SENTENCES.budgets] == [3 * 6 * (attention + feed), 6 * 2 * (384 + 384)]
    assert images.IMAGES.budgets[1].count == (320 + 1280) + (1152 + 320)


def tiny(data_dir):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh())


def tiny_data(data_dir, seed, epochs, smoke):
    draws = torch.Generator().manual_seed(seed)
    inputs = torch.randn(8, 16, 4, generator=draws)
    batches = [((x,), (x[:, 0] > 0).long()) for x in inputs]
    return Data(batches[:6] * epochs, batches[6:])


TINY = Task(
    "tiny", tiny, 8, 2, ("*0.weight",), 32, (Budget("25%", 8, 1, ("0",)),), tiny_data, ("head", "full")
)
PLAN = Plan(TINY, ("head", "full"), ("25%",), seeds=(0, 1), most=2)


def test_runs_choose_rates_first_and_are_not_repeated(tmp_path):
    path = tmp_path / "fine_tuning.jsonl"
    work(PLAN, path, "", smoke=False)
    records = series.read(path)
    assert [(r["method"], r["seed"], r["epochs"]) for r in records] == [
        *[("head", TUNING_SEED, 1)] * 2,
        *[("full", TUNING_SEED, 1)] * 2,
        ("head", 0, 2),
        ("full", 0, 2),
        ("head", 1, 2),
        ("full", 1, 2),
    ]
    assert all(r["error"] is None and 0 <= r["accuracy"] <= 100 for r in records)
    assert [r["trained"] for r in records[-2:]] == [0, 40]
    assert len({r["head_exponent"] for r in records[2:]}) == 1
    work(PLAN, path, "", smoke=False)
    assert series.read(path) == records
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))  # a broken series
    work(PLAN, path, "", smoke=False)
    again, before = series.read(path)[-1], records[-1]
    assert (again["seed"], again["accuracy"], again["loss"]) == (1, before["accuracy"], before["loss"])


def test_seeds_run_again_where_a_better_rate_is_found_later():
    def record(seed, exponent, accuracy):
        epochs = 1 if seed == TUNING_SEED else 2
        about = {"task": "tiny", "method": "head", "budget": None, "epochs": epochs, "seed": seed}
        costs = {"error": None, "step_seconds": 0.5, "peak_mib": 10.0}
        return about | costs | {"exponent": exponent, "accuracy": accuracy}

    plan = replace(PLAN, methods=("head",), seeds=(0,))
    tried = [record(TUNING_SEED, exponent, 70.0 + exponent) for exponent in (-4, -3)]
    done = [record(0, -4, 80.0)]
    assert plan.next_run(tried[:1] + done).exponent == -3  # a rate
    assert plan.next_run(tried + done)[1:] == (0, -3, -3)
    assert "| head | - |" in tables(plan, tried + done, "full")
    assert plan.next_run([*tried, *done, record(0, -3, 81.0)]) is None
    assert "| head | 81.0 (1) |" in tables(plan, [*tried, *done, record(0, -3, 81.0)], "full")
    other = replace(plan, rates={"head": -4})  # one that validation data did not choose
    assert other.next_run(tried)[1:] == (0, -4, -3)
    assert other.next_run([*tried, *done]) is None
    assert "| head | 80.0 (1) |" in tables(other, [*tried, *done, record(0, -3, 81.0)], "full")


def test_a_run_that_fails_is_kept_with_its_message(tmp_path):
    def failing(*_):
        return Data([((torch.zeros(2, 5),), torch.zeros(2, dtype=torch.long))], [])

    path = tmp_path / "fine_tuning.jsonl"
    plan = replace(PLAN, task=replace(TINY, data=failing), seeds=(0,))
    work(plan, path, "", smoke=False)
    assert all("RuntimeError" in record["error"] for record in series.read(path))
    assert any("RuntimeError" in line for line in tables(plan, series.read(path), "full"))


def test_tables_pair_runs_of_one_seed():
    def record(method, seed, accuracy):
        about = {"task": "tiny", "method": method, "budget": None, "epochs": 2, "seed": seed, "error": None}
        return about | {"accuracy": accuracy, "step_seconds": 0.5, "peak_mib": 10.0}

    found = {("head", 0): 80.0, ("head", 1): 82.0, ("full", 0): 83.0, ("full", 1): 87.0, ("full", 2): 10.0}
    lines = tables(
        replace(PLAN, seeds=(0, 1, 2)), [record(*key, value) for key, value in found.items()], "full"
    )
    assert "| head | 81.0 ± 1.4 (2) |" in lines
    assert "| head | -4.0 (-16.7 to +8.7) |" in lines  # -3 and -5: 1 standard error, t = 12.7
    assert "| head | 500 / 10 |" in lines
