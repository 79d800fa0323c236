"""The inputs of an encoder, checked: what would be read wrongly is refused, the rows named."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from gemma_encoder.errors import InputError
from gemma_encoder.families import bos_id
from gemma_encoder.pooling import check_least, parse_pooling
from gemma_encoder.rows import check_rows


def real_slots(input_ids: Tensor, attention_mask: Tensor | None, known: int) -> Tensor:
    """Which slots hold a token, `(batch, seq)`: one in every row at least, each with an id below `known`."""
    if not isinstance(input_ids, Tensor):
        raise InputError(f"input_ids of type {type(input_ids).__name__}; valid: a tensor (batch, seq)")
    if input_ids.dim() != 2 or not len(input_ids):
        raise InputError(f"input_ids of shape {tuple(input_ids.shape)}; valid: (batch, seq), batch >= 1")
    if input_ids.dtype not in (torch.int64, torch.int32):
        raise InputError(f"input_ids of type {input_ids.dtype}; valid: torch.int64 or torch.int32")
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if mask.shape != input_ids.shape:
        raise InputError(f"attention_mask of shape {tuple(mask.shape)}; valid: {tuple(input_ids.shape)}")
    real = mask == 1
    # of a mask that is added to scores, 0 where a token is, the pads would be read
    check_rows(real | (mask == 0), "have an attention_mask of other values", "1 for a token, else 0")
    check_rows(real.any(dim=1), "hold no token", "at least one token per row")
    _check_known(input_ids, real, known)
    return real


@torch.compiler.disable  # what it reads off the batch cannot be traced
def _check_known(input_ids: Tensor, real: Tensor, known: int) -> None:
    """Refuse tokens that have no embedding; a slot without a token may hold anything."""
    least, most = map(int, input_ids.aminmax())
    if least < 0 or most >= known:
        good = (input_ids >= 0) & (input_ids < known) | ~real
        check_rows(good, "hold an unknown id", f"0 to {known - 1}")


@torch.compiler.disable  # what it reads off the batch cannot be traced
def check_lengths(real: Tensor, decoder: PreTrainedConfig) -> None:
    """Refuse rows of more tokens than the decoder has positions for."""
    limit = positions(decoder)
    if limit is not None and real.shape[1] > limit:
        _check_most(real.sum(dim=1), limit)


def positions(decoder: PreTrainedConfig) -> int | None:
    """How many tokens of a row the decoder has positions for; None where there is no limit."""
    return getattr(decoder, "max_position_embeddings", None)


def _check_most(lengths: Tensor, limit: int, of: str = "") -> None:
    what = f"hold more tokens than max_position_embeddings, the longest {int(lengths.max())}"
    check_rows(lengths <= limit, what, f"up to {limit}", of)


def check_row_lengths(lengths: Sequence[Sequence[int]], config: PreTrainedConfig, of: str = "") -> None:
    """Refuse rows that the encoder of `config` would refuse for their length, before the first batch.

    A batch numbers its rows by itself, and may come late. lengths: for every row, the token counts of its texts,
    several if it holds candidates; of: what the rows are called in the error, such as "train ".
    """
    if not lengths:
        return
    check_least(torch.tensor(list(map(min, lengths))), parse_pooling(config.pooling)[1], of)
    if (limit := positions(config.decoder)) is not None:
        _check_most(torch.tensor(list(map(max, lengths))), limit, of)


def without_bos(ids: Tensor, decoder: PreTrainedConfig) -> Tensor:
    """`ids` with a neighbouring id in place of every BOS, which has no place inside a row."""
    bos = bos_id(decoder)
    return ids if bos is None else ids.where(ids != bos, bos - 1 if bos else 1)


def check_bos(input_ids: Tensor, real: Tensor, decoder: PreTrainedConfig) -> None:
    """Refuse rows with a BOS behind their first token: many tokenizers put one before each text of a pair.

    Where BOS and end of text are one token, a row that does not begin with it may hold it.
    """
    bos = bos_id(decoder)
    if bos is None:
        return
    found = (input_ids == bos) & real
    again = found & (real.cumsum(dim=1) > 1)
    if bos == decoder.eos_token_id:
        again &= (found & ~again).any(dim=1, keepdim=True)
    check_rows(~again, "hold a BOS behind their first token", "one, in front, as predict() puts it")
