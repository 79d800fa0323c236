"""Attention with a soft-cap on a CPU, its gradient written out: the formula of `attention`, a third of the operations.

Rows as short as sentences have so few pairs of query and key that what surrounds their arithmetic takes longer: turning
tensors around, one group of rows after the other, and autograd's walk back through every step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gemma_encoder.dropout import Dropout
from gemma_encoder.linear import eager_in_float32_on_a_cpu
from gemma_encoder.visibility import Visibility, gathered, scattered

CAPPED = "formula with soft-cap"  # what a module notes: torch.compile writes no number into a text
Rotation = tuple[Tensor, Tensor]


def rotated(states: Tensor, rotation: Rotation, way: int = 1) -> Tensor:
    """`x cos + r(x) sin` with `r((a, b)) = (-b, a)` for the two halves of x; `way` -1 leads back.

    states `(tokens, heads, head_dim)`, cos and sin `(tokens, 1, head_dim)`, the first half of sin negative.
    Source: Su et al. 2021, equation 34.
    """
    cos, sin = rotation
    return (states * cos).addcmul_(states.roll(states.shape[-1] // 2, dims=-1), sin, value=way)


class CappedAttention(torch.autograd.Function):
    """`attention.formula` with a soft-cap, of a packed batch in float32, queries and keys rotated before it.

    query `(tokens, heads, head_dim)`, key and value `(tokens, key heads, head_dim)`; rotations: of queries and of keys.
    With `t = tanh(q k^T scaling / softcap)`, `w = softmax(softcap t + bias)`, noise `m` and output `o = (m w) v`:
    `dv = (m w)^T do`, `dw = m (do v^T)`, `ds = w (dw - sum(w dw))`, `da = ds (1 - t^2)`, `dq = scaling da k` and
    `dk = scaling da^T q`.
    """

    @staticmethod
    def forward(
        ctx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rotations: tuple[Rotation, Rotation] | None,
        visibility: Visibility,
        kind: int,
        scaling: float,
        softcap: float,
        dropout: Dropout,
    ) -> Tensor:
        ctx.rotations, ctx.visibility, ctx.scaling, ctx.softcap = rotations, visibility, scaling, softcap
        ctx.shapes = query.shape, key.shape, value.shape
        if rotations is not None:
            query, key = map(rotated, (query, key), rotations)
        queries = query.flatten(0, 1).index_select(0, visibility.queries)
        keys, values = (states.flatten(0, 1).index_select(0, visibility.keys) for states in (key, value))
        queries.mul_(scaling / softcap)
        capped, weights = (queries.new_empty(sum(visibility.pairs)) for _ in range(2))
        by_query, by_key, by_pair = visibility.queries_of, visibility.keys_of, visibility.pairs_of
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
        ctx.save_for_backward(queries, keys, values, capped, weights, noise, noisy)
        return output.index_select(0, visibility.query_slots).view(ctx.shapes[0])

    @staticmethod
    @once_differentiable  # a second gradient would take what was saved for constants
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, capped, weights, noise, noisy = ctx.saved_tensors
        visibility = ctx.visibility
        by_query, by_key, by_pair = visibility.queries_of, visibility.keys_of, visibility.pairs_of
        of_output = scattered(gradient.flatten(0, 1), visibility.query_slots, queries.shape)
        of_rows = by_query(of_output)
        of_weights, of_scores = torch.empty_like(weights), torch.empty_like(weights)
        pairs = by_pair(of_weights)
        for left, right, out in zip(of_rows, by_key(values), pairs, strict=True):
            torch.bmm(left, right.mT, out=out)
        if noise is not None:
            of_weights.mul_(noise)
        for given, soft, out in zip(pairs, by_pair(weights), by_pair(of_scores), strict=True):
            torch.ops.aten._softmax_backward_data.out(given, soft, -1, soft.dtype, grad_input=out)
        of_products = by_pair(torch.ops.aten.tanh_backward(of_scores, capped))
        of_queries, of_keys, of_values = (torch.empty_like(states) for states in (queries, keys, values))
        for left, right, out in zip(of_products, by_key(keys), by_query(of_queries), strict=True):
            torch.bmm(left, right, out=out)
        for left, right, out in zip(of_products, by_query(queries), by_key(of_keys), strict=True):
            torch.bmm(left.mT, right, out=out)
        for left, right, out in zip(by_pair(noisy), of_rows, by_key(of_values), strict=True):
            torch.bmm(left.mT, right, out=out)
        of_query = gathered(of_queries, visibility.query_slots, ctx.shapes[0]).mul_(ctx.scaling)
        of_key = gathered(of_keys, visibility.key_slots, ctx.shapes[1]).mul_(ctx.softcap)
        of_value = gathered(of_values, visibility.key_slots, ctx.shapes[2])
        if ctx.rotations is not None:
            of_query, of_key = map(rotated, (of_query, of_key), ctx.rotations, (-1, -1))
        return of_query, of_key, of_value, None, None, None, None, None, None


def written_out(states: Tensor, softcap: float | None, visibility: Visibility | None, dropout: nn.Module) -> bool:
    """Whether `CappedAttention` runs: a compiler joins operations by itself, and a GPU was not measured."""
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
