"""Statistics against scipy, against hand-worked cases, and in words."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gemma_encoder.errors import InputError
from gemma_encoder.reports.statistics import LEVEL, Paired, above, at_once, paired, seed_means, summary, verdict, words

POINTS = st.lists(st.floats(0, 100).map(lambda x: round(x, 2)), min_size=2, max_size=12)


@given(POINTS)
def test_summary_agrees_with_scipy(values):
    of = summary(values)
    if np.ptp(values) == 0:
        assert of.low == pytest.approx(of.mean) == pytest.approx(of.high)
        return
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (of.mean, of.low, of.high, of.n) == (
        pytest.approx(np.mean(values)),
        pytest.approx(low),
        pytest.approx(high),
        len(values),
    )


def test_summary_by_hand():
    of = summary([80, 82, 84])
    assert (of.mean, of.sd) == (82, 2)
    assert of.high - of.mean == pytest.approx(4.3027 * 2 / math.sqrt(3), abs=1e-3)
    assert str(of) == "82.0 (95 % interval 77.0 to 87.0, 3 seeds)"


def test_one_seed_has_no_interval_and_says_so():
    of = summary([80])
    assert math.isnan(of.low) and math.isnan(of.high) and math.isnan(of.sd)
    assert str(of) == "80.0 (1 seed, no interval)"


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_summary_refuses_what_has_no_mean(values):
    with pytest.raises(InputError, match="received"):
        summary(values)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=10))
def test_paired_agrees_with_scipy(pairs):
    a, b = (np.array(side) / 10 for side in zip(*pairs, strict=True))
    result = paired(dict(enumerate(a)), dict(enumerate(b)))
    if np.ptp(np.round(a - b, 6)) == 0:
        assert result.low == pytest.approx(result.high, abs=1e-6)
        return
    test = stats.ttest_rel(a, b)
    low, high = test.confidence_interval(0.95)
    assert (result.low, result.high) == (pytest.approx(low), pytest.approx(high))


def test_pairs_are_matched_by_seed_not_by_position():
    result = paired(pd.Series({0: 80.0, 1: 90.0}), pd.Series({1: 89.0, 0: 79.0}))
    assert (result.difference, result.low, result.high) == (1, 1, 1)


def test_unequal_seeds_are_refused_by_name():
    with pytest.raises(InputError, match=r"\[0, 1\] and \[0, 2\]"):
        paired({0: 1.0, 1: 2.0}, {0: 1.0, 2: 2.0})


def test_intervals_that_hold_at_once_are_those_of_bonferroni():
    a, b = {0: 5.0, 1: 7.0, 2: 6.5}, {0: 4.0, 1: 5.0, 2: 5.5}
    found = paired(a, b, level=at_once(12))
    expected = stats.ttest_rel(list(a.values()), list(b.values())).confidence_interval(1 - 0.05 / 12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert at_once(1) == LEVEL
    assert found.low < paired(a, b).low < paired(a, b).high < found.high


def test_words_claim_a_difference_only_if_zero_is_outside():
    names = ("bidirectional", "causal")
    higher = Paired(3.14, 1.02, 5.2, 5, names)
    assert words(higher) == "bidirectional is 3.1 points above causal (95 % interval 1.0 to 5.2, 5 paired seeds)"
    below = Paired(-3.1, -5.2, -1.0, 5, names)
    assert words(below).startswith("bidirectional is 3.1 points below causal (95 %")
    nothing = Paired(0.4, -0.9, 1.7, 5, names)
    assert words(nothing) == (
        "no difference shown: bidirectional is 0.4 points above causal (95 % interval -0.9 to 1.7, 5 paired seeds)"
    )
    single = paired({0: 80.0}, {0: 70.0}, names)
    assert (
        words(single) == "no difference shown: bidirectional is 10.0 points above causal (1 paired seed, no interval)"
    )


def test_a_value_that_no_seed_changes_is_paired_with_none():
    scores = {3: 80.0, 5: 84.0}
    found = above(scores, 70.0, ("the model", "the floor"))
    assert (found.difference, found.low) == (12.0, paired(scores, {3: 70.0, 5: 70.0}).low)
    assert words(found).endswith(" to 37.4, 2 seeds)")
    assert words(above({3: 80.0}, 70.0)).endswith("(1 seed, no interval)")


@pytest.mark.parametrize(
    ("low", "high", "direction", "expected"),
    [
        (0.1, 2.0, "higher", "supported"),
        (-2.0, -0.1, "higher", "not supported"),
        (-0.1, 2.0, "higher", "cannot tell at this size"),
        (0.0, 2.0, "higher", "cannot tell at this size"),
        (-0.5, 0.9, "equal", "supported"),
        (0.2, 1.4, "equal", "cannot tell at this size"),
        (1.1, 2.0, "equal", "not supported"),
        (-3.0, -1.1, "equal", "not supported"),
        (math.nan, math.nan, "higher", "cannot tell at this size"),
        (math.nan, math.nan, "equal", "cannot tell at this size"),
    ],
)
def test_verdict(low, high, direction, expected):
    assert verdict(Paired((low + high) / 2, low, high, 5), direction) == expected


def test_unknown_direction_is_refused():
    with pytest.raises(InputError, match=r"up.*valid: equal, higher"):
        verdict(Paired(1, 0.5, 1.5, 5), "up")


def test_tasks_are_averaged_within_seed_first():
    frame = pd.DataFrame({"seed": [0, 0, 1, 1], "task": ["a", "b", "a", "b"], "score": [60.0, 80.0, 70.0, 100.0]})
    assert seed_means(frame).to_dict() == {0: 70.0, 1: 85.0}


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 1, 2, 3, 3]])
def test_an_unbalanced_table_of_tasks_is_refused(rows):
    frame = pd.DataFrame({"seed": [0, 0, 1, 1], "task": ["a", "b", "a", "b"], "score": [1.0, 2.0, 3.0, 4.0]})
    with pytest.raises(InputError, match="every seed needs every task exactly once"):
        seed_means(frame.iloc[rows])
