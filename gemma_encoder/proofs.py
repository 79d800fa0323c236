"""The complete proof report of a live model: what was asked for beside what was measured.

    for proof in verify(model): print(proof)

Nothing here trusts a setting: the masks are measured through the states they let move, dropout by counting zeros, the
soft-cap by changing it. The model, its mode and the random state are left as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gemma_encoder.attention import encoder_attention, path, paths_taken
from gemma_encoder.configuration import planned_masks
from gemma_encoder.errors import InputError, VisibilityError
from gemma_encoder.families import SOFTCAP, attention_modules, ffn_modules, head_counts, layer_windows
from gemma_encoder.inference import evaluating
from gemma_encoder.inputs import positions, without_bos
from gemma_encoder.masks import SIZED, parse_attention
from gemma_encoder.model import GemmaEncoder, GemmaEncoderPreTrainedModel, encoder_of
from gemma_encoder.pooling import parse_pooling, slots_read
from gemma_encoder.verify import PROBE_TOKENS, PROBED_PADDINGS, check_padding

LONGEST_PROBE = 40  # tokens; an influence matrix of n tokens takes n + 1 passes for every kind of padding
DRAWS = 64  # tokens of the rows on which dropout is counted
# largest gap between a row alone and in a batch, relative to the largest value: what rounding explains; with float64
# too, softmax and norms are taken in float32
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
PARTS = {"backbone": "backbone.", "pooler": "pool.", "head": "head."}


class Proof(NamedTuple):
    """One line of the report. `ok` is True when what was measured is what was asked for."""

    what: str
    asked: str
    measured: str
    ok: bool


@torch.no_grad()
def verify(model: GemmaEncoderPreTrainedModel) -> list[Proof]:
    """Measure masks, pads, dropout, batch invariance, soft-cap and parameter counts of `model`.

    A model with LoRA, whose counts are those of no configuration, is an InputError.
    """
    if not isinstance(model, GemmaEncoderPreTrainedModel):
        raise InputError(f"a {type(model).__name__} is not a plain adapted model; valid: what merge_lora() gives")
    encoder = encoder_of(model)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        return [
            *(_visibility(model, padding) for padding in PROBED_PADDINGS),
            *(_edges(encoder, width) for width in _widths(encoder) if width + 2 > LONGEST_PROBE),
            *(_pads(encoder, side) for side in ("right", "left")),
            _batch_invariance(encoder),
            *_pooled_alone(encoder),
            *_dropout(encoder),
            *_softcap(encoder),
            _path(encoder),
            *_parameters(model),
        ]


def as_table(proofs: list[Proof]) -> str:
    """The report as text, one line a proof."""
    rows = [("", *Proof._fields[:3]), *(("ok" if proof.ok else "NO", *proof[:3]) for proof in proofs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


# who sees whom


def _visibility(model: GemmaEncoderPreTrainedModel, padding: str) -> Proof:
    encoder = encoder_of(model)
    asked = encoder.config.attention
    tokens = max([PROBE_TOKENS, *(width + 2 for width in _widths(encoder) if width + 2 <= LONGEST_PROBE)])
    try:
        measured = f"as asked, {check_padding(model, padding, tokens).numel()} entries"
        return Proof(f"what {tokens} tokens see, padding {padding!r}", asked, measured, True)
    except VisibilityError as error:
        return Proof(f"what {tokens} tokens see, padding {padding!r}", asked, str(error), False)


def _widths(encoder: GemmaEncoder) -> list[int]:
    """The widths of all windows and prefixes that the settings ask for."""
    config = encoder.config
    kind, _, size = parse_attention(config.attention)
    windows = layer_windows(config.decoder) if config.local_layers == "keep" else []
    return sorted({width for width in windows if width} | ({size} if kind in SIZED else set()))


def _edges(encoder: GemmaEncoder, width: int) -> Proof:
    """Both edges of a width that is beyond the probe of all tokens, through the attention function that runs.

    With equal scores, and as values one column for each key next to an edge, an output is 0 where its key is not read.
    """
    what, limit = f"edges of a width of {width}", positions(encoder.config.decoder)
    if limit is not None and width >= limit:
        return Proof(what, "none in reach", f"not measured: the model reads {limit} tokens", True)
    tokens = torch.arange(width + 1, device=encoder.device)
    keys = tokens[[0, 1, width - 1, width]]
    shapes = [(1, heads, len(tokens), len(keys)) for heads in head_counts(encoder.config.decoder)]
    zeros = [torch.zeros(shape, dtype=encoder.dtype, device=encoder.device) for shape in shapes]
    columns = (tokens[:, None] == keys).to(zeros[1]).expand_as(zeros[1])
    visibility = encoder.look(torch.ones_like(tokens)[None].bool())
    wrong = 0
    with evaluating(encoder):
        for module, mask in zip(attention_modules(encoder.backbone), planned_masks(encoder.config), strict=True):
            softcap = getattr(module, SOFTCAP, None)
            read = encoder_attention(module, *zeros, columns, None, 1.0, softcap, visibility)[0][0, :, 0] != 0
            wrong += int((read != mask(0 * keys, 0 * keys, tokens[:, None], keys)).sum())
    asked = f"{len(encoder.masks)} layers, {len(keys)} keys, {len(tokens)} tokens"
    return Proof(what, asked, f"{wrong} entries differ" if wrong else "as asked", not wrong)


def _batch(encoder: GemmaEncoder, lengths: list[int], side: str = "right") -> tuple[Tensor, Tensor]:
    """Rows of random tokens `(batch, seq)` and their mask."""
    width = max(lengths)
    ids = torch.randint(encoder.config.decoder.vocab_size, (len(lengths), width), device=encoder.device)
    ids = without_bos(ids, encoder.config.decoder)
    mask = torch.arange(width, device=encoder.device) < torch.tensor(lengths, device=encoder.device)[:, None]
    return ids, mask if side == "right" else mask.flip(1)


def _lengths(encoder: GemmaEncoder) -> list[int]:
    """Rows of unlike length, none too short for the pooler."""
    least = parse_pooling(encoder.config.pooling)[1]
    return [least + 4, least, least + 16, least + 1]


def _pads(encoder: GemmaEncoder, side: str) -> Proof:
    """What stands in slots without a token must not move one bit."""
    ids, mask = _batch(encoder, _lengths(encoder), side)
    vocabulary, moved = encoder.config.decoder.vocab_size, 0
    with evaluating(encoder):
        before = encoder(ids, mask)
        for garbage in (0, vocabulary - 1, torch.randint_like(ids, vocabulary)):
            after = encoder(ids.where(mask, garbage), mask)
            moved += int((after.last_hidden_state != before.last_hidden_state).sum())
            moved += int((after.pooler_output != before.pooler_output).sum())
    return Proof(f"ids at pads, {side}", "no influence", f"{moved or 'none'} of the values moved", moved == 0)


def _batch_invariance(encoder: GemmaEncoder) -> Proof:
    """The pooled vector of a row alone and in batches padded on either side."""
    gap, tolerance = 0.0, TOLERANCE[encoder.dtype]
    with evaluating(encoder):
        for side in ("right", "left"):
            ids, mask = _batch(encoder, _lengths(encoder), side)
            together = encoder(ids, mask).pooler_output
            alone = torch.cat([encoder(row[real][None]).pooler_output for row, real in zip(ids, mask, strict=True)])
            gap = max(gap, _gap(together, alone))
    return Proof("a row alone and in a batch", f"equal within {tolerance:g}", f"gap {gap:.1e}", gap <= tolerance)


def _pooled_alone(encoder: GemmaEncoder) -> list[Proof]:
    """The pooled vector when only what the pooler reads is computed, against the full computation."""
    ids, mask = _batch(encoder, _lengths(encoder), "left")
    if slots_read(encoder.config.pooling, mask) is None:
        return []
    tolerance = TOLERANCE[encoder.dtype]
    with evaluating(encoder):
        gap = _gap(encoder(ids, mask, only_pooled=True).pooler_output, encoder(ids, mask).pooler_output)
    asked, measured = f"equal within {tolerance:g}", f"gap {gap:.1e}"
    return [Proof("vectors when only what is read is computed", asked, measured, gap <= tolerance)]


def _gap(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value; infinite where a value is not a number."""
    gap = (one - other).abs().max() / other.abs().max().clamp(min=torch.finfo(other.dtype).tiny)
    return gap.nan_to_num(nan=float("inf")).item()


# dropout


class Count(NamedTuple):
    """Zeros among the values that dropout may hit."""

    zeros: int
    values: int

    @property
    def share(self) -> float:
        return self.zeros / self.values


def _softmax_zeros(encoder: GemmaEncoder) -> list[Count]:
    """Zeros among the attention weights that each layer may give, through the attention function that runs.

    With equal scores no weight is 0 by itself, and with the identity as values the output of attention is its weights.
    """
    shapes = [(1, heads, DRAWS, DRAWS) for heads in head_counts(encoder.config.decoder)]
    zeros = [torch.zeros(shape, dtype=encoder.dtype, device=encoder.device) for shape in shapes]
    identity = torch.eye(DRAWS, dtype=encoder.dtype, device=encoder.device).expand_as(zeros[1])
    real = torch.ones(1, DRAWS, dtype=torch.bool, device=encoder.device)
    visibility, counts = encoder.look(real), []
    for module, kind in zip(attention_modules(encoder.backbone), visibility.kinds, strict=True):
        softcap = getattr(module, SOFTCAP, None)
        weights = encoder_attention(module, *zeros, identity, None, 1.0, softcap, visibility)[0]
        allowed = (visibility.groups[0].biases[kind][0, 0] == 0)[None, :, None, :].expand_as(weights)
        counts.append(Count(int((weights[allowed] == 0).sum()), int(allowed.sum())))
    return counts


def _ffn_zeros(encoder: GemmaEncoder) -> list[Count]:
    """Zeros that the dropout of each feed-forward block makes in one pass of the whole model."""
    counts: list[Count] = []

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        before = inputs[0] != 0
        counts.append(Count(int((output[before] == 0).sum()), int(before.sum())))

    hooks = [ffn.output_dropout.register_forward_hook(count) for ffn in ffn_modules(encoder.backbone)]
    try:
        least = parse_pooling(encoder.config.pooling)[1]
        encoder(*_batch(encoder, [least + DRAWS, least + DRAWS // 2]))
    finally:
        for hook in hooks:
            hook.remove()
    return counts


@contextmanager
def _training(encoder: GemmaEncoder) -> Iterator[None]:
    with evaluating(encoder):  # restores the modes
        encoder.train()
        yield


@contextmanager
def _without_our_noise(encoder: GemmaEncoder) -> Iterator[None]:
    """Both of our dropouts at rate 0 in every layer."""
    ours = [module.softmax_dropout for module in attention_modules(encoder.backbone)]
    ours += [module.output_dropout for module in ffn_modules(encoder.backbone)]
    rates = [dropout.p for dropout in ours]
    try:
        for dropout in ours:
            dropout.p = 0.0
        yield
    finally:
        for dropout, rate in zip(ours, rates, strict=True):
            dropout.p = rate


def _dropout(encoder: GemmaEncoder) -> Iterator[Proof]:
    config, layers = encoder.config, len(encoder.masks)
    places = (("attention softmax", config.attention_dropout, _softmax_zeros),)
    places += (("feed-forward output", config.ffn_dropout, _ffn_zeros),)
    for place, rate, zeros in places:
        with _training(encoder):
            counts = zeros(encoder)
        measured = [count.share for count in counts]
        # five standard deviations of a share of so many independent draws
        close = [abs(count.share - rate) <= 5 * (rate * (1 - rate) / count.values) ** 0.5 for count in counts]
        said = f"{min(measured):.3f} to {max(measured):.3f} in {len(counts)} layers" if counts else "acts nowhere"
        yield Proof(f"dropout on the {place}, training", f"{rate:g} in {layers} layers", said, sum(close) == layers)
        with evaluating(encoder):
            dropped = sum(count.zeros for count in zeros(encoder))
        yield Proof(f"dropout on the {place}, evaluation", "none", f"{dropped or 'no'} values dropped", dropped == 0)
    ids, mask = _batch(encoder, _lengths(encoder))
    with _training(encoder), _without_our_noise(encoder):
        noisy = encoder(ids, mask).last_hidden_state
    with evaluating(encoder):
        quiet = encoder(ids, mask).last_hidden_state
    gap = _gap(noisy, quiet)
    yield Proof("other noise while training", "none", f"states move by {gap:.1e}", gap == 0)


# soft-cap


def _softcap(encoder: GemmaEncoder) -> Iterator[Proof]:
    """Change the cap of one layer at a time; where nothing moves, it is not applied."""
    cap = getattr(encoder.config.decoder, SOFTCAP, None)
    if cap is None:
        return
    modules, batch, acting, gaps = attention_modules(encoder.backbone), _batch(encoder, _lengths(encoder)), 0, [0.0]
    with evaluating(encoder):
        before = encoder(*batch).last_hidden_state
        for module in modules:
            found = getattr(module, SOFTCAP, None)
            try:
                setattr(module, SOFTCAP, cap / 1000)
                tight = encoder(*batch).last_hidden_state
                setattr(module, SOFTCAP, cap * 1000)
                loose = encoder(*batch).last_hidden_state
            finally:
                setattr(module, SOFTCAP, found)
            acting += found == cap and bool((tight != before).any())
            gaps.append(_gap(loose, before))
    measured = f"acts in {acting} layers; states move by up to {max(gaps):.1e} without it"
    yield Proof("soft-cap on attention scores", f"{cap:g} in {len(modules)} layers", measured, acting == len(modules))


def _path(encoder: GemmaEncoder) -> Proof:
    """Which computation of attention ran, beside the one that the decoder's soft-cap asks for."""
    asked = path(getattr(encoder.config.decoder, SOFTCAP, None))
    with evaluating(encoder):
        encoder(*_batch(encoder, _lengths(encoder)), output_attentions=False)
    ran = paths_taken(encoder.backbone)
    return Proof("computation of attention", asked, ", ".join(ran), ran == [asked])


# parameters


def _counts(model: GemmaEncoderPreTrainedModel) -> dict[str, int]:
    sizes = {name.removeprefix("encoder."): parameter.numel() for name, parameter in model.named_parameters()}
    return {part: sum(size for name, size in sizes.items() if name.startswith(start)) for part, start in PARTS.items()}


def _parameters(model: GemmaEncoderPreTrainedModel) -> Iterator[Proof]:
    """Parameter counts beside those of a new model of the same configuration."""
    with torch.device("meta"):
        asked = _counts(type(model)(deepcopy(model.config)))
    for part, measured in _counts(model).items():
        yield Proof(f"parameters of the {part}", f"{asked[part]:,}", f"{measured:,}", measured == asked[part])
