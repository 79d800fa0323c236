"""From rows to token ids and from token ids to batches.

Every text column becomes a segment `column: text`, the segments follow one another, one BOS stands in front (where
the tokenizer has one) and no EOS at the end:

    <bos>sentence1: A plane is taking off. sentence2: An air plane is taking off.

The form is T5's without its task name (Raffel et al., 2020); the paper does not publish its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gemma_encoder.errors import InputError
from gemma_encoder.tasks.task import Task

BATCH = 1000  # rows tokenised at once; bounds memory


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
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    input_ids, too_long = [], {}
    for batch in rows.iter(BATCH):
        columns = [_tokenise(batch[name], name, at, tokenizer) for at, name in enumerate(task.text_columns)]
        for segments in zip(*columns, strict=True):
            length = len(bos) + sum(map(len, segments))
            if length > max_length:
                too_long[len(input_ids)] = length
                segments = _shorten(segments, max_length - len(bos))
            input_ids.append([*bos, *chain.from_iterable(segments)])
    if too_long and not truncate:
        raise InputError(
            f"row {min(too_long)} (counted from 0) has {too_long[min(too_long)]} tokens, the limit is {max_length}; "
            f"{len(too_long)} of {len(rows)} rows are over it, the longest with {max(too_long.values())} tokens; "
            "raise max_length, or ask for truncation"
        )
    return _dataset(input_ids, rows, task), len(too_long)


def collate(features: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Tensor]:
    """A batch, padded on the right to its longest row.

    Returns `input_ids` and `attention_mask` `(batch, seq)`, int64, and `labels` `(batch,)`, int64 or float32, where
    the features have them. `pad_id` may be any id of the vocabulary: the mask is 0 there.
    """
    longest = max(len(row["input_ids"]) for row in features)
    input_ids = torch.full((len(features), longest), pad_id)
    attention_mask = torch.zeros_like(input_ids)
    for at, row in enumerate(features):
        length = len(row["input_ids"])
        input_ids[at, :length] = torch.tensor(row["input_ids"])
        attention_mask[at, :length] = 1
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    if "labels" in features[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in features])
    return batch


def _check(rows: Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    for column in task.text_columns:
        if column not in rows.column_names:
            found = ", ".join(rows.column_names) or "none"
            raise InputError(f"rows have no column {column!r}, which {task.name} needs; columns there: {found}")
    shortest = len(task.text_columns) + (tokenizer.bos_token_id is not None)
    if max_length < shortest:
        raise InputError(f"max_length {max_length}; valid for {task.name}: {shortest} or more")


def _tokenise(texts: Sequence[str], column: str, at: int, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Ids of one column's segments, without special tokens.

    A later segment begins with the space that separates it from the one before, as in running text. White space
    around a text goes, so that the last token, which last-token pooling reads, belongs to a word. A "<bos>" that
    someone typed is text: it is split like any other, and never becomes a special token.
    """
    space = " " if at else ""
    return tokenizer(
        [f"{space}{column}: {text.strip()}" for text in texts],
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )["input_ids"]


def _shorten(segments: Sequence[list[int]], budget: int) -> list[list[int]]:
    """Cut the longest segment (of equals, the last), token by token, until all fit into `budget` together."""
    lengths = [len(segment) for segment in segments]
    while sum(lengths) > budget:
        longest = max(range(len(lengths)), key=lambda at: (lengths[at], at))
        lengths[longest] -= 1
    return [segment[:length] for segment, length in zip(segments, lengths, strict=True)]


def _dataset(input_ids: list[list[int]], rows: Dataset, task: Task) -> Dataset:
    columns: dict[str, list] = {"input_ids": input_ids}
    features: dict[str, Any] = {"input_ids": List(Value("int32"))}
    if task.label_column in rows.column_names:
        columns["labels"] = rows[task.label_column][:]
        features["labels"] = ClassLabel(names=list(task.labels)) if task.labels else Value("float32")
    return Dataset.from_dict(columns, Features(features))
