"""The metrics of the tasks, over scikit-learn and scipy, and how a task is scored by them.

Where a metric is undefined because all predictions (or all references) are equal, its value is 0.0.
Source: GLUE (Wang et al., 2018), section 3 and its reference code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from datasets import Value
from numpy.typing import ArrayLike, NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from gemma_encoder.errors import InputError
from gemma_encoder.tasks.in_memory import InMemoryMetric
from gemma_encoder.tasks.ranking_metrics import Mrr10, Ndcg10, Recall10
from gemma_encoder.tasks.reading_metrics import Em, EmQuestion, F1a, F1Token
from gemma_encoder.tasks.task import Task

FLOATS = {"predictions": Value("float64"), "references": Value("float64")}


class Accuracy(InMemoryMetric):
    """Share of predictions that equal their reference."""

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(InMemoryMetric):
    """F1 of class 1: 2 TP / (2 TP + FP + FN); 0 where class 1 is neither predicted nor there."""

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return {"f1": float(f1_score(references, predictions, zero_division=0.0))}


class MacroF1(InMemoryMetric):
    """The plain mean of the F1 of every class that is predicted or there."""

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return {"macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0.0))}


class Matthews(InMemoryMetric):
    """Matthews' correlation of two classifications, from -1 to 1; 0 where either is constant."""

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        defined = not (_constant(predictions) or _constant(references))
        return {"matthews": float(matthews_corrcoef(references, predictions)) if defined else 0.0}


class Pearson(InMemoryMetric):
    """Pearson's linear correlation, from -1 to 1; 0 where either side is constant."""

    columns = FLOATS

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        defined = not (_constant(predictions) or _constant(references))
        return {"pearson": float(pearsonr(predictions, references).statistic) if defined else 0.0}


class Spearman(InMemoryMetric):
    """Spearman's rank correlation, from -1 to 1, tied ranks averaged; 0 where either side is constant."""

    columns = FLOATS

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        defined = not (_constant(predictions) or _constant(references))
        return {"spearman": float(spearmanr(predictions, references).statistic) if defined else 0.0}


METRICS: dict[str, type[InMemoryMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "macro_f1": MacroF1,
    "matthews": Matthews,
    "pearson": Pearson,
    "spearman": Spearman,
    "f1a": F1a,
    "em_question": EmQuestion,
    "f1_token": F1Token,
    "em": Em,
    "mrr10": Mrr10,
    "ndcg10": Ndcg10,
    "recall10": Recall10,
}


def compute(task: Task, predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """Every metric of the task, as fractions: {"accuracy": 0.91}.

    predictions, references: one a row, as `outputs.predictions_of` and `outputs.references_of` give them: class
    integers for classification, finite numbers for regression, dictionaries and lists where the metric needs more.
    Raises InputError for another shape, unequal lengths, no rows, an integer that is no class, NaN or infinity.
    """
    if task.kind == "ranking":
        _check_scores(predictions, references)
    elif task.kind == "choice" or isinstance(next(iter(references), None), dict):
        _check_length(len(predictions), len(references))
        check_answers(task, predictions)
    else:
        predictions, references = _checked_values(task, np.asarray(predictions), np.asarray(references))
    values: dict[str, float] = {}
    for name in (*task.metrics, *task.also):
        values |= METRICS[name]().compute(predictions=predictions, references=references)
    return values


def joined(splits: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The metrics of several validation splits under one roof: {"accuracy": 0.91, "accuracy_mismatched": 0.9}."""
    return {
        f"{name}{split.removeprefix('validation')}": value
        for split, values in splits.items()
        for name, value in values.items()
    }


def score(task: Task, values: Mapping[str, float]) -> float:
    """The score of the task in its benchmark: the plain mean of its metrics, times 100.

    Where `values` has the metrics of further splits, as MNLI's mismatched one, these are part of the mean.
    """
    names = list(task.metrics)
    for split in task.splits:
        further = [f"{name}{split.removeprefix('validation')}" for name in task.metrics]
        names += [name for name in further if name in values and name not in names]
    return 100 * sum(values[name] for name in names) / len(names)


def _check_length(predictions: int, references: int) -> None:
    if predictions != references:
        raise InputError(f"{predictions} predictions for {references} references; valid: one for every row in both")
    if not references:
        raise InputError("no rows to score; valid: at least one prediction and its reference")


def _check_scores(predictions: Sequence[Sequence[float]], references: Sequence[Mapping]) -> None:
    _check_length(len(predictions), len(references))
    for row, (scores, reference) in enumerate(zip(predictions, references, strict=True)):
        if len(scores) != len(reference["grades"]) or not np.isfinite(scores).all():
            found = f"{len(scores)} scores for {len(reference['grades'])} passages"
            raise InputError(f"{found} in row {row} (counted from 0); valid: one finite number for each passage")


def _checked_values(task: Task, predictions: NDArray, references: NDArray) -> tuple[NDArray, NDArray]:
    if predictions.shape != references.shape or predictions.ndim != 1:
        raise InputError(
            f"predictions of shape {predictions.shape} for references of shape {references.shape}; "
            "valid: one value per row in both"
        )
    _check_length(len(predictions), len(references))
    check_values(task, "prediction", predictions)
    check_values(task, "reference", references)
    return predictions, references


def check_answers(task: Task, predictions: Sequence[Any]) -> None:
    """InputError naming the first of the predictions that `outputs.predictions_of` does not give for the task."""
    if task.kind != "choice":
        check_values(task, "prediction", np.asarray(predictions))
        return
    kind, valid = (str, "a text") if task.view == "record" else (Integral, "a candidate's number, from 0")
    for row, answer in enumerate(predictions):
        if isinstance(answer, bool) or not isinstance(answer, kind) or (kind is Integral and answer < 0):
            raise InputError(f"prediction {answer!r} in row {row} (counted from 0); valid for {task.name}: {valid}")


def check_values(task: Task, what: str, values: NDArray) -> None:
    """InputError naming the first of `values (rows,)` that is no class, or no finite number, of the task."""
    if task.labels:
        valid = f"integers from 0 to {len(task.labels) - 1}"
        good = np.isin(values, range(len(task.labels))) if values.dtype.kind in "iu" else np.zeros(len(values), bool)
    else:
        valid = "finite numbers"
        good = np.isfinite(values) if values.dtype.kind in "iuf" else np.zeros(len(values), bool)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(f"{what} {values[row]!s} in row {row} (counted from 0); valid for {task.name}: {valid}")


def _constant(values: list) -> bool:
    """Whether all values are equal, up to the rounding noise in which scipy, too, sees no correlation."""
    return bool(np.ptp(values) <= 1e-11 * np.abs(values).max())
