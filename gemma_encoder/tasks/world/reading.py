"""Built-in tasks on questions: qnli, boolq, choice of cause or effect (copa), ranking of passages (msmarco)."""

from __future__ import annotations

from random import Random

from gemma_encoder.tasks.world.causes import CHAINS, chain
from gemma_encoder.tasks.world.facts import Fact, draw, draw_two, foils_of
from gemma_encoder.tasks.world.grammar import people, sentence
from gemma_encoder.tasks.world.stream import questions_about, tell

# Difficulty: how often a second fact stands beside the one that is asked for; what the wrong choice of copa is.
TWO_FACTS = {"qnli": 0.1, "boolq": 0.3}
WRONG = {"strange": 40, "reverse": 30, "person": 30}
PASSAGES = 4
ANSWERABLE = ("deed", "deed", "act", "transfer", "spot", "count")


def _facts(rng: Random, split: str, task: str) -> list[Fact]:
    return list(draw_two(rng, split, ANSWERABLE))[: 2 if rng.random() < TWO_FACTS[task] else 1]


def qnli(rng: Random, split: str, label: int) -> dict[str, str]:
    """Does the sentence hold the answer (0), or only its words (1)."""
    while True:
        facts = _facts(rng, split, "qnli")
        known = questions_about(rng, facts, [False] * len(facts))
        questions = known["unknown" if label else "open"]
        if questions:
            joined = rng.choice((" and ", " while ")).join(rng.choice(fact.forms()) for fact in facts)
            return {"question": sentence(rng.choice(questions)[0], "?"), "sentence": sentence(joined)}


def boolq(rng: Random, split: str, label: int) -> dict[str, str]:
    """Is the answer yes (1) or no (0)."""
    while True:
        facts = _facts(rng, split, "boolq")
        denied = [rng.random() < 0.1 for _ in facts]
        questions = questions_about(rng, facts, denied)["yes" if label else "no"]
        if questions:
            return {"question": sentence(rng.choice(questions)[0], "?"), "passage": tell(rng, facts, denied)}


def copa(rng: Random, split: str, label: int) -> dict[str, str]:
    """Which choice is the cause, or the effect: the other one is strange, the reverse, or of another person."""
    one, kind = chain(rng, split), rng.choices(list(WRONG), list(WRONG.values()))[0]
    step = rng.choice((-1, 1))
    link = 1 if kind == "reverse" else rng.choice((1, 2) if step < 0 else (0, 1))
    premise, right = one.say(rng, link), one.say(rng, link + step)
    if kind == "reverse":
        wrong = one.say(rng, link - step)
    elif kind == "strange":
        number = rng.choice([number for number in range(len(CHAINS)) if number != one.number])
        wrong = f"{one.who.text} {rng.choice(CHAINS[number][link + step])}"
    else:
        two = chain(rng, split, avoid=(one,))
        premise = " and ".join(rng.sample((premise, two.say(rng, link)), 2))
        wrong = right.replace(one.who.text, two.who.text, 1)
    first, second = (wrong, right) if label else (right, wrong)
    return {
        "premise": sentence(premise),
        "choice1": sentence(first),
        "choice2": sentence(second),
        "question": "cause" if step < 0 else "effect",
    }


def _answers(question: str, fact: Fact) -> bool:
    return any(question == asked for asked, _ in fact.questions())


def _shared(query: str, clause: str) -> int:
    """How many words they share, the question word left out."""
    return len(set(query.split()[1:]) & set(clause.split()))


def msmarco(rng: Random, split: str, label: int) -> dict:
    """A query and passages; one holds the answer, at place `label`.

    The others tell false facts, and of those the ones that share the most words with the query: hard negatives.
    """
    while True:
        fact = draw(rng, split, people(rng, 3), ANSWERABLE)
        query = rng.choice(fact.questions())[0]
        false = [foil for foil in foils_of(rng, fact) if not _answers(query, foil)]
        wrong = [form for foil in false for form in foil.forms()]
        if len(wrong) >= PASSAGES - 1:
            rng.shuffle(wrong)
            passages = sorted(wrong, key=lambda clause: -_shared(query, clause))[: PASSAGES - 1]
            rng.shuffle(passages)
            passages.insert(label, rng.choice(fact.forms()))
            return {"query": sentence(query, "?"), "passages": [sentence(passage) for passage in passages]}
