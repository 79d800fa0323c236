"""The learning rate is chosen on a part of train: what the validation rows say plays no part."""

import json

import pytest
from datasets import Dataset

from gemma_encoder.errors import InputError
from gemma_encoder.experiments import choose
from gemma_encoder.experiments.choose import choose_learning_rate
from gemma_encoder.experiments.run import run
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.experiments.splits import split
from gemma_encoder.tasks import get_task, hold_out


def test_the_best_rate_is_taken_although_the_validation_rows_say_otherwise(tmp_path, monkeypatch):
    place = tmp_path / "glue" / "sst2"
    place.mkdir(parents=True)
    for name, count, wrong in (("train", 160, False), ("validation", 20, True)):
        rows = [
            {"sentence": f"row {at} {'good' if at % 2 else 'bad'}", "label": (at + wrong) % 2} for at in range(count)
        ]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(choose, "sweep", lambda specs, root: [run(spec, root) for spec in specs])
    spec = RunSpec(task="sst2", data=str(tmp_path), epochs=2, batch_size=16)
    rate, scores = choose_learning_rate(spec, [1e-7, 2e-3], tmp_path / "runs")
    assert rate == 2e-3 and scores[2e-3] > 90 > scores[1e-7]


def test_of_equal_scores_the_smaller_rate_is_taken(monkeypatch):
    class Result:
        def __init__(self, spec):
            self.spec, self.score = spec, 50.0

    monkeypatch.setattr(choose, "sweep", lambda specs, root: [Result(spec) for spec in specs])
    assert choose_learning_rate(RunSpec(task="sst2"), [3e-4, 1e-4, 2e-4])[0] == 1e-4


def test_no_rates_are_refused():
    with pytest.raises(InputError, match="no learning rates to choose from; valid: at least one"):
        choose_learning_rate(RunSpec(task="sst2"), [])


TEXTS = {"multirc": "paragraph", "wnli": "sentence1", "mrpc": "sentence1", "sst2": "sentence"}


@pytest.mark.parametrize("name", TEXTS)
def test_rows_that_share_their_first_text_stay_on_one_side_of_a_holdout(name, tmp_path):
    task, first = get_task(name), TEXTS[name]
    rows = [dict.fromkeys(task.text_columns, f"other {at}") | {"label": at % 2} for at in range(100)]
    for at, row in enumerate(rows):
        row |= {first: f"passage {at // 5}", "idx": at}
        if name == "multirc":
            row["idx"] = {"paragraph": at, "question": at, "answer": at}  # the text decides, not the number
    place = tmp_path / task.path
    place.mkdir(parents=True)
    for split_name in task.splits.values():
        (place / f"{split_name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = split(RunSpec(task=name, data=str(tmp_path), evaluate_on="holdout"))
    of = {side: set(part[first]) for side, part in parts.items()}
    assert (len(of["train"]), len(of["validation"]), len(parts["validation"])) == (18, 2, 10)
    assert not of["train"] & of["validation"]


ALPHABET = "abcdefghijklmnopqrs"


@pytest.mark.parametrize(
    ("texts", "held"),
    [(f"{ALPHABET}t", "st"), (f"{ALPHABET}a", "rs"), ("aaaaaaaaab", "b"), ("baaaaaaaaa", "b"), ("aabb", "bb")],
)
def test_a_tenth_is_held_out_as_nearly_as_texts_that_are_shared_let_it(texts, held):
    rows = Dataset.from_list([{"sentence": text, "label": 1} for text in texts])
    train, validation = hold_out(get_task("sst2"), rows)
    assert "".join(validation["sentence"]) == held
    assert sorted([*train["sentence"], *validation["sentence"]]) == sorted(texts)


def test_rows_of_one_text_cannot_be_held_out():
    rows = Dataset.from_list([{"sentence": "the same", "label": 1}] * 3)
    with pytest.raises(InputError, match="sst2 has 1 different sentence to hold out of; valid: 2 or more"):
        hold_out(get_task("sst2"), rows)
