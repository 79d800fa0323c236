"""SuperGLUE and ranking: rows from files, marks and lists, what the metrics say, what the servers are sent."""

import json
from math import log2
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from gemma_encoder import InputError
from gemma_encoder.experiments import run
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.tasks import (
    SUPERGLUE,
    bag_of_words,
    bm25,
    collate,
    compute,
    encode,
    first_candidates,
    get_task,
    load,
    majority,
    predictions_of,
    references_of,
    score,
    training_lists,
    write_submission,
)

ROWS = {
    "boolq": {"question": "is it", "passage": "It is.", "label": 1, "idx": 0},
    "cb": {"premise": "It may.", "hypothesis": "it does", "label": 2, "idx": 0},
    "copa": {"premise": "It rained.", "choice1": "Wet.", "choice2": "Dry.", "question": "effect", "label": 0, "idx": 0},
    "multirc": {
        "paragraph": "A b.",
        "question": "Who?",
        "answer": "",
        "label": 1,
        "idx": {"paragraph": 3, "question": 1, "answer": 2},
    },
    "record": {
        "passage": "Ann met Bob.",
        "query": "@placeholder met Bob",
        "entities": ["Bob", "Ann", "Bob"],
        "answers": ["Ann"],
        "idx": {"passage": 0, "query": 7},
    },
    "rte_superglue": {"premise": "a", "hypothesis": "b", "label": 0, "idx": 0},
    "wic": {
        "word": "place",
        "sentence1": "my place now",
        "sentence2": "no place",
        "start1": 3,
        "end1": 8,
        "start2": 3,
        "end2": 8,
        "label": 0,
        "idx": 0,
    },
    "wsc": {
        "text": "Ann told Bob that  she, too, sang.",
        "span1_text": "Ann",
        "span1_index": 0,
        "span2_text": "she",
        "span2_index": 4,
        "label": 1,
        "idx": 0,
    },
    "msmarco": {
        "query_id": 5,
        "query": "who",
        "passages": [{"passage_id": 1, "text": "me", "label": 2}, {"passage_id": 2, "text": "you", "label": 0}],
    },
}


def folder(root: Path, name: str, *rows: dict) -> Path:
    """A data folder with these rows as both splits of the task."""
    task = get_task(name)
    (root / task.path).mkdir(parents=True, exist_ok=True)
    for split in task.splits.values():
        (root / task.path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def first(root: Path, name: str, **changes) -> dict:
    return load(get_task(name), folder(root, name, ROWS[name] | changes))["train"][0]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("boolq", ROWS["boolq"]),
        ("cb", ROWS["cb"]),
        ("rte_superglue", ROWS["rte_superglue"]),
        ("multirc", ROWS["multirc"]),
        (
            "copa",
            {"premise": "It rained.", "question": "effect", "choice": ["Wet.", "Dry."], "label": [1, 0], "idx": 0},
        ),
        (
            "record",
            {
                "passage": "Ann met Bob.",
                "query": "@placeholder met Bob",
                "entity": ["Bob", "Ann"],
                "label": [0, 1],
                "idx": {"passage": 0, "query": 7},
            },
        ),
        (
            "wic",
            {"word": "place", "sentence1": "my *place* now", "sentence2": "no *place*", "label": 0, "idx": 0},
        ),
        ("wsc", {"text": "Ann told Bob that *she*, too, sang.", "span1_text": "Ann", "label": 1, "idx": 0}),
        (
            "msmarco",
            {
                "query": "who",
                "passage": ["me", "you"],
                "label": [2, 0],
                "query_id": "5",
                "passage_id": ["1", "2"],
                "bm25_rank": [None, None],
                "ideal_grades": [],
            },
        ),
    ],
)
def test_rows_come_in_the_columns_of_their_task(name, row, tmp_path):
    assert first(tmp_path, name) == row


def test_the_tasks_have_the_metrics_and_labels_of_superglue():
    assert {task.title: (task.kind, task.labels, task.metrics) for task in SUPERGLUE} == {
        "BoolQ": ("classification", ("False", "True"), ("accuracy",)),
        "CB": ("classification", ("entailment", "contradiction", "neutral"), ("accuracy", "macro_f1")),
        "COPA": ("choice", (), ("accuracy",)),
        "MultiRC": ("classification", ("False", "True"), ("f1a", "em_question")),
        "ReCoRD": ("choice", (), ("f1_token", "em")),
        "RTE (SuperGLUE)": ("classification", ("entailment", "not_entailment"), ("accuracy",)),
        "WiC": ("classification", ("False", "True"), ("accuracy",)),
        "WSC": ("classification", ("False", "True"), ("accuracy",)),
    }


PASSAGE = {"passage_id": 1, "text": "x", "label": 1}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("boolq", {"label": 2}, "label 2; valid: 0 (False), 1 (True)"),
        ("copa", {"label": 2}, "label 2; valid: 0 (choice1), 1 (choice2)"),
        ("copa", {"question": "why"}, "question 'why'; valid: cause, effect"),
        ("copa", {"choice2": ""}, "choice 1 (counted from 0) is empty ('')"),
        ("multirc", {"idx": 4}, "column 'idx' holds 4; valid: an integer for each of paragraph, question, answer"),
        ("record", {"entities": "Ann"}, "column 'entities' holds 'Ann'; valid: a list"),
        ("record", {"entities": [["Ann"]]}, "column 'entities' holds [['Ann']]; valid: a list of texts"),
        ("record", {"answers": ["Cy"]}, "answer 'Cy' is no entity of the passage; valid: ['Bob', 'Ann']"),
        ("record", {"answers": []}, "column 'answers' is empty; valid: at least one of the entities"),
        ("record", {"query": "Who met her?"}, "query 'Who met her?' has 0 gaps; valid: one @placeholder"),
        ("wic", {"end2": 9}, "start2 3 and end2 9 lie outside 'sentence2'; valid: 0 to 8"),
        ("wic", {"start1": -1}, "start1 -1 and end1 8 lie outside 'sentence1'; valid: 0 to 12"),
        ("wic", {"start1": "3"}, "column 'start1' holds '3'; valid: an integer"),
        ("wsc", {"span2_index": 1}, "span2_text 'she' is not at word 1 of the 7 of 'text' (counted from 0)"),
        ("wsc", {"span2_index": 70}, "span2_text 'she' is not at word 70 of the 7 of 'text' (counted from 0)"),
        ("msmarco", {"passages": []}, "column 'passage' holds no candidates; valid: a list of at least one text"),
        ("msmarco", {"passages": None}, "column 'passages' holds None; valid: a list"),
        ("msmarco", {"passages": [{"text": "x"}]}, "passage 0 (counted from 0) has no 'passage_id': {'text': 'x'}"),
        (
            "msmarco",
            {"passages": [PASSAGE | {"label": -1}]},
            "label -1 of passage 0 (counted from 0); valid: an integer",
        ),
        (
            "msmarco",
            {"passages": [PASSAGE | {"label": 0.5}]},
            "label 0.5 of passage 0 (counted from 0); valid: an integer",
        ),
        ("msmarco", {"passages": [PASSAGE | {"bm25_rank": "a"}]}, "bm25_rank 'a' of passage 0 (counted from 0)"),
        ("msmarco", {"passages": [PASSAGE | {"bm25_rank": 0}]}, "bm25_rank 0 of passage 0 (counted from 0); valid: an"),
        ("msmarco", {"passages": [PASSAGE | {"bm25_rank": 2**63}]}, "bm25_rank 9223372036854775808 of passage 0"),
        (
            "msmarco",
            {"passages": [PASSAGE | {"passage_id": at, "bm25_rank": 2} for at in (1, 2)]},
            "bm25_rank 2 is that of several passages of the query; valid: of one",
        ),
        ("msmarco", {"passages": [PASSAGE | {"label": 2**63}]}, "label 9223372036854775808 of passage 0"),
        ("msmarco", {"ideal_grades": [2**63]}, "ideal_grades [9223372036854775808]; valid: a list of integers"),
        ("msmarco", {"query_id": "\ud800"}, "query_id has half a surrogate pair at character 1"),
        ("msmarco", {"passages": [PASSAGE | {"passage_id": "a\ud800"}]}, "passage_id has half a surrogate pair at"),
        ("wic", {"idx": {"a": 1}}, "idx {'a': 1}; valid: an integer of 64 bits"),
        ("record", {"idx": {"passage": 2**63, "query": 0}}, "column 'idx' holds {'passage': 9223372036854775808"),
        (
            "multirc",
            {"question": "When?"},
            "idx {'answer': 2, 'paragraph': 3, 'question': 1} names another paragraph or",
        ),
        (
            "multirc",
            {"paragraph": "C d."},
            "idx {'answer': 2, 'paragraph': 3, 'question': 1} names another paragraph or",
        ),
        ("msmarco", {"passages": {"passage_text": ["a"], "is_selected": []}}, "passages {'is_selected': [],"),
        ("msmarco", {"passages": {"passage_text": ["a"]}}, "passages {'passage_text': ['a']}; valid: passage"),
        ("msmarco", {"passages": [PASSAGE, PASSAGE]}, "passage_id '1' names several passages of the query; valid: one"),
        ("msmarco", {"ideal_grades": [-1]}, "ideal_grades [-1]; valid: a list of integers >= 0"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_value(name, changes, message, tmp_path):
    root = folder(tmp_path, name, ROWS[name], ROWS[name] | changes)
    with pytest.raises(InputError) as caught:
        load(get_task(name), root)
    path = root / get_task(name).path / "train.jsonl"
    assert str(caught.value).startswith(f"{path}, line 2: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ROWS)
def test_a_missing_column_is_named(name, tmp_path):
    column = next(iter(ROWS[name]))
    row = {key: value for key, value in ROWS[name].items() if key != column}
    with pytest.raises(InputError, match=f"line 1: no column '{column}'; columns there: "):
        load(get_task(name), folder(tmp_path, name, row))


def test_multirc_counts_answers_and_whole_questions():
    task = get_task("multirc")
    places = [(0, 0), (0, 0), (0, 1), (1, 0)]
    rows = Dataset.from_list(
        [{"label": 1, "idx": {"paragraph": p, "question": q, "answer": at}} for at, (p, q) in enumerate(places)]
    )
    values = compute(task, [1, 0, 1, 1], references_of(task, rows))  # the first of three questions is not all right
    assert values == pytest.approx({"f1a": 6 / 7, "em_question": 2 / 3})
    assert score(task, values) == pytest.approx(50 * (6 / 7 + 2 / 3))


def test_record_takes_the_best_answer_after_the_official_normalisation():
    task = get_task("record")
    assert compute(task, ["The U.S. army"], [["us navy", "US Army!"]]) == {"f1_token": 1.0, "em": 1.0}
    # words in common 1; 2 and 3 words: 2 * 1 / 5
    assert compute(task, ["Ann Lee"], [["Bob", "Mary Ann Smith"]]) == pytest.approx({"f1_token": 2 / 5, "em": 0.0})


def test_macro_f1_is_the_mean_over_classes():
    values = compute(get_task("cb"), [0, 0, 1, 2], [0, 1, 1, 2])  # F1 2/3, 2/3 and 1
    assert values == pytest.approx({"accuracy": 3 / 4, "macro_f1": 7 / 9})


def test_predictions_are_what_the_task_asks_for():
    logits = [torch.tensor([0.5, 2.0]), torch.tensor([3.0, 1.0])]
    rows = Dataset.from_dict({"entity": [["a", "b"], ["c", "d"]]})
    assert predictions_of(get_task("copa"), logits, rows) == [1, 0]
    assert predictions_of(get_task("record"), logits, rows) == ["b", "c"]
    assert predictions_of(get_task("msmarco"), logits, rows) == [[0.5, 2.0], [3.0, 1.0]]


def test_lists_of_candidates_become_a_batch_of_lists(tiny_tokenizer):
    task = get_task("msmarco")
    rows = [{"query": "q", "passage": ["a", "bb"], "label": [0, 1]}, {"query": "q", "passage": ["c"], "label": [1]}]
    encoded, cut = encode(rows, task, tiny_tokenizer, 64)
    assert cut == 0 and [len(row) for row in encoded["input_ids"]] == [2, 1]
    batch = collate([encoded[0], encoded[1]], pad_id=0)
    assert batch["input_ids"].shape == batch["attention_mask"].shape and batch["input_ids"].shape[:2] == (2, 2)
    assert batch["labels"].tolist() == [[0.0, 1.0], [1.0, 0.0]] and batch["labels"].dtype == torch.float32
    texts = [
        tiny_tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"].flatten(0, 1), batch["attention_mask"].flatten(0, 1), strict=True)
    ]
    assert texts == ["<bos>query: q passage: a", "<bos>query: q passage: bb", "<bos>query: q passage: c", ""]


def test_a_training_list_is_one_relevant_passage_and_others():
    task = get_task("trec_dl")
    row = {"query": "q", "passage": ["three", "two", "one", "none"], "label": [3, 2, 1, 0]}
    lists = training_lists(task, Dataset.from_list([row, row | {"label": [1, 0, 0, 0]}]), 8, seed=0)
    assert lists["label"][:] == [[1, 0, 0]] * 2  # the second query has nothing of grade 2
    assert [(texts[0], set(texts[1:])) for texts in lists["passage"]] == [
        ("three", {"one", "none"}),
        ("two", {"one", "none"}),
    ]
    with pytest.raises(InputError, match="list_size 1 is not valid; valid: 2 or more"):
        training_lists(task, lists, 1, seed=0)
    with pytest.raises(InputError, match="no training list for trec_dl"):
        training_lists(task, Dataset.from_list([row | {"label": [2] * 4}]), 8, seed=0)


RANKED = [
    {"passage_id": at, "text": f"passage {at}", "label": at, "bm25_rank": rank}
    for at, rank in enumerate([3, None, 1, 2])
]


def test_the_first_candidates_are_those_of_bm25_and_the_best_order_is_still_that_of_all(tmp_path):
    task = get_task("msmarco")
    rows = load(task, folder(tmp_path, "msmarco", ROWS["msmarco"] | {"passages": RANKED}))["validation"]
    cut = first_candidates(rows, 2)
    assert (cut["passage_id"][0], cut["label"][0], cut["bm25_rank"][0]) == (["2", "3"], [2, 3], [1, 2])
    assert cut["ideal_grades"][0] == [3, 2, 1]
    assert first_candidates(rows, 100)["passage_id"][0] == ["0", "2", "3"]
    best = 3 + 2 / log2(3) + 1 / 2
    assert compute(task, [[0.0, 1.0]], references_of(task, cut))["ndcg10"] == pytest.approx((3 + 2 / log2(3)) / best)
    graded = load(task, folder(tmp_path, "msmarco", ROWS["msmarco"] | {"passages": RANKED, "ideal_grades": [4, 4]}))
    assert first_candidates(graded["validation"], 1)["ideal_grades"][0] == [4, 4, 3, 2, 1]
    with pytest.raises(InputError, match=r"row 0 \(counted from 0\) has no bm25_rank from 1 to 5; valid: candidates 0"):
        first_candidates(load(task, folder(tmp_path, "msmarco", ROWS["msmarco"]))["validation"], 5)


def test_a_run_scores_as_many_candidates_as_its_spec_says(tmp_path):
    data = str(folder(tmp_path, "trec_dl", ROWS["msmarco"] | {"passages": RANKED}))
    parts = run.split(RunSpec(task="trec_dl", data=data, candidates=2, list_size=2))
    assert [len(row) for row in parts["validation"]["passage"]] == [2]
    assert len(run.split(RunSpec(task="trec_dl", data=data, list_size=2))["validation"]["passage"][0]) == 4
    with pytest.raises(InputError, match="candidates 2 with task 'cola'; valid: with a ranking task, or 0"):
        RunSpec(task="cola", candidates=2)


def test_the_floor_of_bm25_is_the_order_in_the_data_where_it_is_there(tmp_path):
    task = get_task("msmarco")
    rows = load(task, folder(tmp_path, "msmarco", ROWS["msmarco"] | {"passages": RANKED, "query": "passage 0"}))
    found = bm25(task, rows["validation"])  # in order: grades 2, 3, 0, 1
    best = 3 + 2 / log2(3) + 1 / 2
    assert found == pytest.approx({"mrr10": 1.0, "ndcg10": (2 + 3 / log2(3) + 1 / log2(5)) / best, "recall10": 1.0})


def test_floors_of_lists(tmp_path):
    copa = load(get_task("copa"), folder(tmp_path, "copa", ROWS["copa"], ROWS["copa"] | {"premise": "x", "idx": 1}))
    assert majority(get_task("copa"), **copa) == {"accuracy": 1.0}
    assert bag_of_words(get_task("copa"), **copa) == {"accuracy": 1.0}
    texts = ["rivers flow to the sea", "the cook salts the soup", "a violin has four strings"]
    passages = [{"passage_id": at, "text": text, "label": int(at == 1)} for at, text in enumerate(texts)]
    row = ROWS["msmarco"] | {"query": "salts in soup", "passages": passages}
    rows = load(get_task("msmarco"), folder(tmp_path, "msmarco", row))
    assert bag_of_words(get_task("msmarco"), **rows)["mrr10"] == 1.0
    assert majority(get_task("msmarco"), **rows)["mrr10"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


@pytest.mark.parametrize("query", ["the of", "Zzzz qqqq"])
def test_a_query_of_which_no_word_counts_scores_no_passage(query, tmp_path):
    task = get_task("msmarco")
    passages = [{"passage_id": at, "text": text, "label": at} for at, text in enumerate(["salt and soup", "a violin"])]
    rows = [ROWS["msmarco"] | {"query": text, "passages": passages} for text in (query, "a violin")]
    found = load(task, folder(tmp_path, "msmarco", *rows))["validation"]
    assert bm25(task, found)["mrr10"] == pytest.approx((majority(task, found, found.select([0]))["mrr10"] + 1) / 2)


def test_passages_of_stop_words_alone_have_no_score(tmp_path):
    task = get_task("msmarco")
    passages = [{"passage_id": at, "text": text, "label": at} for at, text in enumerate(["the of", "and a"])]
    found = load(task, folder(tmp_path, "msmarco", ROWS["msmarco"] | {"query": "soup", "passages": passages}))
    assert bm25(task, found["validation"]) == majority(task, **found)


def test_both_parts_of_mnli_count_alike():
    assert score(get_task("mnli"), {"accuracy": 0.8, "accuracy_mismatched": 0.7}) == pytest.approx(75)


MULTIRC = [{"paragraph": 0, "question": 0, "answer": 0}, {"paragraph": 0, "question": 1, "answer": 1}]


@pytest.mark.parametrize(
    ("name", "predictions", "indices", "split", "file", "lines"),
    [
        ("cola", [1], [0], "test", "CoLA.tsv", ["index\tprediction", "0\t1"]),
        ("stsb", [5.3, 2.0], [0, 1], "test", "STS-B.tsv", ["index\tprediction", "0\t5.000", "1\t2.000"]),
        ("mnli", [2], [9], "test_matched", "MNLI-m.tsv", ["index\tprediction", "9\tcontradiction"]),
        ("mnli", [0], [9], "test_mismatched", "MNLI-mm.tsv", ["index\tprediction", "9\tentailment"]),
        ("rte", [1], [3], "test", "RTE.tsv", ["index\tprediction", "3\tnot_entailment"]),
        ("boolq", [1], [4], "test", "BoolQ.jsonl", ['{"idx": 4, "label": "true"}']),
        ("wsc", [0], [4], "test", "WSC.jsonl", ['{"idx": 4, "label": "False"}']),
        ("copa", [1], [4], "test", "COPA.jsonl", ['{"idx": 4, "label": 1}']),
        ("rte_superglue", [0], [4], "test", "RTE.jsonl", ['{"idx": 4, "label": "entailment"}']),
        ("record", ["Ann"], [{"passage": 1, "query": 7}], "test", "ReCoRD.jsonl", ['{"idx": 7, "label": "Ann"}']),
        (
            "multirc",
            [1, 0],
            MULTIRC,
            "test",
            "MultiRC.jsonl",
            [
                '{"idx": 0, "passage": {"questions": [{"idx": 0, "answers": [{"idx": 0, "label": 1}]}, '
                '{"idx": 1, "answers": [{"idx": 1, "label": 0}]}]}}'
            ],
        ),
    ],
)
def test_the_servers_get_their_format(name, predictions, indices, split, file, lines, tmp_path):
    path = write_submission(get_task(name), predictions, indices, tmp_path / "new", split)
    assert path.name == file and path.read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("msmarco", "test", "unknown task of GLUE or SuperGLUE 'msmarco'"),
        ("mnli", "test", "unknown split 'test'"),
        ("rte", "test", "1 predictions for 0 rows; valid: one for every row"),
    ],
)
def test_a_submission_that_no_server_takes_is_refused(name, split, message, tmp_path):
    with pytest.raises(InputError) as caught:
        write_submission(get_task(name), [0], [], tmp_path, split)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "prediction", "says"),
    [
        ("cola", 9, "integers from 0 to 1"),
        ("stsb", float("nan"), "finite numbers"),
        ("rte", -1, "integers from 0 to 1"),
    ],
)
def test_an_answer_that_no_server_takes_is_not_written(name, prediction, says, tmp_path):
    with pytest.raises(InputError, match=says):
        write_submission(get_task(name), [prediction], [0], tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
