"""The learning rate is chosen on a part of train: what the validation rows say plays no part."""

import json

import pytest

from gemma_encoder.errors import InputError
from gemma_encoder.experiments import choose
from gemma_encoder.experiments.choose import choose_learning_rate
from gemma_encoder.experiments.run import run, split
from gemma_encoder.experiments.spec import RunSpec


def test_the_best_rate_is_taken_although_the_validation_rows_say_otherwise(tmp_path, monkeypatch):
    place = tmp_path / "glue" / "sst2"
    place.mkdir(parents=True)
    for name, count, wrong in (("train", 160, False), ("validation", 20, True)):
        rows = [
            {"sentence": f"row {at} {'good' if at % 2 else 'bad'}", "label": (at + wrong) % 2} for at in range(count)
        ]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(choose, "sweep", lambda specs, root, workers: [run(spec, root) for spec in specs])
    spec = RunSpec(task="sst2", data=str(tmp_path), epochs=2, batch_size=16)
    rate, scores = choose_learning_rate(spec, [1e-7, 2e-3], tmp_path / "runs")
    assert rate == 2e-3 and scores[2e-3] > 90 > scores[1e-7]


def test_of_equal_scores_the_smaller_rate_is_taken(monkeypatch):
    class Result:
        def __init__(self, spec):
            self.spec, self.score = spec, 50.0

    monkeypatch.setattr(choose, "sweep", lambda specs, root, workers: [Result(spec) for spec in specs])
    assert choose_learning_rate(RunSpec(task="sst2"), [3e-4, 1e-4, 2e-4])[0] == 1e-4


def test_no_rates_are_refused():
    with pytest.raises(InputError, match="no learning rates to choose from; valid: at least one"):
        choose_learning_rate(RunSpec(task="sst2"), [])


def test_answers_about_one_passage_stay_on_one_side_of_a_holdout(tmp_path):
    place = tmp_path / "super_glue" / "multirc"
    place.mkdir(parents=True)
    rows = [
        {"paragraph": "A b.", "question": "Who?", "answer": "A", "label": at % 2}
        | {"idx": {"paragraph": at // 5, "question": at, "answer": at}}
        for at in range(100)
    ]
    for name in ("train", "validation"):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = split(RunSpec(task="multirc", data=str(tmp_path), evaluate_on="holdout"))
    of = {name: {idx["paragraph"] for idx in part["idx"]} for name, part in parts.items()}
    assert (len(of["train"]), len(of["validation"]), len(parts["validation"])) == (18, 2, 10)
    assert not of["train"] & of["validation"]
