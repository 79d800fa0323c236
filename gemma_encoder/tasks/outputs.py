"""From what a model says to what a task scores, for every kind of task."""

from __future__ import annotations

from typing import Any, Literal

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gemma_encoder.heads import GemmaEncoderForRanking, GemmaEncoderForSequenceClassification
from gemma_encoder.inference import in_batches
from gemma_encoder.losses import ranking_loss
from gemma_encoder.tasks.task import Task

Head = GemmaEncoderForRanking | GemmaEncoderForSequenceClassification


def head_of(task: Task) -> type[Head]:
    """The model of the task: one that gives each candidate of a list a score, or one that answers for a row."""
    return GemmaEncoderForRanking if task.has_lists else GemmaEncoderForSequenceClassification


def logits_of(
    task: Task, model: Head, encoded: Dataset, batch_size: int, side: Literal["left", "right"] = "right"
) -> list[Tensor]:
    """For every row its logits `(num_labels,)`, or its scores `(candidates,)`."""
    rows = encoded["input_ids"][:]
    if not task.has_lists:
        return list(in_batches(model, rows, lambda ids, mask: model(ids, mask).logits, batch_size, side=side))

    def alone(ids: Tensor, mask: Tensor) -> Tensor:
        return model(ids.unsqueeze(1), mask.unsqueeze(1)).logits.squeeze(1)  # lists of one: a score sees no other

    scores = in_batches(model, [ids for row in rows for ids in row], alone, batch_size, side=side)
    return list(scores.split([len(row) for row in rows]))


def loss_of(task: Task, model: Head, logits: list[Tensor], rows: Dataset) -> float:
    """The mean training loss over rows; lists in which nothing is relevant have none, and are left out."""
    labels = rows[task.label_column][:]
    if not task.has_lists:
        return model.loss(torch.stack(logits), torch.tensor(labels)).item()
    grades = [torch.tensor([float(grade >= task.relevant) for grade in row]) for row in labels]
    pairs = [(scores, row) for scores, row in zip(logits, grades, strict=True) if row.any()]
    if not pairs:
        return float("nan")
    scores, wanted = (pad_sequence(list(part), batch_first=True) for part in zip(*pairs, strict=True))
    filled = pad_sequence([torch.ones_like(row) for _, row in pairs], batch_first=True)
    return ranking_loss(model.config.ranking_loss)(scores, wanted, filled).item()


def predictions_of(task: Task, logits: list[Tensor], rows: Dataset) -> list[Any]:
    """Per row: class, number, place of the chosen candidate (ReCoRD: its text), or the score of every passage."""
    if task.kind == "regression":
        return [row.item() for row in logits]
    if task.kind == "ranking":
        return [row.tolist() for row in logits]
    chosen = [row.argmax().item() for row in logits]
    if task.view == "record":
        return [row[at] for at, row in zip(chosen, rows[task.text_columns[-1]], strict=True)]
    return chosen


def references_of(task: Task, rows: Dataset) -> list[Any]:
    """What the predictions of the task are held against, as its metrics take it."""
    labels = rows[task.label_column][:]
    if task.kind == "ranking":
        lists = zip(labels, rows["ideal_grades"], strict=True)
        return [{"grades": grades, "ideal": ideal, "relevant": task.relevant} for grades, ideal in lists]
    if task.view == "record":
        lists = zip(rows[task.text_columns[-1]], labels, strict=True)
        return [[text for text, right in zip(*row, strict=True) if right] for row in lists]
    if task.view == "multirc":
        questions = [f"{idx['paragraph']}-{idx['question']}" for idx in rows["idx"]]
        return [{"question": question, "label": label} for question, label in zip(questions, labels, strict=True)]
    return [row.index(max(row)) for row in labels] if task.kind == "choice" else labels
