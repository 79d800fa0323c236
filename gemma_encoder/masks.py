"""Who may look at whom.

A mask is a predicate `(batch, head, q, kv) -> bool`: may the token at position `q` read the token at position `kv`?
The four arguments are integers or tensors that broadcast; positions count the real tokens of a row from 0, so a mask
means the same under left padding, right padding and no padding at all. Predicates compose (`and_masks`, `or_masks`,
`not_mask`), and one definition draws the figure, drives the model and feeds the test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce

import torch
from torch import Tensor

from gemma_encoder.errors import InputError, check_choice

# a mask with settings is a partial of a function of this module: a model with a local function cannot be pickled
Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def causal(batch: Tensor, head: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """`kv <= q`: a token reads itself and the past. What a decoder is pretrained with."""
    return kv <= q


def bidirectional(batch: Tensor, head: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """Always true: every token reads every token (paper, section 2.1)."""
    return (kv >= 0) & (q >= 0)


def _check_width(what: str, width: int) -> None:
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise InputError(f"{what} width {width!r} is not valid; valid: an integer >= 1")


def _near(width: int, batch: Tensor, head: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return (q - kv).abs() < width


def _past_or_prefix(width: int, batch: Tensor, head: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return (kv <= q) | (kv < width)


def _joined(join: Callable[[Tensor, Tensor], Tensor], masks: Sequence[Mask], *at: Tensor) -> Tensor:
    return reduce(join, (mask(*at) for mask in masks))


def _negated(mask: Mask, *at: Tensor) -> Tensor:
    return torch.logical_not(mask(*at))


def window(width: int) -> Mask:
    """`|q - kv| < width`: the `width - 1` neighbours on each side and the token itself.

    Combined with `causal` it is the sliding window of a decoder's local layers, and alone that window opened to both
    sides. Other libraries mean `|q - kv| <= width` (transformers' T5GemmaEncoder) or `|q - kv| <= width // 2`.
    """
    _check_width("window", width)
    return partial(_near, width)


def prefix(width: int) -> Mask:
    """`kv <= q or kv < width`: bidirectional among the first `width` tokens, causal after them (prefix LM)."""
    _check_width("prefix", width)
    return partial(_past_or_prefix, width)


def and_masks(*masks: Mask) -> Mask:
    """A token may look where every one of `masks` lets it."""
    return partial(_joined, torch.logical_and, masks)


def or_masks(*masks: Mask) -> Mask:
    """A token may look where at least one of `masks` lets it."""
    return partial(_joined, torch.logical_or, masks)


def not_mask(mask: Mask) -> Mask:
    """A token may look exactly where `mask` does not let it."""
    return partial(_negated, mask)


SIMPLE: dict[str, Mask] = {"bidirectional": bidirectional, "causal": causal}
OTHER = {"bidirectional": "causal", "causal": "bidirectional"}
SIZED: dict[str, Callable[[int], Mask]] = {"prefix": prefix, "window": window}
ATTENTION = (*SIMPLE, *(f"{name}-{end}-N" for name in SIMPLE for end in ("first", "last")), *(f"{n}-N" for n in SIZED))
LOCAL_LAYERS = ("keep", "open")


def parse_attention(attention: str) -> tuple[str, str, int]:
    """Name, end and number of `attention`: ("bidirectional", "last", 4), ("window", "", 8), ("causal", "", 0).

    An unknown name, and a window or prefix below 1, is an InputError.
    """
    name, *rest = attention.split("-") if isinstance(attention, str) else [""]
    match rest:
        case [] if name in SIMPLE:
            return name, "", 0
        case [size] if name in SIZED and size.isdecimal():
            SIZED[name](int(size))
            return name, "", int(size)
        case [("first" | "last") as end, count] if name in SIMPLE and count.isdecimal():
            return name, end, int(count)
    check_choice("attention", attention, ATTENTION)
    # left is "window-N" itself, the letter not replaced
    raise InputError(f"attention {attention!r} needs a number in place of N")


def layer_attention(attention: str, layers: int) -> list[Mask]:
    """The mask of each of `layers` layers, local windows left aside.

    "causal", "bidirectional", "prefix-N" and "window-N" hold for all layers; "bidirectional-last-N" and
    "causal-first-N" (and the other two combinations) for N layers, the rest having the other mask.
    """
    name, end, number = parse_attention(attention)
    if name in SIZED:
        return [SIZED[name](number)] * layers
    if not end:
        return [SIMPLE[name]] * layers
    if number > layers:
        raise InputError(f"attention {attention!r} is for {number} layers; this decoder has {layers}")
    some, others = [SIMPLE[name]] * number, [SIMPLE[OTHER[name]]] * (layers - number)
    return some + others if end == "first" else others + some


def layer_masks(attention: str, windows: Sequence[int | None], local_layers: str = "keep") -> list[Mask]:
    """The mask of each layer: `attention`, narrowed to the decoder's own window on its local layers.

    `windows[i]` is the window width of layer i, or None for a global layer. With `local_layers` "open" the windows
    are left out and every layer is global. Layers that share a mask share the object.
    """
    bases = layer_attention(attention, len(windows))
    if check_choice("local_layers", local_layers, LOCAL_LAYERS) == "open":
        return bases
    narrowed = {
        (base, width): base if width is None else and_masks(base, window(width))
        for base, width in zip(bases, windows, strict=True)
    }
    return [narrowed[pair] for pair in zip(bases, windows, strict=True)]


def _pairs(positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a mask is asked about every pair of tokens, of positions `(batch, seq)`; together `(batch, 1, seq, seq)`."""
    batch = torch.arange(len(positions), device=positions.device).view(-1, 1, 1, 1)
    return batch, torch.zeros_like(batch), positions[:, None, :, None], positions[:, None, None]


def table(mask: Mask, positions: Tensor, keys: Tensor | None = None) -> Tensor:
    """Evaluate `mask` for every pair of tokens: bool `(batch, 1, seq, seq)`, True where query reads key.

    `positions (batch, seq)` holds each token's position in its row; `keys (batch, seq)` is False for slots that hold
    no token, which nobody may read.
    """
    seen = mask(*_pairs(positions))
    return seen if keys is None else seen & keys[:, None, None]


def square(mask: Mask, length: int) -> Tensor:
    """The mask of one row of `length` tokens: bool `(length, length)`, rows are queries and columns are keys."""
    return squares([mask], length)[0]


def squares(masks: Sequence[Mask], length: int, device: torch.device | None = None) -> list[Tensor]:
    """`square` of every mask; all are asked about the same pairs."""
    asked = _pairs(torch.arange(length, device=device)[None])
    return [mask(*asked)[0, 0] for mask in masks]


def reach(masks: Sequence[Mask], length: int) -> Tensor:
    """What can flow to a token through a stack of layers: bool `(layers, length, length)`.

    Entry `[l, i, j]` is True when the state of token i after layer l can depend on token j. Each layer adds one hop
    and the residual stream keeps every token's own past: `R_l = (M_l or I) R_{l-1}` in Boolean algebra, `R_0 = I`.
    """
    reached, steps = torch.eye(length, dtype=torch.float32), []
    for seen in squares(masks, length):
        hop = (seen | torch.eye(length, dtype=torch.bool)).float()
        reached = (hop @ reached > 0).float()
        steps.append(reached.bool())
    return torch.stack(steps)
