"""Attention without padding: the same mathematics, no work on slots that hold no token.

A batch of rows of unequal length travels through every linear layer, norm and feed-forward block as ONE packed row of
real tokens, `(1, tokens, dim)`. Only inside attention is it opened into rows `(rows, head, width, head_dim)`, in a few
groups of like length, where `width` is the longest row of a group, and closed again. The outputs on real tokens, the
loss and the gradient are those of the padded batch.

`encoder_attention` is registered with transformers' attention interface. It ignores the mask that transformers built
and uses ours, which arrives as the keyword argument `visibility`; without it the call is an error, so that no decoder
can run causally by accident.

Two ways of computing it, and which one runs where; both take every mask, packed or padded, in every precision:

| soft-cap | dropout on the softmax | weights asked for | what runs                                     |
|----------|------------------------|-------------------|-----------------------------------------------|
| none     | any rate               | no                | torch's scaled_dot_product_attention ("sdpa") |
| none     | any rate               | yes               | `formula`                                     |
| set      | any rate               | any               | `formula`: sdpa knows no soft-cap             |

FlashAttention 2 (refuses soft-cap with dropout) and FlexAttention (has no dropout) are never used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel

from gemma_encoder.families import SOFTCAP, attention_modules
from gemma_encoder.masks import Mask, table

IMPLEMENTATION = "gemma_encoder"
CAPPED = "formula with soft-cap"  # what a module notes: torch.compile writes no number into a text


GROUP = 4000  # pairs of query and key that take as long as what every further group costs by itself, on a CPU


class Open(torch.autograd.Function):
    """From tokens to slots: `(tokens, dim) -> (slots, dim)`, row s is that of token `tokens[s]`.

    The gradient of a token is that of its slot, `slots[token]`: a slot without a token has none, as nobody reads it.
    autograd, which cannot know that, would add up all slots of a token, row by row.
    """

    @staticmethod
    def forward(ctx, states: Tensor, tokens: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        return states.index_select(0, tokens)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, *ctx.saved_tensors), None, None


class Close(torch.autograd.Function):
    """From slots to tokens: `(slots, dim) -> (tokens, dim)`, row t is that of slot `slots[t]`."""

    @staticmethod
    def forward(ctx, states: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.shape = states.shape
        return states.index_select(0, slots)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.new_zeros(ctx.shape).index_copy_(0, *ctx.saved_tensors, gradient), None


@dataclass(frozen=True)
class Group:
    """Rows of like length, which attention computes together; `shape` is `(rows, width)`.

    biases: one `(rows, 1, width, width)` tensor for each distinct mask, 0 where query may read key and -inf elsewhere.
    """

    shape: tuple[int, int]
    biases: list[Tensor]


@dataclass(frozen=True)
class Visibility:
    """What attention has to know about a batch.

    groups: of rows, in which attention opens a packed batch; one of all rows when the batch travels padded.
    position_ids: `(1, tokens)` packed, `(batch, width)` padded; each row counts its tokens from 0.
    tokens: for each slot, counted through the groups, its packed token. A slot beyond the end of a row holds the first
        token of the row, which nobody reads there: a NaN of one row must not reach another.
    slots: for each packed token its slot. Both are None when the batch travels padded.
    read: the tokens (slots, when the batch travels padded), by number, whose states are read after the last layer; None
        for all.
    kinds: the number of the bias of each layer.
    adaptation: which of the adaptations of the decoder the batch is for; see `new_adaptation`.
    """

    groups: list[Group]
    kinds: list[int]
    position_ids: Tensor
    tokens: Tensor | None = None
    slots: Tensor | None = None
    return_weights: bool = False
    read: Tensor | None = None
    adaptation: int = 0

    def open(self, states: Tensor) -> list[Tensor]:
        """`(1, head, tokens, head_dim)`, padded `(batch, head, width, ...)` -> `(rows, head, width, ...)` a group."""
        if self.tokens is None:
            return [states]
        packed = states[0].transpose(0, 1)
        slots = Open.apply(packed.flatten(1), self.tokens, self.slots).unflatten(1, packed.shape[1:])
        parts = slots.split([rows * width for rows, width in (group.shape for group in self.groups)])
        return [part.unflatten(0, group.shape).transpose(1, 2) for part, group in zip(parts, self.groups, strict=True)]

    def close(self, rows: list[Tensor]) -> Tensor:
        """`(rows, head, width, head_dim)` a group -> `(1, tokens, head, head_dim)`, or `(batch, width, ...)` padded."""
        if self.slots is None:
            return rows[0].transpose(1, 2).contiguous()
        slots = torch.cat([part.transpose(1, 2).flatten(0, 1).flatten(1) for part in rows])
        return Close.apply(slots, self.slots).unflatten(1, rows[0].shape[1::2])[None]


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


def new_adaptation(backbone: PreTrainedModel) -> int:
    """A place in every attention module for the masks of one more encoder: a decoder may be adapted more than once."""
    modules = attention_modules(backbone)
    for module in modules:
        module.kinds = [*getattr(module, "kinds", []), None]
    return len(modules[0].kinds) - 1


def choose_biases(backbone: PreTrainedModel, adaptation: int, kinds: Sequence[int]) -> None:
    """Tell the attention of every layer which of the biases of a group is its own, where it does not know.

    It would find it by the number of its layer as well, but torch.compile would then make a graph for every layer.
    Masks that are exchanged between a pass and the backward pass of its recomputed activations spoil its gradient.
    """
    modules = attention_modules(backbone)
    if [module.kinds[adaptation] for module in modules] != kinds:
        for module, kind in zip(modules, kinds, strict=True):
            module.kinds[adaptation] = kind


def look(
    real: Tensor,
    masks: Sequence[Mask],
    dtype: torch.dtype,
    unpadded: bool = True,
    return_weights: bool = False,
    adaptation: int = 0,
    one_group: bool = False,
) -> Visibility:
    """Who sees whom in a batch whose slots hold a token where `real (batch, seq)` is True, layer by layer.

    adaptation: of `new_adaptation`. one_group: rows are not put into groups of like length.
    """
    distinct = list(dict.fromkeys(masks))
    kinds = [distinct.index(mask) for mask in masks]
    if not unpadded:
        positions = (real.cumsum(dim=1) - 1).where(real, 0)
        group = Group(tuple(real.shape), _biases(positions, real, distinct, dtype))
        return Visibility([group], kinds, positions, return_weights=return_weights, adaptation=adaptation)
    lengths = real.sum(dim=1)
    starts = lengths.cumsum(dim=0) - lengths
    # weights are asked for as one tensor, and a GPU computes pairs faster than it starts what a group needs
    if one_group or return_weights or real.is_cuda:
        parts = [_part(lengths, starts)]
    else:
        parts = [_part(lengths[rows], starts[rows]) for rows in split(lengths.tolist())]
    groups = [Group(tuple(keys.shape), _biases(positions, keys, distinct, dtype)) for positions, keys, _ in parts]
    positions, keys, tokens = (torch.cat([each.flatten() for each in kind]) for kind in zip(*parts, strict=True))
    filled = keys.nonzero().flatten()
    slots = torch.empty_like(filled).index_copy(0, tokens[filled], filled)
    return Visibility(groups, kinds, positions[slots][None], tokens, slots, return_weights, adaptation=adaptation)


def _part(lengths: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Position, whether it holds a token, and packed token of every slot `(rows, width)` of some rows of a batch.

    A slot without a token stands at position 0, where it reads the first token: an empty softmax would be NaN, and NaN
    spreads from there into every gradient.
    """
    columns = torch.arange(int(lengths.max()), device=lengths.device)
    keys = columns < lengths[:, None]
    positions = columns.where(keys, 0)
    return positions, keys, starts[:, None] + positions


def _biases(positions: Tensor, keys: Tensor, masks: Sequence[Mask], dtype: torch.dtype) -> list[Tensor]:
    """What is added to the scores under each mask."""
    zero = torch.zeros((), dtype=dtype, device=keys.device)
    return [zero.where(table(mask, positions, keys), float("-inf")) for mask in masks]


def formula(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float, softcap: float | None, dropout: nn.Module
) -> tuple[Tensor, Tensor]:
    """`drop(softmax(cap(q k^T * scaling) + bias)) v` with `cap(s) = softcap * tanh(s / softcap)`.

    All of shape `(batch, head, width, head_dim)`; the softmax is taken in float32. Returns output and weights.
    Every pass over the pairs counts, so the scaling goes into the query, and what no gradient reads is overwritten.
    Source: paper, section 2.3 (dropout); Gemma 2 report, section 2 (logit soft-capping).
    """
    if softcap is None:
        scores = (query * scaling) @ key.transpose(2, 3) + bias
    else:
        scores = torch.add(bias, ((query * (scaling / softcap)) @ key.transpose(2, 3)).tanh_(), alpha=softcap)
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = dropout(weights)
    return weights @ value, weights


def path(softcap: float | None) -> str:
    """Which computation a decoder with this soft-cap should get when no weights are asked for: see the table above."""
    return "sdpa" if softcap is None else f"formula (soft-cap {softcap:g})"


def paths_taken(backbone: PreTrainedModel) -> list[str]:
    """Which computations the layers of `backbone` ran last, each once; before the first pass there are none."""
    ran = [(getattr(module, "attention_path", None), module) for module in attention_modules(backbone)]
    return sorted({path(getattr(module, SOFTCAP)) if name == CAPPED else name for name, module in ran if name})


def encoder_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    softcap: float | None = None,
    visibility: Visibility | None = None,
    **ignored: object,
) -> tuple[Tensor, Tensor | None]:
    """Attention of one layer under our own mask; `module.softmax_dropout` drops attention weights while training.

    A proof sets `module.equal_scores`; see verify. What ran stands in `module.attention_path`.
    """
    if visibility is None:
        raise RuntimeError("this decoder's attention belongs to a GemmaEncoder and was called outside of it")
    kind, dropout = module.kinds[visibility.adaptation], module.softmax_dropout
    parts, weights = [], None
    ran = CAPPED if softcap is not None else "formula" if visibility.return_weights else "sdpa"
    if getattr(module, "attention_path", None) != ran:  # torch.compile cannot write where activations are recomputed
        module.attention_path = ran
    scaling *= not hasattr(module, "equal_scores")
    repeats = query.shape[1] // key.shape[1]
    opened = (visibility.open(states) for states in (query, key, value))
    for group, queries, keys, values in zip(visibility.groups, *opened, strict=True):
        if repeats > 1:
            keys, values = keys.repeat_interleave(repeats, dim=1), values.repeat_interleave(repeats, dim=1)
        bias = group.biases[kind]
        if ran == "sdpa":
            rate = dropout.p if dropout.training else 0.0
            rows = F.scaled_dot_product_attention(queries, keys, values, bias, dropout_p=rate, scale=scaling)
        else:
            rows, weights = formula(queries, keys, values, bias, scaling, softcap, dropout)
        parts.append(rows)
    return visibility.close(parts), weights


AttentionInterface.register(IMPLEMENTATION, encoder_attention)
