"""The built-in world: deterministic, in good English, split by content, and not solved by words alone."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from random import Random

import pytest

from gemma_encoder.paths import DATA
from gemma_encoder.tasks import bag_of_words, get_task, load
from gemma_encoder.tasks.world import MAKERS, documents, write_tasks
from gemma_encoder.tasks.world.deeds import Deed, Transfer
from gemma_encoder.tasks.world.grammar import SPLITS, Noun, indefinite, participle, past, plural, split_of, third
from gemma_encoder.tasks.world.habits import Habit, reflexive
from gemma_encoder.tasks.world.opinions import Opinion
from gemma_encoder.tasks.world.relations import Comparison, Count, Spot
from gemma_encoder.tasks.world.stream import ask, facts_of_story, tell

TASKS = [(suite, task) for suite, makers in MAKERS.items() for task in makers]
ANNA, TOM, CUP = Noun("Anna", "f"), Noun("Tom", "m"), Noun("the cup", "t")


def _rows(suite: str, task: str, split: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / "tasks" / suite / task / f"{split}.jsonl").read_text().splitlines()]


def _texts(row: dict) -> tuple[str, ...]:
    return tuple(value for value in row.values() if isinstance(value, str))


def test_committed_tasks_come_from_the_committed_code(tmp_path):
    write_tasks(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.jsonl"))
    kept = sorted(path.relative_to(DATA / "tasks") for path in (DATA / "tasks").rglob("*.jsonl"))
    assert made == kept and len(made) == 3 * len(TASKS)
    for path in made:
        assert (tmp_path / path).read_bytes() == (DATA / "tasks" / path).read_bytes(), path


def test_another_seed_gives_other_rows(tmp_path):
    write_tasks(tmp_path, seed=1)
    same = "glue/cola/test.jsonl"
    assert (tmp_path / same).read_bytes() != (DATA / "tasks" / same).read_bytes()


@pytest.mark.parametrize(("suite", "task"), TASKS)
def test_no_text_twice_and_labels_in_equal_shares(suite, task):
    rows = {split: _rows(suite, task, split) for split in SPLITS}
    texts = [_texts(row) for split in SPLITS for row in rows[split]]
    assert len(set(texts)) == len(texts)
    for split, of_split in rows.items():
        assert [row["idx"] for row in of_split] == list(range(len(of_split)))
        if task != "stsb":
            shares = Counter(row["label"] for row in of_split)
            assert set(shares) == {0, 1} and shares[0] == shares[1], split


def test_similarity_scores_span_the_scale():
    scores = [row["label"] for row in _rows("glue", "stsb", "train")]
    assert min(scores) < 1 and max(scores) == 5 and all(0 <= score <= 5 for score in scores)
    assert len(set(scores)) > 10


@pytest.mark.parametrize(("suite", "task"), TASKS)
def test_words_alone_stay_far_from_the_answer(suite, task):
    definition = get_task(task)
    rows = load(definition, "builtin")
    floor = bag_of_words(definition, rows["train"], rows["validation"])
    assert max(floor.values()) < 0.75, floor


def test_the_stream_is_seeded_and_never_holds_a_held_out_row():
    text = list(islice(documents(7), 20_000))
    assert text[:50] == list(islice(documents(7), 50)) != list(islice(documents(8), 50))
    stream = "\n".join(text)
    held_out = [_texts(row) for suite, task in TASKS for split in SPLITS[1:] for row in _rows(suite, task, split)]
    pairs = [texts for texts in held_out if len(texts) == 2 and all(text in stream for text in texts)]
    assert not pairs
    assert not [texts for texts in held_out if len(texts) == 1 and texts[0] in stream]
    assert not any(f"{column}:" in stream for column in ("sentence", "sentence1", "sentence2", "question"))


def test_content_has_one_split_whatever_the_wording_or_the_roles():
    facts = [fact for seed in range(50) for fact in facts_of_story(Random(seed), "test", 2)]
    assert {split_of(fact.key()) for fact in facts} == {"test"}
    for fact in facts:
        if not isinstance(fact, Count) and fact.foils(Random(0))[0].key() == fact.key():
            assert fact.foils(Random(0))[0] != fact
    assert Deed("push", ANNA, TOM).key() == Deed("push", TOM, ANNA, day="Monday").key()
    counts = Counter(split_of(str(number)) for number in range(10_000))
    assert 7500 < counts["train"] < 8500 and 700 < counts["test"] < 1300


def test_inflection():
    assert [past(verb) for verb in ("push", "hug", "accuse", "carry", "throw")] == [
        "pushed", "hugged", "accused", "carried", "threw"
    ]  # fmt: skip
    assert (participle("break"), third("wash"), third("carry"), third("play")) == (
        "broken",
        "washes",
        "carries",
        "plays",
    )
    assert (plural("mouse"), plural("box"), plural("sheep")) == ("mice", "boxes", "sheep")
    assert (indefinite("apple"), indefinite("red apple")) == ("an apple", "a red apple")


def test_a_deed_by_hand():
    deed = Deed("push", ANNA, TOM, place="park")
    assert deed.forms()[:4] == [
        "Anna pushed Tom in the park",
        "Tom was pushed by Anna in the park",
        "it was Anna who pushed Tom in the park",
        "in the park, Anna pushed Tom",
    ]
    assert ("who was Tom shoved by", "Anna") in deed.questions()
    assert ("where did Anna push Tom", "in the park") in deed.questions()
    assert deed.foils(Random(0))[0] == Deed("push", TOM, ANNA, place="park")
    assert "Tom was not pushed by Anna in the park" in deed.denials()


def test_other_facts_by_hand():
    assert "Tom bought the cup from Anna" in Transfer("sell", ANNA, TOM, CUP).forms()
    assert ("who bought the cup from Anna", "Tom") in Transfer("sell", ANNA, TOM, CUP).questions()
    taller = Comparison("tall", ANNA, TOM)
    assert taller.forms() == [
        "Anna is taller than Tom",
        "Tom is shorter than Anna",
        "Tom is not as tall as Anna",
        "Anna is not as short as Tom",
    ]
    assert "below the cup is the lamp" in Spot("above", CUP, Noun("the lamp", "t")).forms()
    assert ("how many keys does Tom have", "three") in Count(TOM, "three", "key").questions()


def test_agreement_and_reflexives_by_hand():
    cooks = Habit("cook", True, "near", "queen", False, "sing")
    assert cooks.say() == "the cooks near the queen sing"
    assert cooks.say(agree=False) == "the cooks near the queen sings"
    assert cooks.say(ask=True) == "do the cooks near the queen sing"
    assert cooks.say_not() == "the cooks near the queen do not sing"
    assert Habit("cook", False, "", "queen", True, "calm").say_not() == "the cook is not calm"
    right, wrong = (reflexive(Random(3), "train", right) for right in (True, False))
    assert sorted(set(right.split()) ^ set(wrong.split())) == ["herself", "himself"]


@pytest.mark.parametrize(
    ("word", "negated", "positive"),
    [("good", False, True), ("good", True, False), ("dull", False, False), ("dull", True, True)],
)
def test_negation_turns_an_opinion(word, negated, positive):
    verdict = Opinion("film", word, negated)
    assert verdict.positive is positive
    assert all(word in form and "film" in form for form in verdict.forms())


def test_questions_have_one_answer_and_a_pronoun_one_referent():
    facts = [Deed("push", ANNA, TOM), Deed("help", TOM, ANNA), Deed("push", TOM, Noun("Eva", "f"))]
    for seed in range(30):
        told = tell(Random(seed), facts, [False] * 3)
        assert " she " not in told.replace(". She", "")
        asked = dict(ask(Random(seed), facts, [False] * 3))
        for question, answer in asked.items():
            if question == "Who pushed Eva?":
                assert answer == "Tom."
            if question in ("Did Tom push Anna?", "Was Anna pushed by Tom?"):
                assert answer == "No."
            if question in ("Who did Tom push?", "Who was pushed by Tom?"):
                assert answer == "Eva."
