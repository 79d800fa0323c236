"""Test predictions in the files that the GLUE and SuperGLUE servers take.

GLUE: one TSV a task, `index<TAB>prediction`, with a header. SuperGLUE: one JSON object a line, `{"idx", "label"}`.
Source: the submission guides of gluebenchmark.com and super.gluebenchmark.com.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.files import write_whole
from gemma_encoder.tasks.diagnostics import DIAGNOSTICS
from gemma_encoder.tasks.glue import GLUE
from gemma_encoder.tasks.metrics import check_answers
from gemma_encoder.tasks.superglue import SUPERGLUE
from gemma_encoder.tasks.task import Task

NAMED = ("mnli", "qnli", "rte", "ax")  # of GLUE, these are answered by names of classes, the others by numbers
SETS = (*GLUE, *SUPERGLUE, *(diagnostic.rows for diagnostic in DIAGNOSTICS.values()))
FILES = {task.name: task.title for task in SETS} | {"rte_superglue": "RTE"}


def test_splits(task: Task) -> tuple[str, ...]:
    """The names of the official test splits of a task."""
    return ("test_matched", "test_mismatched") if task.name == "mnli" else ("test",)


def write_submission(
    task: Task, predictions: Sequence[Any], indices: Sequence[Any], folder: Path, split: str = "test"
) -> Path:
    """Write the predictions of the official test split and return the file.

    predictions: one a row, as `outputs.predictions_of` gives them; indices: the column `idx` of those rows.
    split: one of `test_splits`; those of MNLI are two files.
    Raises InputError for a task of neither benchmark, for unequal lengths, and for an answer that the task has not.
    """
    check_choice("task of GLUE or SuperGLUE", task.name, FILES)
    check_choice("split", split, test_splits(task))
    if len(predictions) != len(indices):
        raise InputError(f"{len(predictions)} predictions for {len(indices)} rows; valid: one for every row")
    if len(set(map(str, indices))) < len(indices):
        raise InputError(f"an index twice in {len(indices)} rows of {task.name}; valid: every row once")
    check_answers(task, predictions)
    if task.name == "copa" and (wrong := set(predictions) - {0, 1}):
        raise InputError(f"predictions {sorted(wrong)} of copa; valid: 0 or 1")
    lines = _tsv(task, predictions, indices) if task.suite == "glue" else _jsonl(task, predictions, indices)
    part = {"test": "", "test_matched": "-m", "test_mismatched": "-mm"}[split]
    path = folder / f"{FILES[task.name]}{part}.{'tsv' if task.suite == 'glue' else 'jsonl'}"
    write_whole(path, "".join(f"{line}\n" for line in lines))
    return path


def _tsv(task: Task, predictions: Sequence[Any], indices: Sequence[int]) -> list[str]:
    low, high = task.label_range
    if task.name in NAMED:
        values = [task.labels[prediction] for prediction in predictions]
    elif task.kind == "regression":
        values = [f"{min(max(prediction, low), high):.3f}" for prediction in predictions]
    else:
        values = list(map(str, predictions))
    return ["index\tprediction", *(f"{index}\t{value}" for index, value in zip(indices, values, strict=True))]


def _jsonl(task: Task, predictions: Sequence[Any], indices: Sequence[Any]) -> list[str]:
    if task.name == "multirc":
        return [json.dumps(row) for row in _passages(predictions, indices)]
    if task.name == "record":
        indices = [index["query"] for index in indices]
    if task.labels:
        names = [name.lower() if task.name in ("boolq", "wic") else name for name in task.labels]
        predictions = [names[prediction] for prediction in predictions]
    rows = zip(indices, predictions, strict=True)
    return [json.dumps({"idx": index, "label": label}, ensure_ascii=False) for index, label in rows]


def _passages(predictions: Sequence[int], indices: Sequence[dict[str, int]]) -> list[dict[str, Any]]:
    """MultiRC: answers within their question within their passage."""
    passages: dict[int, dict[int, list[dict[str, int]]]] = {}
    for prediction, index in zip(predictions, indices, strict=True):
        questions = passages.setdefault(index["paragraph"], {})
        questions.setdefault(index["question"], []).append({"idx": index["answer"], "label": prediction})
    return [
        {"idx": paragraph, "passage": {"questions": [{"idx": at, "answers": rows} for at, rows in questions.items()]}}
        for paragraph, questions in passages.items()
    ]
