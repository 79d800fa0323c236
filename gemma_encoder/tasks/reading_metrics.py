"""The metrics of SuperGLUE's reading tasks, MultiRC and ReCoRD.

Sources: MultiRC (Khashabi et al., 2018), ReCoRD (Zhang et al., 2018), SuperGLUE (Wang et al., 2019), section 3.
"""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from datasets import List, Value
from sklearn.metrics import f1_score

from gemma_encoder.tasks.in_memory import InMemoryMetric


class MultiRCMetric(InMemoryMetric):
    """A reference is {"question": which question the answer belongs to, "label": 0 or 1}."""

    columns: ClassVar = {
        "predictions": Value("int64"),
        "references": {"question": Value("string"), "label": Value("int64")},
    }


class F1a(MultiRCMetric):
    """F1 of class 1 over all answers of all questions; 0 where class 1 is neither predicted nor there."""

    def _compute(self, predictions: list[int], references: list[dict]) -> dict[str, float]:
        return {"f1a": float(f1_score([row["label"] for row in references], predictions, zero_division=0.0))}


class EmQuestion(MultiRCMetric):
    """Share of questions whose answers are all judged right."""

    def _compute(self, predictions: list[int], references: list[dict]) -> dict[str, float]:
        right = defaultdict(lambda: True)
        for prediction, row in zip(predictions, references, strict=True):
            right[row["question"]] &= prediction == row["label"]
        return {"em_question": float(np.mean(list(right.values())))}


def normalised(text: str) -> str:
    """Lower case, without punctuation, without the articles a, an and the, single spaces."""
    text = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _token_f1(prediction: str, answer: str) -> float:
    found, wanted = normalised(prediction).split(), normalised(answer).split()
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted)) if common else 0.0


def _equal(prediction: str, answer: str) -> float:
    return float(normalised(prediction) == normalised(answer))


class ReCoRDMetric(InMemoryMetric):
    """A prediction is a text, a reference the list of right answers; the best of them counts."""

    columns: ClassVar = {"predictions": Value("string"), "references": List(Value("string"))}
    likeness: ClassVar[Callable[[str, str], float]]

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        values = [max(type(self).likeness(prediction, answer) for answer in answers) for prediction, answers in pairs]
        return {self.name: float(np.mean(values))}


class F1Token(ReCoRDMetric):
    """F1 of the words of prediction and best answer, both normalised; the mean over rows."""

    likeness = staticmethod(_token_f1)


class Em(ReCoRDMetric):
    """Share of predictions that equal one of their answers, both normalised."""

    likeness = staticmethod(_equal)
