"""The tables of a benchmark: rows as the model reads them, floors, averages by the benchmark's rule, the literature."""

from types import SimpleNamespace

import pandas as pd
import pytest

from gemma_encoder.reports import suite
from gemma_encoder.reports.suite import (
    display_literature,
    display_metrics,
    display_paper_here,
    display_rows,
    display_suite,
    display_work,
    suite_floor,
)
from gemma_encoder.reports.tables import display_table
from gemma_encoder.tasks import get_task, task_names


class Run:
    spec = SimpleNamespace(evaluate_on="validation")

    def __init__(self, **metrics):
        self.metrics = metrics


@pytest.fixture
def runs(monkeypatch):
    known = {"cola": {"majority": 0.0, "bag of words": 3.0}, "mrpc": {"majority": 60.0, "bag of words": 50.0}}
    monkeypatch.setattr(suite, "floors_of", lambda runs, data: {name: known[name] for name in runs["task"].unique()})
    monkeypatch.setattr(suite, "display_results", lambda frame, caption, runs: display_table(frame, caption))
    cola = [
        {"task": "cola", "seed": seed, "score": score, "run": Run(matthews=score / 100)}
        for seed, score in ((0, 40.0), (1, 60.0))
    ]
    mrpc = [
        {"task": "mrpc", "seed": seed, "score": score, "run": Run(accuracy=score / 100, f1=0.5)}
        for seed, score in ((0, 70.0), (1, 50.0))
    ]
    return pd.DataFrame(cola + mrpc).assign(variant="adapted decoder")


def test_the_average_is_taken_over_tasks_within_a_seed(runs, capsys):
    display_suite(runs, "builtin")
    said = capsys.readouterr().out.replace(r"\xa0", " ")  # outside a notebook a bundle is printed as a dictionary
    # both seeds average 55, so their interval has no width although every task moves by 20 points
    assert "average of these 2" in said and "55.0 ± 0.0 (sd 0.0)" in said
    assert "50.0 ± 127.1 (sd 14.1)" in said  # CoLA's 40 and 60: 12.706 * sd / sqrt(2)
    assert "sd: standard deviation" in said
    assert "30.0" in said and "26.5" in said  # the floors, averaged by themselves


def test_a_control_has_a_column_of_its_own(runs, capsys):
    native = runs.assign(variant="native encoder", score=runs["score"] + 7)
    display_suite(pd.concat([runs, native]), "builtin")
    said = capsys.readouterr().out.replace(r"\xa0", " ")
    assert "adapted decoder" in said and "native encoder" in said
    assert "55.0 ± 0.0" in said and "62.0 ± 0.0" in said


def test_one_task_has_no_average(runs, capsys):
    display_suite(runs[runs["task"] == "cola"], "builtin")
    assert "average" not in capsys.readouterr().out


def test_paper_here_and_difference(runs, capsys):
    display_paper_here(runs, "builtin", "glue")
    cola, mrpc, average = capsys.readouterr().out.replace(r"\xa0", " ").split(r"\n")[-3:]
    for row, here in ((cola, "50.0 ± 127.1"), (mrpc, "60.0 ± 127.1")):
        assert row.count("not published here") == 2 and here in row
    assert "89.4 (Table 6, second-hand [B])" in average and "55.0 ± 0.0" in average and "-34.4" in average
    assert "here of 2 tasks" in average


def test_an_average_that_the_paper_is_not_known_to_have_has_no_difference(runs, capsys):
    display_paper_here(runs[runs["task"] == "cola"], "builtin", "superglue")
    assert capsys.readouterr().out.count("not published here") >= 4


def test_every_metric_stands_by_itself(runs, capsys):
    display_metrics(runs)
    said = capsys.readouterr().out
    assert [metric for metric in ("matthews", "accuracy", "f1") if metric not in said] == []
    assert "60.0" in said  # MRPC's accuracy, not the mean with its F1


def test_the_floor_is_the_better_of_both(runs):
    assert suite_floor(runs, "builtin") == {"cola": 3.0, "mrpc": 60.0}


def test_rows_are_shown_as_the_model_reads_them(capsys):
    display_rows(["rte", "copa"], "builtin", "tiny")
    said = capsys.readouterr().out
    assert said.count("<bos>") == 2
    assert "<bos>sentence1: " in said and " sentence2: " in said
    assert "<bos>premise: " in said and " choice: " in said
    assert "does the second follow from the first" in said and "entailment" in said
    assert "text 1" in said or "text 2" in said
    assert "A built-in twin is a task of the form" in said


def test_every_task_says_what_it_asks():
    assert all(get_task(name).asks for name in task_names())


def shown(capsys):
    """What a table prints as plain text; outside a notebook a bundle is printed as a dictionary."""
    return capsys.readouterr().out.partition("'text/plain'")[2]


def test_published_values_carry_metric_source_and_how_sure(capsys):
    display_literature(["cola", "mrpc", "rte_superglue"], "superglue", ["DeBERTa-v3-large", "Llama-3.1-8B", "T5-11B"])
    said = shown(capsys)
    for part in ("75.3", "92.2", "91.4", "86.3", "89.3", "not published here", "Table 5, dev [A]", "[B] second-hand"):
        assert part in said


def test_marks_are_those_of_the_shown_rows(capsys):
    display_literature(["rte_superglue"], "superglue", ["T5-11B", "human"])  # T5-11B has a GLUE average marked B
    said = shown(capsys)
    assert "DeBERTa, README, test [A]" in said
    assert not [mark for mark in ("[A-]", "[B]", "[C]", "[X]") if mark in said]


def test_the_card_has_the_notes_of_the_shown_rows_and_what_no_source_says(capsys):
    display_literature(["rte", "sst2"], "glue", ["RoBERTa-large", "BERT-large"])
    said = shown(capsys)
    assert "Fine-tuned from an MNLI checkpoint, as far as known: RoBERTa-large (RTE)." in said
    assert "Plain mean of the eight columns: RoBERTa-large (average of all), BERT-large (average of all)." in said
    assert "Seeds, checkpoint rule, warm start, batch: not published here where no note says them." in said


def test_sources_that_disagree_are_both_shown(capsys):
    display_literature(["qqp"], "glue", ["DeBERTa-v3-large", "ModernBERT-large"])
    said = shown(capsys)
    assert "93.3 accuracy or 93.0 accuracy (deberta-readme)" in said and "90.4 or 90.5 (computed)" in said


def test_an_unknown_value_shows_its_note(capsys):
    display_literature(["boolq"], "superglue", ["T5Gemma 2B-2B"])
    said = shown(capsys)
    assert said.count("not published here") >= 4  # both cells, the source, and how sure
    assert "Mean dev accuracy over 7 tasks, ReCoRD left out: T5Gemma 2B-2B (average of all)." in said


def test_a_work_is_shown_with_what_is_not_known_of_it(capsys):
    display_work("T5Gemma (2504.06225)")
    said = shown(capsys)
    for part in ("49.7 (points)", "+1.8 (points)", "-4.1 (points)", "0.05 (fraction)", "not published here"):
        assert part in said
    assert "nan" not in said


def test_what_was_never_published_says_so(capsys):
    display_literature(["wnli"], "glue", ["ModernBERT-large"])
    assert "not published here" in capsys.readouterr().out
