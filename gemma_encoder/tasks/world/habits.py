"""Present-tense sentences about what people and animals do and are: the ground for agreement and reflexives."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from gemma_encoder.tasks.world import lexicon
from gemma_encoder.tasks.world.grammar import participle, past, plural, split_of, third

HEADS = [noun for noun in (*lexicon.JOBS, *lexicon.GENDERED, *lexicon.ANIMALS) if noun != "sheep"]  # one form only
LINKS = ("near", "behind", "with", "next to")
REFLEXIVES = {"f": "herself", "m": "himself"}
SELF_VERBS = "help wash hurt blame praise teach".split()


@dataclass(frozen=True)
class Habit:
    """A head noun with an attached noun of its own number, and a predicate that agrees with the head."""

    head: str
    plural: bool
    link: str
    other: str
    other_plural: bool
    predicate: str  # an intransitive verb or a state

    def key(self) -> str:
        """Content key."""
        return f"habit {self.head} {self.predicate}"

    def say(self, agree: bool = True, ask: bool = False) -> str:
        """The clause; `agree=False` puts the verb in the wrong number; `ask` turns it into a question."""
        head = plural(self.head) if self.plural else self.head
        other = plural(self.other) if self.other_plural else self.other
        subject = f"the {head} {self.link} the {other}" if self.link else f"the {head}"
        many = self.plural == agree
        if self.predicate in lexicon.STATES:
            be = "are" if many else "is"
            return f"{be} {subject} {self.predicate}" if ask else f"{subject} {be} {self.predicate}"
        if ask:
            return f"{'do' if many else 'does'} {subject} {self.predicate}"
        return f"{subject} {self.predicate if many else third(self.predicate)}"

    def say_not(self) -> str:
        """The negated clause."""
        if self.predicate in lexicon.STATES:
            verb = "are" if self.plural else "is"
            return self.say().replace(f" {verb} {self.predicate}", f" {verb} not {self.predicate}")
        verb = "do" if self.plural else "does"
        return f"{self.say().rsplit(' ', 1)[0]} {verb} not {self.predicate}"


def habit(rng: Random, split: str, link: bool | None = None) -> Habit:
    """A habit whose content belongs to `split`; with an attached noun, without, or either."""
    while True:
        head, other = rng.sample(HEADS, 2)
        link_word = rng.choice(LINKS) if (rng.random() < 0.7 if link is None else link) else ""
        predicate = rng.choice(lexicon.INTRANSITIVE + lexicon.STATES)
        made = Habit(head, rng.random() < 0.5, link_word, other, rng.random() < 0.5, predicate)
        if split_of(made.key()) == split:
            return made


def reflexive(rng: Random, split: str, right: bool = True) -> str:
    """Somebody did something to herself, himself or themselves; an intruder of another gender stands between."""
    women = [*lexicon.WOMEN, "the queen", "the aunt", "the girl"]
    men = [*lexicon.MEN, "the king", "the uncle", "the boy"]
    while True:
        woman, man, verb = rng.choice(women), rng.choice(men), rng.choice(SELF_VERBS)
        if split_of(f"self {woman} {man} {verb}") == split:
            break
    gender = rng.choice("fm")
    head, other = (woman, man) if gender == "f" else (man, woman)
    wrong = REFLEXIVES["m" if gender == "f" else "f"]
    word = REFLEXIVES[gender] if right else wrong
    return rng.choice(
        (
            f"{head} {past(verb)} {word} after {other} left",
            f"after {other} left, {head} {past(verb)} {word}",
            f"{other} said that {head} {past(verb)} {word}",
            f"{head} was {participle('choose')} by {other} and {past(verb)} {word}",
        )
    )
