"""Two statements side by side: does one follow from the other, do they say the same, how many parts are alike?

The tasks ask for it, and the stream tells it.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from gemma_encoder.tasks.world import lexicon
from gemma_encoder.tasks.world.deeds import Deed
from gemma_encoder.tasks.world.facts import Fact, foils_of
from gemma_encoder.tasks.world.grammar import people, split_of

PARTS = ("verb", "agent", "patient", "day")


def two_wordings(rng: Random, fact: Fact, other: Fact) -> tuple[str, str]:
    """A clause for each fact, in two different wordings."""
    first, second = rng.sample(range(len(fact.forms())), 2)
    return fact.forms()[first], other.forms()[second % len(other.forms())]


def inferences(rng: Random, fact: Fact) -> tuple[str, dict[str, list[str]]]:
    """A premise, and hypotheses by what they are to it: "yes" they follow, "no" they contradict it, or "maybe"."""
    others = foils_of(rng, fact, unknown=True)
    open_ones = [rng.choice(clauses) for other in others for clauses in (other.forms(), other.denials())]
    true, false = list(fact.forms()), list(fact.denials())
    for other in fact.opposites(rng):
        false += other.forms()
        true += other.denials()
    deed = isinstance(fact, Deed)
    if rng.random() < 0.4:
        premise = rng.choice([*fact.denials(), *(fact.refusals() if deed else [])])
        true, false = fact.denials(), fact.forms()  # what is not so in one way may still be so in another
    else:
        premise = rng.choice([*fact.forms(), *(fact.claims() if deed else [])])
        true += fact.generalised() if deed and rng.random() < 0.5 else []
    return premise, {"yes": [clause for clause in true if clause != premise], "no": false, "maybe": open_ones}


def changed(rng: Random, deed: Deed, swaps: float, changes: float) -> Deed:
    """The deed with roles swapped (chance `swaps`), or else with each part replaced at a chance of `changes`.

    The new deed belongs to the split of the old one.
    """
    split = split_of(deed.key())
    while True:
        swap = rng.random() < swaps
        parts = [part for part in (("verb", "day") if swap else PARTS) if rng.random() < changes]
        for _ in range(60):
            made = replace(deed, agent=deed.patient, patient=deed.agent) if swap else deed
            made = _replaced(rng, made, parts)
            if split_of(made.key()) == split:
                return made


def _replaced(rng: Random, deed: Deed, parts: list[str]) -> Deed:
    new = [person for person in people(rng, 4) if person not in (deed.agent, deed.patient)]
    for part in parts:
        words = {"verb": list(lexicon.BETWEEN_PEOPLE), "day": lexicon.DAYS}.get(part)
        value = rng.choice([word for word in words if word != getattr(deed, part)]) if words else new.pop()
        deed = replace(deed, **{part: value})
    return deed


def alike(deed: Deed, other: Deed) -> list[bool]:
    """Which of deed, doer, receiver and day are the same."""
    return [getattr(deed, part) == getattr(other, part) for part in PARTS]
