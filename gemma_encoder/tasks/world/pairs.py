"""Built-in tasks on two texts: paraphrase (mrpc), similarity (stsb), question and sentence (qnli), entailment (rte).

A maker takes the random source, the split and the label wanted, and returns the columns of one row. The two labels
draw from the same wordings, so that words alone say little: roles, negation and binding decide.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from gemma_encoder.tasks.world import lexicon
from gemma_encoder.tasks.world.deeds import Deed
from gemma_encoder.tasks.world.facts import Fact, draw, draw_two
from gemma_encoder.tasks.world.grammar import people, sentence
from gemma_encoder.tasks.world.relations import Comparison
from gemma_encoder.tasks.world.stream import tell

# Difficulty: how often a second fact stands beside the one that decides.
TWO_FACTS = {"mrpc": 0.1, "qnli": 0.2, "rte": 0.2}
SWAPS = {"mrpc": 0.5, "stsb": 0.15}  # how often a change swaps roles and leaves the words alone
SWAPPABLE = ("deed", "deed", "transfer", "comparison", "spot")
ANSWERABLE = ("deed", "deed", "act", "transfer", "spot", "count")


def _wordings(rng: Random, fact: Fact, other: Fact) -> tuple[str, str]:
    """A clause for each fact, in two different wordings."""
    first, second = rng.sample(range(len(fact.forms())), 2)
    return fact.forms()[first], other.forms()[second % len(other.forms())]


def _foil(rng: Random, fact: Fact, swaps: float) -> Fact:
    """A false fact: roles swapped, or a part replaced where the kind of fact allows it."""
    foils = fact.foils(rng)
    return foils[0] if rng.random() < swaps or len(foils) == 1 else rng.choice(foils[1:])


def mrpc(rng: Random, split: str, label: int) -> dict[str, str]:
    """Do the sentences say the same (1), or is one fact another: roles swapped, a part replaced (0)."""
    facts = list(draw_two(rng, split, SWAPPABLE))[: 2 if rng.random() < TWO_FACTS["mrpc"] else 1]
    wrong = -1 if label else rng.randrange(len(facts))
    told = [_foil(rng, fact, SWAPS["mrpc"]) if i == wrong else fact for i, fact in enumerate(facts)]
    pairs = [_wordings(rng, fact, other) for fact, other in zip(facts, told, strict=True)]
    left, right = (" and ".join(side) for side in zip(*pairs, strict=True))
    return {"sentence1": sentence(left), "sentence2": sentence(right)}


def _changed(rng: Random, deed: Deed) -> tuple[Deed, float]:
    """The deed with some parts changed, and what is left of the similarity: 5 less the price of each change."""
    score, out = 5.0, deed
    if rng.random() < SWAPS["stsb"]:
        out, score = replace(out, agent=out.patient, patient=out.agent), score - 1.6
    new = [person for person in people(rng, 4) if person not in (deed.agent, deed.patient)]
    for part, price in (("agent", 1.2), ("patient", 1.2)):
        if rng.random() < 0.35:
            out, score = replace(out, **{part: new.pop()}), score - price
    if rng.random() < 0.35:
        verb = rng.choice([verb for verb in lexicon.BETWEEN_PEOPLE if verb != deed.verb])
        out, score = replace(out, verb=verb), score - 1.4
    if rng.random() < 0.3:
        out, score = replace(out, day=rng.choice([day for day in lexicon.DAYS if day != deed.day])), score - 0.6
    return out, max(0.0, round(score, 1))


def stsb(rng: Random, split: str, label: int) -> dict[str, str | float]:
    """How alike are two deeds, 0 to 5: verb, doer, receiver and day each count; synonyms and voice do not."""
    deed = draw(rng, split, people(rng, 3), ("deed",))
    deed = replace(deed, place="", day=rng.choice(lexicon.DAYS))
    other, score = _changed(rng, deed)
    left, right = _wordings(rng, deed, other)
    return {"sentence1": sentence(left), "sentence2": sentence(right), "label": score}


def qnli(rng: Random, split: str, label: int) -> dict[str, str]:
    """Does the sentence hold the answer (0), or only its words (1)."""
    while True:
        first, second = draw_two(rng, split, ANSWERABLE)
        facts = [first, second] if rng.random() < TWO_FACTS["qnli"] else [first]
        known = {question for fact in facts for question, _ in fact.questions()}
        asked = first
        if label:
            asked = rng.choice(first.foils(rng)[:2])
            if isinstance(first, Deed) and rng.random() < 0.1:
                place, day = rng.choice(((rng.choice(lexicon.PLACES), ""), ("", rng.choice(lexicon.DAYS))))
                asked = replace(first, place=place, day=day)
        questions = [q for q, _ in asked.questions() if (q in known) != bool(label)]
        if questions:
            rng.shuffle(facts)
            clauses = [rng.choice(fact.forms()) for fact in facts]
            joined = rng.choice((" and ", " while ")).join(clauses)
            return {"question": sentence(rng.choice(questions), "?"), "sentence": sentence(joined)}


def _follows(rng: Random, fact: Fact) -> tuple[str, str]:
    """Premise and hypothesis that follows from it."""
    ways = [_wordings(rng, fact, fact), _wordings(rng, fact, fact)]
    ways.append(tuple(rng.sample(fact.denials(), 2)))
    if isinstance(fact, Deed):
        ways[1:] = [
            (rng.choice(fact.claims()), rng.choice(fact.forms())),
            (rng.choice(fact.refusals()), rng.choice(fact.denials())),
            (rng.choice(fact.forms()), rng.choice(fact.generalised())),
        ]
    if isinstance(fact, Comparison):
        ways.append((rng.choice(fact.forms()), rng.choice(fact.foils(rng)[0].denials())))
    return rng.choice(ways)


def _does_not_follow(rng: Random, fact: Fact) -> tuple[str, str]:
    """Premise and hypothesis that does not follow: swapped, contradicted, or said in more detail than is known."""
    ways = [
        _wordings(rng, fact, fact.foils(rng)[0]),
        (rng.choice(fact.forms()), rng.choice(fact.denials())),
        (rng.choice(fact.denials()), rng.choice(fact.forms())),
    ]
    if isinstance(fact, Deed):
        ways[1:] = [
            (rng.choice(fact.claims()), rng.choice(fact.denials())),
            (rng.choice(fact.refusals()), rng.choice(fact.forms())),
            (rng.choice(fact.generalised()), rng.choice(fact.forms())),
        ]
    return rng.choice(ways)


def rte(rng: Random, split: str, label: int) -> dict[str, str]:
    """Does the second text follow from the first (0) or not (1)."""
    first, second = draw_two(rng, split, (*SWAPPABLE, "act"))
    premise, hypothesis = (_does_not_follow if label else _follows)(rng, first)
    texts = [sentence(premise)]
    if rng.random() < TWO_FACTS["rte"]:
        texts.insert(rng.randrange(2), tell(rng, [second], [False]))
    return {"sentence1": " ".join(texts), "sentence2": sentence(hypothesis)}
