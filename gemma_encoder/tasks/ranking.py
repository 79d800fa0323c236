"""Passage ranking: MS MARCO (Bajaj et al., 2016) and the TREC Deep Learning tracks of 2019 and 2020 over its passages.

Both come from a folder, and MS MARCO from the built-in twin or the hub too. What the hub has are the question answering
data: about ten passages a query, not the first 1000 of BM25 that reranking is measured on, and no graded judgements.
"""

from __future__ import annotations

import random

from datasets import Dataset

from gemma_encoder.errors import InputError
from gemma_encoder.tasks.ranking_metrics import all_grades
from gemma_encoder.tasks.task import HubSource, Task, register

LISTED = ("passage", "label", "passage_id", "bm25_rank")  # the columns with one entry a candidate

MSMARCO = register(
    Task(
        "msmarco",
        "msmarco",
        "MS MARCO",
        "ranking",
        ("query", "passage"),
        ("mrr10",),
        also=("ndcg10", "recall10"),
        folder="msmarco",
        view="ranking",
        asks="which passage answers the query",
        hub=HubSource("microsoft/ms_marco", "v1.1", "a47ee7aae8d7d466ba15f9f0bfac3b3681087b3a"),
    )
)

TREC_DL = register(
    Task(
        "trec_dl",
        "msmarco",
        "TREC DL",
        "ranking",
        ("query", "passage"),
        ("ndcg10",),
        also=("mrr10", "recall10"),
        folder="msmarco",
        view="ranking",
        asks="which passage answers the query",
        splits={"train": "trec_dl20", "validation": "trec_dl19"},
        relevant=2,  # grade 1 is "on topic, but no answer"
    )
)

RANKING = (MSMARCO, TREC_DL)


def training_lists(task: Task, rows: Dataset, list_size: int, seed: int) -> Dataset:
    """One list of at most `list_size` passages for every relevant passage: it, with label 1, and others, with label 0.

    The others are drawn, without replacement, from the candidates of the query that are not relevant: what retrieved
    them makes them hard. A query without a relevant or without any other passage gives no list.
    Raises InputError for `list_size` below 2, and where no query gives a list.
    """
    if list_size < 2:
        raise InputError(f"list_size {list_size} is not valid; valid: 2 or more (a relevant passage and others)")
    draw, lists, (*shared, listed) = random.Random(seed), [], task.text_columns
    for row in rows.select_columns([*task.text_columns, task.label_column]):
        graded = list(zip(row[listed], row[task.label_column], strict=True))
        others = [text for text, grade in graded if grade < task.relevant]
        for text, grade in graded if others else ():
            if grade >= task.relevant:
                drawn = draw.sample(others, min(list_size - 1, len(others)))
                labels = [1] + [0] * len(drawn)
                lists.append({name: row[name] for name in shared} | {listed: [text, *drawn], task.label_column: labels})
    if not lists:
        raise InputError(f"no training list for {task.name}; valid: a query with relevant and other passages")
    return Dataset.from_list(lists)


def first_candidates(rows: Dataset, count: int) -> Dataset:
    """The rows with no more candidates than the first `count` of BM25, as the standard reranking setting has 100.

    What lies behind still counts: nDCG@10 is held against the best order of all passages, and recall against all that
    are relevant, so `ideal_grades` keeps their grades.
    InputError for a row whose passages have no such rank.
    """
    kept = []
    for at, row in enumerate(rows):
        places = [place for place, rank in enumerate(row["bm25_rank"]) if rank is not None and rank <= count]
        if not places:
            raise InputError(f"row {at} (counted from 0) has no bm25_rank from 1 to {count}; valid: candidates 0, all")
        ideal = [grade for grade in all_grades(row["label"], row["ideal_grades"]) if grade]
        cut = {name: [row[name][place] for place in places] for name in LISTED}
        kept.append(row | cut | {"ideal_grades": ideal})
    return Dataset.from_list(kept, rows.features)
