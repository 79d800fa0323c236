"""The metrics of the tasks: `evaluate.Metric` classes over scikit-learn and scipy, without hub, network or files.

Where a metric is undefined because all predictions (or all references) are equal, its value is 0.0.
Source: GLUE (Wang et al., 2018), section 3 and its reference code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value
from numpy.typing import ArrayLike, NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from gemma_encoder.errors import InputError
from gemma_encoder.tasks.task import Task


class _InMemoryMetric(evaluate.Metric):
    """A metric that keeps its values in memory: upstream writes Arrow files to a cache that processes share."""

    dtype = "int64"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, keep_in_memory=True)

    def _build_data_dir(self) -> str:
        return ""  # upstream would create its cache folder here, which nothing would ever use

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": Value(self.dtype), "references": Value(self.dtype)})
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=features)


class Accuracy(_InMemoryMetric):
    """Share of predictions that equal their reference."""

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(_InMemoryMetric):
    """F1 of class 1: 2 TP / (2 TP + FP + FN); 0 where class 1 is neither predicted nor there."""

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return {"f1": float(f1_score(references, predictions, zero_division=0.0))}


class Matthews(_InMemoryMetric):
    """Matthews' correlation of two classifications, from -1 to 1; 0 where either is constant."""

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        defined = not (_constant(predictions) or _constant(references))
        return {"matthews": float(matthews_corrcoef(references, predictions)) if defined else 0.0}


class Pearson(_InMemoryMetric):
    """Pearson's linear correlation, from -1 to 1; 0 where either side is constant."""

    dtype = "float64"

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        defined = not (_constant(predictions) or _constant(references))
        return {"pearson": float(pearsonr(predictions, references).statistic) if defined else 0.0}


class Spearman(_InMemoryMetric):
    """Spearman's rank correlation, from -1 to 1, tied ranks averaged; 0 where either side is constant."""

    dtype = "float64"

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        defined = not (_constant(predictions) or _constant(references))
        return {"spearman": float(spearmanr(predictions, references).statistic) if defined else 0.0}


METRICS: dict[str, type[_InMemoryMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "matthews": Matthews,
    "pearson": Pearson,
    "spearman": Spearman,
}


def compute(task: Task, predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """Every metric of the task, as fractions: {"accuracy": 0.91}.

    predictions, references: `(rows,)`, class integers for classification, finite numbers for regression.
    Raises InputError for another shape, unequal lengths, no rows, an integer that is no class, NaN or infinity.
    """
    predictions, references = np.asarray(predictions), np.asarray(references)
    if predictions.shape != references.shape or predictions.ndim != 1:
        raise InputError(
            f"predictions of shape {predictions.shape} for references of shape {references.shape}; "
            "valid: one value per row in both"
        )
    if not len(predictions):
        raise InputError("no rows to score; valid: at least one prediction and its reference")
    _check_values(task, "prediction", predictions)
    _check_values(task, "reference", references)
    values: dict[str, float] = {}
    for name in task.metrics:
        values |= METRICS[name]().compute(predictions=predictions, references=references)
    return values


def score(task: Task, values: Mapping[str, float]) -> float:
    """The GLUE score of the task: the plain mean of its metrics, times 100."""
    return 100 * sum(values[name] for name in task.metrics) / len(task.metrics)


def _check_values(task: Task, what: str, values: NDArray) -> None:
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
