"""What a task gives away for nothing: the scores that any model has to beat before it has shown anything."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from gemma_encoder.tasks.metrics import compute
from gemma_encoder.tasks.outputs import predictions_of, references_of
from gemma_encoder.tasks.task import Task


def majority(task: Task, train: Dataset, validation: Dataset) -> dict[str, float]:
    """Metrics of a constant prediction: the most frequent class of `train`, or its mean for regression.

    For choice, the candidate at the most frequent place (the last of a shorter list); for ranking, equal scores.
    """
    labels, references = train[task.label_column][:], references_of(task, validation)
    if task.has_lists:
        place = np.bincount([int(np.argmax(row)) for row in labels]).argmax()
        sizes = [len(row) for row in validation[task.label_column]]
        best = 0 if task.kind == "ranking" else 1
        scores = [best * np.eye(size)[min(place, size - 1)] for size in sizes]
        return compute(task, predictions_of(task, list(map(torch.tensor, scores)), validation), references)
    constant = np.bincount(labels).argmax() if task.labels else np.mean(labels)
    return compute(task, np.full(len(references), constant), references)


def bag_of_words(task: Task, train: Dataset, validation: Dataset) -> dict[str, float]:
    """Metrics of TF-IDF over single words and pairs of neighbours, with logistic (for regression: ridge) regression.

    Each text of a row has its own block of features, so the model sees no interaction between them. For choice it
    judges candidate by candidate, and the best one is chosen; for ranking the floor is BM25.
    """
    if task.kind == "ranking":
        return bm25(task, validation)
    known, labels = _flat(task, train)
    unseen, _ = _flat(task, validation)
    if len(set(labels)) == 1:
        return majority(task, train, validation)
    blocks = [_tfidf(known[column], unseen[column]) for column in task.text_columns]
    features, new = (hstack(part, format="csr") for part in zip(*blocks, strict=True))
    classes = task.labels or task.has_lists
    model = (LogisticRegression(max_iter=1000) if classes else Ridge()).fit(features, labels)
    references = references_of(task, validation)
    if not task.has_lists:
        return compute(task, model.predict(new), references)
    scores = torch.tensor(model.decision_function(new)).split([len(row) for row in validation[task.label_column]])
    return compute(task, predictions_of(task, list(scores), validation), references)


def bm25(task: Task, rows: Dataset) -> dict[str, float]:
    """Metrics of BM25 over the candidates: of its ranks in the data, which saw the whole collection, where they are.

    Else of bm25s, with the word statistics of all passages of `rows`: words of English without stop words, k1 1.5, b
    0.75. Passages without a rank stand behind all that have one.
    """
    ranks = rows["bm25_rank"][:]
    if all(rank is None for row in ranks for rank in row):
        scores = _bm25_scores(task, rows)
    else:
        last = 1 + max(rank for row in ranks for rank in row if rank is not None)
        scores = [[-float(last if rank is None else rank) for rank in row] for row in ranks]
    return compute(task, scores, references_of(task, rows))


def _bm25_scores(task: Task, rows: Dataset) -> list[list[float]]:
    import bm25s  # an extra: only this floor needs it

    query, passage = task.text_columns
    passages = list(dict.fromkeys(text for row in rows[passage] for text in row))
    place = {text: at for at, text in enumerate(passages)}
    words = bm25s.tokenize(rows[query][:], show_progress=False, return_ids=False)
    known = bm25s.tokenize(passages, show_progress=False, return_ids=False)
    index = bm25s.BM25()
    if any(known):
        index.index(known, show_progress=False)
    nothing = np.zeros(len(passages))  # where stop words are all that there is, which bm25s does not take
    return [
        (index.get_scores(row) if row and any(known) else nothing)[[place[text] for text in texts]].tolist()
        for row, texts in zip(words, rows[passage], strict=True)
    ]


def _flat(task: Task, rows: Dataset) -> tuple[dict[str, list[str]], list]:
    """The text columns and the labels, with one entry a candidate where rows hold lists."""
    texts, labels = {column: rows[column][:] for column in task.text_columns}, rows[task.label_column][:]
    if not task.has_lists:
        return texts, labels
    sizes, (*shared, listed) = [len(row) for row in labels], task.text_columns
    flat = {name: [text for text, size in zip(texts[name], sizes, strict=True) for _ in range(size)] for name in shared}
    return flat | {listed: [text for row in texts[listed] for text in row]}, [grade for row in labels for grade in row]


def _tfidf(train: list[str], validation: list[str]) -> tuple[csr_matrix, csr_matrix]:
    """Features of both splits, with the vocabulary and the document frequencies of `train`."""
    # A token is a word or a single other sign: every text has one, and "!" and "?" count.
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    return vectorizer.fit_transform(train), vectorizer.transform(validation)
