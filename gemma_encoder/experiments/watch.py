"""Which training rows an update was made of, for the line that says where a run broke off."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from datasets import Dataset
from torch import Tensor, nn


def watch(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """A list that every training pass of `model` adds its `(input_ids, attention_mask)` to; clear it at will."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Module, args: tuple, kwargs: dict[str, Tensor]) -> None:
        if module.training:
            seen.append((kwargs["input_ids"], kwargs["attention_mask"]))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


def rows_of(seen: Sequence[tuple[Tensor, Tensor]], rows: Dataset) -> list[int]:
    """The indices of the `rows` whose tokens are in those batches; rows of the same tokens cannot be told apart."""
    wanted = {tuple(row[real.bool()].tolist()) for ids, mask in seen for row, real in zip(ids, mask, strict=True)}
    return [index for index, tokens in enumerate(rows["input_ids"]) if _flat(tokens) in wanted]


def _flat(tokens: Sequence) -> tuple[int, ...]:
    """The tokens of a row, or of all candidates of a list, one after the other."""
    return tuple(chain.from_iterable(tokens) if tokens and isinstance(tokens[0], Sequence) else tokens)
