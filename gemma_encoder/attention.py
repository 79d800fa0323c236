"""Attention without padding: the same mathematics, no work on slots that hold no token.

`visibility` explains how a packed batch is unpacked for attention and packed again. The outputs on real tokens, the
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

Packed in float32 on a CPU, the attention of Gemma 2 runs written out, by the same formula; see `capped` and `gemma2`.

FlashAttention 2 (refuses soft-cap with dropout) and FlexAttention (has no dropout) are never used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel

from gemma_encoder.capped import CAPPED, CappedAttention, Setting, attention_written_out, note
from gemma_encoder.families import SOFTCAP, attention_modules
from gemma_encoder.visibility import Visibility

IMPLEMENTATION = "gemma_encoder"


def new_adaptation(backbone: PreTrainedModel) -> int:
    """A place in every attention module for the masks of one more encoder: a decoder may be adapted more than once."""
    modules = attention_modules(backbone)
    for module in modules:
        module.kinds = [*getattr(module, "kinds", []), None]
    return len(modules[0].kinds) - 1


def choose_biases(backbone: PreTrainedModel, adaptation: int, kinds: Sequence[int]) -> None:
    """Tell each layer's attention which bias of a group is its own, unless it knows already.

    Masks must not change between a forward pass and the backward pass that recomputes its activations: the gradient
    would be wrong.
    """
    modules = attention_modules(backbone)
    if [module.kinds[adaptation] for module in modules] != kinds:
        for module, kind in zip(modules, kinds, strict=True):
            module.kinds[adaptation] = kind


def formula(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float, softcap: float | None, dropout: nn.Module
) -> tuple[Tensor, Tensor]:
    """`drop(softmax(cap(q k^T * scaling) + bias)) v` with `cap(s) = softcap * tanh(s / softcap)`.

    query `(batch, head, queries, head_dim)`, key and value `(batch, head, keys, head_dim)`, bias `(batch, 1, queries,
    keys)`. Returns the output `(batch, head, queries, head_dim)` and the weights after dropout `(batch, head, queries,
    keys)`; the softmax is taken in float32.
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

    query `(batch, heads, seq, head_dim)`, key and value with their own number of heads; packed, batch is 1 and seq
    counts all tokens. Returns the output `(batch, seq, heads, head_dim)`, and the weights if `visibility` asks for
    them. A call without `visibility` is a RuntimeError.
    A proof sets `module.equal_scores`; see verify. What ran stands in `module.attention_path`.
    """
    if visibility is None:
        raise RuntimeError("this decoder's attention belongs to a GemmaEncoder and was called outside of it")
    dropout = module.softmax_dropout
    # first: a compiled layer is given its own bias alone, and shares its graph if it does not ask for its number
    kind = 0 if len(visibility.groups[0].biases) == 1 else module.kinds[visibility.adaptation]
    parts, weights = [], None
    ran = CAPPED if softcap is not None else "formula" if visibility.return_weights else "sdpa"
    note(module, ran)
    scaling *= not hasattr(module, "equal_scores")
    if attention_written_out(query, softcap, visibility, dropout):
        states = (each[0].transpose(0, 1) for each in (query, key, value))
        setting = Setting(visibility, kind, scaling, softcap, dropout)
        return CappedAttention.apply(*states, setting)[None], None
    for group, queries, keys, values in zip(visibility.groups, *visibility.open(query, key, value), strict=True):
        bias = group.biases[kind]
        if ran == "sdpa":
            rate = dropout.p if dropout.training else 0.0
            rows = F.scaled_dot_product_attention(queries, keys, values, bias, dropout_p=rate, scale=scaling)
        else:
            rows, weights = formula(queries, keys, values, bias, scaling, softcap, dropout)
        parts.append(rows)
    return visibility.close(parts), weights


AttentionInterface.register(IMPLEMENTATION, encoder_attention)
