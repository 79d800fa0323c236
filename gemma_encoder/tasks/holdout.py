"""A part of the training rows to choose settings on, so that nothing is ever chosen on the validation rows."""

from __future__ import annotations

from collections import Counter

from datasets import Dataset

from gemma_encoder.errors import InputError
from gemma_encoder.tasks.task import Task


def hold_out(task: Task, rows: Dataset) -> tuple[Dataset, Dataset]:
    """Nine tenths of the rows and the last tenth; rows that share their first text, such as a passage, stay together.

    Texts are taken from the end, each with all its rows, as long as they fit into a tenth; at least the last text is
    held out. InputError if all rows share one text.
    """
    first = task.text_columns[0]
    texts = rows[first][:]
    counts = Counter(texts)
    if len(counts) < 2:
        raise InputError(f"{task.name} has {len(counts)} different {first} to hold out of; valid: 2 or more")
    held, room = set(), max(1, len(texts) // 10)
    for text in reversed(counts):
        if counts[text] <= room:
            held.add(text)
            room -= counts[text]
    held = held or {next(reversed(counts))}
    places = {side: [at for at, text in enumerate(texts) if (text in held) == side] for side in (False, True)}
    return rows.select(places[False]), rows.select(places[True])
