"""Floors: the constant prediction worked out by hand, and bags of words on tasks made for and against them."""

import random

import numpy as np
import pytest
from datasets import Dataset

from gemma_encoder.tasks import bag_of_words, get_task, majority, score

WORDS = ["river", "stone", "window", "garden", "paper", "silver", "morning", "letter", "table", "music"]


def rows(task_name: str, count: int, seed: int, label) -> Dataset:
    """Random texts of a task; `label` makes the label from the row's texts."""
    task, rng = get_task(task_name), random.Random(seed)
    texts = [{name: " ".join(rng.choices(WORDS, k=6)) for name in task.text_columns} for _ in range(count)]
    return Dataset.from_list([row | {"label": label(*row.values())} for row in texts])


def labelled(task_name: str, labels: list) -> Dataset:
    return Dataset.from_list([dict.fromkeys(get_task(task_name).text_columns, "x") | {"label": v} for v in labels])


def test_majority_predicts_the_most_frequent_class_of_train():
    found = majority(get_task("mrpc"), labelled("mrpc", [1, 1, 0]), labelled("mrpc", [1, 0, 0, 0]))
    assert found == pytest.approx({"accuracy": 1 / 4, "f1": 2 / 5})
    assert score(get_task("mrpc"), found) == pytest.approx(32.5)


def test_majority_takes_the_lower_class_where_two_are_equally_frequent():
    assert majority(get_task("mnli"), labelled("mnli", [2, 1, 2, 1]), labelled("mnli", [1, 2, 0])) == {
        "accuracy": 1 / 3
    }


def test_majority_has_no_correlation_with_anything():
    assert majority(get_task("cola"), labelled("cola", [1, 1, 0]), labelled("cola", [1, 0])) == {"matthews": 0.0}
    found = majority(get_task("stsb"), labelled("stsb", [1.0, 4.5]), labelled("stsb", [0.0, 5.0]))
    assert found == {"pearson": 0.0, "spearman": 0.0}


def test_bag_of_words_learns_what_a_word_decides():
    def has_river(text):
        return int("river" in text)

    task = get_task("sst2")
    train, validation = rows("sst2", 400, 1, has_river), rows("sst2", 200, 2, has_river)
    assert bag_of_words(task, train, validation)["accuracy"] > 0.95 > majority(task, train, validation)["accuracy"]


def test_bag_of_words_knows_which_text_of_a_pair_a_word_is_in():
    def river_in_second(first, second):
        return int("river" in second)

    found = bag_of_words(get_task("rte"), rows("rte", 400, 1, river_in_second), rows("rte", 200, 2, river_in_second))
    assert found["accuracy"] > 0.95


def test_bag_of_words_sees_the_order_of_two_neighbours():
    def label(text):
        return int(text == "stone river")

    texts = [{"sentence": text, "label": label(text)} for text in ("river stone", "stone river") * 20]
    assert bag_of_words(get_task("sst2"), Dataset.from_list(texts), Dataset.from_list(texts)) == {"accuracy": 1.0}


def test_bag_of_words_cannot_compare_the_two_texts():
    def pairs(seed):
        rng = random.Random(seed)
        firsts = rng.choices(WORDS, k=400)
        seconds = [word if at % 2 else rng.choice(WORDS) for at, word in enumerate(firsts)]
        words = zip(firsts, seconds, strict=True)
        return Dataset.from_list([{"sentence1": a, "sentence2": b, "label": int(a == b)} for a, b in words])

    train, validation = pairs(1), pairs(2)
    floor = majority(get_task("wnli"), train, validation)["accuracy"]
    assert bag_of_words(get_task("wnli"), train, validation)["accuracy"] == pytest.approx(floor, abs=0.08)


def test_bag_of_words_regresses_where_labels_are_numbers():
    def rivers(first, second):
        return 5.0 * first.split().count("river") / 6

    found = bag_of_words(get_task("stsb"), rows("stsb", 400, 1, rivers), rows("stsb", 200, 2, rivers))
    assert found["pearson"] > 0.9 and found["spearman"] > 0.8


def test_bag_of_words_needs_neither_long_words_nor_two_classes():
    task, signs = get_task("sst2"), Dataset.from_list([{"sentence": s, "label": int(s == "!")} for s in "!?!?a"])
    assert bag_of_words(task, signs, signs) == {"accuracy": 1.0}
    assert bag_of_words(task, labelled("sst2", [1, 1]), labelled("sst2", [1, 0])) == {"accuracy": 0.5}


def test_the_same_rows_give_the_same_floor():
    train, validation = (rows("stsb", 200, seed, lambda *texts: len(texts[0]) % 6 * 1.0) for seed in (1, 2))
    first, second = (bag_of_words(get_task("stsb"), train, validation) for _ in range(2))
    assert first == second and np.isfinite(list(first.values())).all()
