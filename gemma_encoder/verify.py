"""Proof on a live model: what does each token really see?

Flags that switch a decoder to bidirectional attention are ignored by some attention implementations, silently. So
nothing here asks a flag: change token j, run the model, and record which states move. Each layer is also probed alone,
because behind one layer that mixes all tokens the whole model looks the same whatever the later layers do.

`check_visibility` sets all attention scores equal. A trained decoder gives some tokens so little weight that changing
them is rounded away, especially in bfloat16; a token that is seen would then look like one that is hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gemma_encoder.configuration import planned_masks
from gemma_encoder.errors import VisibilityError, check_choice
from gemma_encoder.families import attention_modules, layers
from gemma_encoder.inference import evaluating
from gemma_encoder.masks import reach, squares
from gemma_encoder.model import GemmaEncoder, GemmaEncoderPreTrainedModel, encoder_of

PROBE_TOKENS = 8  # short enough for (tokens + 1) forward passes of a large model, long enough to show the pattern
LOAD_TOKENS = 3  # of the probe on every load: few passes, so that a large model loads fast
PADS = 3
CANDIDATES = 512  # ids from which those of a probe are taken
PROBED_PADDINGS = ("none", "all ones", "right", "left")


def _unlike(encoder: GemmaEncoder, count: int) -> Tensor:
    """Ids `(count,)` whose embeddings lie far apart, the next always farthest from all before; repeated if too few.

    Training leaves ids that it never met alike, or shrinks them to nothing: to change one for another moves no state.
    """
    table = encoder.get_input_embeddings().weight[:CANDIDATES].float()
    found, distance = [table.norm(dim=-1).argmax()], table.new_full((len(table),), float("inf"))
    while len(found) < min(count, len(table)):
        distance = distance.minimum((table - table[found[-1]]).norm(dim=-1))
        found.append(distance.argmax())
    return torch.stack(found)[torch.arange(count) % len(found)]


def _batch(ids: Tensor, others: Tensor, padding: str) -> tuple[Tensor, Tensor | None, slice]:
    """A batch whose first row holds `ids`, its mask, and where the tokens of that row stand.

    `others (len(ids) + PADS,)` fill everything else: the pads of the first row, and a second one as long as the batch.
    """
    if padding == "none":
        return ids[None], None, slice(0, len(ids))
    if padding == "all ones":
        return ids[None], torch.ones_like(ids)[None], slice(0, len(ids))
    start = PADS if padding == "left" else 0
    row, mask, where = others.flip(0), torch.zeros_like(others), slice(start, start + len(ids))
    row[where], mask[where] = ids, 1
    return torch.stack([row, others]), torch.stack([mask, torch.ones_like(mask)]), where


@torch.no_grad()
def influence(states: Callable[[Tensor], Tensor], ids: Tensor, others: Tensor) -> Tensor:
    """Which tokens move which states of any model: bool `(..., seq, seq)`, by changing one token at a time.

    `states` maps `ids (seq,)` to token states `(..., seq, dim)`, token j becomes `others[j]`. Entry `[..., i, j]` is
    True when that changes any bit of the state of token i. Every pass has the same shapes, so a state that cannot see
    token j comes out the same to the last bit.
    """
    before, columns = states(ids), []
    for j in range(len(ids)):
        changed = ids.clone()
        changed[j] = others[j]
        columns.append((states(changed) != before).any(dim=-1))
    return torch.stack(columns, dim=-1)


def _states(encoder: GemmaEncoder, ids: Tensor, others: Tensor, padding: str) -> Tensor:
    """The states of the tokens `ids (seq,)` after every layer, in a batch with `others`: `(layers, seq, dim)`."""
    batch, mask, where = _batch(ids, others, padding)
    return torch.stack([layer[0, where] for layer in encoder.layer_states(batch, mask)])


def influence_matrix(model: GemmaEncoderPreTrainedModel, ids: Tensor, padding: str = "none") -> Tensor:
    """The influence of every token of `ids (seq,)` on every state after every layer: bool `(layers, seq, seq)`.

    `padding` is one of PROBED_PADDINGS: how the row is put into a batch. The model is left in the mode it was in.
    """
    encoder = encoder_of(model)
    check_choice("padding", padding, PROBED_PADDINGS)
    ids, table = ids.to(encoder.device), encoder.get_input_embeddings().weight
    farthest = torch.cdist(table[ids].float(), table[:CANDIDATES].float()).argmax(dim=-1)
    others = _unlike(encoder, len(ids) + PADS)
    with evaluating(model):
        return influence(lambda row: _states(encoder, row, others, padding), ids, farthest)


@torch.no_grad()
def layer_matrix(model: GemmaEncoderPreTrainedModel, ids: Tensor, padding: str = "none") -> Tensor:
    """What each layer alone lets a token read: bool `(layers, seq, seq)`, the diagonal always True.

    Entry `[l, i, j]` is True when changing the state of token j in front of layer l changes that of token i behind it.
    """
    encoder, calls = encoder_of(model), []
    check_choice("padding", padding, PROBED_PADDINGS)
    batch, mask, where = _batch(ids.to(encoder.device), _unlike(encoder, len(ids) + PADS), padding)
    where = slice(0, len(ids)) if encoder.config.unpadded else where  # a packed batch starts with the first row
    hooks = [
        layer.register_forward_pre_hook(lambda *call: calls.append(call), with_kwargs=True)
        for layer in layers(encoder.backbone)
    ]
    with evaluating(model):
        try:
            encoder.layer_states(batch, mask)
        finally:
            for hook in hooks:
                hook.remove()
        attentions = attention_modules(encoder.backbone)
        return torch.stack(
            [_layer_influence(*call, module, where) for call, module in zip(calls, attentions, strict=True)]
        )


def _layer_influence(layer: nn.Module, args: tuple, kwargs: dict, attention: nn.Module, where: slice) -> Tensor:
    """Which tokens of the first row at `where` move which, through one call of `layer`: bool `(seq, seq)`.

    The output of its attention module counts too, if that module is called (see `gemma2` for where it is not): in half
    precision the residual sum may round a difference away.
    """
    hidden, *rest = args
    read: list[Tensor] = []
    hook = attention.register_forward_hook(lambda module, inputs, output: read.append(output[0][0, where]))

    def behind(state: Tensor) -> Tensor:
        after = layer(state, *rest, **kwargs)[0, where]
        return torch.cat([after, read.pop()], dim=-1) if read else after

    try:
        before, columns = behind(hidden), []
        for j in range(where.start, where.stop):
            changed = hidden.clone()
            changed[0, j] = hidden[0, j].roll(1)  # another state of the same size
            columns.append((behind(changed) != before).any(dim=-1))
    finally:
        hook.remove()
    return torch.stack(columns, dim=-1) | torch.eye(len(columns), dtype=torch.bool, device=hidden.device)


@contextmanager
def equal_scores(encoder: GemmaEncoder) -> Iterator[None]:
    """Every token reads all that it may read, each to the same degree: scores are multiplied by 0."""
    modules = attention_modules(encoder.backbone)
    try:
        for module in modules:
            module.equal_scores = True
        yield
    finally:
        for module in modules:
            del module.equal_scores


def check_visibility(model: GemmaEncoderPreTrainedModel, tokens: int = PROBE_TOKENS) -> Tensor:
    """Measure what every token sees under every kind of padding and compare it with the masks that were asked for.

    Until it returns, no other thread may use the model, whose scores it changes.

    Returns the influence matrix `(layers, tokens, tokens)`; raises VisibilityError at the first difference: in the
    whole model, in one layer alone, or because something else in the batch moves a token.
    """
    return [check_padding(model, padding, tokens) for padding in PROBED_PADDINGS][-1]


@torch.no_grad()
def check_padding(model: GemmaEncoderPreTrainedModel, padding: str, tokens: int = PROBE_TOKENS) -> Tensor:
    """As `check_visibility`, under one kind of padding."""
    encoder = encoder_of(model)
    config = encoder.config
    masks = planned_masks(config)  # not encoder.masks, which is what runs
    alone = torch.stack(squares(masks, tokens)) | torch.eye(tokens, dtype=torch.bool)
    others = _unlike(encoder, tokens + PADS + 1)
    ids = others[:tokens]
    with equal_scores(encoder):
        measured = influence_matrix(model, ids, padding).cpu()
        each = layer_matrix(model, ids, padding).cpu()
        with evaluating(model):
            states, with_others = (_states(encoder, ids, part, padding) for part in (others[:-1], others[1:]))
    moved = (states != with_others).any(dim=-1).nonzero()
    whole = reach(masks, tokens)
    # in half precision small influences are rounded away on their way; that none is missing, each layer shows
    seen = measured if torch.finfo(encoder.dtype).bits > 16 else measured | whole
    _compare(config.attention, f"after layer {{}} with padding {padding!r}", seen, whole)
    _compare(config.attention, f"in layer {{}} with padding {padding!r}", each, alone)
    if len(moved):
        layer, i = moved[0].tolist()
        raise VisibilityError(
            f"a batch is not kept apart: after layer {layer + 1} with padding {padding!r}, token {i} must not "
            "depend on pads or on another row"
        )
    return measured


def _compare(attention: str, where: str, measured: Tensor, expected: Tensor) -> None:
    """Raise VisibilityError at the first difference of two `(layers, seq, seq)` matrices."""
    wrong = (measured != expected).nonzero()
    if len(wrong):
        layer, i, j = wrong[0].tolist()
        should = "should" if expected[layer, i, j] else "must not"
        raise VisibilityError(
            f"attention is not {attention!r}: {where.format(layer + 1)}, token {i} {should} depend on token {j}; "
            f"{len(wrong)} of {expected.numel()} entries differ"
        )
