"""Who sees whom in a batch, and the way of its tokens into attention and back.

A batch of rows of unequal length travels through every linear layer, norm and feed-forward block as ONE packed row of
real tokens, `(1, tokens, dim)`. Only inside attention is it opened into rows `(rows, heads, width, head_dim)`, in a few
groups of like length, where `width` is the longest row of a group, and closed again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gemma_encoder.masks import Mask, tables

GROUP = 4000  # pairs of query and key that take as long as what every further group costs by itself, on a CPU


class Open(torch.autograd.Function):
    """From tokens to slots: `(tokens * heads, dim) -> (slots * query heads, dim)`, row s is that of `index[s]`.

    The gradient of a token is that of its slot, `slots[token]`: a slot without a token has none, as nobody reads it.
    autograd, which cannot know that, would add up all slots of a token, on a GPU in an order that changes.
    """

    @staticmethod
    def forward(ctx, states: Tensor, index: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.shape = states.shape
        return states.index_select(0, index)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gathered(gradient, *ctx.saved_tensors, ctx.shape), None, None


class Close(torch.autograd.Function):
    """From slots to tokens: `(slots * heads, dim) -> (tokens * heads, dim)`, row t is that of slot `slots[t]`."""

    @staticmethod
    def forward(ctx, states: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.shape = states.shape
        return states.index_select(0, slots)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return scattered(gradient, *ctx.saved_tensors, ctx.shape), None


def gathered(gradient: Tensor, slots: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The gradient of tokens, of that shape, from that of slots; query heads add up that share a key head."""
    gradient = gradient.index_select(0, slots)
    if len(gradient) * shape[-1] == math.prod(shape):
        return gradient.view(shape)
    return gradient.view(*shape[:-1], -1, shape[-1]).sum(dim=-2)


def scattered(gradient: Tensor, slots: Tensor, shape: tuple[int, int]) -> Tensor:
    """The gradient of slots `(slots * heads, dim)` from that of tokens."""
    return gradient.new_zeros(shape).index_copy_(0, slots, gradient)


@dataclass(frozen=True)
class Group:
    """Rows of like length, which attention computes together; `shape` is `(rows, queries, keys)`.

    biases: one `(rows, 1, queries, keys)` tensor for each distinct mask, 0 where query may read key and -inf elsewhere.
    """

    shape: tuple[int, int, int]
    biases: list[Tensor]


@dataclass(frozen=True)
class Visibility:
    """What attention has to know about a batch.

    groups: of rows, in which attention opens a packed batch; one of all rows when the batch travels padded.
    kinds: the number of the bias of each layer.
    position_ids: `(1, tokens)` packed, `(batch, width)` padded; each row counts its tokens from 0.
    heads: of queries.
    queries, keys: for each slot of each query head, counted through the groups, what it holds, by number among the
        tokens times their heads, of queries and of keys and values. A slot beyond the end of a row holds the first
        token of the row, which nobody reads there: a NaN of one row must not reach another.
    query_slots, key_slots: for each token and query head its slot. All four are None when the batch travels padded.
    read: the tokens (slots, when the batch travels padded), by number, whose states are read after the last layer; None
        for all.
    last: of the last attention, where only tokens that are read ask; None where all do.
    adaptation: which of the adaptations of the decoder the batch is for; see attention.new_adaptation.
    spare: so many tokens of one more row, which nobody reads, follow those of the batch.
    """

    groups: list[Group]
    kinds: list[int]
    position_ids: Tensor
    heads: int
    queries: Tensor | None = None
    keys: Tensor | None = None
    query_slots: Tensor | None = None
    key_slots: Tensor | None = None
    return_weights: bool = False
    read: Tensor | None = None
    last: Visibility | None = None
    adaptation: int = 0
    spare: int = 0

    @property
    def packed(self) -> bool:
        """Whether the batch travels as one row of tokens."""
        return self.key_slots is not None

    def open(self, query: Tensor, key: Tensor, value: Tensor) -> list[list[Tensor]]:
        """`(1, heads, tokens, head_dim)` each -> `(rows, query heads, width, head_dim)` a group, each.

        Padded they are `(batch, heads, width, head_dim)` already.
        """
        if not self.packed:
            repeats = self.heads // key.shape[1]
            return [[query], *([states.repeat_interleave(repeats, dim=1)] for states in (key, value))]
        queries, keys, values = (states[0].transpose(0, 1).flatten(0, 1) for states in (query, key, value))
        queries = self.queries_of(Open.apply(queries, self.queries, self.query_slots))
        opened = [self.keys_of(Open.apply(states, self.keys, self.key_slots)) for states in (keys, values)]
        return [[part.unflatten(0, (-1, self.heads)) for part in each] for each in (queries, *opened)]

    def close(self, rows: list[Tensor]) -> Tensor:
        """`(rows, heads, width, head_dim)` a group -> `(1, tokens, heads, head_dim)`, or `(batch, width, ...)`."""
        if not self.packed:
            return rows[0].transpose(1, 2).contiguous()
        slots = torch.cat([part.flatten(0, 2) for part in rows])
        return Close.apply(slots, self.query_slots).unflatten(0, (-1, self.heads))[None]

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Rows, queries and keys of every group."""
        return [group.shape for group in self.groups]

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key, of all heads."""
        return sum(self.heads * rows * queries * keys for rows, queries, keys in self.shapes)

    def queries_of(self, slots: Tensor) -> list[Tensor]:
        """`(slots * heads, dim)` of queries -> `(rows * heads, queries, dim)` a group."""
        parts = slots.split([self.heads * rows * queries for rows, queries, _ in self.shapes])
        return [
            part.view(-1, queries, slots.shape[1]) for part, (_, queries, _) in zip(parts, self.shapes, strict=True)
        ]

    def keys_of(self, slots: Tensor) -> list[Tensor]:
        """`(slots * heads, dim)` of keys or values -> `(rows * heads, keys, dim)` a group."""
        parts = slots.split([self.heads * rows * keys for rows, _, keys in self.shapes])
        return [part.view(-1, keys, slots.shape[1]) for part, (_, _, keys) in zip(parts, self.shapes, strict=True)]

    def pairs_of(self, pairs: Tensor) -> list[Tensor]:
        """`(pairs,)` -> `(rows * heads, queries, keys)` a group."""
        parts = pairs.split([self.heads * rows * queries * keys for rows, queries, keys in self.shapes])
        return [part.view(-1, *shape[1:]) for part, shape in zip(parts, self.shapes, strict=True)]


def split(lengths: Sequence[int]) -> list[list[int]]:
    """The rows of a batch, by number, in the groups that cost least; shortest rows first.

    A group costs `rows * width^2 + GROUP`, where width is its longest row. The best groups of the n shortest rows are
    those of fewer rows and one group more, so they are found for every n in turn.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    best = {0: (0, 0)}  # number of shortest rows: what they cost, and the number without their last group
    for end, row in enumerate(order, start=1):
        if end == len(order) or lengths[row] < lengths[order[end]]:
            width = lengths[row]
            best[end] = min((cost + (end - start) * width**2 + GROUP, start) for start, (cost, _) in best.items())
    groups, end = [], len(order)
    while end:
        start = best[end][1]
        groups.insert(0, order[start:end])
        end = start
    return groups


def look(
    real: Tensor,
    masks: Sequence[Mask],
    dtype: torch.dtype,
    unpadded: bool = True,
    return_weights: bool = False,
    adaptation: int = 0,
    one_group: bool = False,
    heads: tuple[int, int] = (1, 1),
    spare: int = 0,
) -> Visibility:
    """Who sees whom in a batch whose slots hold a token where `real (batch, seq)` is True, layer by layer.

    adaptation: of attention.new_adaptation. one_group: rows are not put into groups of like length. heads: how many
    queries have, and keys.
    """
    distinct = list(dict.fromkeys(masks))
    kinds = [distinct.index(mask) for mask in masks]
    if not unpadded:
        positions = (real.cumsum(dim=1) - 1).where(real, 0)
        group = Group((*real.shape, real.shape[1]), _biases(positions, positions, real, distinct, dtype))
        return Visibility([group], kinds, positions, heads[0], return_weights=return_weights, adaptation=adaptation)
    lengths, starts = _lengths(real, spare)
    # weights are asked for as one tensor, and a GPU computes pairs faster than it starts what a group needs
    if one_group or return_weights or real.is_cuda:
        parts = [_part(lengths, starts, int(lengths.max()))]
    else:
        known = lengths.tolist()
        rows = split(known)
        order, sizes = torch.tensor([row for group in rows for row in group]), [len(group) for group in rows]
        ordered = lengths[order].split(sizes), starts[order].split(sizes), [known[group[-1]] for group in rows]
        parts = [_part(*each) for each in zip(*ordered, strict=True)]
    groups = [
        Group((*keys.shape, keys.shape[1]), _biases(positions, positions, keys, distinct, dtype))
        for positions, keys, _ in parts
    ]
    queries, keys, slots = _index(parts, heads)
    tokens = len(slots) // heads[0]
    position_ids = torch.arange(tokens, device=real.device) - starts.repeat_interleave(lengths, output_size=tokens)
    index = queries, keys, slots, slots
    more = {"return_weights": return_weights, "adaptation": adaptation, "spare": spare}
    return Visibility(groups, kinds, position_ids[None], heads[0], *index, **more)


def look_from(
    read: Tensor, real: Tensor, mask: Mask, dtype: torch.dtype, heads: tuple[int, int], spare: int
) -> Visibility:
    """Whom the packed tokens `read` see under `mask`, by number and as many in every row of `real (batch, seq)`.

    A row of spare tokens has its first one in their place, which `read` of the result names as well.
    """
    lengths, starts = _lengths(real, spare)
    asking = read.view(len(real), -1)
    if spare:
        asking = torch.cat([asking, starts[-1:, None].expand(1, asking.shape[1])])
    positions, keys, tokens = _part(lengths, starts, int(lengths.max()))
    group = Group((*asking.shape, keys.shape[1]), _biases(asking - starts[:, None], positions, keys, [mask], dtype))
    _, shared, slots = _index([(positions, keys, tokens)], heads)
    by_head = torch.arange(asking.numel() * heads[0], device=real.device).view(len(asking), -1, heads[0])
    by_token = by_head.view(len(asking), heads[0], -1)
    index = by_head.transpose(1, 2).flatten(), shared, by_token.transpose(1, 2).flatten(), slots
    return Visibility([group], [0], (asking - starts[:, None]).view(1, -1), heads[0], *index, read=asking.flatten())


def _lengths(real: Tensor, spare: int) -> tuple[Tensor, Tensor]:
    """Tokens of every row, and how many are packed before them; with spare ones there is a row more."""
    lengths = F.pad(real.sum(dim=1), (0, int(spare > 0)), value=spare)
    return lengths, lengths.cumsum(dim=0) - lengths


def _index(parts: Sequence[tuple[Tensor, Tensor, Tensor]], heads: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """`queries`, `keys` and the slots of tokens, as `Visibility` has them."""
    head = torch.arange(heads[0], device=parts[0][0].device)[:, None]
    queries = torch.cat([(tokens[:, None] * heads[0] + head).flatten() for _, _, tokens in parts])
    filled = torch.cat([keys[:, None].expand(-1, heads[0], -1).flatten() for _, keys, _ in parts]).nonzero().flatten()
    slots = torch.empty_like(filled).index_copy(0, queries[filled], filled)
    return queries, queries // (heads[0] // heads[1]), slots


def _part(lengths: Tensor, starts: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Position, whether it holds a token, and packed token of every slot `(rows, width)` of some rows of a batch.

    A slot without a token stands at position 0, where it reads the first token: an empty softmax would be NaN, and NaN
    spreads from there into every gradient.
    """
    columns = torch.arange(width, device=lengths.device)
    keys = columns < lengths[:, None]
    positions = columns.where(keys, 0)
    return positions, keys, starts[:, None] + positions


def _biases(asking: Tensor, positions: Tensor, keys: Tensor, masks: Sequence[Mask], dtype: torch.dtype) -> list[Tensor]:
    """What is added to the scores under each mask, of queries at positions `asking`."""
    zero, never = torch.tensor([0.0, float("-inf")], dtype=dtype, device=keys.device)
    return [zero.where(seen, never) for seen in tables(masks, positions, keys, asking)]
