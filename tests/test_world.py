"""The built-in world: deterministic, in good English, split by content, and not solved by words alone."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import islice, pairwise
from random import Random

import pytest

from gemma_encoder.tasks.world import documents, lexicon
from gemma_encoder.tasks.world.causes import REASONS, Chain, Reason, chain
from gemma_encoder.tasks.world.compare import alike, changed, inferences
from gemma_encoder.tasks.world.deeds import Deed, Transfer
from gemma_encoder.tasks.world.facts import foils_of
from gemma_encoder.tasks.world.grammar import Noun, indefinite, participle, past, plural, split_of, third
from gemma_encoder.tasks.world.habits import Habit, reflexive
from gemma_encoder.tasks.world.lore import compared, pronoun, pronoun_judged, word_judged
from gemma_encoder.tasks.world.opinions import Opinion, hearsay
from gemma_encoder.tasks.world.relations import Comparison, Count, Spot
from gemma_encoder.tasks.world.senses import SENSES, two_uses
from gemma_encoder.tasks.world.stream import MIXES, UNKNOWN, ask, checks, facts_of_story, questions_about, tell

ANNA, TOM, EVA, CUP = Noun("Anna", "f"), Noun("Tom", "m"), Noun("Eva", "f"), Noun("the cup", "t")


def test_the_stream_is_seeded_and_holds_every_kind_of_document():
    text = list(islice(documents(7), 500))
    assert text[:50] == list(islice(documents(7), 50)) != list(islice(documents(8), 50))
    assert len(list(islice(documents(7, beginning=5), 6))) == 6
    assert all(
        any(mark in document for mark in ("the same", "alike", "?"))
        for document in islice(documents(7, beginning=50), 50)
    )
    for word in (
        "That is not the same.",
        "? Maybe.",
        "alike.",
        "In the end",
        "is meant",
        "meaning of",
        "Nobody knows.",
    ):
        assert any(word in document for document in text), word
    assert not any(f"{column}:" in " ".join(text) for column in ("sentence", "sentence1", "sentence2", "question"))


MAKERS = dict.fromkeys(maker for mix in MIXES.values() for maker, _ in mix)


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_documents_are_clean_english(maker):
    for seed in range(60):
        text = maker(Random(seed), "train")
        assert text == text.strip() and "  " not in text and "{" not in text and text[-1] in ".?", text
        assert text[0].isupper() and all(part[0].isupper() for part in text.split(". ") if part), text


def test_content_has_one_split_whatever_the_wording_or_the_roles():
    facts = [fact for seed in range(50) for fact in facts_of_story(Random(seed), "test", 2)]
    assert {split_of(fact.key()) for fact in facts} == {"test"}
    for fact in facts:
        if not isinstance(fact, Count) and fact.foils(Random(0))[0].key() == fact.key():
            assert fact.foils(Random(0))[0] != fact
    assert Deed("push", ANNA, TOM).key() == Deed("push", TOM, ANNA, day="Monday").key()
    counts = Counter(split_of(str(number)) for number in range(10_000))
    assert 7500 < counts["train"] < 8500 and 700 < counts["test"] < 1300


def test_foils_stay_in_the_split_of_their_fact():
    for split in ("train", "test"):
        for seed in range(40):
            fact = facts_of_story(Random(seed), split, 1)[0]
            found = foils_of(Random(seed), fact)
            assert found and all(split_of(foil.key()) == split and foil != fact for foil in found)
            assert all(split_of(other.key()) == split for other in foils_of(Random(seed), fact, unknown=True))


def test_inflection():
    assert [past(verb) for verb in ("push", "hug", "accuse", "carry", "steal")] == [
        "pushed", "hugged", "accused", "carried", "stole"
    ]  # fmt: skip
    assert [participle("break"), *map(third, ("wash", "carry", "play"))] == ["broken", "washes", "carries", "plays"]
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
    for who in ("", "Anna"):
        assert all(word in form and "film" in form for form in verdict.forms(who))
        assert all(negated == bool({"not", "never", "nobody", "nothing"} & set(f.split())) for f in verdict.forms(who))


def test_a_lie_turns_what_was_said():
    for seed in range(40):
        positive = bool(seed % 2)
        text = hearsay(Random(seed), "train", positive, 0.0)
        lie = " wrong" in text or " lie" in text
        good = any(f" {word}," in text or f" {word} about" in text for word in lexicon.GOOD)
        assert positive == (good != lie), text


def test_questions_have_one_answer_and_a_pronoun_one_referent():
    facts = [Deed("push", ANNA, TOM), Deed("help", TOM, ANNA), Deed("push", TOM, EVA)]
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


def test_a_question_with_two_answers_is_not_asked():
    one, both = [Deed("push", ANNA, TOM)], [Deed("push", ANNA, TOM), Deed("push", ANNA, EVA)]
    asked = {len(facts): dict(questions_about(Random(0), facts, [False] * len(facts))["open"]) for facts in (one, both)}
    assert asked[1]["who did Anna push"] == "Tom"
    assert "who did Anna push" not in asked[2] and asked[2]["who pushed Eva"] == "Anna"


def test_what_a_story_does_not_tell_nobody_knows():
    known = questions_about(Random(0), [Deed("push", ANNA, TOM)], [False])
    assert ("who pushed Anna", UNKNOWN) in known["unknown"] and ("who pushed Tom", "Anna") in known["open"]
    assert not {question for question, _ in known["unknown"]} & {question for question, _ in known["open"]}
    denied = questions_about(Random(0), [Deed("push", ANNA, TOM)], [True])
    assert not denied["open"] and ("did Anna push Tom", "no") in denied["no"]


def test_checks_name_who_is_there():
    facts = [Deed("push", ANNA, TOM)]
    rows = {row for seed in range(300) for row in checks(Random(seed), facts, 3)}
    assert {
        ("Is Anna in the story?", "Yes."),
        ("Who pushed Tom, Anna?", "Yes."),
        ("Who pushed Tom, Tom?", "No."),
    } <= rows
    assert all((answer == "Yes.") == (name in "Is Anna Tom in") for question, answer in rows
               if question.endswith("in the story?") for name in [question[3:-14]])  # fmt: skip


def test_what_follows_from_a_statement():
    for seed in range(60):
        premise, hypotheses = inferences(Random(seed), Comparison("tall", ANNA, TOM))
        denied = premise in ("Anna is not taller than Tom", "Tom is not shorter than Anna")
        assert ("Anna is taller than Tom" in hypotheses["no"]) == denied
        assert not set(hypotheses["yes"]) & set(hypotheses["no"])
        assert all("tall" not in clause and "short" not in clause for clause in hypotheses["maybe"])
        premise, hypotheses = inferences(Random(seed), Deed("push", ANNA, TOM))
        denied = any(
            word in premise for word in (" not push", " not shove", "was not", "failed", "forgot", "not manage")
        )
        assert ("Tom was pushed by Anna" in [premise, *hypotheses["no"]]) == (
            denied or premise == "Tom was pushed by Anna"
        )


def test_parts_of_a_deed_are_counted():
    deed = Deed("push", ANNA, TOM, day="Monday")
    assert alike(deed, deed) == [True] * 4
    assert alike(deed, Deed("push", TOM, ANNA, day="Friday")) == [True, False, False, False]
    assert alike(deed, Deed("help", ANNA, EVA, day="Monday")) == [False, True, False, True]
    swapped = changed(Random(0), deed, swaps=1.0, changes=0.0)
    assert (swapped.agent, swapped.patient) == (TOM, ANNA)
    assert alike(deed, changed(Random(0), deed, swaps=0.0, changes=1.0)) == [False] * 4


def test_causes_and_reasons_by_hand():
    assert Chain(0, ANNA).say(Random(0), 1) in ("Anna was hungry", "Anna wanted to eat")
    one = chain(Random(0), "test")
    two = chain(Random(1), "test", avoid=(one,))
    assert split_of(one.key()) == "test" and two.number != one.number and two.who != one.who
    thanks = Reason("thank", ANNA, EVA, False, "had been so kind")
    assert (thanks.meant, thanks.rival) == (EVA, ANNA)
    assert thanks.forms()[1] == "Eva was thanked by Anna because she had been so kind"
    assert thanks.forms()[2] == "because she had been so kind, Anna thanked Eva"


def test_every_meaning_has_sentences_of_its_own():
    clauses = defaultdict(list)
    for word, meanings in SENSES.items():
        for number, (_, ways) in enumerate(meanings):
            assert len(set(ways)) == 3
            for clause in ways:
                assert clause.count("{p}") == 1 and word in clause.split()
                clauses[clause].append((word, number))
    assert all(len(uses) == 1 for uses in clauses.values())
    for seed in range(30):
        first, second = two_uses(Random(seed), "validation", bool(seed % 2))
        assert first.word == second.word and (first.gloss == second.gloss) == bool(seed % 2)


def _meaning(word, clause):
    """Which of its meanings the word has in a sentence of the stream."""
    for number, (_, clauses) in enumerate(SENSES[word]):
        for known in clauses:
            before, after = known.split("{p}")
            if clause.lower().startswith(before.lower()) and clause.endswith(f"{after}."):
                return number
    raise AssertionError(clause)


@pytest.mark.parametrize("maker", [compared, word_judged])
def test_a_word_is_held_against_its_use_in_the_sentence_before(maker):
    told = Counter()
    for seed in range(200):
        lines = maker(Random(seed), "train").replace("*", "").replace(". ", ".\n").split("\n")
        word = next(word for word in SENSES if all(word in line.lower().rstrip(".").split() for line in lines))
        verdicts = {
            f"That is another {word}.": False,
            f"That is the same {word}.": True,
            f"The word {word} differs.": False,
            f"The word {word} agrees.": True,
        }
        senses = [_meaning(word, line) for line in lines if not line.startswith((*verdicts, "Here the "))]
        alike = [before == after for before, after in pairwise(senses)]
        assert [verdicts[line] for line in lines if line in verdicts] == alike
        told.update(alike)
    assert 0.4 < told[True] / told.total() < 0.6


@pytest.mark.parametrize(
    ("maker", "asked"),
    [
        (pronoun, r"(?:Is (?:she|he) |Is |, )(?P<name>(?!she |he )[^,.?]+?)(?: meant by \w+)?\? (?P<said>Yes|No)\."),
        (pronoun_judged, r"(?:: |, )(?P<name>[^,:.]+) (?P<said>yes|no)\b"),
    ],
)
def test_a_pronoun_means_whom_the_verdicts_say(maker, asked):
    told = Counter()
    for seed in range(200):
        story, _, rest = maker(Random(seed), "train").replace("*", "").partition(". ")
        found = [(match["name"].lower(), match["said"].lower()) for match in re.finditer(asked, rest)]
        names = {said: {name for name, other in found if other == said} for said in ("yes", "no")}
        assert found and len(found) == len(re.findall(r"\b(?:[Yy]es|[Nn]o)\b", rest))
        assert names["yes"] <= {_referent(story).lower()} and not names["yes"] & names["no"]
        told.update(said for _, said in found)
    assert 0.25 < told["yes"] / told.total() < 0.45


def _referent(story):
    """Whom the pronoun of a deed with its reason means, by the list of reasons."""
    passive = re.search(r"(\w+) was (\w+) by (\w+)", story)
    active = re.search(r"([A-Z]\w+) (\w+) ([A-Z]\w+)", story)
    doer, verb, other = passive.group(3, 2, 1) if passive else active.group(1, 2, 3)
    ways = next(ways for known, ways in REASONS.items() if verb in (past(known), participle(known)))
    why = re.search(r"[Bb]ecause (?:she|he) ([^,]+)", story)[1]
    return doer if why in ways[0] else other
