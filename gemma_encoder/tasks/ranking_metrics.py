"""Metrics of ranked lists, in expectation over the orders of passages with equal scores.

So a model that gives every passage the same score gets what a random order gets on average, in whatever order the
candidates lie in the file. A query without a relevant passage counts 0 in each of them, and stays in the mean.
Sources: MS MARCO (MRR@10), trec_eval (ndcg_cut_10 with gain = grade, recall_10).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
from datasets import List, Value

from gemma_encoder.tasks.in_memory import InMemoryMetric

DEPTH = 10


def _ties(scores: list[float], gains: list[float]) -> Iterator[list[float]]:
    """The gains of each group of equal scores, the highest score first."""
    ranked = sorted(zip(scores, gains, strict=True), key=lambda pair: -pair[0])
    for _, group in groupby(ranked, key=lambda pair: pair[0]):
        yield [gain for _, gain in group]


def _expected_gains(scores: list[float], gains: list[float]) -> list[float]:
    """The expected gain at every rank: within a group of ties, the mean of the group."""
    return [sum(group) / len(group) for group in _ties(scores, gains) for _ in group]


def _dcg(gains: list[float]) -> float:
    return sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains[:DEPTH], 1))


def all_grades(grades: Iterable[int], ideal: Iterable[int]) -> list[int]:
    """The grades of a query, the best first, from those of its passages and the best of all: each as often as known."""
    return sorted((Counter(grades) | Counter(ideal)).elements(), reverse=True)


class RankingMetric(InMemoryMetric):
    """The mean over queries of `query`.

    A prediction is one score a passage. A reference is {"grades": one grade a passage, "ideal": the grades of all
    judged passages of the query, the best ten at least ([] where all are in the list), "relevant": the least grade that
    counts as relevant}.
    """

    columns: ClassVar = {
        "predictions": List(Value("float64")),
        "references": {"grades": List(Value("int64")), "ideal": List(Value("int64")), "relevant": Value("int64")},
    }

    def _compute(self, predictions: list[list[float]], references: list[dict]) -> dict[str, float]:
        values = [self.query(scores, query) for scores, query in zip(predictions, references, strict=True)]
        return {self.name: float(np.mean(values))}

    @staticmethod
    def query(scores: list[float], reference: Mapping[str, Any]) -> float:
        """The value of one query."""
        raise NotImplementedError


class Mrr10(RankingMetric):
    """MRR@10: 1 / rank of the first relevant passage, 0 behind rank 10; the mean over queries."""

    @staticmethod
    def query(scores: list[float], reference: Mapping[str, Any]) -> float:
        before = 0
        for group in _ties(scores, [grade >= reference["relevant"] for grade in reference["grades"]]):
            if any(group):
                return _expected_reciprocal_rank(before, len(group), sum(group))
            before += len(group)
        return 0.0


def _expected_reciprocal_rank(before: int, size: int, relevant: int) -> float:
    """E[1 / rank] of the first of `relevant` among `size` passages in random order behind `before` others."""
    expected, none_yet = 0.0, 1.0  # the chance that no relevant one stands earlier in the group
    for at in range(min(size, DEPTH - before)):
        here = min(1.0, relevant / (size - at))
        expected += none_yet * here / (before + at + 1)
        none_yet *= 1 - here
    return expected


class Ndcg10(RankingMetric):
    """nDCG@10: sum of grade / log2(rank + 1) over ranks 1 to 10, over that of the best order; the mean over queries."""

    @staticmethod
    def query(scores: list[float], reference: Mapping[str, Any]) -> float:
        best = _dcg(all_grades(reference["grades"], reference["ideal"]))
        return _dcg(_expected_gains(scores, reference["grades"])) / best if best else 0.0


class Recall10(RankingMetric):
    """Recall@10: share of the known relevant passages of a query that stand in the first 10; the mean over queries.

    Known are those of the list, and those of "ideal" that the list lacks: a shorter list is no easier.
    """

    @staticmethod
    def query(scores: list[float], reference: Mapping[str, Any]) -> float:
        relevant = [float(grade >= reference["relevant"]) for grade in reference["grades"]]
        known = sum(grade >= reference["relevant"] for grade in all_grades(reference["grades"], reference["ideal"]))
        return sum(_expected_gains(scores, relevant)[:DEPTH]) / known if known else 0.0
