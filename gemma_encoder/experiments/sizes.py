"""How much one fine-tuning reads: rows, texts, tokens. Counted where model and data are here, else from a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from gemma_encoder.errors import InputError
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.experiments.splits import split
from gemma_encoder.loading import checkpoint_path, load_tokenizer
from gemma_encoder.tasks import encode, get_task
from gemma_encoder.tokens import CHARACTERS_PER_TOKEN

HUB = {  # rows of train, of validation (MNLI: of both), texts a row, characters a text: official sizes, counted texts;
    # the characters of QQP are assumed, those of MNLI are of 314 rows, those of BoolQ and ReCoRD of 3,270 and 32
    "cola": (8551, 1043, 1, 41),
    "sst2": (67349, 872, 1, 54),
    "mrpc": (3668, 408, 1, 237),
    "stsb": (5749, 1500, 1, 115),
    "qqp": (363846, 40430, 1, 120),
    "mnli": (392702, 9815 + 9832, 1, 171),
    "qnli": (104743, 5463, 1, 224),
    "rte": (2490, 277, 1, 320),
    "wnli": (635, 71, 1, 149),
    "boolq": (9427, 3270, 1, 627),
    "cb": (250, 56, 1, 328),
    "copa": (400, 100, 2, 68),
    "multirc": (27243, 4848, 1, 1662),
    "record": (100730, 10000, 12.4, 1194),
    "rte_superglue": (2490, 277, 1, 320),
    "wic": (5428, 638, 1, 85),
    "wsc": (554, 104, 1, 129),
    "msmarco": (82326, 10047, 8.2, 394),  # characters of a query and a passage of TREC DL 2019 and 2020
}


@dataclass(frozen=True)
class Work:
    """What a run reads.

    rows: training rows; texts: texts a training row, which are more than one where rows hold candidates.
    lengths: tokens of the training texts, in the order of training; one mean where they could not be counted.
    evaluated: tokens of all validation texts; seconds: what reading and tokenising took, where it was done.
    """

    rows: int
    texts: float
    lengths: Sequence[float]
    evaluated: float
    seconds: float = 0.0
    heaviest: float = 0.0  # tokens of the row that has most, where rows hold several texts

    @property
    def length(self) -> float:
        """Mean tokens of a training text."""
        return sum(self.lengths) / len(self.lengths)


def work_of(spec: RunSpec) -> Work:
    """What the run of `spec` reads; InputError where data of unknown size would have to be downloaded."""
    if spec.data != "hub" and Path(checkpoint_path(spec.model)).is_dir():
        return _counted(spec)
    return _from_table(spec)


def _counted(spec: RunSpec) -> Work:
    start, task, tokenizer = time.perf_counter(), get_task(spec.task), load_tokenizer(spec.model)
    parts, lengths = split(spec), {}
    for name, part in parts.items():
        rows = encode(part, task, tokenizer, spec.max_length, spec.truncate)[0]["input_ids"][:]
        lengths[name] = [[len(text) for text in row] if task.has_lists else [len(row)] for row in rows]
    train, seconds = lengths.pop("train"), time.perf_counter() - start
    texts, evaluated = list(chain.from_iterable(train)), sum(map(sum, chain.from_iterable(lengths.values())))
    return Work(len(train), len(texts) / len(train), texts, evaluated, seconds, max(map(sum, train)))


def _from_table(spec: RunSpec) -> Work:
    task = get_task(spec.task)
    if task.name not in HUB:
        where = "a data folder or 'builtin', and a model on this machine"
        raise InputError(f"the size of task {task.name!r} is not known without its data; valid: {where}")
    train, validation, texts, characters = HUB[task.name]
    if spec.evaluate_on == "holdout":  # a tenth of train, in place of the validation rows
        validation = train // 10
        train -= validation
    trained = min(texts, spec.list_size) if task.kind == "ranking" else texts
    names = sum(2 + len(column) / CHARACTERS_PER_TOKEN for column in task.text_columns)  # `column: text`
    length = min(spec.max_length, characters / CHARACTERS_PER_TOKEN + names)
    most = 2 * texts if task.kind != "ranking" and texts % 1 else trained  # assumed of rows that hold unequally many
    heaviest = most * min(2 * length, spec.max_length)
    rows = min(train, spec.train_examples or train)
    return Work(rows, trained, [length], validation * texts * length, heaviest=heaviest)
