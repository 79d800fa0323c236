"""From token states to one vector per row.

Every pooler is a pure function `(hidden (batch, seq, dim), mask (batch, seq)) -> (batch, dim)`. `mask` is nonzero
where a slot holds a token. Order is taken from the mask, not from the column, so left and right padding give the same
vector; slots without a token are never read, whatever they hold; inputs are never changed.
Source: paper, section 2.2 and Figure 1 (First-K, Last-K, Mean).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gemma_encoder.errors import InputError, check_choice

Pooler = Callable[[Tensor, Tensor], Tensor]


def _average(hidden: Tensor, chosen: Tensor) -> Tensor:
    """Mean of `hidden (batch, seq, dim)` over the slots where `chosen (batch, seq)` is True."""
    empty = (~chosen.any(dim=1)).nonzero().flatten()
    if len(empty):
        raise InputError(f"rows {empty.tolist()} hold no token to pool; valid: at least one token per row")
    # masked_fill, not multiplication: a slot without a token may hold NaN, and NaN * 0 is NaN
    total = hidden.masked_fill(~chosen[..., None], 0).sum(dim=1)
    return total / chosen.sum(dim=1, keepdim=True).to(hidden.dtype)


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average of all token states: `sum_i h_i / n`."""
    return _average(hidden, mask.bool())


def first(hidden: Tensor, mask: Tensor) -> Tensor:
    """State of the first token (First-K with K = 1)."""
    real = mask.bool()
    return _average(hidden, real & (real.cumsum(dim=1) == 1))


def last(hidden: Tensor, mask: Tensor) -> Tensor:
    """State of the last token (Last-K with K = 1): the only one that has read the whole row under a causal mask."""
    real = mask.bool()
    return _average(hidden, real & (real.flip(1).cumsum(dim=1).flip(1) == 1))


POOLERS: dict[str, Pooler] = {"mean": mean, "first": first, "last": last}


def get_pooler(name: str) -> Pooler:
    """The pooler called `name`; an unknown name is an InputError that lists the valid ones."""
    return POOLERS[check_choice("pooling", name, POOLERS)]
