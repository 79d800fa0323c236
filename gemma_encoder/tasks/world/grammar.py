"""Forms of English words and sentences: inflection, articles, capitals, noun phrases."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from zlib import crc32

from gemma_encoder.tasks.world import lexicon

SPLITS = ("train", "validation", "test")
_SHARES = ("train",) * 8 + ("validation", "test")


def split_of(key: str) -> str:
    """The split that owns a piece of content: 8 in 10 train, 1 in 10 each validation and test, by a fixed hash."""
    return _SHARES[crc32(key.encode()) % len(_SHARES)]


def past(verb: str) -> str:
    """Simple past: push -> pushed."""
    if verb in lexicon.IRREGULAR:
        return lexicon.IRREGULAR[verb][0]
    if verb in lexicon.DOUBLED:
        return f"{verb}{verb[-1]}ed"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return f"{verb[:-1]}ied"
    return f"{verb}d" if verb.endswith("e") else f"{verb}ed"


def participle(verb: str) -> str:
    """Past participle: break -> broken."""
    return lexicon.IRREGULAR[verb][1] if verb in lexicon.IRREGULAR else past(verb)


def third(verb: str) -> str:
    """Third person singular: wash -> washes."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("s", "sh", "ch", "x")) else f"{verb}s"


def plural(noun: str) -> str:
    """Plural: box -> boxes, mouse -> mice."""
    return {"sheep": "sheep", "mouse": "mice", "knife": "knives"}.get(noun) or third(noun)


def indefinite(noun: str) -> str:
    """The noun with its article: an apple, a red cup."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def sentence(clause: str, end: str = ".") -> str:
    """A clause as a sentence: first letter capital, `end` closes it."""
    return clause[0].upper() + clause[1:] + end


@dataclass(frozen=True)
class Noun:
    """A noun phrase. gender: "f", "m", "n" (a person known by profession only) or "t" (a thing)."""

    text: str
    gender: str

    @property
    def subject(self) -> str:
        """The pronoun for it as a subject."""
        return {"f": "she", "m": "he", "t": "it"}.get(self.gender, self.text)

    @property
    def who(self) -> str:
        """The question word for it."""
        return "what" if self.gender == "t" else "who"


PEOPLE = (
    *(Noun(name, "f") for name in lexicon.WOMEN),
    *(Noun(name, "m") for name in lexicon.MEN),
    *(Noun(f"the {noun}", gender) for noun, gender in lexicon.GENDERED.items()),
    *(Noun(f"the {noun}", "n") for noun in lexicon.JOBS),
)


GENDERED = tuple(person for person in PEOPLE if person.gender in "fm")


def couple(rng: Random) -> list[Noun]:
    """A woman and a man (or girl and boy), so that a pronoun can tell them apart."""
    while True:
        pair = rng.sample(GENDERED, 2)
        if pair[0].gender != pair[1].gender:
            return pair


def people(rng: Random, count: int) -> list[Noun]:
    """Different people, drawn at random."""
    return rng.sample(PEOPLE, count)


def thing(rng: Random) -> Noun:
    """A thing, now and then with its colour."""
    noun = rng.choice(lexicon.THINGS)
    return Noun(f"the {rng.choice(lexicon.COLOURS)} {noun}" if rng.random() < 0.3 else f"the {noun}", "t")
