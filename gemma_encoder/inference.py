"""Running an adapted model over many examples: sorted by length, without padding, order kept.

`embed`, `predict` and `rank` take texts. They share these arguments:

texts: a list, or anything else that gives texts one by one; a row of several texts is a list or tuple of them.
batch_size: rows in a batch of the longest rows; batches of shorter rows hold more of them, for the same memory. On a
    CPU batches are smaller, because small ones are faster there.
max_length: tokens in a row, its BOS included.
truncate: cut longer rows and say how many; without it a longer row is an InputError.
columns: the names that stood before each text in fine-tuning, as in `premise: ...`; `()` for none. By default they
    are those of the checkpoint, `config.text_columns`.

An empty text, and a row of more or fewer texts than columns, are an InputError.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from itertools import chain
from threading import Lock
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from gemma_encoder.errors import InputError
from gemma_encoder.inputs import check_row_lengths
from gemma_encoder.memory import keep_freed_memory
from gemma_encoder.model import GemmaEncoderPreTrainedModel, encoder_of
from gemma_encoder.progress import progress
from gemma_encoder.rows import padded
from gemma_encoder.tokens import bos_ids, token_ids

CPU_SLOTS = 1536  # of a batch: with fewer the calls cost more, with more the memory that every tensor takes anew
KEYED = (Mapping, Set)  # gives keys, or texts in no order, where texts in order are meant
SHOWN_FROM = 20  # batches; less is done before anybody has read a bar


_lock = Lock()
_evaluated: dict[nn.Module, tuple[int, bool]] = {}  # how many evaluations each module is in, and its mode before


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, and leave every submodule in the mode it was in, however many threads evaluate it.

    A thread that trains the model meanwhile trains it without dropout.
    """
    modules = list(model.modules())
    with _lock:
        for module in modules:
            count, mode = _evaluated.get(module, (0, module.training))
            _evaluated[module] = count + 1, mode
        model.eval()
    try:
        yield
    finally:
        with _lock:
            for module in modules:
                count, mode = _evaluated.pop(module)
                if count > 1:
                    _evaluated[module] = count - 1, mode
                else:
                    module.training = mode


@torch.no_grad()
def in_batches(
    model: GemmaEncoderPreTrainedModel,
    rows: Sequence[Sequence[int]],
    output: Callable[[Tensor, Tensor], Tensor],
    batch_size: int,
    label: str = "",
    side: Literal["left", "right"] = "right",
) -> Tensor:
    """`output(input_ids, attention_mask) -> (batch, ...)` over token-id rows, as float32 on the CPU, in their order.

    Rows of like length share a batch, so that attention opens few empty slots. The model is left in the mode it was
    in. With a `label`, a long job shows how far it is. `side` says where short rows of a batch are filled up.
    """
    if type(batch_size) is not int or batch_size < 1:
        raise InputError(f"batch_size {batch_size!r} is not valid; valid: an integer >= 1")
    keep_freed_memory()
    lengths, done = [len(row) for row in rows], []
    room = batch_size * max(lengths)
    batches = like_length(lengths, min(room, CPU_SLOTS) if model.device.type == "cpu" else room)
    with evaluating(model):
        for indices in progress(batches, len(batches), label) if label and len(batches) >= SHOWN_FROM else batches:
            batch = padded([rows[index] for index in indices], side=side)
            done.append(output(*(part.to(model.device) for part in batch.values())).float().cpu())
    return torch.cat(done)[torch.tensor(list(chain.from_iterable(batches))).argsort()]


def like_length(lengths: Sequence[int], slots: int) -> list[list[int]]:
    """The rows by number, shortest first, in batches of at most `slots`, which are rows times longest row.

    A row that is longer than that has a batch of its own.
    """
    order, batches = sorted(range(len(lengths)), key=lengths.__getitem__), []
    while order:
        count = max(1, slots // lengths[order[-1]])
        batches.insert(0, order[-count:])
        del order[-count:]
    return batches


def embed(
    model: GemmaEncoderPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | Sequence[str]],
    batch_size: int = 32,
    max_length: int = 512,
    truncate: bool = False,
    columns: Sequence[str] | None = None,
) -> Tensor:
    """The pooled vector of every text (or pair of texts): `(n, dim)`, float32, on the CPU. No texts: `(0, dim)`."""
    encoder = encoder_of(model)
    rows = _rows(model, tokenizer, texts, max_length, truncate, columns)
    if not rows:
        return torch.zeros(0, encoder.config.decoder.hidden_size)

    def pooled(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return encoder(input_ids, attention_mask, only_pooled=True, return_dict=True).pooler_output

    return in_batches(model, rows, pooled, batch_size, "embedding")


def predict(
    model: GemmaEncoderPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | Sequence[str]],
    batch_size: int = 32,
    max_length: int = 512,
    truncate: bool = False,
    columns: Sequence[str] | None = None,
) -> Tensor:
    """The logits of every text (or pair of texts): `(n, num_labels)`, float32, on the CPU. No texts: `(0, ...)`.

    A model without a head over rows is an InputError.
    """
    if not hasattr(model, "row_logits"):
        raise InputError(f"a {type(model).__name__} has no answer for a row; valid: a classifier or a ranking model")
    rows = _rows(model, tokenizer, texts, max_length, truncate, columns)
    if not rows:
        return torch.zeros(0, model.config.num_labels)
    return in_batches(model, rows, model.row_logits, batch_size, "predicting")


def rank(
    model: GemmaEncoderPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    query: str,
    passages: Sequence[str],
    batch_size: int = 32,
    max_length: int = 512,
    truncate: bool = False,
    columns: Sequence[str] | None = None,
) -> list[tuple[int, float]]:
    """`(index, score)` of every passage, best first; of equal scores the earlier passage. No passages: `[]`.

    A model with more than one answer a row is an InputError.
    """
    if model.config.num_labels != 1:
        raise InputError(f"a model of {model.config.num_labels} labels gives no score to rank by; valid: num_labels 1")
    pairs = [(query, passage) for passage in _listed(passages)]
    scores = predict(model, tokenizer, pairs, batch_size, max_length, truncate, columns)[:, 0].tolist()
    return sorted(enumerate(scores), key=lambda pair: -pair[1])  # a stable sort


def _listed(texts: Iterable[str | Sequence[str]]) -> list[str | Sequence[str]]:
    """`texts` as a list; what would give letters, or names of columns, in place of texts is an InputError."""
    if isinstance(texts, str):
        raise InputError(f"texts {texts!r} is one text; valid: a list of texts, or of pairs of texts")
    if isinstance(texts, KEYED) or hasattr(texts, "columns") or hasattr(texts, "column_names"):
        raise InputError(f"texts in a {type(texts).__name__}; valid: a list of texts, or of pairs of texts")
    return list(texts)


def _rows(
    model: GemmaEncoderPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | Sequence[str]],
    max_length: int,
    truncate: bool,
    columns: Sequence[str] | None,
) -> list[list[int]]:
    """Token ids of checked texts; says how many were truncated."""
    texts = _listed(texts)
    if isinstance(columns, str):
        raise InputError(f"columns {columns!r} is one name; valid: a list of names")
    columns = tuple(encoder_of(model).config.text_columns if columns is None else columns)
    rows = [(row,) if isinstance(row, str) or not isinstance(row, Iterable) else tuple(row) for row in texts]
    for index, row in enumerate(rows):
        if isinstance(texts[index], KEYED):
            raise InputError(
                f"row {index} is a {type(texts[index]).__name__}; valid: a text, or a list or tuple of texts"
            )
        if columns and len(row) != len(columns):
            raise InputError(f"row {index} has {len(row)} texts; valid: {len(columns)} ({', '.join(columns)})")
        if not row or not all(isinstance(text, str) and text.strip() for text in row):
            raise InputError(f"row {index} is {texts[index]!r}; valid: texts that are not empty")
    shortest = len(bos_ids(tokenizer)) + max(map(len, rows), default=0)
    if type(max_length) is not int or max_length < shortest:
        raise InputError(f"max_length {max_length!r} is not valid; valid for these texts: {shortest} or more")
    ids, cut = token_ids(rows, tokenizer, max_length, truncate, columns)
    if cut:
        warnings.warn(f"{cut} of {len(ids)} rows were cut to {max_length} tokens", stacklevel=3)
    check_row_lengths([[len(row)] for row in ids], encoder_of(model).config)
    return ids
