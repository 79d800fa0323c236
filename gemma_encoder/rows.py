"""The rows of a batch: filled up to one length, and checked, the wrong ones named."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from gemma_encoder.errors import InputError

SHOWN = 8  # rows that an error names


@torch.compiler.disable  # what it reads off the batch cannot be traced
def check_rows(good: Tensor, what: str, valid: str, of: str = "") -> None:
    """InputError naming the rows where `good (batch, ...)` is False: `{of}rows [...] {what}; valid: {valid}`."""
    if not good.all():
        bad = (~good).nonzero()[:, :1].unique().tolist()
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise InputError(f"{of}rows {bad[:SHOWN]}{more} {what}; valid: {valid}")


def padded(
    rows: Sequence[Sequence[int]], pad_id: int = 0, side: Literal["left", "right"] = "right"
) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, `(rows, longest)`, of rows of token ids; shorter ones filled up at `side`."""
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    columns = torch.arange(int(lengths.max()))
    real = columns < lengths if side == "right" else columns >= len(columns) - lengths
    input_ids = torch.full(real.shape, pad_id)
    input_ids[real] = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.long)
    return {"input_ids": input_ids, "attention_mask": real.long()}
