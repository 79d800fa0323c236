"""Who sees whom in a batch, and the way of its tokens into attention and back.

A batch of rows of unequal length travels through every linear layer, norm and feed-forward block as ONE packed row of
real tokens, `(1, tokens, dim)`. Only inside attention is it opened into rows `(rows, heads, width, head_dim)`, in a few
groups of like length, where `width` is the longest row of a group, and closed again. The field calls this padding and
unpadding (`pad_input` and `unpad_input` of FlashAttention); here rows are *opened* and *closed*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from gemma_encoder.masks import Mask, squares, table

GROUP = 4000  # pairs of query and key that take as long as what every further group costs by itself, on a CPU


class Open(torch.autograd.Function):
    """From tokens to slots: `(tokens * heads, dim) -> (slots * query heads, dim)`, row s is that of `index[s]`.

    The gradient of a token is that of its slot, `slots[token]`: a slot without a token has none, as nobody reads it.
    autograd does not know this and would sum over all slots of a token, on a GPU in an order that changes from run to
    run.
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

    biases: one `(rows, 1, queries, keys)` tensor for each distinct mask, 0 where query may read key and `lowest`
        elsewhere.
    rows: of the batch, by number; None when it travels padded.
    """

    shape: tuple[int, int, int]
    biases: list[Tensor]
    rows: Tensor | None = None


@dataclass(frozen=True)
class Visibility:
    """What attention has to know about a batch.

    groups: of rows, in which attention opens a packed batch; one of all rows when the batch travels padded.
    kinds: the number of the bias of each layer.
    position_ids: `(1, tokens)` packed, `(batch, width)` padded; each row counts its tokens from 0.
    heads: of queries.
    queries, keys: for every slot of every query head, in the order of the groups, which token it holds: an index into
        the `(tokens * heads)` rows of queries, or the `(tokens * key heads)` rows of keys and values. A slot behind the
        end of a row holds the first token of that row. Nobody reads it there, but a NaN must not travel from one row to
        another.
    query_slots, key_slots: the reverse, the slot of every token and query head. All four are None for a padded batch.
    read: indices of the tokens (of the slots, if the batch is padded) whose states are read after the last layer; None
        for all.
    last: the Visibility of the last layer if only those tokens are computed there; else None.
    written_out: the `id` of every layer whose sublayers run written out, in `last` that of the last one; decided once,
        as hooks may be gone when activations are recomputed. See `gemma2`.
    adaptation: which of the adaptations of the decoder the batch is for; see attention.new_adaptation.
    spare: number of filler tokens behind those of the batch; they form a row of their own, which nobody reads.
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
    written_out: frozenset[int] = frozenset()
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
        return [
            self._rows(Open.apply(queries, self.queries, self.query_slots)),
            *(self._rows(Open.apply(each, self.keys, self.key_slots)) for each in (keys, values)),
        ]

    def close(self, rows: list[Tensor]) -> Tensor:
        """`(rows, heads, width, head_dim)` a group -> `(1, tokens, heads, head_dim)`, or `(batch, width, ...)`."""
        if not self.packed:
            return rows[0].transpose(1, 2).contiguous()
        slots = torch.cat([part.flatten(0, 2) for part in rows])
        return Close.apply(slots, self.query_slots).unflatten(0, (-1, self.heads))[None]

    def of_kind(self, kind: int) -> Visibility:
        """What a layer of that kind has to know: of the biases its own alone."""
        groups = [replace(group, biases=[group.biases[kind]]) for group in self.groups]
        return replace(self, groups=groups, kinds=[0])

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Query heads of all rows, queries and keys of every group."""
        return [(self.heads * rows, queries, keys) for rows, queries, keys in (group.shape for group in self.groups)]

    def _rows(self, slots: Tensor) -> list[Tensor]:
        """`(slots * heads, dim)` -> `(rows, heads, width, dim)` a group."""
        shapes = [(rows, self.heads, width) for rows, _, width in (group.shape for group in self.groups)]
        parts = slots.split(list(map(math.prod, shapes)))
        return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]


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


def lowest(dtype: torch.dtype) -> float:
    """What is added to the scores of keys that may not be read: their weights are exactly 0.

    With -inf the softmax of a slot without a token, which may read nothing, would be NaN, and NaN spreads from there
    into every gradient; half of the least number, in float32 as well, leaves room for the score. In float16, where it
    is -32752, this holds for scores up to some 30,000.
    """
    return max(torch.finfo(dtype).min, torch.finfo(torch.float32).min) / 2


def look(
    real: Tensor,
    masks: Sequence[Mask],
    dtype: torch.dtype,
    unpadded: bool = True,
    return_weights: bool = False,
    one_group: bool = False,
    heads: tuple[int, int] = (1, 1),
    spare: int = 0,
) -> Visibility:
    """Who sees whom in a batch whose slots hold a token where `real (batch, seq)` is True, layer by layer.

    masks: of every layer, by positions alone: a packed batch has them evaluated once, for all rows and heads.
    one_group: rows are not put into groups of like length. heads: how many queries have, and keys.
    """
    distinct = list(dict.fromkeys(masks))
    kinds = [distinct.index(mask) for mask in masks]
    more = {"return_weights": return_weights, "spare": spare}
    never = torch.full((), lowest(dtype), dtype=dtype, device=real.device)
    if not unpadded:
        positions = (real.cumsum(dim=1) - 1).where(real, 0)
        biases = [torch.where(table(mask, positions, real), 0.0, never) for mask in distinct]
        return Visibility([Group((*real.shape, real.shape[1]), biases)], kinds, positions, heads[0], **more)
    lengths = real.sum(dim=1)
    if spare:
        lengths = F.pad(lengths, (0, 1), value=spare)
    starts = lengths.cumsum(dim=0) - lengths
    # weights are asked for as one tensor, and a GPU computes pairs faster than it starts what a group needs
    order, parts = _one(lengths) if one_group or return_weights or real.is_cuda else _several(lengths)
    columns = torch.arange(parts[-1][2], device=real.device)
    filled = columns < lengths[order, None]
    alone = [torch.where(seen, 0.0, never) for seen in squares(distinct, len(columns), real.device)]
    beyond = torch.where(filled, 0.0, never)[:, None, None]
    groups = []
    for start, end, width in parts:
        ends = beyond[start:end, ..., :width]
        biases = [torch.minimum(square[:width, :width], ends) for square in alone]
        groups.append(Group((end - start, width, width), biases, order[start:end]))
    index = _index(filled, starts[order, None] + columns.where(filled, 0), parts, heads)
    tokens = len(index[2]) // heads[0]
    position_ids = torch.arange(tokens, device=real.device) - starts.repeat_interleave(lengths, output_size=tokens)
    return Visibility(groups, kinds, position_ids[None], heads[0], *index, index[2], **more)


def look_from(seen: Visibility, read: Tensor) -> Visibility:
    """Whom the packed tokens `read` see in the last layer, by number and as many in every row of the batch.

    A row of spare tokens has its first one in their place, which `read` of the result names as well.
    """
    rows = sum(group.shape[0] for group in seen.groups)
    tokens = read.view(rows - (seen.spare > 0), -1)
    if seen.spare:
        first = seen.position_ids.shape[1] - seen.spare
        tokens = torch.cat([tokens, tokens.new_full((1, tokens.shape[1]), first)])
    positions = seen.position_ids[0, tokens]
    groups = []
    for group in seen.groups:
        at = positions[group.rows][:, None, :, None]
        biases = [group.biases[seen.kinds[-1]].take_along_dim(at, dim=2)]
        groups.append(Group((group.shape[0], tokens.shape[1], group.shape[2]), biases, group.rows))
    by_token = torch.arange(tokens.numel() * seen.heads, device=read.device).view(rows, -1, seen.heads)
    queries = by_token.transpose(1, 2)[torch.cat([group.rows for group in groups])].flatten()
    asked = {"queries": queries, "query_slots": queries.argsort(), "read": tokens.flatten()}
    return replace(seen, groups=groups, kinds=[0], **asked)


Parts = list[tuple[int, int, int]]  # of each group: where its rows begin and end, and their width


def _one(lengths: Tensor) -> tuple[Tensor, Parts]:
    """The rows of a batch in the order of their groups, and these, if it is one."""
    return torch.arange(len(lengths), device=lengths.device), [(0, len(lengths), int(lengths.max()))]


def _several(lengths: Tensor) -> tuple[Tensor, Parts]:
    """The rows of a batch in the order of their groups, and these, where they cost least."""
    known, order, parts = lengths.tolist(), [], []
    for rows in split(known):
        parts.append((len(order), len(order) + len(rows), known[rows[-1]]))
        order += rows
    return torch.tensor(order), parts


def _index(filled: Tensor, tokens: Tensor, parts: Parts, heads: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """`queries`, `keys` and the slots of tokens, as `Visibility` has them; filled and tokens: `(rows, longest)`."""
    head = torch.arange(heads[0], device=tokens.device)[:, None]
    by_head = [tokens[start:end, None, :width] * heads[0] + head for start, end, width in parts]
    real = [filled[start:end, None, :width].expand(-1, heads[0], -1) for start, end, width in parts]
    queries, real = (torch.cat([part.flatten() for part in each]) for each in (by_head, real))
    numbers = real.nonzero().flatten()
    slots = torch.empty_like(numbers).index_copy_(0, queries[numbers], numbers)
    return queries, queries // (heads[0] // heads[1]), slots
