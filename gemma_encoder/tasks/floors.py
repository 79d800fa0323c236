"""What a task gives away for nothing: the scores that any model has to beat before it has shown anything."""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from gemma_encoder.tasks.metrics import compute
from gemma_encoder.tasks.task import Task


def majority(task: Task, train: Dataset, validation: Dataset) -> dict[str, float]:
    """Metrics of a constant prediction: the most frequent class of `train`, or its mean for regression."""
    labels = np.asarray(train[task.label_column][:])
    constant = np.bincount(labels).argmax() if task.labels else labels.mean()
    references = validation[task.label_column][:]
    return compute(task, np.full(len(references), constant), references)


def bag_of_words(task: Task, train: Dataset, validation: Dataset) -> dict[str, float]:
    """Metrics of TF-IDF over single words and pairs of neighbours, with logistic (for regression: ridge) regression.

    Each text of a pair has its own block of features, so the model sees no interaction between the two.
    """
    labels = train[task.label_column][:]
    if len(set(labels)) == 1:
        return majority(task, train, validation)
    blocks = [_tfidf(train[column][:], validation[column][:]) for column in task.text_columns]
    known, unseen = (hstack(part, format="csr") for part in zip(*blocks, strict=True))
    model = LogisticRegression(max_iter=1000) if task.labels else Ridge()
    return compute(task, model.fit(known, labels).predict(unseen), validation[task.label_column][:])


def _tfidf(train: list[str], validation: list[str]) -> tuple[csr_matrix, csr_matrix]:
    """Features of both splits, with the vocabulary and the document frequencies of `train`."""
    # A token is a word or a single other sign: every text has one, and "!" and "?" count.
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    return vectorizer.fit_transform(train), vectorizer.transform(validation)
