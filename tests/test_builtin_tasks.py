"""The built-in tasks on disk: made by the committed code, balanced, disjoint; their labels follow from the texts."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from itertools import islice

import pytest

from gemma_encoder.paths import DATA
from gemma_encoder.tasks.world import MAKERS, documents, lexicon, write_tasks
from gemma_encoder.tasks.world.causes import CHAINS, REASONS
from gemma_encoder.tasks.world.grammar import participle, past
from gemma_encoder.tasks.world.senses import SENSES
from gemma_encoder.tasks.world.stream import MIXES
from gemma_encoder.tasks.world.write import CLASSES, splits_of

TASKS = [(folder, maker.__name__) for folder, maker in MAKERS.items()]
COLUMNS = {
    "cola": "sentence label idx",
    "sst2": "sentence label idx",
    "mrpc": "sentence1 sentence2 label idx",
    "stsb": "sentence1 sentence2 label idx",
    "mnli": "premise hypothesis label idx",
    "qnli": "question sentence label idx",
    "rte": "sentence1 sentence2 label idx",
    "boolq": "question passage label idx",
    "copa": "premise choice1 choice2 question label idx",
    "wic": "word sentence1 sentence2 start1 start2 end1 end2 label idx",
    "wsc": "text span1_index span2_index span1_text span2_text label idx",
    "msmarco": "query_id query passages",
}


def _rows(folder: str, split: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / "tasks" / folder / f"{split}.jsonl").read_text().splitlines()]


def _all_rows(folder: str) -> list[dict]:
    return [row for split in splits_of(folder.split("/")[-1]) for row in _rows(folder, split)]


def _texts(row: dict) -> tuple[str, ...]:
    texts = [value for name, value in row.items() if isinstance(value, str) and name != "query_id"]
    return (*texts, *(passage["text"] for passage in row.get("passages", ())))


def test_committed_tasks_come_from_the_committed_code(tmp_path):
    write_tasks(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.jsonl"))
    kept = sorted(path.relative_to(DATA / "tasks") for path in (DATA / "tasks").rglob("*.jsonl"))
    assert made == kept and len(made) == sum(len(splits_of(task)) for _, task in TASKS)
    for path in made:
        assert (tmp_path / path).read_bytes() == (DATA / "tasks" / path).read_bytes(), path


def test_another_seed_gives_other_rows(tmp_path):
    write_tasks(tmp_path, seed=1)
    for same in ("glue/cola/test.jsonl", "msmarco/test.jsonl"):
        assert (tmp_path / same).read_bytes() != (DATA / "tasks" / same).read_bytes()


@pytest.mark.parametrize(("folder", "task"), TASKS)
def test_columns_unique_rows_and_labels_in_equal_shares(folder, task):
    texts = [_texts(row) for row in _all_rows(folder)]
    assert len(set(texts)) == len(texts)
    for split in splits_of(task):
        rows = _rows(folder, split)
        assert all(" ".join(row) == COLUMNS[task] for row in rows)
        if task == "msmarco":
            places = Counter(tuple(passage["label"] for passage in row["passages"]) for row in rows)
            assert all(sum(place) == 1 for place in places) and set(places.values()) == {len(rows) // CLASSES[task]}
            ids = [passage["passage_id"] for row in rows for passage in row["passages"]]
            assert len(set(ids)) == len(ids)
            continue
        assert [row["idx"] for row in rows] == list(range(len(rows)))
        if task != "stsb":
            shares = Counter(row["label"] for row in rows)
            assert len(shares) == CLASSES.get(task, 2) and max(shares.values()) - min(shares.values()) <= 1, split


def test_similarity_scores_span_the_scale():
    scores = Counter(row["label"] for row in _rows("glue/stsb", "train"))
    assert set(scores) == {0.0, 1.25, 2.5, 3.75, 5.0} and min(scores.values()) > 50


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?]) ", text)


def test_no_document_of_the_stream_holds_a_held_out_row():
    documents_of = defaultdict(set)
    for number, text in enumerate(text for mix in MIXES for text in islice(documents(7, mix=mix), 10_000)):
        for said in _sentences(text):
            documents_of[said].add(number)
    for folder, task in TASKS:
        for row in (row for split in splits_of(task)[1:] for row in _rows(folder, split)):
            said = [part for text in _texts(row) if text[-1] in ".?" for part in _sentences(text)]
            assert not set.intersection(*(documents_of[part] for part in said)), row


VERBS = {past(v): verb for verb, same in lexicon.BETWEEN_PEOPLE.items() for v in (verb, same) if v}
VERBS |= {participle(v): verb for verb, same in lexicon.BETWEEN_PEOPLE.items() for v in (verb, same) if v}
WHO, DID = r"((?:the )?\w+)", f"({'|'.join(VERBS)})"
PATTERNS = (
    (rf"it was {WHO} who {DID} {WHO}", (0, 1, 2)),
    (rf"{WHO} was {DID} by {WHO}", (2, 1, 0)),
    (rf"{WHO} {DID} {WHO}", (0, 1, 2)),
)


def _deed(text: str) -> tuple[str, ...] | None:
    """Doer, verb, receiver, and when or where, read off a sentence without the generator; None for other sentences."""
    text = text[0].lower() + text[1:].rstrip(".")
    when = re.search(r"(on \w+day|in the \w+)", text)
    text = re.sub(r"(, )?(on \w+day|in the \w+)(, )?", " ", text).strip()
    for pattern, order in PATTERNS:
        if found := re.fullmatch(pattern, text, flags=re.IGNORECASE):
            parts = [found.group(place + 1) for place in order]
            return parts[0].lower(), VERBS[parts[1]], parts[2].lower(), when.group(1) if when else ""
    return None


def test_paraphrase_and_similarity_follow_from_the_sentences():
    read = 0
    for row in _all_rows("glue/mrpc"):
        first, second = _deed(row["sentence1"]), _deed(row["sentence2"])
        if first and second:
            read += 1
            assert (first == second) == bool(row["label"]), row
    assert read > 500
    for row in _all_rows("glue/stsb"):
        first, second = _deed(row["sentence1"]), _deed(row["sentence2"])
        assert 1.25 * sum(one == other for one, other in zip(first, second, strict=True)) == row["label"], row


def test_answers_follow_from_the_passage():
    read = 0
    for row in _all_rows("super_glue/boolq"):
        asked = re.fullmatch(rf"Was {WHO} {DID} by {WHO}\?", row["question"])
        told = _deed(row["passage"])
        if asked and told:
            read += 1
            patient, verb, agent = asked.groups()
            assert ((agent.lower(), VERBS[verb], patient.lower()) == told[:3]) == bool(row["label"]), row
    assert read > 100


def _link(clause: str) -> tuple[int, int, str]:
    """Chain, place in it and person of a clause of copa."""
    for number, links in enumerate(CHAINS):
        for place, ways in enumerate(links):
            for way in ways:
                if clause.endswith(f" {way}"):
                    return number, place, clause.removesuffix(f" {way}").lower()
    raise AssertionError(clause)


def test_the_right_choice_is_the_cause_or_the_effect_of_the_same_person():
    for row in _all_rows("super_glue/copa"):
        told = [_link(clause) for clause in re.split(" and (?!fell)", row["premise"].rstrip("."))]
        step = -1 if row["question"] == "cause" else 1
        wanted = {(number, place + step, person) for number, place, person in told}
        fits = [_link(row[name].rstrip(".")) in wanted for name in ("choice1", "choice2")]
        assert fits == [row["label"] == 0, row["label"] == 1], row


def test_meanings_and_pronouns_follow_from_the_sentences():
    for row in _all_rows("super_glue/wic"):
        senses = []
        for number in "12":
            text = row[f"sentence{number}"]
            assert text[row[f"start{number}"] : row[f"end{number}"]] == row["word"]
            meanings = SENSES[row["word"]]
            patterns = [[re.escape(way).replace(r"\{p\}", WHO) for way in ways] for _, ways in meanings]
            fits = [any(re.fullmatch(f"{way}.", text, re.IGNORECASE) for way in ways) for ways in patterns]
            assert sum(fits) == 1, text
            senses.append(fits)
        assert (senses[0] == senses[1]) == bool(row["label"]), row
    for row in _all_rows("super_glue/wsc"):
        words = row["text"].replace(",", "").rstrip(".").split()
        assert words[row["span1_index"]] == row["span1_text"] and words[row["span2_index"]] == row["span2_text"]
        passive = re.search(r"(\w+) was (\w+) by (\w+)", row["text"])
        active = re.search(r"([A-Z]\w+) (\w+) ([A-Z]\w+)", row["text"])
        doer, verb, other = passive.group(3, 2, 1) if passive else active.group(1, 2, 3)
        of_doer, of_other = REASONS[VERBS[verb]]
        why = row["text"].split(f" {row['span2_text']} ")[1]
        meant = [name for name, ways in ((doer, of_doer), (other, of_other)) if why.startswith(ways)]
        assert (meant == [row["span1_text"]]) == bool(row["label"]), row
