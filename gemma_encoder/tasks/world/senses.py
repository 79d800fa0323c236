"""Words with two meanings, and sentences in which only one of them fits."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from gemma_encoder.tasks.world.grammar import PEOPLE, split_of

# Word: for each meaning what it is, and what {p}, a person, does with it.
SENSES = {
    "bat": (
        (
            "an animal",
            ("{p} saw a bat in the cave", "a bat flew over {p} at night", "{p} was afraid of the bat in the dark"),
        ),
        ("a stick", ("{p} hit the ball with a bat", "{p} bought a wooden bat for the game", "{p} swung the bat hard")),
    ),
    "bank": (
        (
            "a place for money",
            ("{p} took money from the bank", "the bank lent {p} some money", "{p} worked at the bank"),
        ),
        (
            "the side of a river",
            ("{p} fished from the bank", "{p} sat on the bank of the river", "the boat took {p} to the bank"),
        ),
    ),
    "ring": (
        ("a jewel", ("{p} wore a gold ring", "{p} lost a ring at the wedding", "the ring of {p} was too small")),
        (
            "a place to fight",
            ("{p} boxed in the ring", "{p} stepped into the ring to fight", "{p} fell in the ring after one blow"),
        ),
    ),
    "letter": (
        (
            "a sign",
            (
                "{p} learned the first letter of the alphabet",
                "{p} wrote the word without its last letter",
                "the name of {p} begins with that letter",
            ),
        ),
        (
            "a message",
            ("{p} got a letter from home", "{p} put a stamp on the letter", "the postman brought {p} a letter"),
        ),
    ),
    "match": (
        ("a game", ("{p} won the match", "{p} played a match in the stadium", "{p} watched the match with a crowd")),
        (
            "a small fire",
            ("{p} lit the candle with a match", "{p} burned a finger with a match", "{p} struck a match in the dark"),
        ),
    ),
    "bark": (
        ("a noise", ("the bark of the dog woke {p}", "{p} heard a loud bark", "{p} knew the bark of every dog")),
        (
            "the skin of a tree",
            ("{p} cut a name into the bark", "{p} saw a beetle under the bark", "{p} took the bark off the tree"),
        ),
    ),
    "spring": (
        (
            "a season",
            ("{p} planted flowers in spring", "{p} waited for spring all winter", "{p} got married last spring"),
        ),
        (
            "a piece of wire",
            ("{p} fixed the spring of the bed", "{p} found a broken spring in the clock", "{p} bent the steel spring"),
        ),
    ),
    "nail": (
        (
            "a piece of metal",
            ("{p} drove a nail into the wall", "{p} hung the picture on a nail", "{p} hit the nail with a hammer"),
        ),
        ("a part of a finger", ("{p} painted a nail red", "{p} bit a nail nervously", "{p} broke a nail by accident")),
    ),
    "pen": (
        (
            "a thing to write with",
            ("{p} signed with a pen", "{p} filled the pen with ink", "{p} drew a line with a pen"),
        ),
        (
            "a place for animals",
            ("{p} shut the sheep in the pen", "{p} fed the pigs in the pen", "{p} built a pen for the goats"),
        ),
    ),
    "trunk": (
        (
            "a nose",
            (
                "the elephant took the apple of {p} with its trunk",
                "{p} touched the grey trunk of the elephant",
                "the trunk sprayed water on {p}",
            ),
        ),
        (
            "a large box",
            (
                "{p} packed the trunk for the journey",
                "{p} kept old clothes in a trunk",
                "{p} carried the heavy trunk upstairs",
            ),
        ),
    ),
    "wave": (
        ("water", ("a big wave hit {p} at the beach", "{p} swam through the wave", "a wave wet the feet of {p}")),
        (
            "a greeting",
            ("{p} gave a friendly wave", "{p} said goodbye with a wave", "{p} answered the wave of the child"),
        ),
    ),
    "bill": (
        ("a sum to pay", ("{p} paid the bill", "the waiter brought {p} the bill", "{p} found a mistake in the bill")),
        (
            "a part of a bird",
            (
                "the duck opened its bill and bit {p}",
                "{p} drew a bird with a yellow bill",
                "{p} saw a fish in the bill of the duck",
            ),
        ),
    ),
}


@dataclass(frozen=True)
class Use:
    """A word used in one of its meanings, in a sentence about a person."""

    word: str
    sense: int
    clause: str

    @property
    def gloss(self) -> str:
        """What the word means here."""
        return SENSES[self.word][self.sense][0]


def use(rng: Random, split: str, word: str, sense: int) -> Use:
    """A use whose content, sentence and person, belongs to `split`."""
    while True:
        who, clause = rng.choice(PEOPLE).text, rng.choice(SENSES[word][sense][1])
        if split_of(f"sense {clause} {who}") == split:
            return Use(word, sense, clause.format(p=who))


def two_uses(rng: Random, split: str, same: bool) -> tuple[Use, Use]:
    """Two uses of one word, in the same meaning or in two."""
    word, sense = rng.choice(list(SENSES)), rng.randrange(2)
    first = use(rng, split, word, sense)
    while (second := use(rng, split, word, sense if same else 1 - sense)).clause == first.clause:
        pass
    return first, second
