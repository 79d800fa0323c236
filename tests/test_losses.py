"""Losses against cases worked by hand, against autograd's own formulas, and as means that accumulate."""

from math import exp, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from gemma_encoder.errors import InputError
from gemma_encoder.losses import (
    cross_entropy,
    listwise_softmax,
    mean_squared_error,
    pointwise_logistic,
    ranking_loss,
    token_cross_entropy,
)

NAN, INF = float("nan"), float("inf")
SHAPE = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 10_000))


def softplus(x):
    return log(1 + exp(x))


def lists(shape):
    """Random scores, labels with a positive in every list, and a mask that leaves that positive in."""
    batch, length, seed = shape
    source = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch, length, generator=source) * 3
    labels = torch.randint(0, 4, (batch, length), generator=source)
    mask = torch.rand(batch, length, generator=source) < 0.7
    at = torch.randint(0, length, (batch, 1), generator=source)
    return scores, labels.scatter(1, at, 2), mask.scatter(1, at, True)


# by hand


def test_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, log(3)], [log(4), 0.0]])
    assert cross_entropy(logits, torch.tensor([1, 1])).item() == pytest.approx((log(4 / 3) + log(5)) / 2)


def test_mean_squared_error_by_hand():
    assert mean_squared_error(torch.tensor([1.0, -2.0]), torch.tensor([2, 0])).item() == pytest.approx((1 + 4) / 2)


def test_pointwise_logistic_by_hand():
    """Grades above 1 are relevant like any other, and the short list weighs as much as the long one."""
    scores = torch.tensor([[2.0, -1.0, 0.5], [1.5, 9.0, 9.0]])
    labels, mask = torch.tensor([[3, 0, 0], [0, 1, 1]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    long = (softplus(-2) + softplus(-1) + softplus(0.5)) / 3
    assert pointwise_logistic(scores, labels, mask).item() == pytest.approx((long + softplus(1.5)) / 2)


def test_listwise_softmax_by_hand():
    """One list with two graded positives, p = (3/4, 0, 1/4), and one short list with a single passage of loss 0."""
    scores = torch.tensor([[log(2), 0.0, 0.0], [5.0, 1.0, 1.0]])
    labels, mask = torch.tensor([[3.0, 0, 1], [1, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    first = -(3 / 4 * log(1 / 2) + 1 / 4 * log(1 / 4))
    assert listwise_softmax(scores, labels, mask).item() == pytest.approx(first / 2)


def test_listwise_softmax_with_one_positive_is_the_plain_form_of_rankt5():
    scores, labels = torch.randn(5, 6), F.one_hot(torch.tensor([0, 5, 2, 2, 3]), 6)
    plain = -(labels * scores.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(listwise_softmax(scores, labels), plain)
    torch.testing.assert_close(listwise_softmax(scores, labels), cross_entropy(scores, labels.argmax(dim=1)))


def test_token_cross_entropy_by_hand():
    logits = torch.tensor([[[0.0, log(3)], [log(4), 0.0], [7.0, 7.0]], [[0.0, 0.0], [1.0, 9.0], [1.0, 9.0]]])
    labels = torch.tensor([[1, 1, -100], [0, -100, -100]])
    expected = ((log(4 / 3) + log(5)) / 2 + log(2)) / 2
    assert token_cross_entropy(logits, labels).item() == pytest.approx(expected)


# properties


@pytest.mark.parametrize("loss", [listwise_softmax, pointwise_logistic])
@given(shape=SHAPE)
def test_slots_without_a_passage_are_never_read_and_get_no_gradient(loss, shape):
    scores, labels, mask = lists(shape)
    expected = torch.stack([loss(s[m][None], y[m][None]) for s, y, m in zip(scores, labels, mask, strict=True)]).mean()
    for junk, label in ((NAN, -100), (INF, 3), (-INF, 0), (1e30, 1)):
        dirty = scores.masked_fill(~mask, junk).requires_grad_()
        value = loss(dirty, labels.masked_fill(~mask, label), mask)
        torch.testing.assert_close(value, expected)
        value.backward()
        assert dirty.grad.isfinite().all()
        assert (dirty.grad[~mask] == 0).all()


@pytest.mark.parametrize("loss", [listwise_softmax, pointwise_logistic])
@given(shape=SHAPE)
def test_the_order_of_a_list_does_not_matter_and_losses_are_not_negative(loss, shape):
    scores, labels, mask = lists(shape)
    order = torch.randperm(scores.shape[1])
    value = loss(scores, labels, mask)
    assert value >= 0
    torch.testing.assert_close(loss(scores[:, order], labels[:, order], mask[:, order]), value)


@given(shape=SHAPE, shift=st.floats(-50, 50))
def test_listwise_softmax_ignores_a_shift_of_all_scores_and_the_scale_of_the_labels(shape, shift):
    scores, labels, mask = lists(shape)
    value = listwise_softmax(scores, labels, mask)
    torch.testing.assert_close(listwise_softmax(scores + shift, labels * 7, mask), value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("loss", [listwise_softmax, pointwise_logistic])
@given(shape=SHAPE)
def test_list_losses_of_equal_micro_batches_average_to_that_of_the_batch(loss, shape):
    scores, labels, mask = lists(shape)
    parts = [loss(scores[i : i + 1], labels[i : i + 1], mask[i : i + 1]) for i in range(len(scores))]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(scores, labels, mask))


def test_token_losses_of_equal_micro_batches_average_to_that_of_the_batch():
    """Also when one row has many labelled tokens and another has one."""
    logits, labels = torch.randn(4, 6, 3), torch.randint(0, 3, (4, 6))
    labels[1, 1:] = labels[2, :4] = -100
    parts = [token_cross_entropy(logits[at], labels[at]) for at in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack(parts).mean(), token_cross_entropy(logits, labels))


@pytest.mark.parametrize(
    ("loss", "scores", "labels"),
    [
        (cross_entropy, (4, 3), [0, 1, 2, 0]),
        (mean_squared_error, (3,), [0.5, 1.0, -1.0]),
        (listwise_softmax, (2, 3), [[1, 0, 0], [0, 2, 1]]),
        (pointwise_logistic, (2, 3), [[1, 0, 0], [0, 2, 1]]),
        (token_cross_entropy, (2, 2, 3), [[0, 1], [2, -100]]),
    ],
)
def test_half_precision_scores_give_a_float32_loss_and_gradients_are_right(loss, scores, labels):
    labels = torch.tensor(labels)
    half = torch.randn(scores).to(torch.bfloat16)
    assert loss(half, labels).dtype == torch.float32
    assert loss(half, labels) == loss(half.float(), labels)
    scores = torch.randn(scores, requires_grad=True)
    loss(scores, labels).backward()
    for index in list(torch.ones_like(scores).nonzero())[:4]:
        step = torch.zeros_like(scores)
        step[tuple(index)] = 1e-2
        slope = (loss(scores + step, labels) - loss(scores - step, labels)) / 2e-2
        assert scores.grad[tuple(index)].item() == pytest.approx(slope.item(), abs=2e-3)


# bad labels


@pytest.mark.parametrize(
    ("loss", "scores", "labels", "says"),
    [
        (cross_entropy, (2, 3), [True, False], "labels of type torch.bool do not fit 3 classes; valid: integers"),
        (mean_squared_error, (2,), [0.5, float("nan")], r"rows \[1\] have a label that is no number; valid: a finite"),
        (cross_entropy, (2, 3), [0, 3], r"labels \[3\] do not fit; valid: 0 to 2"),
        (cross_entropy, (2, 3), [-100, 1], r"do not fit; valid: 0 to 2"),
        (cross_entropy, (2, 3), [0.5, 1.0], r"labels of type torch.float32 do not fit 3 classes; valid: integers"),
        (cross_entropy, (2, 3), [[0], [1]], r"labels of shape \(2, 1\); valid: \(2,\)"),
        (mean_squared_error, (2,), [[0.0], [1.0]], r"labels of shape \(2, 1\); valid: \(2,\)"),
        (token_cross_entropy, (1, 2, 3), [[0, 3]], r"labels \[3\] do not fit; valid: 0 to 2"),
        (token_cross_entropy, (2, 2, 3), [[0, 1], [-100, -100]], r"rows \[1\] hold no labelled token"),
        (token_cross_entropy, (2, 2, 3), [0, 1], r"labels of shape \(2,\); valid: \(2, 2\)"),
        (listwise_softmax, (3, 2), [[0, 0], [1, 0], [0, 0]], r"rows \[0, 2\] hold no relevant passage"),
        (listwise_softmax, (2, 2), [1, 0], r"labels of shape \(2,\); valid: \(2, 2\)"),
        (pointwise_logistic, (2, 2), [[1, 0, 0]] * 2, r"labels of shape \(2, 3\); valid: \(2, 2\)"),
    ],
)
def test_labels_that_do_not_fit_are_named(loss, scores, labels, says):
    with pytest.raises(InputError, match=says):
        loss(torch.randn(scores), torch.tensor(labels))


@pytest.mark.parametrize("loss", [listwise_softmax, pointwise_logistic])
@pytest.mark.parametrize("label", [-1, -100, NAN, INF])
def test_a_label_that_is_no_relevance_is_named_by_its_list(loss, label):
    with pytest.raises(InputError, match=r"rows \[1\] have a label that is no relevance; valid: finite graded .* >= 0"):
        loss(torch.randn(2, 2), torch.tensor([[1.0, 0.0], [1.0, label]]))


@pytest.mark.parametrize("loss", [listwise_softmax, pointwise_logistic])
def test_lists_without_a_passage_and_masks_of_another_shape_are_named(loss):
    labels = torch.tensor([[1, 0], [1, 0]])
    with pytest.raises(InputError, match=r"rows \[1\] hold no passage"):
        loss(torch.randn(2, 2), labels, torch.tensor([[1, 1], [0, 0]]))
    with pytest.raises(InputError, match=r"list_mask of shape \(2,\); valid: \(2, 2\)"):
        loss(torch.randn(2, 2), labels, torch.ones(2))


def test_a_positive_behind_the_mask_does_not_count():
    with pytest.raises(InputError, match=r"rows \[0\] hold no relevant passage"):
        listwise_softmax(torch.randn(1, 2), torch.tensor([[0, 1]]), torch.tensor([[1, 0]]))


def test_an_unknown_loss_lists_the_valid_ones():
    assert ranking_loss("pointwise_logistic") is pointwise_logistic
    with pytest.raises(InputError, match=r"unknown ranking_loss 'listwise'.*listwise_softmax, pointwise_logistic"):
        ranking_loss("listwise")
