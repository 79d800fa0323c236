"""Attention without padding: the same mathematics, no work on slots that hold no token.

A batch of rows of unequal length travels through every linear layer, norm and feed-forward block as ONE packed row of
real tokens, `(1, tokens, dim)`. Only inside attention is it opened into rows `(batch, head, width, head_dim)`, where
`width` is the longest row, and closed again. The outputs on real tokens, the loss and the gradient are those of the
padded batch.

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
from transformers import AttentionInterface

from gemma_encoder.families import layer_index
from gemma_encoder.masks import Mask, table

IMPLEMENTATION = "gemma_encoder"


@dataclass(frozen=True)
class Visibility:
    """What attention has to know about a batch.

    biases: one `(batch, 1, width, width)` tensor a layer, 0 where query may read key and -inf elsewhere.
    slots: for each packed token its slot in the opened `batch * width` grid; None when the batch travels padded.
    position_ids: `(1, tokens)` packed, `(batch, width)` padded; each row counts its tokens from 0.
    """

    biases: list[Tensor]
    position_ids: Tensor
    slots: Tensor | None
    batch: int
    width: int
    return_weights: bool = False

    def open(self, packed: Tensor) -> Tensor:
        """`(1, head, tokens, head_dim)` -> `(batch, head, width, head_dim)`; slots without a token are 0."""
        if self.slots is None:
            return packed
        tokens = packed[0].transpose(0, 1)
        if len(tokens) != self.batch * self.width:
            grid = tokens.new_zeros(self.batch * self.width, *tokens.shape[1:])
            tokens = grid.index_copy(0, self.slots, tokens)
        return tokens.unflatten(0, (self.batch, self.width)).transpose(1, 2)

    def close(self, rows: Tensor) -> Tensor:
        """`(batch, head, width, head_dim)` -> `(1, tokens, head, head_dim)`, or `(batch, width, ...)` when padded."""
        rows = rows.transpose(1, 2)
        if self.slots is None:
            return rows.contiguous()
        tokens = rows.flatten(0, 1)
        if len(self.slots) != len(tokens):
            tokens = tokens.index_select(0, self.slots)
        return tokens[None].contiguous()


def look(
    real: Tensor, masks: Sequence[Mask], dtype: torch.dtype, unpadded: bool = True, return_weights: bool = False
) -> Visibility:
    """Who sees whom in a batch whose slots hold a token where `real (batch, seq)` is True, layer by layer."""
    keys = real
    if unpadded:
        lengths = real.sum(dim=1, keepdim=True)
        keys = torch.arange(int(lengths.max()), device=real.device) < lengths
    # a slot without a token stands at position 0, where it reads the first token: an empty softmax would be NaN,
    # and NaN spreads from there into every gradient
    positions = (keys.cumsum(dim=1) - 1).where(keys, 0)
    slots, position_ids = (keys.flatten().nonzero().flatten(), positions[keys][None]) if unpadded else (None, positions)
    bias = {
        mask: torch.zeros((), dtype=dtype, device=real.device).where(table(mask, positions, keys), float("-inf"))
        for mask in set(masks)
    }
    return Visibility([bias[mask] for mask in masks], position_ids, slots, *keys.shape, return_weights)


def formula(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float, softcap: float | None, dropout: nn.Module
) -> tuple[Tensor, Tensor]:
    """`drop(softmax(cap(q k^T * scaling) + bias)) v` with `cap(s) = softcap * tanh(s / softcap)`.

    All of shape `(batch, head, width, head_dim)`; the softmax is taken in float32. Returns output and weights.
    Source: paper, section 2.3 (dropout); Gemma 2 report, section 2 (logit soft-capping).
    """
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = F.softmax(scores + bias, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = dropout(weights)
    return weights @ value, weights


def path(softcap: float | None) -> str:
    """Which computation a decoder with this soft-cap gets: a fused kernel only where it is exact."""
    return "sdpa" if softcap is None else f"formula (soft-cap {softcap:g})"


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
    """Attention of one layer under our own mask; `module.softmax_dropout` drops attention weights while training."""
    if visibility is None:
        raise RuntimeError("this decoder's attention belongs to a GemmaEncoder and was called outside of it")
    query, key, value = (visibility.open(states) for states in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    bias, dropout = visibility.biases[layer_index(module)], module.softmax_dropout
    if softcap is not None or visibility.return_weights:
        output, weights = formula(query, key, value, bias, scaling, softcap, dropout)
    else:
        rate = dropout.p if dropout.training else 0.0
        output = F.scaled_dot_product_attention(query, key, value, bias, dropout_p=rate, scale=scaling)
        weights = None
    return visibility.close(output), weights


AttentionInterface.register(IMPLEMENTATION, encoder_attention)
