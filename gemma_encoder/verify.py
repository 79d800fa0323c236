"""Proof on a live model: what does each token really see?

Flags that switch a decoder to bidirectional attention are ignored by some attention implementations, silently. So
nothing here asks a flag: change token j, run the model, and record which states move.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gemma_encoder.errors import check_choice
from gemma_encoder.masks import reach
from gemma_encoder.model import GemmaEncoder, GemmaEncoderPreTrainedModel

PROBE_TOKENS = 8  # short enough for (tokens + 1) forward passes of a large model, long enough to show the pattern
PADDINGS = ("none", "all ones", "right", "left")


class VisibilityError(RuntimeError):
    """The measured influence matrix is not the one that was asked for."""


def encoder_of(model: GemmaEncoderPreTrainedModel) -> GemmaEncoder:
    """The GemmaEncoder inside a model with a head, or the model itself."""
    return model if isinstance(model, GemmaEncoder) else model.encoder


def _batch(ids: Tensor, padding: str) -> tuple[Tensor, Tensor | None, slice]:
    """A batch whose first row holds `ids`, its mask, and where the tokens of that row stand."""
    if padding == "none":
        return ids[None], None, slice(0, len(ids))
    if padding == "all ones":
        return ids[None], torch.ones_like(ids)[None], slice(0, len(ids))
    pads = 3
    longer = ids.flip(0).repeat(2)[: len(ids) + pads]  # a second row that fills the width
    row, mask, start = torch.full_like(longer, longer[0]), torch.zeros_like(longer), pads if padding == "left" else 0
    row[start : start + len(ids)], mask[start : start + len(ids)] = ids, 1
    return torch.stack([row, longer]), torch.stack([mask, torch.ones_like(mask)]), slice(start, start + len(ids))


@torch.no_grad()
def influence(states: Callable[[Tensor], Tensor], ids: Tensor, vocab_size: int) -> Tensor:
    """Which tokens move which states of any model: bool `(..., seq, seq)`, by changing one token at a time.

    `states` maps `ids (seq,)` to token states `(..., seq, dim)`. Entry `[..., i, j]` is True when changing token j
    changes any bit of the state of token i. Every pass has the same shapes, so a state that cannot see token j comes
    out the same to the last bit.
    """
    before, columns = states(ids), []
    for j in range(len(ids)):
        changed = ids.clone()
        changed[j] = (ids[j] + vocab_size // 2) % vocab_size
        columns.append((states(changed) != before).any(dim=-1))
    return torch.stack(columns, dim=-1)


def influence_matrix(model: GemmaEncoderPreTrainedModel, ids: Tensor, padding: str = "none") -> Tensor:
    """The influence of every token of `ids (seq,)` on every state after every layer: bool `(layers, seq, seq)`.

    `padding` is one of PADDINGS: how the row is put into a batch. The model is left in the mode it was in.
    """
    encoder, training = encoder_of(model), model.training
    check_choice("padding", padding, PADDINGS)

    def states(row: Tensor) -> Tensor:
        batch, mask, where = _batch(row, padding)
        hidden = encoder(batch, mask, output_hidden_states=True).hidden_states[1:]
        return torch.stack([layer[0, where] for layer in hidden])

    model.eval()
    try:
        return influence(states, ids.to(encoder.device), encoder.config.decoder.vocab_size)
    finally:
        model.train(training)


def check_visibility(model: GemmaEncoderPreTrainedModel, tokens: int = PROBE_TOKENS) -> Tensor:
    """Measure the influence matrix under every kind of padding and compare it with the masks that were asked for.

    Returns the measured matrix `(layers, tokens, tokens)`; raises VisibilityError at the first difference.
    """
    encoder = encoder_of(model)
    expected = reach(encoder.masks, tokens)
    ids = torch.arange(3, 3 + tokens) % encoder.config.decoder.vocab_size
    for padding in PADDINGS:
        measured = influence_matrix(model, ids, padding).cpu()
        wrong = (measured != expected).nonzero()
        if len(wrong):
            layer, i, j = wrong[0].tolist()
            should = "should" if expected[layer, i, j] else "must not"
            raise VisibilityError(
                f"attention is not {encoder.config.attention!r}: after layer {layer + 1} with padding {padding!r}, "
                f"token {i} {should} depend on token {j}; {len(wrong)} of {expected.numel()} entries differ"
            )
    return measured
