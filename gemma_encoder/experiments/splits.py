"""Which rows a run trains on, and which it is scored on."""

from __future__ import annotations

from datasets import DatasetDict

from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.tasks import first_candidates, get_task, hold_out, load, training_lists

SUBSET_SEED = 2503  # the subset of examples is the same for every seed of a spec


def split(spec: RunSpec) -> DatasetDict:
    """The rows a run trains on and is scored on: those of `plain_split`, of train the first `spec.train_examples`.

    For ranking, train holds lists drawn from its queries, the same for every seed of a spec.
    """
    task, rows = get_task(spec.task), plain_split(spec)
    if spec.train_examples:
        rows["train"] = rows["train"].select(range(min(spec.train_examples, len(rows["train"]))))
    if task.kind == "ranking":
        rows["train"] = training_lists(task, rows["train"], spec.list_size, SUBSET_SEED)
    return rows


def plain_split(spec: RunSpec) -> DatasetDict:
    """All training rows in their fixed shuffle, and those scored: "validation", further validation splits of the task.

    With evaluate_on="holdout" all come from the training split, the last tenth of its fixed shuffle being scored; rows
    that share their first text stay on one side. For ranking, the rows scored hold the first `spec.candidates`
    passages of BM25.
    """
    task = get_task(spec.task)
    rows = load(task, spec.data)
    train, scored = rows.pop("train").shuffle(seed=SUBSET_SEED), dict(rows)
    if spec.evaluate_on == "holdout":
        train, held = hold_out(task, train)
        scored = {"validation": held}
    if spec.candidates:
        scored = {name: first_candidates(part, spec.candidates) for name, part in scored.items()}
    return DatasetDict(train=train, **scored)
