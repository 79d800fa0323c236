"""Rows from a folder or the hub: what goes in comes out, and every bad row is named by its place."""

import gzip
import hashlib
import json
import pickle
from pathlib import Path

import pytest

from gemma_encoder import InputError
from gemma_encoder.tasks import GLUE, HubSource, Task, digest, get_task, load, register, sources, task_names, tasks_in

ROWS = [{"sentence": "a fine film", "label": 1, "idx": 0}, {"sentence": "dull", "label": 0, "idx": 1}]


def write(root: Path, task: str, split: str, rows: list, packed: bool = False) -> Path:
    """One split in the folder layout; a row that is a str is written as it is."""
    content = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path = root / "glue" / task / f"{split}.jsonl{'.gz' if packed else ''}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.fixture
def folder(tmp_path):
    """A folder with a valid SST-2."""
    for split in ("train", "validation"):
        write(tmp_path, "sst2", split, ROWS)
    return tmp_path


def examples(task: Task, count: int) -> list[dict]:
    """Valid rows of any task."""
    low, high = task.label_range
    labels = [at % task.num_labels if task.labels else low + (high - low) * at / count for at in range(count)]
    texts = ["Größe 5 \u2028 “x”", " spaces kept ", 'quote " and \\ backslash']
    return [
        {column: f"{column} {texts[at % 3]}" for column in task.text_columns} | {"label": label, "idx": at}
        for at, label in enumerate(labels)
    ]


def test_the_nine_tasks_have_the_columns_labels_and_metrics_of_glue():
    assert {task.name: (task.text_columns, task.labels, task.metrics) for task in GLUE} == {
        "cola": (("sentence",), ("unacceptable", "acceptable"), ("matthews",)),
        "sst2": (("sentence",), ("negative", "positive"), ("accuracy",)),
        "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("accuracy", "f1")),
        "stsb": (("sentence1", "sentence2"), (), ("pearson", "spearman")),
        "qqp": (("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), ("accuracy",)),
        "qnli": (("sentence", "question"), ("entailment", "not_entailment"), ("accuracy",)),
        "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment"), ("accuracy",)),
        "wnli": (("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",)),
    }
    assert {task.name for task in GLUE} <= set(task_names())
    assert [task.num_labels for task in GLUE] == [2, 2, 2, 1, 2, 3, 2, 2, 2]
    assert {(task.hub.repo, len(task.hub.revision)) for task in GLUE} == {("nyu-mll/glue", 40)}


def test_a_task_is_a_value():
    task = get_task("sst2")
    assert pickle.loads(pickle.dumps(task)) == task
    assert len({task, get_task("cola"), pickle.loads(pickle.dumps(task))}) == 2
    assert register(task) is task


def test_unknown_and_taken_names_are_refused():
    with pytest.raises(InputError, match=r"^unknown task 'sst3' \(did you mean 'sst2'\?\); valid: .*cola.*wnli"):
        get_task("sst3")
    with pytest.raises(InputError, match=r"^task name 'sst2' is taken; taken: cola, sst2"):
        register(Task("sst2", "mine", "Mine", "classification", ("text",), ("accuracy",), labels=("no", "yes")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "span"}, "unknown kind of task 'span'; valid: choice, classification, ranking, regression"),
        ({"text_columns": ("a", "b", "c", "d")}, "task 'x' has 4 text columns; valid: 1 to 3"),
        ({"kind": "regression"}, "task 'x' (regression) has labels ('no', 'yes'); only classes have names"),
        ({"labels": ()}, "task 'x' (classification) has labels (); only classes have names"),
    ],
)
def test_a_definition_that_contradicts_itself_is_refused(settings, message):
    good = {"kind": "classification", "text_columns": ("text",), "labels": ("no", "yes")}
    with pytest.raises(InputError) as caught:
        Task(name="x", suite="mine", title="X", metrics=("accuracy",), **(good | settings))
    assert str(caught.value) == message


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("task", GLUE, ids=lambda task: task.name)
def test_every_task_comes_back_from_a_folder_as_it_was_written(task, packed, tmp_path):
    rows = {split: examples(task, count) for count, split in enumerate(task.splits, 3)}
    for split, name in task.splits.items():
        write(tmp_path, task.name, name, rows[split], packed)
    data = load(task, tmp_path)
    assert {split: table.to_list() for split, table in data.items()} == rows
    assert data["train"].column_names == [*task.text_columns, "label", "idx"]
    if task.labels:
        assert data["train"].features["label"].names == list(task.labels)


def test_mnli_validates_on_the_matched_split_and_keeps_the_other(tmp_path):
    task = get_task("mnli")
    for split in ("train", "validation_matched", "validation_mismatched"):
        write(tmp_path, "mnli", split, [{"premise": split, "hypothesis": "x", "label": 2}])
    premises = {split: rows["premise"][0] for split, rows in load(task, tmp_path).items()}
    assert premises == {
        "train": "train",
        "validation": "validation_matched",
        "validation_mismatched": "validation_mismatched",
    }


def test_blank_lines_windows_files_and_further_columns_do_no_harm(folder):
    path = write(folder, "sst2", "train", [])
    path.write_bytes(
        b'\xef\xbb\xbf{"label": 1, "sentence": "good", "source": "x"}\r\n \t\r\n\r\n{"sentence": "bad", "label": 0}'
    )
    assert load(get_task("sst2"), folder)["train"].to_list() == [
        {"sentence": "good", "label": 1},
        {"sentence": "bad", "label": 0},
    ]


def test_whole_numbers_are_regression_labels_and_become_floats(tmp_path):
    for split in ("train", "validation"):
        write(tmp_path, "stsb", split, [{"sentence1": "a", "sentence2": "b", "label": label} for label in (0, 5, 2.5)])
    labels = load(get_task("stsb"), tmp_path)["train"]["label"][:]
    assert labels == [0.0, 5.0, 2.5] and {type(label) for label in labels} == {float}


def test_only_the_column_with_known_gaps_may_be_empty(tmp_path):
    row = {"question1": "How can I create an Android app?", "question2": "", "label": 0}
    for split in ("train", "validation"):
        write(tmp_path, "qqp", split, [row])
    assert load(get_task("qqp"), tmp_path)["train"].to_list() == [row]
    path = write(tmp_path, "qqp", "train", [row | {"question1": ""}])
    with pytest.raises(InputError) as caught:
        load(get_task("qqp"), tmp_path)
    assert str(caught.value).startswith(f"{path}, line 1: column 'question1' is empty (''); valid: a text")


CLASSES = "valid: 0 (negative), 1 (positive)"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"sentence": "cut off', "broken JSON at character 14: Unterminated string starting at"),
        ('{"sentence": "x" "label": 1}', "broken JSON at character 18: Expecting ',' delimiter"),
        ("[1, 2]", "holds [1, 2]; valid: a JSON object"),
        ("{}", "no column 'sentence'; columns there: none"),
        ({"text": "x", "label": 1}, "no column 'sentence'; columns there: label, text"),
        ({"sentence": "x", "idx": 1}, "no column 'label'; columns there: idx, sentence"),
        ({"sentence": 7, "label": 1}, "column 'sentence' holds 7; valid: a text"),
        ({"sentence": None, "label": 1}, "column 'sentence' holds None; valid: a text"),
        (
            {"sentence": " \t", "label": 1},
            "column 'sentence' is empty (' \\t'); valid: a text with at least one character that is not a space",
        ),
        (
            {"sentence": "ab\ud83d", "label": 1},
            "column 'sentence' has half a surrogate pair at character 3; valid: a text that UTF-8 can hold",
        ),
        ({"sentence": "x", "label": 2}, f"label 2; {CLASSES}"),
        ({"sentence": "x", "label": -1}, f"label -1; {CLASSES}"),
        ({"sentence": "x", "label": 1.0}, f"label 1.0; {CLASSES}"),
        ({"sentence": "x", "label": True}, f"label True; {CLASSES}"),
        ({"sentence": "x", "label": "1"}, f"label '1'; {CLASSES}"),
        ({"sentence": "x", "label": None}, f"label None; {CLASSES}"),
        ('{"sentence": "x", "label": NaN}', f"label nan; {CLASSES}"),
        ('{"sentence": "x", "label": 0, "label": 1}', "column 'label' is given more than once; valid: once"),
        ({"sentence": "x", "label": 1}, "'idx' is there in some rows only; valid: in every row, or in none"),
        ({"sentence": "x", "label": 1, "idx": 0}, "idx 0 is that of line 1 too; valid: each once"),
        ({"sentence": "x", "label": 1, "idx": "7"}, "idx '7'; valid: an integer of 64 bits"),
        ({"sentence": "x", "label": 1, "idx": 2**63}, "idx 9223372036854775808; valid: an integer of 64 bits"),
        ({"sentence": "x", "label": 1, "idx": True}, "idx True; valid: an integer of 64 bits"),
        ({"sentence": "x", "label": 1, "idx": {"a": 1}}, "idx {'a': 1}; valid: an integer of 64 bits"),
        ("[" * 100_000, "lists or objects too deep in each other; valid: a JSON object"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_row_is_named_by_file_line_and_value(row, message, packed, folder):
    (folder / "glue/sst2/validation.jsonl").unlink()
    path = write(folder, "sst2", "validation", [ROWS[0], "", row, ROWS[1]], packed)
    with pytest.raises(InputError) as caught:
        load(get_task("sst2"), folder)
    assert str(caught.value) == f"{path}, line 3: {message}"


def test_an_integer_of_thousands_of_digits_is_named(folder):
    path = write(folder, "sst2", "train", [ROWS[0], f'{{"sentence": "x", "label": {"1" * 5000}}}'])
    with pytest.raises(InputError) as caught:
        load(get_task("sst2"), folder)
    assert str(caught.value).startswith(f"{path}, line 2: Exceeds the limit (4300 digits)")
    assert str(caught.value).endswith("value has 5000 digits; valid: integers of 64 bits")


@pytest.mark.parametrize("label", ["5.01", "-0.1", "NaN", "Infinity", "true", '"3"', "null"])
def test_a_regression_label_is_a_number_in_range(label, tmp_path):
    good = '{"sentence1": "a", "sentence2": "b", "label": 3}'
    write(tmp_path, "stsb", "validation", [good])
    path = write(tmp_path, "stsb", "train", [good, good.replace("3", label)])
    with pytest.raises(InputError) as caught:
        load(get_task("stsb"), tmp_path)
    assert str(caught.value) == f"{path}, line 2: label {json.loads(label)!r}; valid: a number from 0.0 to 5.0"


def test_text_that_is_not_utf8_is_named(folder):
    path = folder / "glue/sst2/train.jsonl"
    path.write_bytes(b'{"sentence": "ok", "label": 1}\n{"sentence": "caf\xe9", "label": 1}\n')
    with pytest.raises(InputError) as caught:
        load(get_task("sst2"), folder)
    assert str(caught.value) == f"{path}, line 2: not UTF-8 at byte 18"


def test_a_missing_task_lists_the_tasks_of_the_folder(folder):
    write(folder, "rte", "train", [])
    (folder / "glue/empty").mkdir()
    with pytest.raises(InputError) as caught:
        load(get_task("cola"), folder)
    assert str(caught.value) == f"no task glue/cola in {folder}; tasks there: glue/rte, glue/sst2"


def test_a_task_without_a_suite_is_listed_too(tmp_path):
    (tmp_path / "msmarco").mkdir()
    (tmp_path / "msmarco" / "train.jsonl").touch()
    with pytest.raises(InputError, match=r"tasks there: msmarco$"):
        load(get_task("cola"), tmp_path)


def test_a_missing_split_lists_the_splits_of_the_task(folder):
    (folder / "glue/sst2/validation.jsonl").rename(folder / "glue/sst2/test.jsonl")
    with pytest.raises(InputError) as caught:
        load(get_task("sst2"), folder)
    assert str(caught.value) == f"{folder / 'glue/sst2'} has no validation.jsonl[.gz]; splits there: test, train"


def test_a_missing_folder_is_named_with_what_is_valid(tmp_path):
    with pytest.raises(InputError) as caught:
        load(get_task("sst2"), tmp_path / "nowhere")
    valid = "valid: 'builtin', 'hub', or a folder with <suite>/<task>/<split>.jsonl[.gz]"
    assert str(caught.value) == f"no data folder '{tmp_path / 'nowhere'}'; {valid}"


def test_no_name_is_not_the_current_folder():
    with pytest.raises(InputError, match=r"^no data folder ''; valid: 'builtin'"):
        load(get_task("sst2"), "")


def test_a_split_that_is_there_twice_is_refused(folder):
    write(folder, "sst2", "train", ROWS, packed=True)
    with pytest.raises(InputError, match=r"has both train\.jsonl and train\.jsonl\.gz; keep one$"):
        load(get_task("sst2"), folder)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_split_is_refused(content, folder):
    path = folder / "glue/sst2/validation.jsonl"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        load(get_task("sst2"), folder)
    assert str(caught.value) == f"{path} has no rows; valid: at least one in every split"


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"plain text", lambda b: b[:12] + b"xxxx" + b[16:]])
def test_a_damaged_gzip_file_is_named(damage, folder):
    (folder / "glue/sst2/train.jsonl").unlink()
    path = write(folder, "sst2", "train", ROWS, packed=True)
    path.write_bytes(damage(path.read_bytes()))
    for read in (load, digest):
        with pytest.raises(InputError) as caught:
            read(get_task("sst2"), folder)
        assert str(caught.value).startswith(f"cannot read {path}: ") and "\n" not in str(caught.value)


def test_the_builtin_tasks_are_a_folder_like_any_other(folder, monkeypatch):
    monkeypatch.setattr(sources, "BUILTIN", folder)
    task = get_task("sst2")
    assert load(task)["train"].to_list() == ROWS
    assert digest(task) == digest(task, folder) == digest(task, str(folder))


def test_loading_writes_nothing(folder, monkeypatch):
    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(folder)
    assert all(not table.cache_files for table in load(get_task("sst2"), folder).values())
    assert sorted(folder.rglob("*")) == before


def test_the_digest_follows_the_content_and_not_the_packing(folder):
    task = get_task("sst2")
    plain = digest(task, folder)
    assert len(plain) == 64 and set(plain) <= set("0123456789abcdef")
    (folder / "glue/sst2/train.jsonl").unlink()
    write(folder, "sst2", "train", ROWS, packed=True)
    assert digest(task, folder) == plain
    write(folder, "sst2", "test", ROWS)
    assert digest(task, folder) == plain
    write(folder, "sst2", "validation", [ROWS[0] | {"label": 0}, ROWS[1]])
    changed = digest(task, folder)
    (folder / "glue/sst2/train.jsonl.gz").unlink()
    write(folder, "sst2", "train", [ROWS[0] | {"label": 0}, ROWS[1]])
    write(folder, "sst2", "validation", ROWS)
    assert len({plain, changed, digest(task, folder)}) == 3  # the last: the same contents with the splits swapped


def test_a_task_without_a_hub_entry_says_so():
    task = Task("mine", "own", "Mine", "classification", ("text",), ("accuracy",), labels=("no", "yes"))
    for read in (load, digest):
        with pytest.raises(
            InputError, match=r"^task 'mine' is not on the hub; valid: 'builtin', or a folder with <suite>"
        ):
            read(task, "hub")


def test_the_digest_of_the_hub_is_that_of_its_revision():
    one = Task("one", "own", "One", "regression", ("text",), ("pearson",), hub=HubSource("a/b", "c", "0" * 40))
    assert digest(one, "hub") == hashlib.sha256(f"a/b/c@{'0' * 40}".encode()).hexdigest()
    assert len({digest(task, "hub") for task in GLUE}) == 9


def test_the_tasks_of_a_folder_are_those_with_all_splits(tmp_path):
    for path in ("glue/cola/train.jsonl", "glue/cola/validation.jsonl.gz", "glue/rte/train.jsonl"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    assert tasks_in(tmp_path) == ["cola"]
    assert {"cola", "wsc", "msmarco"} <= set(tasks_in()) and "cb" not in tasks_in()
    assert "cb" in tasks_in("hub") and "trec_dl" not in tasks_in("hub")
