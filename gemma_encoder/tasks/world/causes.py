"""Why things happen in the world: chains of cause, event and effect, and the reasons people have for what they do."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from gemma_encoder.tasks.world import lexicon
from gemma_encoder.tasks.world.grammar import PEOPLE, Noun, participle, past, split_of

# Cause, event, effect of one person, each in two wordings that follow the person's name.
CHAINS = (
    (("ate nothing all day", "had no food"), ("was hungry", "wanted to eat"), ("bought some bread", "cooked a meal")),
    (("worked all night", "did not sleep"), ("was tired", "needed a rest"), ("went to bed", "slept for hours")),
    (
        ("lost the key", "forgot the key"),
        ("could not open the door", "stood outside"),
        ("broke a window", "waited for help"),
    ),
    (
        ("stayed in the rain", "fell into the river"),
        ("was wet", "was dripping"),
        ("changed clothes", "sat by the fire"),
    ),
    (("missed the bus", "slept too long"), ("came late to work", "was not on time"), ("lost the job", "was sorry")),
    (("won the race", "got a prize"), ("was proud", "felt like a hero"), ("gave a party", "told everybody")),
    (
        ("walked on ice", "stepped on a banana"),
        ("slipped and fell", "hit the floor"),
        ("broke a leg", "called an ambulance"),
    ),
    (("ate old fish", "drank bad milk"), ("was ill", "felt sick"), ("took some medicine", "stayed at home")),
    (("saw a ghost", "heard a strange noise"), ("was afraid", "trembled"), ("ran away", "hid under the bed")),
    (("read a sad letter", "lost a friend"), ("was sad", "was unhappy"), ("cried", "wept")),
    (("heard a joke", "watched a clown"), ("was amused", "was merry"), ("laughed", "smiled")),
    (
        ("spent all the money", "bought a castle"),
        ("was broke", "had no money"),
        ("borrowed from the bank", "sold the car"),
    ),
    (("left the window open", "had no heating"), ("was cold", "was freezing"), ("put on a coat", "drank hot tea")),
    (("broke the law", "robbed a bank"), ("was caught", "was arrested"), ("went to prison", "paid a fine")),
    (
        ("studied hard", "learned every word"),
        ("knew the answers", "was well prepared"),
        ("passed the exam", "got a good mark"),
    ),
    (
        ("ran for an hour", "ate salty soup"),
        ("was thirsty", "wanted to drink"),
        ("drank some water", "opened a bottle"),
    ),
)

# Verb: reasons that name the doer, reasons that name the other one; they follow a pronoun.
REASONS = {
    "thank": (("was grateful", "had got a present"), ("had been so kind", "had found the key")),
    "praise": (("was impressed", "liked good work"), ("had worked well", "had won the race")),
    "blame": (("was angry", "needed somebody to blame"), ("had made a mistake", "had broken the lamp")),
    "help": (("had time", "was a good neighbour"), ("was weak", "could not do it alone")),
    "chase": (("wanted the money back", "was the guard"), ("had stolen the bag", "was the thief")),
    "follow": (("did not know the way", "was lost"), ("knew the way", "had a map")),
    "visit": (("felt lonely", "wanted to bring flowers"), ("was ill", "lay in hospital")),
    "warn": (("saw the danger", "heard the fire bell"), ("was in danger", "drove too fast")),
    "teach": (("was the expert", "knew every song"), ("wanted to learn", "knew nothing yet")),
    "hug": (("was fond of children", "needed comfort"), ("was crying", "looked unhappy")),
    "save": (("was a good swimmer", "was brave"), ("was drowning", "could not swim")),
    "scare": (("wore a mask", "shouted so loudly"), ("was easily frightened", "was a coward")),
    "hurt": (("was careless", "threw a stone"), ("stood in the way", "did not wear a helmet")),
    "kick": (("was in a rage", "wanted a fight"), ("had started the fight", "had been rude")),
}


@dataclass(frozen=True)
class Chain:
    """Somebody's chain of cause, event and effect."""

    number: int
    who: Noun

    def key(self) -> str:
        """Content key."""
        return f"chain {self.number} {self.who.text}"

    def say(self, rng: Random, link: int, subject: str = "") -> str:
        """A clause for cause (0), event (1) or effect (2)."""
        return f"{subject or self.who.text} {rng.choice(CHAINS[self.number][link])}"


def chain(rng: Random, split: str, avoid: tuple[Chain, ...] = ()) -> Chain:
    """A chain whose content belongs to `split`; it shares neither number nor person with those to `avoid`."""
    while True:
        made = Chain(rng.randrange(len(CHAINS)), rng.choice(PEOPLE))
        clash = any(made.number == other.number or made.who == other.who for other in avoid)
        if split_of(made.key()) == split and not clash:
            return made


@dataclass(frozen=True)
class Reason:
    """doer did verb to other, for a reason that lies with one of them (`doers` says with whom)."""

    verb: str
    doer: Noun
    other: Noun
    doers: bool
    why: str

    def key(self) -> str:
        """Content key."""
        return "reason {} {}".format(self.verb, " ".join(sorted((self.doer.text, self.other.text))))

    @property
    def meant(self) -> Noun:
        """Whom the pronoun means."""
        return self.doer if self.doers else self.other

    @property
    def rival(self) -> Noun:
        """Whom it does not mean."""
        return self.other if self.doers else self.doer

    def forms(self) -> list[str]:
        """Active and passive, the reason last or first."""
        a, b, why = self.doer.text, self.other.text, f"because {self.meant.subject} {self.why}"
        main = (f"{a} {past(self.verb)} {b}", f"{b} was {participle(self.verb)} by {a}")
        return [*(f"{clause} {why}" for clause in main), *(f"{why}, {clause}" for clause in main)]


def reason(rng: Random, split: str, same_gender: float = 1.0) -> Reason:
    """A reason whose content belongs to `split`; with chance `same_gender` the pronoun's gender does not help."""
    women, men = [Noun(name, "f") for name in lexicon.WOMEN], [Noun(name, "m") for name in lexicon.MEN]
    while True:
        group = rng.choice((women, men)) if rng.random() < same_gender else women + men
        doer, other = rng.sample(group, 2)
        verb, doers = rng.choice(list(REASONS)), rng.random() < 0.5
        made = Reason(verb, doer, other, doers, rng.choice(REASONS[verb][0 if doers else 1]))
        if split_of(made.key()) == split:
            return made
