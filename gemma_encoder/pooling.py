"""From token states to one vector per row.

Every pooler maps `(hidden (batch, seq, dim), mask (batch, seq)) -> (batch, dim)`. `mask` is nonzero where a slot holds
a token. Order is taken from the mask, not from the column, so left and right padding give the same vector; slots
without a token are never read, whatever they hold; inputs are never changed.
Source: paper, section 2.2 and Figure 1 (First-K, Last-K, Mean, Attention with a KV probe or a query probe).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.rows import check_rows

Pooler = Callable[[Tensor, Tensor], Tensor]


def _average(hidden: Tensor, chosen: Tensor) -> Tensor:
    """Mean of `hidden (batch, seq, dim)` over the slots where `chosen (batch, seq)` is True."""
    check_rows(chosen.any(dim=1), "hold no token to pool", "at least one token per row")
    # masked_fill, not multiplication: a slot without a token may hold NaN, and NaN * 0 is NaN
    # summed in float32 at least: in float16 the sum of a long row overflows where its mean does not
    total = hidden.masked_fill(~chosen[..., None], 0).sum(dim=1, dtype=torch.promote_types(hidden.dtype, torch.float32))
    return (total / chosen.sum(dim=1, keepdim=True)).to(hidden.dtype)


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average of all token states: `sum_i h_i / n`."""
    return _average(hidden, mask.bool())


def first(hidden: Tensor, mask: Tensor, k: int = 1) -> Tensor:
    """Average of the first `k` token states (First-K). A row of fewer than k tokens is an InputError."""
    return _average(hidden, first_slots(mask, k))


def first_slots(mask: Tensor, k: int) -> Tensor:
    """Where the first `k` tokens of every row stand, `(batch, seq)`."""
    real = _at_least(mask, k)
    return real & (real.cumsum(dim=1) <= k)


def last(hidden: Tensor, mask: Tensor, k: int = 1) -> Tensor:
    """Average of the last `k` token states (Last-K). A row of fewer than k tokens is an InputError.

    With k = 1 it is the one state that has read the whole row under a causal mask.
    """
    return _average(hidden, last_slots(mask, k))


def last_slots(mask: Tensor, k: int) -> Tensor:
    """Where the last `k` tokens of every row stand, `(batch, seq)`."""
    real = _at_least(mask, k)
    return real & (real.cumsum(dim=1) > real.sum(dim=1, keepdim=True) - k)


@torch.compiler.disable  # what it reads off the batch cannot be traced
def _at_least(mask: Tensor, k: int) -> Tensor:
    real = mask.bool()
    check_least(real.sum(dim=1), k)
    return real


def check_least(lengths: Tensor, k: int, of: str = "") -> None:
    """Refuse rows of fewer than k tokens; `of`: whose rows they are, for the error."""
    if (shortest := int(lengths.min())) < k:
        what = f"hold fewer than {k} tokens, the shortest {shortest}"
        check_rows(lengths >= k, what, "longer rows, or a smaller k", of)


class _Probe(nn.Module):
    """What the two attention poolers share: `latents` learned vectors, heads, and optional projections.

    With `projections`, queries, keys, values and output pass a `dim x dim` matrix each, as in a layer of attention;
    without, the latents are the only weights. The latents start near zero, so that the pooler starts as a mean.
    """

    def __init__(self, dim: int, heads: int = 4, latents: int = 4, projections: bool = True):
        super().__init__()
        if heads < 1 or dim % heads:
            raise InputError(f"pooling_heads {heads!r} does not divide the model's width; valid: a divisor of {dim}")
        if latents < 1:
            raise InputError(f"pooling_latents {latents!r} is too small; valid: an integer >= 1")
        self.heads = heads
        self.latents = nn.Parameter(torch.randn(latents, dim) * 0.02)
        names = ("query", "key", "value", "output") if projections else ()
        self.project = nn.ModuleDict({name: nn.Linear(dim, dim, bias=False) for name in names})

    def _projected(self, name: str, states: Tensor) -> Tensor:
        return self.project[name](states) if name in self.project else states

    def _split(self, name: str, states: Tensor) -> Tensor:
        """`(..., n, dim)` -> projected, `(..., head, n, dim / head)`."""
        return self._projected(name, states).unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def _merge(self, heads: Tensor) -> Tensor:
        """`(batch, head, n, dim / head)` -> mean over n, projected, `(batch, dim)`."""
        return self._projected("output", heads.mean(dim=2).flatten(1))


def _clean(hidden: Tensor, mask: Tensor) -> Tensor:
    """`hidden` with zeros where no token is, so that what stands there can do no harm."""
    return hidden.masked_fill(~_at_least(mask, 1)[..., None], 0)


class QueryProbe(_Probe):
    """Attention pooling with learned queries: each latent reads the tokens, then the mean over latents.

    `mean_n softmax(q_n K^T / sqrt(d)) V`, `q_n` learned, K and V `(seq, d)` from the tokens.
    Source: paper, Figure 1 (Attention pooling, Query-probe); the reading of its two variants is ours.
    """

    def weights(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """What each latent reads: `(batch, head, latent, seq)`, sums to 1 over the tokens of a row, 0 elsewhere."""
        query, key = self._split("query", self.latents), self._split("key", _clean(hidden, mask))
        scores = query @ key.transpose(-2, -1) / key.shape[-1] ** 0.5
        return scores.masked_fill(~mask.bool()[:, None, None, :], float("-inf")).softmax(dim=-1)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """`(batch, seq, dim)` and `(batch, seq)` -> `(batch, dim)`."""
        return self._merge(self.weights(hidden, mask) @ self._split("value", _clean(hidden, mask)))


class KVProbe(_Probe):
    """Attention pooling over learned keys and values: each token reads the latents, then the mean over tokens.

    `mean_i softmax(q_i K^T / sqrt(d)) V`, `q_i` from token i, K and V `(n, d)` learned.
    Source: paper, Figure 1 (Attention pooling, KV-probe); the reading of its two variants is ours.
    """

    def weights(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """What each token reads: `(batch, head, seq, latent)`, sums to 1 over latents; 0 where no token is."""
        query, key = self._split("query", _clean(hidden, mask)), self._split("key", self.latents)
        scores = query @ key.transpose(-2, -1) / key.shape[-1] ** 0.5
        return scores.softmax(dim=-1) * mask.bool()[:, None, :, None]

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """`(batch, seq, dim)` and `(batch, seq)` -> `(batch, dim)`."""
        read = self.weights(hidden, mask).sum(dim=2, keepdim=True) / mask.bool().sum(dim=1)[:, None, None, None]
        return self._merge(read @ self._split("value", self.latents))


COUNTED: dict[str, Callable[..., Tensor]] = {"first": first, "last": last}
SLOTS: dict[str, Callable[..., Tensor]] = {"first": first_slots, "last": last_slots}
PROBES: dict[str, type[_Probe]] = {"query-probe": QueryProbe, "kv-probe": KVProbe}
POOLERS = ("mean", *COUNTED, *(f"{name}-K" for name in COUNTED), *PROBES)


def parse_pooling(name: str) -> tuple[str, int]:
    """The kind of pooler that `name` asks for and its K, 1 if it names none; InputError for an unknown name."""
    kind, dash, k = name.rpartition("-") if isinstance(name, str) and name not in PROBES else ("", "", name)
    if not dash and k in ("mean", *COUNTED, *PROBES):
        return k, 1
    if kind in COUNTED and k.isdecimal() and int(k) > 0:
        return kind, int(k)
    check_choice("pooling", name, POOLERS)
    # left is "first-K" itself, the letter not replaced
    raise InputError(f"pooling {name!r} needs a number in place of K")


def slots_read(name: str, mask: Tensor) -> Tensor | None:
    """The slots `(batch, seq)` that the pooler `name` reads, as many in every row; None where it reads all tokens."""
    kind, k = parse_pooling(name)
    return SLOTS[kind](mask, k) if kind in SLOTS else None


def get_pooler(name: str, dim: int, heads: int = 4, latents: int = 4, projections: bool = True) -> Pooler:
    """The pooler called `name`: "mean", "first", "last", "first-K", "last-K", or a probe with weights of its own.

    An unknown name is an InputError that lists the valid ones. `dim` is the width of the states; what follows it is
    for the probes alone.
    """
    kind, k = parse_pooling(name)
    if kind == "kv-probe" and latents == 1:  # a softmax over one key is 1, whatever the tokens say
        raise InputError(f"pooling_latents {latents} is too small for {name!r}; valid: an integer >= 2")
    if kind in PROBES:
        return PROBES[kind](dim, heads, latents, projections)
    return partial(COUNTED[kind], k=k) if kind in COUNTED else mean
