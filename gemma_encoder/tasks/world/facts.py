"""Facts of every kind, drawn at random, each from content that one split owns."""

from __future__ import annotations

from random import Random

from gemma_encoder.tasks.world import lexicon
from gemma_encoder.tasks.world.deeds import Deed, Transfer
from gemma_encoder.tasks.world.grammar import Noun, people, split_of, thing
from gemma_encoder.tasks.world.relations import Comparison, Count, Spot

Fact = Deed | Transfer | Comparison | Spot | Count


def _one(rng: Random, cast: list[Noun], kind: str) -> Fact:
    a, b = rng.sample(cast, 2)
    if kind == "deed":
        place = rng.choice(lexicon.PLACES) if rng.random() < 0.25 else ""
        day = rng.choice(lexicon.DAYS) if not place and rng.random() < 0.25 else ""
        return Deed(rng.choice(list(lexicon.BETWEEN_PEOPLE)), a, b, place, day)
    if kind == "act":
        return Deed(rng.choice(list(lexicon.ON_THINGS)), a, thing(rng))
    if kind == "transfer":
        return Transfer(rng.choice(list(lexicon.TRANSFERS)), a, b, thing(rng))
    if kind == "comparison":
        return Comparison(rng.choice(list(lexicon.COMPARISONS)), a, b)
    if kind == "count":
        return Count(a, rng.choice(lexicon.NUMBERS), rng.choice(lexicon.THINGS + lexicon.ANIMALS))
    figure, ground = rng.sample(lexicon.THINGS + lexicon.ANIMALS, 2)
    return Spot(rng.choice(list(lexicon.RELATIONS)), Noun(f"the {figure}", "t"), Noun(f"the {ground}", "t"))


KINDS = ("deed", "deed", "deed", "act", "transfer", "transfer", "comparison", "spot", "count")


def draw(rng: Random, split: str, cast: list[Noun], kinds: tuple[str, ...] = KINDS) -> Fact:
    """A fact about members of `cast` whose content belongs to `split`; a cast that has none is replaced."""
    while True:
        for _ in range(200):
            fact = _one(rng, cast, rng.choice(kinds))
            if split_of(fact.key()) == split:
                return fact
        cast = people(rng, len(cast))


def draw_two(rng: Random, split: str, kinds: tuple[str, ...] = KINDS) -> tuple[Fact, Fact]:
    """Two facts with different content about three people."""
    cast = people(rng, 3)
    first = draw(rng, split, cast, kinds)
    cast = [*first.people(), *(person for person in cast if person not in first.people())][:3]
    while True:
        second = draw(rng, split, cast, kinds)
        if second.key() != first.key():
            return first, second


def foils_of(rng: Random, fact: Fact, unknown: bool = False) -> list[Fact]:
    """The foils of a fact (or what is `unknown` where it is true) that belong to its own split; seldom none."""
    split, tries = split_of(fact.key()), 60
    found: dict[int, Fact] = {}
    while tries > 0:
        made = fact.unknowns(rng) if unknown else fact.foils(rng)
        for number, other in enumerate(made):
            if number not in found and split_of(other.key()) == split:
                found[number] = other
        tries = 0 if len(found) == len(made) else tries - 1
    return [found[number] for number in sorted(found)]
