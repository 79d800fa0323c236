"""Ranking metrics: by hand, against trec_eval, and in expectation where scores are equal."""

from itertools import permutations
from math import log2

import numpy as np
import pytest
import pytrec_eval
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gemma_encoder import InputError
from gemma_encoder.tasks import METRICS, compute, get_task

MSMARCO = get_task("msmarco")
NAMES = {"mrr10", "ndcg10", "recall10"}
LISTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=6)


def values(scores, grades, ideal=(), relevant=1) -> dict[str, float]:
    reference = {"grades": list(grades), "ideal": list(ideal), "relevant": relevant}
    return compute(MSMARCO, [[float(score) for score in scores]], [reference])


def test_values_worked_out_by_hand():
    found = values([0.1, 0.9, 0.5], [2, 0, 1])  # in order: grades 0, 1, 2
    best = 2 + 1 / log2(3)
    assert found == pytest.approx({"mrr10": 1 / 2, "ndcg10": (1 / log2(3) + 2 / 2) / best, "recall10": 1.0})
    assert values([0.1, 0.9, 0.5], [2, 0, 1], relevant=2)["mrr10"] == pytest.approx(1 / 3)


def test_what_stands_behind_rank_10_does_not_count():
    grades = [0] * 10 + [1]
    assert values(range(11, 0, -1), grades) == {"mrr10": 0.0, "ndcg10": 0.0, "recall10": 0.0}
    assert values(range(11), grades) == {"mrr10": 1.0, "ndcg10": 1.0, "recall10": 1.0}


def test_grades_that_have_no_passage_here_are_part_of_the_best_order():
    assert values([2, 1], [1, 0], ideal=[3, 1])["ndcg10"] == pytest.approx(1 / (3 + 1 / log2(3)))


def test_a_shorter_list_has_no_better_recall():
    grades = [2, 0, 1] + [0] * 9 + [1, 1]  # four relevant ones, two of them behind rank 12
    whole, cut = values(range(14, 0, -1), grades), values(range(12, 0, -1), grades[:12], ideal=[2, 1, 1, 1])
    assert whole["recall10"] == 0.5 and cut == whole


def test_a_query_without_a_relevant_passage_counts_zero_and_stays_in_the_mean():
    assert values([2, 1], [0, 0]) == dict.fromkeys(values([1], [1]), 0.0)
    queries = [{"grades": grades, "ideal": [], "relevant": 1} for grades in ([1, 0], [0, 0])]
    assert compute(MSMARCO, [[2.0, 1.0]] * 2, queries)["mrr10"] == 0.5


@given(LISTS)
@example([(1.0, 1), (1.0, 0), (0.0, 2)])
def test_equal_scores_give_the_mean_over_all_their_orders(pairs):
    scores, grades = zip(*pairs, strict=True)
    found = values(scores, grades)
    orders = [order for order in permutations(range(len(pairs))) if _sorted(scores, order)]
    assume(len(orders) <= 60)  # more take long
    untied = [values(range(len(order), 0, -1), [grades[at] for at in order]) for order in orders]
    assert found == pytest.approx({name: np.mean([row[name] for row in untied]) for name in found})


def _sorted(scores, order) -> bool:
    ranked = [scores[at] for at in order]
    return ranked == sorted(ranked, reverse=True)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.randoms())
def test_a_constant_scorer_gets_the_same_in_any_order_of_the_candidates(grades, draw):
    other = draw.sample(grades, len(grades))
    assert values([0.5] * len(grades), grades) == pytest.approx(values([0.5] * len(grades), other))


def test_one_relevant_passage_among_equals_has_the_mean_reciprocal_rank():
    assert values([1] * 20, [1] + [0] * 19)["mrr10"] == pytest.approx(sum(1 / rank for rank in range(1, 11)) / 20)


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30).filter(any), min_size=1, max_size=4),
    st.integers(1, 30),
    st.randoms(),
)
def test_distinct_scores_give_what_trec_eval_gives(judgements, kept, draw):
    """`kept` passages of a query are ranked, while trec_eval knows the grades of all."""
    queries = [row[:kept] for row in judgements]
    scores = [[float(score) for score in draw.sample(range(100), len(grades))] for grades in queries]
    judged = {str(at): {str(doc): grade for doc, grade in enumerate(row)} for at, row in enumerate(judgements)}
    ranked = {str(at): {str(doc): score for doc, score in enumerate(row)} for at, row in enumerate(scores)}
    theirs = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut_10", "recall_10", "recip_rank"}).evaluate(ranked)
    references = [
        {"grades": row, "ideal": [grade for grade in every if grade], "relevant": 1}
        for row, every in zip(queries, judgements, strict=True)
    ]
    found = compute(MSMARCO, scores, references)
    means = {name: np.mean([row[name] for row in theirs.values()]) for name in ("ndcg_cut_10", "recall_10")}
    ranks = [row["recip_rank"] if row["recip_rank"] > 1 / 10.5 else 0.0 for row in theirs.values()]
    assert found == pytest.approx(
        {"ndcg10": means["ndcg_cut_10"], "recall10": means["recall_10"], "mrr10": np.mean(ranks)}, abs=1e-9
    )
    assert set(found) == NAMES <= set(METRICS)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[1.0]], "1 scores for 2 passages in row 0 (counted from 0); valid: one finite number for each passage"),
        (
            [[1.0, np.nan]],
            "2 scores for 2 passages in row 0 (counted from 0); valid: one finite number for each passage",
        ),
        ([], "0 predictions for 1 references; valid: one for every row in both"),
    ],
)
def test_scores_that_do_not_fit_are_named(scores, message):
    with pytest.raises(InputError) as caught:
        compute(MSMARCO, scores, [{"grades": [1, 0], "ideal": [], "relevant": 1}])
    assert str(caught.value) == message
