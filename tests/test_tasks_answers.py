"""Test splits without labels, diagnostic sets, and what a fine-tuned model sends to the servers."""

import json
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from gemma_encoder import GemmaEncoderForRanking, GemmaEncoderForSequenceClassification, InputError
from gemma_encoder.cli import main
from gemma_encoder.tasks import (
    DIAGNOSTICS,
    answers,
    compute,
    diagnose,
    get_diagnostic,
    get_task,
    load_test,
    score,
    sources,
    submit,
)
from gemma_encoder.tasks.submission import write_submission
from gemma_encoder.tasks.task import Task

PAIR = {"premise": "A b.", "hypothesis": "C d."}
UNLABELLED = {
    "sst2": {"sentence": "a", "label": -1},
    "stsb": {"sentence1": "a", "sentence2": "b", "label": -1.0},
    "cb": PAIR | {"label": -1},
    "copa": {"premise": "A.", "choice1": "B.", "choice2": "C.", "question": "cause", "label": -1},
    "multirc": {"paragraph": "A.", "question": "B?", "answer": "C", "label": -1}
    | {"idx": {"paragraph": 0, "question": 1, "answer": 2}},
    "record": {"passage": "Ann met Bob.", "query": "@placeholder met Bob", "entities": ["Ann", "Bob"], "answers": []}
    | {"idx": {"passage": 0, "query": 7}},
    "wsc": {"text": "Ann said she sang.", "span1_text": "Ann", "span2_text": "she", "span2_index": 2, "label": -1},
}


def write(root, task: Task, split: str, rows: list[dict]):
    folder = root / task.path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def numbered(row: dict, at: int) -> dict:
    """The row as number `at` of its split."""
    return row | {"idx": row["idx"] | {list(row["idx"])[-1]: at}} if "idx" in row else row


@pytest.fixture(scope="module")
def model_for(tiny_decoder):
    """Function `(task)`: a model with random weights that answers it."""

    def make(task):
        kind = GemmaEncoderForRanking if task.has_lists else GemmaEncoderForSequenceClassification
        settings = {"num_labels": task.num_labels, "text_columns": task.text_columns}
        return kind.from_decoder(tiny_decoder(vocab_size=300), **settings)

    return make


@pytest.mark.parametrize("name", UNLABELLED)
def test_a_split_without_labels_has_no_label_column(name, tmp_path):
    task, row = get_task(name), UNLABELLED[name]
    rows = load_test(task, write(tmp_path, task, "test", [row, row]))
    assert task.label_column not in rows.column_names and len(rows) == 2
    assert set(task.text_columns) <= set(rows.column_names)


def test_a_split_with_labels_keeps_them_and_all_are_checked(tmp_path):
    task = get_task("cb")
    assert load_test(task, write(tmp_path, task, "test", [PAIR | {"label": 2}]))["label"][:] == [2]
    with pytest.raises(InputError, match=r"test.jsonl, line 2: label -1; valid: 0 \(entailment\)"):
        load_test(task, write(tmp_path, task, "test", [PAIR | {"label": 2}, PAIR | {"label": -1}]))
    with pytest.raises(InputError, match="line 1: no column 'hypothesis'"):
        load_test(task, write(tmp_path, task, "test", [{"premise": "A"}]))
    with pytest.raises(InputError, match=r"has no test_matched.jsonl\[.gz\]; splits there: test"):
        load_test(task, tmp_path, "test_matched")


@pytest.mark.parametrize("entities", [5, {"a": 1}, [1]])
def test_an_unlabelled_row_is_checked_too(entities, tmp_path):
    data = write(tmp_path, get_task("record"), "test", [UNLABELLED["record"] | {"entities": entities}])
    with pytest.raises(InputError, match=r"test.jsonl, line 1: column 'entities' holds .*; valid: a list"):
        load_test(get_task("record"), data)


def test_the_builtin_test_splits_are_read():
    lines = (sources.BUILTIN / "glue" / "cola" / "test.jsonl").read_text().splitlines()
    assert load_test(get_task("cola")).to_list() == [json.loads(line) for line in lines]
    assert load_test(get_task("mnli"), split="test_mismatched").column_names[:2] == ["premise", "hypothesis"]


@pytest.mark.parametrize("name", UNLABELLED)
def test_test_predictions_go_from_a_folder_to_a_file_of_the_server(name, model_for, tiny_tokenizer, tmp_path):
    task = get_task(name)
    data = write(tmp_path, task, "test", [numbered(UNLABELLED[name], at) for at in range(3)])
    (path,) = submit(task, model_for(task), tiny_tokenizer, data, tmp_path / "out", max_length=64, truncate=True)
    assert path.name == f"{task.title}.{'tsv' if task.suite == 'glue' else 'jsonl'}"
    lines = path.read_text().splitlines()
    assert len(lines) == {"sst2": 4, "stsb": 4, "multirc": 1}.get(name, 3)
    if name == "record":
        assert {json.loads(line)["label"] for line in lines} <= {"Ann", "Bob"}


def test_mnli_has_two_files(model_for, tiny_tokenizer, tmp_path):
    task = get_task("mnli")
    for split in ("test_matched", "test_mismatched"):
        write(tmp_path, task, split, [PAIR | {"label": -1, "idx": 5}])
    paths = submit(task, model_for(task), tiny_tokenizer, tmp_path, tmp_path / "out")
    assert [path.name for path in paths] == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    index, answer = paths[0].read_text().splitlines()[1].split("\t")
    assert index == "5" and answer in task.labels


def test_rows_that_are_cut_are_counted_and_a_folder_that_cannot_be_written_is_refused_first(
    model_for, tiny_tokenizer, tmp_path, monkeypatch
):
    task = get_task("sst2")
    data = write(tmp_path, task, "test", [{"sentence": "a b c d e f g h", "label": -1}, {"sentence": "a", "label": -1}])
    with pytest.warns(UserWarning, match="1 texts of sst2 were cut to 12 tokens"):
        submit(task, model_for(task), tiny_tokenizer, data, tmp_path / "out", max_length=12, truncate=True)
    (tmp_path / "file").touch()
    monkeypatch.setattr(
        sys.modules[submit.__module__], "answers", lambda *given, **settings: pytest.fail("answered first")
    )
    with pytest.raises(InputError, match="cannot be written"):
        submit(task, model_for(task), tiny_tokenizer, data, tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("name", "predictions", "indices", "says"),
    [
        ("copa", [7, 0], [0, 1], r"predictions \[7\] of copa; valid: 0 or 1"),
        ("copa", ["x", 0], [0, 1], "prediction 'x' in row 0"),
        ("record", [3], [{"passage": 0, "query": 7}], "prediction 3 in row 0 .*; valid for record: a text"),
        ("sst2", [1, 0], [4, 4], "an index twice in 2 rows of sst2; valid: every row once"),
    ],
)
def test_answers_that_a_task_has_not_are_written_nowhere(name, predictions, indices, says, tmp_path):
    with pytest.raises(InputError, match=says):
        write_submission(get_task(name), predictions, indices, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    def full(path, text, **how):
        with path.open("w") as file:
            file.write(text[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_submission(get_task("rte"), [0, 1], [0, 1], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_answers_are_those_of_the_model(model_for, tiny_tokenizer):
    task = get_task("cb")
    model = model_for(task)
    with torch.no_grad():
        model.head.out.weight.zero_()
        model.head.out.bias.copy_(torch.tensor([0.0, 2.0, 1.0]))
    assert answers(task, model, tiny_tokenizer, Dataset.from_list([PAIR] * 4)) == [1, 1, 1, 1]


def test_a_model_of_another_task_does_not_answer(model_for, tiny_tokenizer):
    rows = Dataset.from_list([PAIR])
    with pytest.raises(InputError, match=r"does not answer cb; valid: one fine-tuned for .*3, \('premise', 'hypoth"):
        answers(get_task("cb"), model_for(get_task("rte_superglue")), tiny_tokenizer, rows)
    with pytest.raises(InputError, match="does not answer cb"):
        answers(get_task("cb"), model_for(get_task("copa")), tiny_tokenizer, rows)


def test_the_diagnostic_sets_are_answered_by_the_models_of_mnli_and_rte():
    found = {name: (each.head.name, each.rows.title, each.rows.metrics) for name, each in DIAGNOSTICS.items()}
    assert found == {
        "ax": ("mnli", "AX", ("matthews",)),
        "axb": ("rte_superglue", "AX-b", ("matthews",)),
        "axg": ("rte_superglue", "AX-g", ("accuracy",)),
    }
    for each in DIAGNOSTICS.values():
        assert (each.rows.labels, each.rows.text_columns) == (each.head.labels, each.head.text_columns)
        assert each.rows.hub.revision == each.head.hub.revision
    with pytest.raises(InputError, match="unknown diagnostic set 'axc'"):
        get_diagnostic("axc")


def test_a_diagnostic_set_is_scored_and_sent(model_for, tiny_tokenizer, tmp_path):
    diagnostic = get_diagnostic("axb")
    rows = [{"sentence1": f"A {at}", "sentence2": "B", "label": label} for at, label in enumerate([0, 1, 1, 0])]
    write(tmp_path, diagnostic.rows, "test", rows)
    model = model_for(diagnostic.head)
    with torch.no_grad():
        model.head.out.weight.zero_()
        model.head.out.bias.copy_(torch.tensor([0.0, 1.0]))  # always "not_entailment"
    assert diagnose(diagnostic, model, tiny_tokenizer, tmp_path, tmp_path / "out") == {"matthews": 0.0}
    assert (tmp_path / "out" / "AX-b.jsonl").read_text().splitlines() == [
        f'{{"idx": {at}, "label": "not_entailment"}}' for at in range(4)
    ]
    gender = get_diagnostic("axg")
    write(tmp_path, gender.rows, "test", [PAIR | {"label": 1}, PAIR | {"label": 0}, PAIR | {"label": 1}])
    assert diagnose(gender, model, tiny_tokenizer, tmp_path) == {"accuracy": pytest.approx(2 / 3)}


def test_where_the_labels_are_not_public_only_the_file_is_made(model_for, tiny_tokenizer, tmp_path):
    diagnostic = get_diagnostic("ax")
    write(tmp_path, diagnostic.rows, "test", [PAIR | {"label": -1, "idx": 3}])
    assert diagnose(diagnostic, model_for(diagnostic.head), tiny_tokenizer, tmp_path, tmp_path) == {}
    assert (tmp_path / "AX.tsv").read_text().splitlines()[1].split("\t")[1] in diagnostic.head.labels


def test_three_classes_have_a_matthews_correlation():
    task = get_diagnostic("ax").rows
    # all right but one of six: (s c - sum p t) / sqrt((s^2 - sum p^2)(s^2 - sum t^2)), s = 6, c = 5
    values = compute(task, [0, 0, 1, 1, 2, 0], [0, 0, 1, 1, 2, 2])
    assert values["matthews"] == pytest.approx((30 - 12) / ((36 - 14) * (36 - 12)) ** 0.5)
    assert score(task, {"matthews": 0.5}) == 50.0


def test_the_command_writes_the_file_of_the_server(model_for, tiny_tokenizer, tmp_path, capsys):
    task = get_task("rte")
    data = write(tmp_path, task, "test", [{"sentence1": "A dog ran.", "sentence2": "It ran.", "label": -1}] * 3)
    model_for(task).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    asked = ["submit", "rte", str(tmp_path / "model"), str(tmp_path / "out"), "--data-dir", str(data)]
    assert main(asked) == 0
    assert capsys.readouterr().out.rstrip().endswith("out/RTE.tsv")
    assert len((tmp_path / "out" / "RTE.tsv").read_text().splitlines()) == 4
    assert main([*asked, "--max-length", "12", "--truncate"]) == 0
    assert capsys.readouterr().err == "gemma-encoder: warning: 3 texts of rte were cut to 12 tokens\n"
    assert main([*asked, "--max-length", "4"]) == 2
    assert "the limit is 4" in capsys.readouterr().err
    assert main(["submit", "msmarco", *asked[2:]]) == 2


def test_a_model_of_other_classes_does_not_answer(tiny_decoder, tiny_tokenizer, tmp_path):
    cola, sst2 = get_task("cola"), get_task("sst2")
    settings = {"num_labels": 2, "text_columns": cola.text_columns, "id2label": dict(enumerate(cola.labels))}
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(vocab_size=len(tiny_tokenizer)), **settings)
    rows = Dataset.from_list([{"sentence": "a", "label": -1}])
    assert len(answers(cola, model, tiny_tokenizer, rows)) == 1
    with pytest.raises(InputError, match=r"does not answer sst2; valid: \('negative', 'positive'\)"):
        answers(sst2, model, tiny_tokenizer, rows)
