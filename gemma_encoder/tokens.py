"""From texts to token ids: exactly one BOS in front of a row (where the tokenizer has one), no EOS behind it.

The tokenizer of a native encoder may have a [CLS] token in place of BOS.

The texts of a row follow one another, each as a segment `column: text`, or as it is where columns have no names:

    <bos>premise: A plane is taking off. hypothesis: An air plane is taking off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from transformers import PreTrainedTokenizerBase

from gemma_encoder.errors import InputError

BATCH = 1000  # rows tokenised at once; bounds memory
SHOWN = 12  # tokens of a row that an error quotes
CHARACTERS_PER_TOKEN = 4.2  # of English, where no tokenizer is at hand


def bos_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What stands in front of every row: the BOS of the tokenizer, else its [CLS], else nothing."""
    found = tokenizer.cls_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [] if found is None else [found]


def token_ids(
    rows: Iterable[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    truncate: bool = False,
    columns: Sequence[str] = (),
) -> tuple[list[list[int]], int]:
    """Token ids of every row of texts, at most `max_length` with the BOS, and how many rows were truncated.

    columns: one name for each text of a row, or none at all.
    A longer row is an InputError. With `truncate` it loses tokens at the end of whichever segment is the longest, so
    BOS and the beginning of every segment stay.
    """
    input_ids, too_long, bos = [], {}, bos_ids(tokenizer)
    for segments in _segments(rows, columns, tokenizer):
        length = len(bos) + sum(map(len, segments))
        if length > max_length:
            too_long[len(input_ids)] = length
            segments = _shorten(segments, max_length - len(bos))
        input_ids.append([*bos, *chain.from_iterable(segments)])
    if too_long and not truncate:
        first = min(too_long)
        beginning = tokenizer.decode(input_ids[first][len(bos) : len(bos) + SHOWN])
        raise InputError(
            f"row {first} (counted from 0), which begins {beginning!r}, has {too_long[first]} tokens, "
            f"the limit is {max_length}; "
            f"{len(too_long)} of {len(input_ids)} rows are over it, the longest with {max(too_long.values())} tokens; "
            "raise max_length, or ask for truncation"
        )
    return input_ids, len(too_long)


def _segments(
    rows: Iterable[Sequence[str]], columns: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> Iterator[list[list[int]]]:
    """The segments of every row as token ids, without special tokens.

    A later segment begins with the space that separates it from the one before, as in running text. White space
    around a text goes, so that the last token, which last-token pooling reads, belongs to a word. A "<bos>" that
    someone typed is text: it is split like any other, and never becomes a special token.
    """
    rows = iter(rows)
    while batch := list(islice(rows, BATCH)):
        prefixes = [[f"{name}: " for name in columns] or [""] * len(row) for row in batch]
        texts = [
            f"{' ' if at else ''}{prefix}{text.strip()}"
            for row, names in zip(batch, prefixes, strict=True)
            for at, (prefix, text) in enumerate(zip(names, row, strict=True))
        ]
        settings = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False}
        ids = iter(tokenizer(texts, verbose=False, **settings)["input_ids"])
        yield from ([next(ids) for _ in row] for row in batch)


def _shorten(segments: Sequence[list[int]], budget: int) -> list[list[int]]:
    """Cut the longest segment (of equals, the last), token by token, until all fit into `budget` together."""
    lengths = [len(segment) for segment in segments]
    while sum(lengths) > budget:
        longest = max(range(len(lengths)), key=lambda at: (lengths[at], at))
        lengths[longest] -= 1
    return [segment[:length] for segment, length in zip(segments, lengths, strict=True)]
