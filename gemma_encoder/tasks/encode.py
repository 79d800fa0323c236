"""From rows of a task to token ids and from token ids to batches.

Every text column becomes a segment `column: text`, as `gemma_encoder.tokens` builds rows:

    <bos>sentence1: A plane is taking off. sentence2: An air plane is taking off.

The form is T5's without its task name (Raffel et al., 2020); the paper does not publish its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gemma_encoder.errors import InputError
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

    Returns a Dataset with `input_ids` (at most `max_length`, BOS included) and, where rows have labels, `labels`.
    A longer row is an InputError. With `truncate` it loses tokens at the end of whichever segment is the longest,
    so BOS and the beginning of every segment stay.
    """
    if not isinstance(rows, Dataset):
        rows = Dataset.from_list(list(rows))
    _check(rows, task, tokenizer, max_length)
    columns = task.text_columns
    texts = (row for batch in rows.iter(BATCH) for row in zip(*(batch[name] for name in columns), strict=True))
    input_ids, cut = token_ids(texts, tokenizer, max_length, truncate, columns)
    return _dataset(input_ids, rows, task), cut


def collate(
    features: Sequence[Mapping[str, Any]], pad_id: int, side: Literal["left", "right"] = "right"
) -> dict[str, Tensor]:
    """A batch, padded on one side to its longest row.

    Returns `input_ids` and `attention_mask` `(batch, seq)`, int64, and `labels` `(batch,)`, int64 or float32, where
    the features have them. `pad_id` may be any id of the vocabulary: the mask is 0 there.
    """
    longest = max(len(row["input_ids"]) for row in features)
    input_ids = torch.full((len(features), longest), pad_id)
    attention_mask = torch.zeros_like(input_ids)
    for at, row in enumerate(features):
        length = len(row["input_ids"])
        real = slice(0, length) if side == "right" else slice(longest - length, longest)
        input_ids[at, real] = torch.tensor(row["input_ids"])
        attention_mask[at, real] = 1
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    if "labels" in features[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in features])
    return batch


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
    return Dataset.from_dict(columns, Features(features))
