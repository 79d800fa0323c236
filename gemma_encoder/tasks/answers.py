"""What a fine-tuned model answers to test splits and diagnostic sets.

    model, tokenizer = load_model(folder), load_tokenizer(folder)
    submit(get_task("rte_superglue"), model, tokenizer, "hub", Path("submission"))
    diagnose(get_diagnostic("axb"), model, tokenizer, "hub", Path("submission"))

`settings` are those of `answers`: max_length, truncate and batch_size.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from gemma_encoder.errors import InputError
from gemma_encoder.paths import check_writable
from gemma_encoder.tasks.diagnostics import Diagnostic
from gemma_encoder.tasks.encode import encode
from gemma_encoder.tasks.metrics import compute
from gemma_encoder.tasks.outputs import Head, head_of, logits_of, predictions_of, references_of
from gemma_encoder.tasks.sources import load_test
from gemma_encoder.tasks.submission import test_splits, write_submission
from gemma_encoder.tasks.task import Task


def answers(
    task: Task,
    model: Head,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    max_length: int = 512,
    truncate: bool = False,
    batch_size: int = 32,
) -> list[Any]:
    """One prediction a row, as `outputs.predictions_of` gives it. InputError for a model of another kind of task."""
    wanted = (head_of(task).__name__, task.num_labels, task.text_columns)
    found = (type(model).__name__, model.config.num_labels, tuple(model.config.text_columns))
    if found != wanted:
        raise InputError(f"a model of {found} does not answer {task.name}; valid: one fine-tuned for {wanted}")
    names = tuple(model.config.id2label.values())
    if task.labels and names != task.labels and not all(map(re.compile(r"LABEL_\d+").fullmatch, names)):
        raise InputError(f"a model of the classes {names} does not answer {task.name}; valid: {task.labels}")
    encoded, cut = encode(rows, task, tokenizer, max_length, truncate)
    if cut:
        warnings.warn(f"{cut} texts of {task.name} were cut to {max_length} tokens", stacklevel=3)
    return predictions_of(task, logits_of(task, model, encoded, batch_size), rows)


def submit(
    task: Task, model: Head, tokenizer: PreTrainedTokenizerBase, data: str | Path, folder: Path, **settings: Any
) -> list[Path]:
    """Answer the test split of `task` (of MNLI both) and write the files that its server takes."""
    check_writable(folder)  # before all rows are answered, not after
    files = []
    for split in test_splits(task):
        rows = load_test(task, data, split)
        predictions = answers(task, model, tokenizer, rows, **settings)
        files.append(write_submission(task, predictions, _indices(rows), folder, split))
    return files


def diagnose(
    diagnostic: Diagnostic,
    model: Head,
    tokenizer: PreTrainedTokenizerBase,
    data: str | Path,
    folder: Path | None = None,
    **settings: Any,
) -> dict[str, float]:
    """The metrics of a diagnostic set by a model of its `head`; none where its labels are not public.

    With `folder`, the file that the server takes is written there.
    """
    if folder is not None:
        check_writable(folder)
    task, rows = diagnostic.rows, load_test(diagnostic.rows, data)
    predictions = answers(task, model, tokenizer, rows, **settings)
    if folder is not None:
        write_submission(task, predictions, _indices(rows), folder)
    return compute(task, predictions, references_of(task, rows)) if task.label_column in rows.column_names else {}


def _indices(rows: Dataset) -> Sequence[Any]:
    """The official row numbers, or the places in the file where it has none."""
    return rows["idx"][:] if "idx" in rows.column_names else range(len(rows))
