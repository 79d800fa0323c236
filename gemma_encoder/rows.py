"""The check that every row of a batch passes, or is named."""

from __future__ import annotations

import torch
from torch import Tensor

from gemma_encoder.errors import InputError


@torch.compiler.disable  # what it reads off the batch cannot be traced
def check_rows(good: Tensor, what: str, valid: str) -> None:
    """InputError naming the rows where `good (batch,)` is False: `rows [...] {what}; valid: {valid}`."""
    wrong = (~good).nonzero().flatten()
    if len(wrong):
        raise InputError(f"rows {wrong.tolist()} {what}; valid: {valid}")
