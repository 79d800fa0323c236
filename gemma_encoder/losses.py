"""What the heads minimise. Pure functions of scores and labels, computed in float32.

Every loss is a mean over examples (rows, or lists of passages), in which each example weighs the same. So the mean
over equal micro-batches is the loss of the whole batch, and gradient accumulation makes the update of one big batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.rows import check_rows

IGNORED = -100  # the label of a token that has none


def _check_shape(labels: Tensor, shape: torch.Size) -> None:
    if labels.shape != shape:  # a column of labels would broadcast to a (batch, batch) loss, silently
        raise InputError(f"labels of shape {tuple(labels.shape)}; valid: {tuple(shape)}")


def _check_classes(labels: Tensor, classes: int) -> None:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(f"labels of type {labels.dtype} do not fit {classes} classes; valid: integers")
    least, most = map(int, labels.aminmax()) if labels.numel() else (0, 0)
    if least < 0 or most >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)].unique().tolist()
        raise InputError(f"labels {wrong} do not fit; valid: 0 to {classes - 1}")


def _mean_of_rows(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over rows of the mean over the slots of a row that are `counted`; both `(batch, slots)`."""
    return (values.masked_fill(~counted, 0).sum(dim=1) / counted.sum(dim=1)).mean()


def check_lists(list_mask: Tensor) -> Tensor:
    """Return `list_mask (batch, list)` if every list holds a passage; else InputError naming the lists."""
    check_rows(list_mask.bool().any(dim=1), "hold no passage", "at least one passage in every list")
    return list_mask


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Integer `labels (batch,)` as `(batch, classes)` with one 1 in every row."""
    _check_classes(labels, classes)
    return F.one_hot(labels.long(), classes)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """`mean_b -log softmax(logits_b)[label_b]`: `logits (batch, classes)`, integer `labels (batch,)`.

    Source: the usual loss of classification on GLUE, as in Devlin et al. (2018), arXiv 1810.04805, section 4.1.
    """
    _check_shape(labels, logits.shape[:1])
    _check_classes(labels, logits.shape[1])
    return F.cross_entropy(logits.float(), labels.long())


def mean_squared_error(scores: Tensor, labels: Tensor) -> Tensor:
    """`mean_b (score_b - label_b)^2`: `scores (batch,)`, finite `labels (batch,)`.

    Source: the usual loss of regression on STS-B (GLUE, Wang et al., 2018, arXiv 1804.07461, section 3.2).
    """
    _check_shape(labels, scores.shape)
    check_rows(labels.isfinite(), "have a label that is no number", "a finite label")
    return F.mse_loss(scores.float(), labels.float())


def token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """`mean_b mean_i -log softmax(logits_bi)[label_bi]`: `logits (batch, seq, classes)`, `labels (batch, seq)`.

    Tokens labelled -100 are left out; a row of nothing else is an InputError. A row weighs the same however many of
    its tokens are labelled.
    Source: token classification of Devlin et al. (2018), arXiv 1810.04805, section 5.3; the mean over rows is ours.
    """
    _check_shape(labels, logits.shape[:2])
    counted = labels != IGNORED
    _check_classes(labels[counted], logits.shape[2])
    check_rows(counted.any(dim=1), "hold no labelled token", f"a label other than {IGNORED} in every row")
    losses = F.cross_entropy(logits.float().transpose(1, 2), labels.long(), reduction="none", ignore_index=IGNORED)
    return _mean_of_rows(losses, counted)


def pointwise_logistic(scores: Tensor, labels: Tensor, list_mask: Tensor | None = None) -> Tensor:
    """Each passage by itself: `mean_b mean_j -[y log sigmoid(s) + (1 - y) log sigmoid(-s)]`, `y = label_bj > 0`.

    `scores`, `labels` and `list_mask` have shape `(batch, list)`. Slots where `list_mask` is 0 hold no passage: they
    are left out of the sum and of the count of their list, whatever their score and label. A list without a passage
    is an InputError, and a label that is negative or not finite.
    Source: Nogueira & Cho (2019), arXiv 1901.04085; PointCE of RankT5 (Zhuang et al., 2022, arXiv 2210.10634,
    section 3.3), there a sum over the list.
    """
    scores, labels, real = _lists(scores, labels, list_mask)
    losses = F.binary_cross_entropy_with_logits(scores, (labels > 0).float(), reduction="none")
    return _mean_of_rows(losses, real)


def listwise_softmax(scores: Tensor, labels: Tensor, list_mask: Tensor | None = None) -> Tensor:
    """The passages of a list against each other: `mean_b -sum_j p_bj log softmax(s_b)_j`, `p_b = y_b / sum_j y_bj`.

    `scores`, `labels` and `list_mask` have shape `(batch, list)`; labels are graded relevances >= 0. Slots where
    `list_mask` is 0 hold no passage and are not in the softmax. A list without a positive is an InputError, and a
    label that is negative or not finite.
    Source: Softmax of RankT5 (Zhuang et al., 2022, arXiv 2210.10634, section 3.3), which does not divide by the sum
    of the labels. For one positive of grade 1 both are the same; divided, a list with many positives weighs no more
    than others.
    """
    scores, labels, real = _lists(scores, labels, list_mask)
    check_rows((labels > 0).any(dim=1), "hold no relevant passage", "at least one label above 0 in every list")
    log_chances = scores.masked_fill(~real, float("-inf")).log_softmax(dim=1).masked_fill(~real, 0)
    return -(labels / labels.sum(dim=1, keepdim=True) * log_chances).sum(dim=1).mean()


def _lists(scores: Tensor, labels: Tensor, list_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Checked scores and labels in float32, 0 where no passage is, and where passages are."""
    _check_shape(labels, scores.shape)
    real = torch.ones_like(labels, dtype=torch.bool) if list_mask is None else list_mask.bool()
    if real.shape != scores.shape:
        raise InputError(f"list_mask of shape {tuple(real.shape)}; valid: {tuple(scores.shape)}")
    check_lists(real)
    good = labels.isfinite() & (labels >= 0) | ~real
    check_rows(good, "have a label that is no relevance", "finite graded relevances >= 0")
    return scores.float().masked_fill(~real, 0), labels.float().masked_fill(~real, 0), real


RANKING_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "listwise_softmax": listwise_softmax,
    "pointwise_logistic": pointwise_logistic,
}


def ranking_loss(name: str) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The loss over lists called `name`; an unknown name is an InputError that lists the valid ones."""
    return RANKING_LOSSES[check_choice("ranking_loss", name, RANKING_LOSSES)]
