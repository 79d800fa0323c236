"""Who may look at whom.

A mask is a predicate `(batch, head, q, kv) -> bool`: may the token at position `q` read the token at position `kv`?
The four arguments are integers or tensors that broadcast; positions count the real tokens of a row from 0, so a mask
means the same under left padding, right padding and no padding at all. Predicates compose (`and_masks`, `or_masks`),
and one definition draws the figure, drives the model and feeds the test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

from gemma_encoder.errors import InputError, check_choice

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def causal(batch: Tensor, head: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """`kv <= q`: a token reads itself and the past. What a decoder is pretrained with."""
    return kv <= q


def bidirectional(batch: Tensor, head: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """Always true: every token reads every token (paper, section 2.1)."""
    return (kv >= 0) & (q >= 0)


def window(width: int) -> Mask:
    """`|q - kv| < width`: the `width - 1` neighbours on each side and the token itself.

    Combined with `causal` it is the sliding window of a decoder's local layers; alone it is the symmetric window of
    T5Gemma's encoder. Other libraries also call `|q - kv| <= width` or `|q - kv| <= width // 2` a window of `width`.
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise InputError(f"window width {width!r} is not valid; valid: an integer >= 1")
    return lambda batch, head, q, kv: (q - kv).abs() < width


def keys_below(lengths: Tensor) -> Mask:
    """`kv < lengths[batch]`: no token reads beyond the end of its row. `lengths` has shape `(batch,)`."""
    return lambda batch, head, q, kv: kv < lengths[batch]


def and_masks(*masks: Mask) -> Mask:
    """A token may look where every one of `masks` lets it."""
    return lambda *at: reduce(torch.logical_and, (mask(*at) for mask in masks))


def or_masks(*masks: Mask) -> Mask:
    """A token may look where at least one of `masks` lets it."""
    return lambda *at: reduce(torch.logical_or, (mask(*at) for mask in masks))


ATTENTION: dict[str, Mask] = {"bidirectional": bidirectional, "causal": causal}


def layer_masks(attention: str, windows: Sequence[int | None]) -> list[Mask]:
    """The mask of each layer: `attention` everywhere, narrowed to the decoder's own window on its local layers.

    `windows[i]` is the window width of layer i, or None for a global layer. Layers that share a mask share the object.
    """
    base = ATTENTION[check_choice("attention", attention, ATTENTION)]
    local = {width: and_masks(base, window(width)) for width in set(windows) if width is not None}
    return [base if width is None else local[width] for width in windows]


def table(mask: Mask, positions: Tensor, keys: Tensor | None = None) -> Tensor:
    """Evaluate `mask` for every pair of tokens: bool `(batch, 1, seq, seq)`, True where query reads key.

    `positions (batch, seq)` holds each token's position in its row; `keys (batch, seq)` is False for slots that hold
    no token, which nobody may read.
    """
    batch = torch.arange(positions.shape[0], device=positions.device)[:, None, None, None]
    head = torch.zeros_like(batch)
    seen = mask(batch, head, positions[:, None, :, None], positions[:, None, None, :])
    return seen if keys is None else seen & keys[:, None, None, :]


def square(mask: Mask, length: int) -> Tensor:
    """The mask of one row of `length` tokens: bool `(length, length)`, rows are queries and columns are keys."""
    return table(mask, torch.arange(length)[None])[0, 0]


def reach(masks: Sequence[Mask], length: int) -> Tensor:
    """What can flow to a token through a stack of layers: bool `(layers, length, length)`.

    Entry `[l, i, j]` is True when the state of token i after layer l can depend on token j. Each layer adds one hop
    and the residual stream keeps every token's own past: `R_l = (M_l or I) R_{l-1}` in Boolean algebra, `R_0 = I`.
    """
    reached, steps = torch.eye(length), []
    for mask in masks:
        hop = (square(mask, length) | torch.eye(length, dtype=torch.bool)).float()
        reached = (hop @ reached > 0).float()
        steps.append(reached.bool())
    return torch.stack(steps)
