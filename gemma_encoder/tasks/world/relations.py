"""How people and things stand to one another in the world: comparisons, places, possessions. Methods as in `deeds`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from gemma_encoder.tasks.world import lexicon
from gemma_encoder.tasks.world.grammar import Noun, people, plural


@dataclass(frozen=True)
class Comparison:
    """more is taller than less."""

    adjective: str
    more: Noun
    less: Noun

    def key(self) -> str:
        """Content key."""
        return "comparison {} {} {}".format(self.adjective, *sorted([self.more.text, self.less.text]))

    def people(self) -> list[Noun]:
        """Both sides."""
        return [self.more, self.less]

    def forms(self) -> list[str]:
        """With the adjective, its opposite, and negated equality."""
        up, down, opposite = lexicon.COMPARISONS[self.adjective]
        a, b = self.more.text, self.less.text
        return [
            f"{a} is {up} than {b}",
            f"{b} is {down} than {a}",
            f"{b} is not as {self.adjective} as {a}",
            f"{a} is not as {opposite} as {b}",
        ]

    def denials(self) -> list[str]:
        """Not taller than, not shorter than."""
        up, down, _ = lexicon.COMPARISONS[self.adjective]
        return [
            f"{self.more.text} is not {up} than {self.less.text}",
            f"{self.less.text} is not {down} than {self.more.text}",
        ]

    def questions(self) -> list[tuple[str, str]]:
        """Who is taller or shorter, of two."""
        up, down, _ = lexicon.COMPARISONS[self.adjective]
        a, b = self.more.text, self.less.text
        pairs = ((up, a), (down, b))
        return [(f"who is {word}, {x} or {y}", answer) for word, answer in pairs for x, y in ((a, b), (b, a))]

    def polar(self) -> list[str]:
        """Is a taller than b; is b shorter than a."""
        up, down, _ = lexicon.COMPARISONS[self.adjective]
        return [f"is {self.more.text} {up} than {self.less.text}", f"is {self.less.text} {down} than {self.more.text}"]

    def foils(self, rng: Random) -> list[Comparison]:
        """Swapped."""
        return [replace(self, more=self.less, less=self.more)]

    def unknowns(self, rng: Random) -> list[Comparison]:
        """Another adjective, either way round."""
        adjective = rng.choice([name for name in lexicon.COMPARISONS if name != self.adjective])
        return [replace(self, adjective=adjective), Comparison(adjective, self.less, self.more)]

    def opposites(self, rng: Random) -> list[Comparison]:
        """Swapped."""
        return self.foils(rng)


@dataclass(frozen=True)
class Spot:
    """One thing stands in a relation to another: the lamp is above the table."""

    relation: str
    figure: Noun
    ground: Noun

    def key(self) -> str:
        """Content key."""
        return "spot {} {} {}".format(self.relation, *sorted([self.figure.text, self.ground.text]))

    def people(self) -> list[Noun]:
        """Nobody."""
        return []

    def forms(self) -> list[str]:
        """The relation, its converse, and each fronted."""
        f, g, back = self.figure.text, self.ground.text, lexicon.RELATIONS[self.relation]
        ways = ((f, self.relation, g), (g, back, f))
        return [
            form for x, how, y in ways for form in (f"{x} is {how} {y}", f"{how} {y} is {x}", f"{x} stands {how} {y}")
        ]

    def denials(self) -> list[str]:
        """Negated, both ways."""
        f, g, back = self.figure.text, self.ground.text, lexicon.RELATIONS[self.relation]
        return [f"{f} is not {self.relation} {g}", f"{g} is not {back} {f}"]

    def questions(self) -> list[tuple[str, str]]:
        """What is there, where is it."""
        f, g, back = self.figure.text, self.ground.text, lexicon.RELATIONS[self.relation]
        return [
            (f"what is {self.relation} {g}", f),
            (f"what is {back} {f}", g),
            (f"where is {f}", f"{self.relation} {g}"),
            (f"where is {g}", f"{back} {f}"),
        ]

    def polar(self) -> list[str]:
        """Is it there, both ways."""
        f, g, back = self.figure.text, self.ground.text, lexicon.RELATIONS[self.relation]
        return [f"is {f} {self.relation} {g}", f"is {g} {back} {f}"]

    def foils(self, rng: Random) -> list[Spot]:
        """Swapped."""
        return [replace(self, figure=self.ground, ground=self.figure)]

    def unknowns(self, rng: Random) -> list[Spot]:
        """Another thing, there or here."""
        names = [name for name in lexicon.THINGS if f"the {name}" not in (self.figure.text, self.ground.text)]
        other = Noun(f"the {rng.choice(names)}", "t")
        return [replace(self, figure=other), replace(self, ground=other)]

    def opposites(self, rng: Random) -> list[Spot]:
        """Swapped."""
        return self.foils(rng)


@dataclass(frozen=True)
class Count:
    """owner has so many things of a sort."""

    owner: Noun
    number: str
    sort: str

    def key(self) -> str:
        """Content key."""
        return f"count {self.owner.text} {self.sort}"

    def people(self) -> list[Noun]:
        """The owner."""
        return [self.owner]

    def forms(self) -> list[str]:
        """Has, owns, belong to."""
        o, what = self.owner.text, f"{self.number} {plural(self.sort)}"
        return [f"{o} has {what}", f"{o} owns {what}", f"{what} belong to {o}"]

    def denials(self) -> list[str]:
        """Does not have, do not belong to."""
        o, what = self.owner.text, f"{self.number} {plural(self.sort)}"
        return [f"{o} does not have {what}", f"{what} do not belong to {o}"]

    def questions(self) -> list[tuple[str, str]]:
        """How many, and who."""
        o, things = self.owner.text, plural(self.sort)
        return [
            (f"how many {things} does {o} have", self.number),
            (f"how many {things} belong to {o}", self.number),
            (f"who has {self.number} {things}", o),
        ]

    def polar(self) -> list[str]:
        """Does the owner have so many."""
        o, what = self.owner.text, f"{self.number} {plural(self.sort)}"
        return [f"does {o} have {what}", f"do {what} belong to {o}"]

    def foils(self, rng: Random) -> list[Count]:
        """Another number, another owner."""
        number = rng.choice([number for number in lexicon.NUMBERS if number != self.number])
        owner = next(noun for noun in people(rng, 2) if noun != self.owner)
        return [replace(self, number=number), replace(self, owner=owner)]

    def unknowns(self, rng: Random) -> list[Count]:
        """Another owner, another sort."""
        sort = rng.choice([sort for sort in lexicon.THINGS if sort != self.sort])
        return [self.foils(rng)[1], replace(self, sort=sort)]

    def opposites(self, rng: Random) -> list[Count]:
        """Another number."""
        return self.foils(rng)[:1]
