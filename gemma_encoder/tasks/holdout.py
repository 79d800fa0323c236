"""A part of the training rows to choose settings on, so that nothing is ever chosen on the validation rows."""

from __future__ import annotations

from datasets import Dataset

from gemma_encoder.tasks.task import Task

PASSAGE = {"multirc": "paragraph", "record": "passage"}  # what in `idx` rows about one passage have in common


def hold_out(task: Task, rows: Dataset) -> tuple[Dataset, Dataset]:
    """Nine tenths of the rows and the last tenth; rows about one passage stay on one side."""
    passages = [idx[PASSAGE[task.view]] for idx in rows["idx"]] if task.view in PASSAGE else range(len(rows))
    order = list(dict.fromkeys(passages))
    held = set(order[-max(1, len(order) // 10) :])
    places = {side: [at for at, passage in enumerate(passages) if (passage in held) == side] for side in (False, True)}
    return rows.select(places[False]), rows.select(places[True])
