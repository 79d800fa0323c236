"""Opinions: their polarity hangs on the word, on negation and on which half of a contrast carries the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from gemma_encoder.tasks.world import lexicon
from gemma_encoder.tasks.world.grammar import people, split_of

# Were half of all opinions negated, no word would lean to either side, and a small model would learn nothing from them.
NEGATED = 0.25


@dataclass(frozen=True)
class Opinion:
    """A verdict on a thing: `word` is from lexicon.GOOD or lexicon.BAD, negated or not."""

    judged: str
    word: str
    negated: bool

    @property
    def positive(self) -> bool:
        """The polarity after negation."""
        return (self.word in lexicon.GOOD) != self.negated

    def key(self) -> str:
        """Content key."""
        return f"opinion {self.judged} {self.word}"

    def forms(self, who: str = "") -> list[str]:
        """Ways to say it, two of them as what `who` (or everybody) thinks."""
        what, word = f"the {self.judged}", self.word
        if not self.negated:
            who = who or "everybody"
            ways = (f"{what} was", f"{what} was really", f"{who} found {what}", f"{who} called {what}")
            return [*(f"{way} {word}" for way in ways), f"there was something {word} about {what}"]
        no = (f"{who} did not find", f"{who} did not call") if who else ("nobody found", "nobody called")
        ways = (f"{what} was not", f"{what} was never really", f"{no[0]} {what}", f"{no[1]} {what}")
        return [*(f"{way} {word}" for way in ways), f"there was nothing {word} about {what}"]


def opinion(
    rng: Random, split: str, positive: bool, judged: tuple[str, ...] | list[str], negated: float = NEGATED
) -> Opinion:
    """An opinion of that polarity whose content belongs to `split`; a share of `negated` is negated."""
    while True:
        no = rng.random() < negated
        word = rng.choice(lexicon.GOOD if positive != no else lexicon.BAD)
        verdict = Opinion(rng.choice(judged), word, no)
        if split_of(verdict.key()) == split:
            return verdict


def contrast(rng: Random, split: str, positive: bool, negated: float = NEGATED) -> str:
    """Two halves of opposite polarity; the one that carries the verdict has the polarity asked for."""
    main = rng.choice(opinion(rng, split, positive, lexicon.JUDGED, negated).forms())
    side = rng.choice(opinion(rng, split, not positive, lexicon.ASPECTS, negated).forms())
    return rng.choice(
        (f"{side}, but {main}", f"although {side}, {main}", f"{main}, although {side}", f"{main}, even if {side}")
    )


def hope(rng: Random, split: str, positive: bool, negated: float = NEGATED) -> str:
    """An expectation and the opposite outcome."""
    came = opinion(rng, split, positive, lexicon.JUDGED, negated)
    outcome = rng.choice(came.forms()).replace(f"the {came.judged}", "it")
    no = rng.random() < negated
    word = rng.choice(lexicon.GOOD if positive == no else lexicon.BAD)
    who = people(rng, 1)[0].text
    verb = rng.choice(("expected", "thought", "was told"))
    return f"{who} {verb} that the {came.judged} would {'not ' if no else ''}be {word}, but {outcome}"


def hearsay(rng: Random, split: str, positive: bool, negated: float = NEGATED) -> str:
    """What somebody said, and whether it was so."""
    true = rng.random() < 0.5
    who = people(rng, 1)[0].text
    said = rng.choice(opinion(rng, split, positive == true, lexicon.JUDGED, negated).forms())
    end = rng.choice(("and that was right", "and it was true") if true else ("but that was wrong", "but it was a lie"))
    return f"{who} said that {said}, {end}"


def feeling(rng: Random, positive: bool, judged: str, who: str) -> str:
    """What somebody felt about a thing: liked it, did not hate it."""
    if rng.random() < 0.7:
        return f"{who} {rng.choice(lexicon.LIKED if positive else lexicon.DISLIKED)} {judged}"
    verb = rng.choice(("hate", "dislike", "regret") if positive else ("like", "enjoy", "love"))
    return f"{who} did not {verb} {judged}"
