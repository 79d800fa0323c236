"""Opinions: their polarity hangs on the word, on negation and on which half of a contrast carries the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from gemma_encoder.tasks.world import lexicon
from gemma_encoder.tasks.world.grammar import people, split_of


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

    def forms(self) -> list[str]:
        """Ways to say it; negated ones keep negation and word apart."""
        what, word = f"the {self.judged}", self.word
        if not self.negated:
            return [
                f"{what} was {word}",
                f"{what} was really {word}",
                f"everybody found {what} {word}",
                f"there was something {word} about {what}",
                f"it is fair to call {what} {word}",
                f"{what} was nothing if not {word}",
            ]
        return [
            f"{what} was not {word}",
            f"{what} was never really {word}",
            f"nobody found {what} {word}",
            f"there was nothing {word} about {what}",
            f"it would be wrong to call {what} {word}",
            f"{what} was anything but {word}",
        ]


def opinion(rng: Random, split: str, positive: bool, judged: tuple[str, ...] | list[str]) -> Opinion:
    """An opinion of that polarity whose content belongs to `split`; half are negated."""
    while True:
        negated = rng.random() < 0.5
        word = rng.choice(lexicon.GOOD if positive != negated else lexicon.BAD)
        verdict = Opinion(rng.choice(judged), word, negated)
        if split_of(verdict.key()) == split:
            return verdict


def contrast(rng: Random, split: str, positive: bool) -> str:
    """Two halves of opposite polarity; the one that carries the verdict has the polarity asked for."""
    main = rng.choice(opinion(rng, split, positive, lexicon.JUDGED).forms())
    side = rng.choice(opinion(rng, split, not positive, lexicon.ASPECTS).forms())
    return rng.choice(
        (f"{side}, but {main}", f"although {side}, {main}", f"{main}, although {side}", f"{main}, even if {side}")
    )


def hope(rng: Random, split: str, positive: bool) -> str:
    """An expectation and the opposite outcome."""
    came = opinion(rng, split, positive, lexicon.JUDGED)
    outcome = rng.choice(came.forms()).replace(f"the {came.judged}", "it")
    negated = rng.choice(("", "not "))
    word = rng.choice(lexicon.GOOD if positive == bool(negated) else lexicon.BAD)
    who = people(rng, 1)[0].text
    verb = rng.choice(("expected", "thought", "was told"))
    return f"{who} {verb} that the {came.judged} would {negated}be {word}, but {outcome}"


def feeling(rng: Random, positive: bool, judged: str, who: str) -> str:
    """What somebody felt about a thing: liked it, did not hate it."""
    if rng.random() < 0.6:
        return f"{who} {rng.choice(lexicon.LIKED if positive else lexicon.DISLIKED)} {judged}"
    verb = rng.choice(("hate", "dislike", "regret") if positive else ("like", "enjoy", "love"))
    return f"{who} did not {verb} {judged}"
