"""From rows of a task to token ids and from token ids to batches.

Every text column becomes a segment `column: text`, as `gemma_encoder.tokens` builds rows:

    <bos>sentence1: A plane is taking off. sentence2: An air plane is taking off.

A row with a list of candidates becomes one such row of tokens for each candidate, its last segment.
The form is T5's without its task name (Raffel et al., 2020); the paper does not publish its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gemma_encoder.errors import InputError
from gemma_encoder.rows import padded
from gemma_encoder.tasks.task import Task
from gemma_encoder.tokens import BATCH, bos_ids, token_ids


def encode(
    rows: Dataset | Sequence[Mapping[str, Any]],
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    truncate: bool = False,
) -> tuple[Dataset, int]:
    """Token ids of every row, and how many rows were truncated.

    Returns a Dataset with `input_ids` (at most `max_length`, BOS included) and, where rows have labels, `labels`. Where
    rows hold lists of candidates, both are lists with one entry a candidate, and it is candidates that are counted.
    A longer row is an InputError. With `truncate` it loses tokens at the end of whichever segment is the longest,
    so BOS and the beginning of every segment stay.
    """
    if not isinstance(rows, Dataset):
        rows = Dataset.from_list(list(rows))
    _check(rows, task, tokenizer, max_length)
    input_ids, cut = token_ids(_texts(rows, task), tokenizer, max_length, truncate, task.text_columns)
    if task.has_lists:
        candidates = iter(input_ids)
        input_ids = [list(islice(candidates, len(texts))) for texts in rows[task.text_columns[-1]]]
    return _dataset(input_ids, rows, task), cut


def collate(
    features: Sequence[Mapping[str, Any]], pad_id: int, side: Literal["left", "right"] = "right"
) -> dict[str, Tensor]:
    """A batch, padded on one side to its longest row.

    Returns `input_ids` and `attention_mask` `(batch, seq)`, int64, and `labels` `(batch,)`, int64 or float32, where
    the features have them. `pad_id` may be any id of the vocabulary: the mask is 0 there. Lists of candidates give
    `(batch, list, seq)` and `(batch, list)`; slots behind a short list hold no token, and label 0.
    """
    rows = [row["input_ids"] for row in features]
    if isinstance(rows[0][0], int):
        batch, shape = padded(rows, pad_id, side), (len(rows),)
    else:
        shape = (len(rows), max(map(len, rows)))
        rows = [ids for row in rows for ids in [*row, *[[]] * (shape[1] - len(row))]]
        batch = {name: tensor.view(*shape, -1) for name, tensor in padded(rows, pad_id, side).items()}
    if "labels" in features[0]:
        labels = [row["labels"] for row in features]
        filled = [row + [0] * (shape[1] - len(row)) for row in labels] if len(shape) == 2 else labels
        batch["labels"] = torch.tensor(filled)
    return batch


def _texts(rows: Dataset, task: Task) -> Iterator[tuple[str, ...]]:
    """The texts of every row; where it holds a list, of every candidate of every row."""
    for batch in rows.iter(BATCH):
        for row in zip(*(batch[name] for name in task.text_columns), strict=True):
            if task.has_lists:
                yield from ((*row[:-1], candidate) for candidate in row[-1])
            else:
                yield row


def _check(rows: Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    for column in task.text_columns:
        if column not in rows.column_names:
            found = ", ".join(rows.column_names) or "none"
            raise InputError(f"rows have no column {column!r}, which {task.name} needs; columns there: {found}")
    shortest = len(bos_ids(tokenizer)) + len(task.text_columns)
    if max_length < shortest:
        raise InputError(f"max_length {max_length}; valid for {task.name}: {shortest} or more")


def _dataset(input_ids: list[list[int]], rows: Dataset, task: Task) -> Dataset:
    columns: dict[str, list] = {"input_ids": input_ids}
    features: dict[str, Any] = {"input_ids": List(Value("int32"))}
    if task.label_column in rows.column_names:
        columns["labels"] = rows[task.label_column][:]
        features["labels"] = ClassLabel(names=list(task.labels)) if task.labels else Value("float32")
    if task.has_lists:
        features = {name: List(feature) for name, feature in features.items()}
    return Dataset.from_dict(columns, Features(features))
