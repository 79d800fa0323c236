"""Attention with a soft-cap on a CPU, its gradient written out: the formula of `attention`, a third of the operations.

Rows as short as sentences have so few pairs of query and key that what surrounds their arithmetic takes longer: turning
tensors around, one group of rows after the other, and autograd's walk back through every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gemma_encoder.dropout import Dropout
from gemma_encoder.linear import eager_in_float32_on_a_cpu
from gemma_encoder.visibility import Visibility, gathered, scattered

CAPPED = "formula with soft-cap"  # what a module notes: torch.compile writes no number into a text


class Setting(NamedTuple):
    """What attention is told besides its states; `kind`: which bias of every group is that of the layer."""

    visibility: Visibility
    kind: int
    scaling: float
    softcap: float
    dropout: Dropout


Saved = tuple[Tensor | None, ...]


def cut(together: Tensor, shapes: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    """A contiguous tensor as tensors of these shapes, one behind the other; autograd must not follow."""
    parts, start = [], together.storage_offset()
    for outer, middle, inner in shapes:
        parts.append(together.as_strided((outer, middle, inner), (middle * inner, inner, 1), start))
        start += outer * middle * inner
    return parts


def cutters(visibility: Visibility, dim: int) -> tuple[Callable[[Tensor], list[Tensor]], ...]:
    """What cuts slots of queries, those of keys and pairs into groups: `(rows * heads, width, dim or keys)` each."""
    shapes = visibility.shapes
    by_query = [(rows, queries, dim) for rows, queries, _ in shapes]
    by_key = [(rows, keys, dim) for rows, _, keys in shapes]
    return tuple(partial(cut, shapes=each) for each in (by_query, by_key, shapes))


def attended(query: Tensor, key: Tensor, value: Tensor, setting: Setting) -> tuple[Tensor, Saved]:
    """`attention.formula` with a soft-cap, of a packed batch in float32, and what its gradient needs.

    query `(tokens, heads, head_dim)`, key and value `(tokens, key heads, head_dim)`.
    """
    visibility, kind, scaling, softcap, dropout = setting
    queries = query.flatten(0, 1).index_select(0, visibility.queries)
    keys, values = (states.flatten(0, 1).index_select(0, visibility.keys) for states in (key, value))
    queries.mul_(scaling / softcap)
    by_query, by_key, by_pair = cutters(visibility, query.shape[-1])
    capped, weights = (queries.new_empty(sum(map(math.prod, visibility.shapes))) for _ in range(2))
    pairs = by_pair(capped)
    for left, right, out in zip(by_query(queries), by_key(keys), pairs, strict=True):
        torch.bmm(left, right.mT, out=out)
    capped.tanh_()
    for group, part, out in zip(visibility.groups, pairs, by_pair(weights), strict=True):
        by_head = group.shape[0], -1, *group.shape[1:]
        scores = torch.add(group.biases[kind], part.view(by_head), alpha=softcap)
        torch.softmax(scores, dim=-1, out=out.view(by_head))
    noise = dropout.noise(weights)
    noisy = weights if noise is None else weights * noise
    output = torch.empty_like(queries)
    for left, right, out in zip(by_pair(noisy), by_key(values), by_query(output), strict=True):
        torch.bmm(left, right, out=out)
    saved = queries, keys, values, capped, weights, noise, noisy
    return output.index_select(0, visibility.query_slots).view(query.shape), saved


def attended_backward(
    gradient: Tensor, saved: Saved, key_shape: torch.Size, setting: Setting
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value, from that of `attended`.

    With `t = tanh(q k^T scaling / softcap)`, `w = softmax(softcap t + bias)`, noise `m` and output `o = (m w) v`:
    `dv = (m w)^T do`, `dw = m (do v^T)`, `ds = w (dw - sum(w dw))`, `du = ds (1 - t^2)`, `dq = scaling du k` and
    `dk = scaling du^T q`, with `u = scaling q k^T`.
    """
    saved = (each if each is None else each.contiguous() for each in saved)  # hooks may give another layout back
    queries, keys, values, capped, weights, noise, noisy = saved
    visibility = setting.visibility
    by_query, by_key, by_pair = cutters(visibility, gradient.shape[-1])
    grad_rows = by_query(scattered(gradient.flatten(0, 1), visibility.query_slots, queries.shape))
    grad_weights, grad_scores = torch.empty_like(weights), torch.empty_like(weights)
    pairs = by_pair(grad_weights)
    for left, right, out in zip(grad_rows, by_key(values), pairs, strict=True):
        torch.bmm(left, right.mT, out=out)
    if noise is not None:
        grad_weights.mul_(noise)
    for given, soft, out in zip(pairs, by_pair(weights), by_pair(grad_scores), strict=True):
        torch.ops.aten._softmax_backward_data.out(given, soft, -1, soft.dtype, grad_input=out)
    grad_products = by_pair(torch.ops.aten.tanh_backward(grad_scores, capped))
    grad_queries, grad_keys, grad_values = (torch.empty_like(states) for states in (queries, keys, values))
    for left, right, out in zip(grad_products, by_key(keys), by_query(grad_queries), strict=True):
        torch.bmm(left, right, out=out)
    for left, right, out in zip(grad_products, by_query(queries), by_key(grad_keys), strict=True):
        torch.bmm(left.mT, right, out=out)
    for left, right, out in zip(by_pair(noisy), grad_rows, by_key(grad_values), strict=True):
        torch.bmm(left.mT, right, out=out)
    return (
        gathered(grad_queries, visibility.query_slots, gradient.shape).mul_(setting.scaling),
        gathered(grad_keys, visibility.key_slots, key_shape).mul_(setting.softcap),
        gathered(grad_values, visibility.key_slots, key_shape),
    )


class CappedAttention(torch.autograd.Function):
    """`attended`, its gradient written out."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, setting: Setting) -> Tensor:
        output, saved = attended(query, key, value, setting)
        ctx.save_for_backward(*saved)
        ctx.key_shape, ctx.setting = key.shape, setting
        return output

    @staticmethod
    @once_differentiable  # a second gradient would take what was saved for constants
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *attended_backward(gradient, ctx.saved_tensors, ctx.key_shape, ctx.setting), None


def attention_written_out(
    states: Tensor, softcap: float | None, visibility: Visibility | None, dropout: nn.Module
) -> bool:
    """Whether attention runs written out: a compiler joins operations by itself, and a GPU was not measured."""
    return (
        visibility is not None
        and softcap is not None
        and type(dropout) is Dropout
        and visibility.packed
        and not visibility.return_weights
        and eager_in_float32_on_a_cpu(states)
    )


def note(module: nn.Module, ran: str) -> None:
    """Write what ran on an attention module."""
    if getattr(module, "attention_path", None) != ran:  # torch.compile cannot write where activations are recomputed
        module.attention_path = ran
