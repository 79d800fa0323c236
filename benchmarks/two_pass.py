"""Attention with soft-cap and dropout on the softmax, without a matrix of all pairs.

Fused kernels that know a soft-cap have no dropout. But with K the pairs that dropout keeps, and scores s,

    drop(softmax(s)) v = softmax(s over K) v * exp(lse(s over K) - lse(s)) / (1 - rate),

so two passes of a kernel that returns its log-sum-exp are enough, if K can be told from the place of a pair alone: here
by a hash of (seed, batch, head, query, key). The identity is ours. The model does not use it, as it does not pay at 512
tokens: `results/gpu`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from gemma_encoder.masks import Mask, and_masks

WORD = 2**32
NARROW = 16  # values of the pass of which only the log-sum-exp is read: the narrowest that kernels take


def kept(rate: float, seed: Tensor, heads: int, width: int) -> Mask:
    """The pairs that dropout of `rate` keeps; `seed ()` is an integer tensor, so that a new one compiles nothing."""
    bound = int(rate * WORD)

    def keeps(batch: Tensor, head: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return _hash((((batch.long() * heads + head) * width + q) * width + kv) ^ _hash(seed)) >= bound

    return keeps


def _hash(number: Tensor) -> Tensor:
    """A 32-bit word that looks random. Source: the finaliser of MurmurHash3 (Appleby), public domain."""
    word = number & (WORD - 1)
    for multiplier, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        word = ((word ^ (word >> shift)) * multiplier) & (WORD - 1)
    return word ^ (word >> 16)


def two_pass(
    query: Tensor, key: Tensor, value: Tensor, visible: Mask, scaling: float, softcap: float, rate: float, seed: Tensor
) -> Tensor:
    """`drop(softmax(cap(q k^T * scaling))) v` over the visible pairs, `cap(s) = softcap * tanh(s / softcap)`.

    query `(batch, head, width, head_dim)`; key and value may have fewer heads, a divisor. Each query must see a key.
    Compile it: torch's flex_attention holds all pairs at once where it is not compiled.
    """
    heads, width = query.shape[1:3]

    def attend(values: Tensor, pairs: Mask) -> tuple[Tensor, Tensor]:
        def capped(score: Tensor, *at: Tensor) -> Tensor:
            return torch.where(pairs(*at), softcap * torch.tanh(score / softcap), float("-inf"))

        request = AuxRequest(lse=True)
        output, found = flex_attention(
            query, key, values, score_mod=capped, scale=scaling, enable_gqa=True, return_aux=request
        )
        return output, found.lse

    output, some = attend(value, and_masks(visible, kept(rate, seed, heads, width)))
    narrow, everything = attend(value[..., :NARROW].detach(), visible)
    everything = everything + 0 * narrow[..., 0]  # the kernel's backward pass wants a gradient of every output
    return output * ((some - everything).exp() / (1 - rate))[..., None].to(output.dtype)
